package api

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
)

// archiveOf makes an archive of files; a name with a slash at its end is a directory, and one that begins with -> a symlink.
func archiveOf(t *testing.T, files ...[2]string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f[0], Mode: 0o640, Uid: 12, Gid: 34, Size: int64(len(f[1])), Typeflag: tar.TypeReg}
		to, link := strings.CutPrefix(f[1], "->")
		switch {
		case link:
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, to, 0
		case strings.HasSuffix(f[0], "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		err := w.WriteHeader(h)
		if err == nil && h.Size > 0 {
			_, err = io.WriteString(w, f[1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// namesIn are the names of an archive's entries, each with what is in it.
func namesIn(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	all := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = string(data) + h.Linkname
	}
}

// box is a container into and out of which files are copied.
type box struct {
	t       *testing.T
	c       *client.Client
	outside string // a directory of the host's
}

func (b box) put(at string, files ...[2]string) error {
	_, err := b.c.CopyToContainer(b.t.Context(), "box",
		client.CopyToContainerOptions{DestinationPath: at, Content: archiveOf(b.t, files...)})
	return err
}

func (b box) get(path string) (map[string]string, error) {
	r, err := b.c.CopyFromContainer(b.t.Context(), "box", client.CopyFromContainerOptions{SourcePath: path})
	if err != nil {
		return nil, err
	}
	defer r.Content.Close()
	return namesIn(b.t, r.Content), nil
}

// Files are copied into and out of containers, whether they run or not, through volumes and symlinks, and never outside.
func TestCopy(t *testing.T) {
	_, c := run(t)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("the host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	host := container.HostConfig{Mounts: []mount.Mount{
		{Type: mount.TypeVolume, Source: "data", Target: "/data"},
		{Type: mount.TypeVolume, Source: "data", Target: "/fixed", ReadOnly: true},
	}}
	made, err := c.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Name: "box", Config: &container.Config{Image: "guest", Cmd: []string{"tick"}}, HostConfig: &host,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"created", "running"} {
		t.Run(state, func(t *testing.T) {
			b := box{t, c, outside}
			err := b.put("/", [2]string{"dir/", ""}, [2]string{"dir/f", "one"}, [2]string{"data/v", "in the volume"},
				[2]string{"out", "->" + outside}, [2]string{"up", "->../../../../../../" + outside})
			if err != nil {
				t.Fatal(err)
			}
			b.reads()
			b.refuses()
			b.changes()
		})
		if _, err := c.ContainerStart(t.Context(), made.ID, client.ContainerStartOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func (b box) reads() {
	for path, want := range map[string]string{
		"/dir": "one", "/dir/.": "one", "/dir/f": "one", "/data/v": "in the volume", "/fixed/v": "in the volume",
	} {
		got, err := b.get(path)
		found := false
		for name, text := range got {
			found = found || text == want && strings.HasPrefix(name, strings.Trim(filepath.Base(path), "."))
		}
		if err != nil || !found {
			b.t.Errorf("%s: %v, %v", path, got, err)
		}
	}
	if got, err := b.get("/out"); err != nil || got["out"] != b.outside {
		b.t.Errorf("a symlink itself: %v, %v", got, err)
	}
	st, err := b.c.ContainerStatPath(b.t.Context(), "box", client.ContainerStatPathOptions{Path: "/dir/f"})
	if err != nil || st.Stat.Name != "f" || st.Stat.Size != 3 || st.Stat.Mode.Perm() != 0o640 {
		b.t.Errorf("%+v, %v", st.Stat, err)
	}
}

func (b box) refuses() {
	for _, path := range []string{"/out/secret", "/up/secret", "/nothing"} {
		if got, err := b.get(path); !errdefs.IsNotFound(err) {
			b.t.Errorf("%s: %v, %v", path, got, err)
		}
	}
	err := b.put("/fixed", [2]string{"f", "x"})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "marked read-only") {
		b.t.Errorf("into a read-only volume: %v", err)
	}
	err = b.put("/dir/f", [2]string{"f", "x"})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "not a directory") {
		b.t.Errorf("into a file: %v", err)
	}
	for _, name := range []string{"../escaped", "out/escaped", "/../escaped"} {
		_ = b.put("/", [2]string{name, "x"}) // refused, or kept inside
	}
	_ = b.put("/out", [2]string{"f", "x"})
	if left, _ := os.ReadDir(b.outside); len(left) != 1 {
		b.t.Errorf("outside: %v", left)
	}
}

func (b box) changes() {
	changes, err := b.c.ContainerDiff(b.t.Context(), "box", client.ContainerDiffOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	kinds := map[string]string{}
	for _, ch := range changes.Changes {
		kinds[ch.Path] = ch.Kind.String()
	}
	if kinds["/dir/f"] != "A" || kinds["/dir"] != "A" || kinds["/etc"] != "" || kinds["/dev"] != "" {
		b.t.Errorf("changes: %v", kinds)
	}
	exported, err := b.c.ContainerExport(b.t.Context(), "box", client.ContainerExportOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	defer exported.Close()
	if got := namesIn(b.t, exported); got["dir/f"] != "one" || got["data/v"] != "" {
		b.t.Errorf("exported %d files, %q and %q", len(got), got["dir/f"], got["data/v"])
	}
}

// What a container uses is told in Docker's words, and its limits can be changed.
func TestStatsAndUpdate(t *testing.T) {
	_, c := run(t)
	ctx := t.Context()
	id := start(t, c, "ticker", container.HostConfig{Resources: container.Resources{Memory: 64 << 20}}, "tick")
	read := func(o client.ContainerStatsOptions) (s container.StatsResponse) {
		t.Helper()
		r, err := c.ContainerStats(ctx, id, o)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := read(client.ContainerStatsOptions{IncludePreviousSample: true})
	if s.ID != id || s.Name != "/ticker" || s.CPUStats.CPUUsage.TotalUsage == 0 || s.CPUStats.SystemUsage <= s.PreCPUStats.SystemUsage ||
		s.PreCPUStats.SystemUsage == 0 || s.MemoryStats.Usage == 0 || s.MemoryStats.Limit != 64<<20 || s.PidsStats.Current == 0 ||
		s.CPUStats.OnlineCPUs == 0 {
		t.Errorf("%+v", s)
	}
	if _, ok := s.Networks["eth0"]; !ok || len(s.Networks) != 1 {
		t.Errorf("networks %+v", s.Networks)
	}
	pids := int64(30)
	_, err := c.ContainerUpdate(ctx, id, client.ContainerUpdateOptions{
		Resources:     &container.Resources{Memory: 96 << 20, PidsLimit: &pids},
		RestartPolicy: &container.RestartPolicy{Name: container.RestartPolicyAlways},
	})
	if err != nil {
		t.Fatal(err)
	}
	if s = read(client.ContainerStatsOptions{}); s.MemoryStats.Limit != 96<<20 || s.PidsStats.Limit != 30 {
		t.Errorf("after an update: %+v", s)
	}
	in, err := c.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil || in.Container.HostConfig.Memory != 96<<20 || in.Container.HostConfig.RestartPolicy.Name != "always" {
		t.Errorf("%+v, %v", in.Container.HostConfig, err)
	}
	_, err = c.ContainerUpdate(ctx, id, client.ContainerUpdateOptions{Resources: &container.Resources{Memory: 256 << 20}})
	if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "memoryswap limit") {
		t.Errorf("more memory than its swap: %v", err)
	}
}
