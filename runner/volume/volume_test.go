package volume

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/spec"
)

func store(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "volumes"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// only is one other container's mounts.
func only(name string, points ...MountPoint) Sources {
	return Sources{Container: func(ref string) ([]MountPoint, error) {
		if ref != name {
			return nil, fault.NotFound("No such container: %s", ref)
		}
		return points, nil
	}}
}

// of asks for a volume with options.
func of(o spec.VolumeOptions) spec.HostConfig {
	return spec.HostConfig{Mounts: []spec.MountRequest{{Type: "volume", Source: "v", Target: "/x", VolumeOptions: &o}}}
}

func TestMounts(t *testing.T) {
	s, host := store(t), t.TempDir()
	points, err := s.Resolve(spec.Config{Volumes: map[string]struct{}{"/anon": {}, "/b": {}}}, spec.HostConfig{
		Binds:       []string{host + "/new:/b:ro,rslave", "vol:/named"},
		Tmpfs:       map[string]string{"/t": "size=1m"},
		VolumesFrom: []string{"other:ro"},
		Mounts: []spec.MountRequest{
			{Type: "bind", Source: host, Target: "/m", ReadOnly: true, BindOptions: &spec.BindOptions{NonRecursive: true}},
			{Type: "tmpfs", Target: "/mt", TmpfsOptions: &spec.TmpfsOptions{SizeBytes: 5, Mode: 0o1770}},
		},
	}, only("other", bindPoint("/elsewhere", "/o", true), bindPoint("/x", "/named", true)))
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
	if n := by["/named"]; n.Type != "volume" || n.Name != "vol" || n.Anonymous || n.Source != filepath.Join(s.dir, "vol", "_data") {
		t.Errorf("%+v", n)
	}
	if a := by["/anon"]; !a.Anonymous || len(a.Name) != 64 {
		t.Errorf("%+v", a)
	}
	if o := by["/o"]; o.RW || o.Source != "/elsewhere" {
		t.Errorf("%+v", o)
	}
	made := strings.Join(by["/mt"].Mount.Options, ",")
	if !by["/m"].Mount.NonRecursive || made != "size=5,mode=1770" || by["/t"].Mount.Options[0] != "size=1m" {
		t.Errorf("%+v", points)
	}
}

func TestMountRefusals(t *testing.T) {
	s := store(t)
	for _, h := range []spec.HostConfig{
		{Binds: []string{"/a:b"}}, {Binds: []string{"/a:/"}}, {Binds: []string{"/a"}}, {Binds: []string{"/:/x:wx"}},
		{Binds: []string{"a/b:/x"}},
		{Binds: []string{"/:/x", "/:/x/"}},
		{Mounts: []spec.MountRequest{{Type: "bind", Source: "/no/such/dir", Target: "/x"}}},
		{Mounts: []spec.MountRequest{{Type: "image", Target: "/x"}}},
		{Mounts: []spec.MountRequest{{Type: "tmpfs", Source: "x", Target: "/x"}}},
		of(spec.VolumeOptions{Subpath: "../.."}),
		of(spec.VolumeOptions{DriverConfig: &spec.Driver{Options: map[string]string{"o": "ro"}}}),
		{Mounts: []spec.MountRequest{{Type: "npipe", Source: "x", Target: "/x"}}},
	} {
		if _, err := s.Resolve(spec.Config{}, h, only("other")); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", h, err)
		}
	}
	if _, err := s.Resolve(spec.Config{}, spec.HostConfig{VolumesFrom: []string{"nobody"}},
		only("other")); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// A volume that is empty gets what the image has in its place, once, and not where that was refused.
func TestFill(t *testing.T) {
	s, root := store(t), t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "data/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "data/sub/file"), []byte("image"), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := 0
	rootfs := func(f func(string) error) error { asked++; return f(root) }
	for _, c := range []struct {
		bind string
		want bool
	}{{"one:/data", true}, {"two:/data:nocopy", false}, {"three:/none", false}} {
		points, err := s.Resolve(spec.Config{}, spec.HostConfig{Binds: []string{c.bind}}, only(""))
		if err == nil {
			err = Fill(points, rootfs)
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(points[0].Source, "sub/file"))
		if (string(got) == "image") != c.want {
			t.Errorf("%s: %q, %v", c.bind, got, err)
		}
	}
	filled, err := s.Resolve(spec.Config{}, spec.HostConfig{Binds: []string{"one:/data"}}, only(""))
	if err != nil {
		t.Fatal(err)
	}
	if asked = 0; Fill(filled, rootfs) != nil || asked > 0 {
		t.Error("the image was asked for what is there")
	}
}

func TestStore(t *testing.T) {
	s := store(t)
	v, _, err := s.Ensure(Volume{Name: "data", Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	again, isNew, err := s.Ensure(Volume{Name: "data"})
	if err != nil || !again.Created.Equal(v.Created) || again.Labels["a"] != "b" || again.Path != v.Path || isNew {
		t.Errorf("%+v, %v", again, err)
	}
	if _, _, err := s.Ensure(Volume{Name: "a/b"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].Name != "data" {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.Remove("data"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("data"); !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
}
