package api

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/process"
	"github.com/gantry-build/gantry/runner/spec"
)

func ptr[T any](v T) *T { return &v }

// TestTranslateAndBack: what is understood comes back from inspect as it was asked.
func TestTranslateAndBack(t *testing.T) {
	cfg := container.Config{
		Hostname: "h", User: "u", Tty: true, OpenStdin: true, StdinOnce: true, Env: []string{"A=1"}, Cmd: []string{"c"}, Image: "i",
		ExposedPorts: network.PortSet{network.MustParsePort("80/tcp"): {}}, Volumes: map[string]struct{}{"/v": {}},
		Labels:      map[string]string{"l": "1"},
		StopTimeout: ptr(3), Healthcheck: &container.HealthConfig{Test: []string{"CMD", "x"}, Interval: time.Second},
	}
	host := container.HostConfig{
		Binds: []string{"/a:/b"}, NetworkMode: "bridge", AutoRemove: true, CapAdd: []string{"CAP_CHOWN"},
		DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")},
		PortBindings: network.PortMap{network.MustParsePort("80/tcp"): {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: "8080"},
			{HostPort: "1"}}},
		RestartPolicy: container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 2}, ShmSize: 5, MaskedPaths: []string{},
		ReadonlyPaths: []string{"/proc/bus"},
		Umask:         ptr(uint32(0o77)),
		Resources: container.Resources{
			Memory: 1 << 26, NanoCPUs: 5, PidsLimit: ptr(int64(0)), MemorySwappiness: ptr(int64(0)), CPURealtimeRuntime: 7,
			Ulimits: []*units.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}, Devices: []container.DeviceMapping{{PathOnHost: "/dev/fuse"}},
		},
		Mounts: []mount.Mount{{Type: "tmpfs", Target: "/t", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 9, Mode: 0o1777}}},
		LogConfig: container.LogConfig{
			Type: "json-file", Config: map[string]string{"max-size": "1m"},
		},
	}
	req, err := createRequest(container.CreateRequest{Config: &cfg, HostConfig: &host})
	if err != nil {
		t.Fatal(err)
	}
	if req.Host.MemorySwappiness == nil || req.Host.Ulimits[0].Hard != 2 || req.Host.DNS[0] != "9.9.9.9" || req.Host.MaskedPaths == nil {
		t.Errorf("%+v", req.Host)
	}
	out, err := inspection(runner.Record{ID: "a", Config: req.Config, HostConfig: req.Host}, "/d")
	if err != nil {
		t.Fatal(err)
	}
	same(t, cfg, *out.Config)
	same(t, host, *out.HostConfig)
}

func same(t *testing.T, want, got any) {
	t.Helper()
	a, _ := json.Marshal(want)
	b, _ := json.Marshal(got)
	if string(a) != string(b) {
		t.Errorf("asked\n%s\nshown\n%s", a, b)
	}
}

// TestNothingIsSilent: every option of the API is either a field of ours or refused by its name.
func TestNothingIsSilent(t *testing.T) {
	refused := 0
	for i := range reflect.TypeFor[container.HostConfig]().NumField() {
		f := reflect.TypeFor[container.HostConfig]().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		if _, known := jsonField(reflect.TypeFor[spec.HostConfig](), name); known || f.Anonymous {
			continue
		}
		refused++
		if got := unknown("HostConfig", map[string]any{name: []any{"x"}}, reflect.TypeFor[spec.HostConfig]()); got != "HostConfig."+name {
			t.Errorf("%s: %q", name, got)
		}
	}
	if refused == 0 {
		t.Error("no unsupported option was tried")
	}
	windows := container.HostConfig{Resources: container.Resources{CPUCount: 2}}
	_, err := createRequest(container.CreateRequest{Config: &container.Config{Image: "i"}, HostConfig: &windows})
	if !errdefs.IsInvalidArgument(err) || err.Error() != "HostConfig.CpuCount is not supported" {
		t.Error(err)
	}
	none := container.HostConfig{Init: ptr(false), Resources: container.Resources{BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{}},
		StorageOpt: map[string]string{}}
	if _, err := createRequest(container.CreateRequest{Config: &container.Config{Image: "i"}, HostConfig: &none}); err != nil {
		t.Error("what is not asked for is refused:", err)
	}
}

func TestStatusText(t *testing.T) {
	now := time.Now()
	ago := now.Add(-3 * time.Minute)
	for want, s := range map[string]runner.State{
		"Created": {}, "Up 3 minutes": {Running: true, StartedAt: ago},
		"Up 3 minutes (Paused)":           {Running: true, Paused: true, StartedAt: ago},
		"Exited (7) 3 minutes ago":        {ExitCode: 7, FinishedAt: ago},
		"Restarting (1) 3 minutes ago":    {Running: true, Restarting: true, ExitCode: 1, FinishedAt: ago},
		"Up 3 minutes (healthy)":          {Running: true, StartedAt: ago, Health: &process.Health{Status: "healthy"}},
		"Up 3 minutes (health: starting)": {Running: true, StartedAt: ago, Health: &process.Health{Status: "starting"}},
	} {
		if got := statusText(s, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
