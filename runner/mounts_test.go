package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/gantry-build/gantry/runner/spec"
)

func TestMounts(t *testing.T) {
	m := manager(t)
	host := t.TempDir()
	m.with(t, Record{ID: "aa", Name: "other", Mounts: []MountPoint{bindPoint("/elsewhere", "/o", true), bindPoint("/x", "/named", true)}})
	points, err := m.resolveMounts(Record{
		Config: spec.Config{Volumes: map[string]struct{}{"/anon": {}, "/b": {}}},
		HostConfig: spec.HostConfig{
			Binds:       []string{host + "/new:/b:ro,rslave", "vol:/named"},
			Tmpfs:       map[string]string{"/t": "size=1m"},
			VolumesFrom: []string{"other:ro"},
			Mounts: []spec.MountRequest{
				{Type: "bind", Source: host, Target: "/m", ReadOnly: true, BindOptions: &spec.BindOptions{NonRecursive: true}},
				{Type: "tmpfs", Target: "/mt", TmpfsOptions: &spec.TmpfsOptions{SizeBytes: 5, Mode: 0o1770}},
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]MountPoint{}
	for _, p := range points {
		by[p.Destination] = p
	}
	if len(points) != 7 {
		t.Errorf("%d mounts: %+v", len(points), points)
	}
	if b := by["/b"]; b.RW || b.Propagation != "rslave" || b.Type != "bind" || !b.Mount.ReadOnly {
		t.Errorf("%+v", b)
	}
	if st, err := os.Stat(filepath.Join(host, "new")); err != nil || !st.IsDir() {
		t.Error("-v did not make its source:", err)
	}
	if n := by["/named"]; n.Type != "volume" || n.Name != "vol" || n.Anonymous || n.Source != filepath.Join(m.volumes.dir, "vol", "_data") {
		t.Errorf("%+v", n)
	}
	if a := by["/anon"]; !a.Anonymous || len(a.Name) != 64 {
		t.Errorf("%+v", a)
	}
	if o := by["/o"]; o.RW || o.Source != "/elsewhere" {
		t.Errorf("%+v", o)
	}
	if !by["/m"].Mount.NonRecursive || strings.Join(by["/mt"].Mount.Options, ",") != "size=5,mode=1770" || by["/t"].Mount.Options[0] != "size=1m" {
		t.Errorf("%+v", points)
	}
}

func TestMountRefusals(t *testing.T) {
	m := manager(t)
	for _, h := range []spec.HostConfig{
		{Binds: []string{"/a:b"}}, {Binds: []string{"/a:/"}}, {Binds: []string{"/a"}}, {Binds: []string{"/:/x:wx"}}, {Binds: []string{"a/b:/x"}},
		{Binds: []string{"/:/x", "/:/x/"}},
		{Mounts: []spec.MountRequest{{Type: "bind", Source: "/no/such/dir", Target: "/x"}}},
		{Mounts: []spec.MountRequest{{Type: "image", Source: "x", Target: "/x"}}},
		{Mounts: []spec.MountRequest{{Type: "tmpfs", Source: "x", Target: "/x"}}},
		{Mounts: []spec.MountRequest{{Type: "volume", Source: "v", Target: "/x", VolumeOptions: &spec.VolumeOptions{Subpath: "../.."}}}},
		{Mounts: []spec.MountRequest{{Type: "volume", Source: "v", Target: "/x", VolumeOptions: &spec.VolumeOptions{DriverConfig: &spec.Driver{Name: "nfs"}}}}},
	} {
		if _, err := m.resolveMounts(Record{HostConfig: h}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", h, err)
		}
	}
	if _, err := m.resolveMounts(Record{HostConfig: spec.HostConfig{VolumesFrom: []string{"nobody"}}}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestVolumes(t *testing.T) {
	m := manager(t)
	v, err := m.CreateVolume("data", map[string]string{"a": "b"})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.CreateVolume("data", nil); err != nil || !again.Created.Equal(v.Created) || again.Labels["a"] != "b" {
		t.Errorf("%+v %v", again, err)
	}
	m.with(t, Record{ID: "aa", Name: "user", Mounts: []MountPoint{{Type: "volume", Name: "data"}}})
	if err := m.RemoveVolume("data"); !errdefs.IsConflict(err) {
		t.Error("in use:", err)
	}
	delete(m.byID, "aa")
	if err := m.RemoveVolume("data"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"data", "../x"} {
		if _, err := m.Volume(name); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := m.Volumes(); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
}
