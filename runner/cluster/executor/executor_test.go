package executor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	gogotypes "github.com/gogo/protobuf/types"
	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"

	"github.com/gantry-build/gantry/internal/need"
	"github.com/gantry-build/gantry/runner/logs"
	"github.com/gantry-build/gantry/runner/spec"
)

func controllerOf(s *api.ContainerSpec) *controller {
	t := &api.Task{
		ID: "task", ServiceID: "service", NodeID: "node", Slot: 2, ServiceAnnotations: api.Annotations{Name: "web"},
		Spec: api.TaskSpec{Runtime: &api.TaskSpec_Container{Container: s}},
	}
	return &controller{Executor: New(Options{}), task: t, name: nameOf(t)}
}

func TestContainer(t *testing.T) {
	s := &api.ContainerSpec{
		Image: "app", Args: []string{"serve"}, Env: []string{"A=1"}, StopGracePeriod: gogotypes.DurationProto(90 * time.Second),
		Labels: map[string]string{"own": "label", "com.docker.swarm.task.id": "forged"}, Hosts: []string{"10.0.0.1 a b", "broken"},
		Init: &gogotypes.BoolValue{Value: true}, PidsLimit: 7, Ulimits: []*api.ContainerSpec_Ulimit{{Name: "nofile", Soft: 1, Hard: 2}},
		Healthcheck: &api.HealthConfig{Test: []string{"CMD", "x"}, Interval: gogotypes.DurationProto(time.Second), Retries: 3},
	}
	c := controllerOf(s)
	c.task.Endpoint = &api.Endpoint{Ports: []*api.PortConfig{
		{TargetPort: 80, PublishedPort: 8080, PublishMode: api.PublishModeHost},
		{TargetPort: 53, Protocol: api.ProtocolUDP, PublishMode: api.PublishModeHost},
		{TargetPort: 443, PublishedPort: 443, PublishMode: api.PublishModeIngress},
	}}
	c.task.Spec.Resources = &api.ResourceRequirements{
		Limits: &api.Resources{NanoCPUs: 5e8, MemoryBytes: 100}, Reservations: &api.Resources{MemoryBytes: 50},
		SwapBytes: &gogotypes.Int64Value{Value: 11},
	}
	cfg := c.config(s)
	if cfg.Image != "app:latest" || cfg.Entrypoint != nil || !slices.Equal(cfg.Cmd, []string{"serve"}) || *cfg.StopTimeout != 90 {
		t.Errorf("%+v", cfg)
	}
	if cfg.Labels["own"] != "label" || cfg.Labels["com.docker.swarm.task.id"] != "task" || cfg.Labels["com.docker.swarm.task.name"] !=
		"web.2.task" {
		t.Errorf("labels %v", cfg.Labels)
	}
	if h := cfg.Healthcheck; h.Interval != time.Second || h.Retries != 3 {
		t.Errorf("%+v", h)
	}
	host, err := c.host(s)
	if err != nil {
		t.Fatal(err)
	}
	wantPorts := map[string][]spec.PortBinding{"80/tcp": {{HostPort: "8080"}}, "53/udp": {{}}}
	if !reflect.DeepEqual(host.PortBindings, wantPorts) {
		t.Errorf("ports %v", host.PortBindings)
	}
	if !slices.Equal(host.ExtraHosts, []string{"a:10.0.0.1", "b:10.0.0.1"}) || !*host.Init || *host.PidsLimit != 7 {
		t.Errorf("%+v", host)
	}
	if host.Memory != 100 || host.MemoryReservation != 50 || host.MemorySwap != 111 || host.NanoCPUs != 5e8 {
		t.Errorf("%+v", host.Resources)
	}
	s.Command = []string{"instead"}
	if cfg := c.config(s); !slices.Equal(cfg.Entrypoint, s.Command) || !slices.Equal(cfg.Cmd, s.Args) {
		t.Errorf("%v %v", cfg.Entrypoint, cfg.Cmd)
	}
}

func TestMounts(t *testing.T) {
	got, err := mountOf(api.Mount{
		Type: api.MountTypeBind, Source: "/a", Target: "/b", ReadOnly: true,
		BindOptions: &api.Mount_BindOptions{Propagation: api.MountPropagationRSlave, CreateMountpoint: true},
	})
	want := spec.MountRequest{Type: "bind", Source: "/a", Target: "/b", ReadOnly: true,
		BindOptions: &spec.BindOptions{Propagation: "rslave", CreateMountpoint: true}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = mountOf(api.Mount{Type: api.MountTypeTmpfs, Target: "/t",
		TmpfsOptions: &api.Mount_TmpfsOptions{SizeBytes: 9, Mode: 0o700, Options: `[["noexec"],["uid","7"]]`}})
	if err != nil || got.Type != "tmpfs" || len(got.TmpfsOptions.Options) != 2 || got.TmpfsOptions.Mode != 0o700 {
		t.Errorf("%+v, %v", got.TmpfsOptions, err)
	}
	for _, bad := range []api.Mount{
		{Type: api.MountTypeCluster}, {Type: api.MountTypeNamedPipe},
		{Type: api.MountTypeTmpfs, TmpfsOptions: &api.Mount_TmpfsOptions{Options: "{"}},
	} {
		if _, err := mountOf(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}

func TestSecurity(t *testing.T) {
	got, err := security(&api.Privileges{
		NoNewPrivileges: true, Apparmor: &api.Privileges_AppArmorOpts{Mode: api.Privileges_AppArmorOpts_DISABLED},
		Seccomp:        &api.Privileges_SeccompOpts{Mode: api.Privileges_SeccompOpts_CUSTOM, Profile: []byte("{}")},
		SELinuxContext: &api.Privileges_SELinuxContext{Type: "t"},
	})
	want := []string{"label=type:t", "seccomp={}", "apparmor=unconfined", "no-new-privileges=true"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := security(&api.Privileges{CredentialSpec: &api.Privileges_CredentialSpec{}}); !errors.Is(err, exec.ErrRuntimeUnsupported) {
		t.Error(err)
	}
	if got, err := security(nil); got != nil || err != nil {
		t.Error(got, err)
	}
}

func TestLogQuery(t *testing.T) {
	for tail, want := range map[int64]int{0: -1, -1: 0, -11: 10} {
		if q, err := query(api.LogSubscriptionOptions{Tail: tail}); err != nil || q.Tail != want || !q.Stdout || !q.Stderr {
			t.Errorf("tail %d: %+v, %v", tail, q, err)
		}
	}
	q, err := query(api.LogSubscriptionOptions{Streams: []api.LogStream{api.LogStreamStderr}, Follow: true})
	if want := (logs.Query{Stderr: true, Follow: true, Tail: -1}); err != nil || q != want {
		t.Errorf("%+v, %v", q, err)
	}
}

// deps has one secret and one config.
type deps struct{ exec.DependencyGetter }

type secretsOf struct{}

func (secretsOf) Get(id string) (*api.Secret, error) {
	if id != "s" {
		return nil, errors.New("there is none")
	}
	return &api.Secret{Spec: api.SecretSpec{Data: []byte("word")}}, nil
}

type configsOf struct{}

func (configsOf) Get(string) (*api.Config, error) {
	return &api.Config{Spec: api.ConfigSpec{Data: []byte("page")}}, nil
}

func (deps) Secrets() exec.SecretGetter { return secretsOf{} }
func (deps) Configs() exec.ConfigGetter { return configsOf{} }

func secretAt(name, id, uid string, mode fs.FileMode) *api.SecretReference {
	return &api.SecretReference{SecretID: id, SecretName: id, Target: &api.SecretReference_File{
		File: &api.FileTarget{Name: name, UID: uid, GID: "8", Mode: mode}}}
}

func TestFiles(t *testing.T) {
	need.Root(t)
	dir := filepath.Join(t.TempDir(), "task")
	s := &api.ContainerSpec{
		Secrets: []*api.SecretReference{secretAt("word", "s", "7", 0o440), secretAt("/etc/../abs", "s", "0", 0o400)},
		Configs: []*api.ConfigReference{
			{ConfigID: "c", Target: &api.ConfigReference_File{File: &api.FileTarget{Name: "page", UID: "0", GID: "0", Mode: 0o444}}},
			{ConfigID: "r", Target: &api.ConfigReference_Runtime{}},
		},
	}
	mounts, err := writeFiles(dir, s, deps{})
	if err != nil || len(mounts) != 3 {
		t.Fatalf("%v, %v", mounts, err)
	}
	for i, want := range []struct {
		target, text string
		uid          uint32
		mode         fs.FileMode
	}{{"/run/secrets/word", "word", 7, 0o440}, {"/abs", "word", 0, 0o400}, {"/page", "page", 0, 0o444}} {
		m := mounts[i]
		text, err := os.ReadFile(m.Source)
		if err != nil {
			t.Fatal(err)
		}
		fi, _ := os.Stat(m.Source)
		uid := fi.Sys().(*syscall.Stat_t).Uid
		if m.Target != want.target || string(text) != want.text || uid != want.uid || fi.Mode().Perm() != want.mode || !m.ReadOnly {
			t.Errorf("%+v: %q of %d, %s; want %+v", m, text, uid, fi.Mode(), want)
		}
	}
	for what, bad := range map[string]*api.SecretReference{
		"there is none": secretAt("x", "other", "0", 0o400), "is no number": secretAt("x", "s", "root", 0o400),
	} {
		other := filepath.Join(t.TempDir(), "task")
		_, err := writeFiles(other, &api.ContainerSpec{Secrets: []*api.SecretReference{secretAt("a", "s", "0", 0o400), bad}}, deps{})
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v; want %s", err, what)
		}
		if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after %s a half is left", what)
		}
	}
}
