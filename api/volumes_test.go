package api

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	types "github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"
	"github.com/moby/sys/mountinfo"

	"github.com/gantry-build/gantry/cache"
)

func volumeNames(t *testing.T, c *client.Client, filters client.Filters) string {
	t.Helper()
	list, err := c.VolumeList(t.Context(), client.VolumeListOptions{Filters: filters})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, v := range list.Items {
		all = append(all, v.Name)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func newVolume(t *testing.T, c *client.Client, o client.VolumeCreateOptions) types.Volume {
	t.Helper()
	v, err := c.VolumeCreate(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return v.Volume
}

// Volumes are made, shown, found, kept while in use, and removed, in Docker's words.
func TestVolumes(t *testing.T) {
	_, c := run(t)
	ctx := t.Context()
	red := newVolume(t, c, client.VolumeCreateOptions{Name: "red", Labels: map[string]string{"colour": "red"}})
	if red.Driver != "local" || red.Scope != "local" || red.Mountpoint == "" || red.CreatedAt == "" || red.Labels["colour"] != "red" {
		t.Errorf("%+v", red)
	}
	if again := newVolume(t, c, client.VolumeCreateOptions{Name: "red"}); again.CreatedAt != red.CreatedAt ||
		again.Labels["colour"] != "red" {
		t.Errorf("made twice: %+v", again)
	}
	newVolume(t, c, client.VolumeCreateOptions{Name: "reddish"})
	anonymous := newVolume(t, c, client.VolumeCreateOptions{})
	if _, ok := anonymous.Labels[labelAnonymous]; !ok || len(anonymous.Name) != 64 {
		t.Errorf("%+v", anonymous)
	}
	id := start(t, c, "user", container.HostConfig{Binds: []string{"used:/data", anonymous.Name + ":/more"}}, "tick")
	for filter, want := range map[string]string{
		"name=red": "red reddish", "label=colour": "red", "label=colour=blue": "", "driver=other": "", "dangling=true": "red reddish",
		"dangling=false": strings.Join(slices.Sorted(slices.Values([]string{"used", anonymous.Name})), " "),
	} {
		k, v, _ := strings.Cut(filter, "=")
		if got := volumeNames(t, c, client.Filters{}.Add(k, v)); got != want {
			t.Errorf("%s: %q, want %q", filter, got, want)
		}
	}
	for want, err := range map[string]error{
		"volume is in use - [" + id + "]": second(c.VolumeRemove(ctx, "used",
			client.VolumeRemoveOptions{Force: true})),
		"get none: no such volume":                            second(c.VolumeRemove(ctx, "none", client.VolumeRemoveOptions{})),
		"get gone: no such volume":                            second(c.VolumeInspect(ctx, "gone", client.VolumeInspectOptions{})),
		"only valid for cluster volumes":                      second(c.VolumeUpdate(ctx, "red", client.VolumeUpdateOptions{})),
		"includes invalid characters for a local volume name": second(c.VolumeCreate(ctx, client.VolumeCreateOptions{Name: "../x"})),
		`create x: error looking up volume plugin nfs: plugin "`: second(c.VolumeCreate(ctx,
			client.VolumeCreateOptions{Name: "x", Driver: "nfs"})),
		"invalid filter 'colour'": second(c.VolumeList(ctx,
			client.VolumeListOptions{Filters: client.Filters{}.Add("colour", "1")})),
		"invalid filter 'dangling=perhaps'": second(c.VolumeList(ctx,
			client.VolumeListOptions{Filters: client.Filters{}.Add("dangling", "perhaps")})),
		`create xx: invalid option: "colour"`:                  options(t, c, "colour", "red"),
		`create xx: missing required option: "device"`:         options(t, c, "type", "tmpfs"),
		`create xx: quota size requested but no quota support`: options(t, c, "size", "1m"),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := c.VolumeRemove(ctx, "none", client.VolumeRemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
	loose := newVolume(t, c, client.VolumeCreateOptions{})
	pruned, err := c.VolumePrune(ctx, client.VolumePruneOptions{})
	if err != nil || !slices.Equal(pruned.Report.VolumesDeleted, []string{loose.Name}) {
		t.Errorf("%+v, %v", pruned, err)
	}
	pruned, err = c.VolumePrune(ctx, client.VolumePruneOptions{Filters: client.Filters{}.Add("all", "true").Add("label!", "colour")})
	if err != nil || !slices.Equal(pruned.Report.VolumesDeleted, []string{"reddish"}) {
		t.Errorf("%+v, %v", pruned, err)
	}
}

func second[T any](_ T, err error) error { return err }

func options(t *testing.T, c *client.Client, k, v string) error {
	return second(c.VolumeCreate(t.Context(), client.VolumeCreateOptions{Name: "xx", DriverOpts: map[string]string{k: v}}))
}

func mounted(t *testing.T, path string) bool {
	t.Helper()
	is, err := mountinfo.Mounted(path)
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// A volume that is mounted from somewhere is one for all who use it at a time, through the daemon's death, and is
// not mounted when no one does.
func TestMountedVolume(t *testing.T) {
	dir := testDir(t)
	prepare(t, dir)
	t.Cleanup(func() { tidy(t, dir) })
	kill := spawn(t, dir)
	c := connect(t, dir)
	ctx := t.Context()
	v := newVolume(t, c, client.VolumeCreateOptions{Name: "fast",
		DriverOpts: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}})
	if mounted(t, v.Mountpoint) {
		t.Error("it is mounted for nobody")
	}
	at := container.HostConfig{Binds: []string{"fast:/data"}}
	one := start(t, c, "one", at, "tick")
	if err := os.WriteFile(v.Mountpoint+"/f", []byte("shared"), 0o644); err != nil || !mounted(t, v.Mountpoint) {
		t.Fatal(err)
	}
	_, r := mustRun(t, c, container.Config{Cmd: []string{"file", "/data/f"}}, at, nil)
	if r.out != "shared" {
		t.Errorf("another container reads %q", r.out)
	}
	kill()
	spawn(t, dir)
	c = connect(t, dir)
	if _, r = mustRun(t, c, container.Config{Cmd: []string{"file", "/data/f"}}, at, nil); r.out != "shared" {
		t.Errorf("after the daemon's death it reads %q", r.out)
	}
	if !mounted(t, v.Mountpoint) {
		t.Error("it was unmounted under a container that runs")
	}
	if _, err := c.ContainerStop(ctx, one, client.ContainerStopOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() (string, error) {
		if mounted(t, v.Mountpoint) {
			return "", errdefs.ErrInternal.WithMessage("the volume is still mounted")
		}
		return "", nil
	})
	bad := &mount.VolumeOptions{DriverConfig: &mount.Driver{Options: map[string]string{"type": "nosuch", "device": "none"}}}
	_, _, err := runOnce(t, c, container.Config{Cmd: []string{"echo"}}, container.HostConfig{Mounts: []mount.Mount{
		{Type: mount.TypeVolume, Source: "bad", Target: "/x", VolumeOptions: bad},
	}}, nil)
	if err == nil || !strings.Contains(err.Error(), "failed to mount local volume: mount none:") ||
		!strings.Contains(err.Error(), "no such device") {
		t.Errorf("%v", err)
	}
}

// An image's files are there to be read, and go with the container.
func TestMountedImage(t *testing.T) {
	d, c := run(t)
	image := func(ref string) container.HostConfig {
		return container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeImage, Source: ref, Target: "/img"}}}
	}
	id, r := mustRun(t, c, container.Config{Cmd: []string{"file", "/img/guest"}}, image("guest"), nil)
	if !strings.HasPrefix(r.out, "\x7fELF") {
		t.Errorf("%q", r.err)
	}
	if _, r := mustRun(t, c, container.Config{Cmd: []string{"write", "/img/x", "y"}}, image("guest"), nil); r.code != 1 ||
		!strings.Contains(r.err, "read-only file system") {
		t.Errorf("%+v", r)
	}
	in, err := c.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
	if err != nil || len(in.Container.Mounts) != 2 || in.Container.Mounts[0].Type != mount.TypeImage || in.Container.Mounts[0].RW {
		t.Errorf("%+v, %v", in.Container.Mounts, err)
	}
	if _, err := d.store.DB.GarbageCollect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerStart(t.Context(), id, client.ContainerStartOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := c.ContainerRemove(t.Context(), id, client.ContainerRemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	sn := d.store.Client.SnapshotService(cache.Snapshotter)
	if _, err := sn.Stat(cache.WithNamespace(t.Context()), id+"-image-0"); !errdefs.IsNotFound(err) {
		t.Errorf("left behind: %v", err)
	}
	for ref, want := range map[string]string{"none": "No such image: none:latest", "": "must not be empty"} {
		if _, _, err := runOnce(t, c, container.Config{Cmd: []string{"echo"}}, image(ref), nil); err == nil ||
			!strings.Contains(err.Error(), want) ||
			errdefs.IsNotFound(err) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
