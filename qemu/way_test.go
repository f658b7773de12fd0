package qemu

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var emulated = Way{
	Platform: ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"},
	Mode:     Emulated, Emulator: "/q/arm", Namespace: "/proc/7/fd/9",
}

// plain is a spec with the mounts that edits look at. network is nil for the
// host's, "" for a new one, or a path.
func plain(network *string) *specs.Spec {
	s := &specs.Spec{Mounts: []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}, Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}}}}
	if network != nil {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: *network})
	}
	return s
}

func TestEdit(t *testing.T) {
	fresh, path := "", "/run/netns/a"
	bare := &specs.Spec{}
	privileged := plain(nil)
	privileged.Mounts[2].Options = []string{"nosuid", "rw"}
	hostDev := plain(&fresh)
	hostDev.Mounts[1] = specs.Mount{Destination: "/dev", Type: "bind", Source: "/dev", Options: []string{"rbind"}}
	for name, s := range map[string]*specs.Spec{
		"new-network": plain(&fresh), "network-by-path": plain(&path), "host-network": plain(nil),
		"bare": bare, "privileged": privileged, "host-dev": hostDev,
	} {
		t.Run(name, func(t *testing.T) {
			if err := emulated.Edit(s); err != nil {
				t.Fatal(err)
			}
			golden(t, name, s)
			again := emulated
			again.Namespace = "/proc/8/fd/9" // the next daemon's
			if err := again.Edit(s); err != nil {
				t.Fatal(err)
			}
			if err := emulated.Edit(s); err != nil {
				t.Fatal(err)
			}
			golden(t, name, s)
		})
	}
}

func golden(t *testing.T, name string, s *specs.Spec) {
	t.Helper()
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs; accept with `go test ./qemu -run TestEdit -update`\n got %s\nwant %s", file, got, want)
	}
}

func TestEditNative(t *testing.T) {
	s := plain(nil)
	if err := (Way{Mode: Native}).Edit(s); err != nil {
		t.Fatal(err)
	}
	before, _ := json.Marshal(plain(nil))
	if after, _ := json.Marshal(s); string(after) != string(before) {
		t.Errorf("changed to %s", after)
	}
}

func TestEditRefusesOtherNamespace(t *testing.T) {
	mapped, own := plain(nil), plain(nil)
	mapped.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 1000, Size: 1}}
	own.Linux.Namespaces = append(own.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	for _, s := range []*specs.Spec{mapped, own} {
		if err := emulated.Edit(s); err == nil {
			t.Error("no error")
		}
	}
}
