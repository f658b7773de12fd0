package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client/pkg/stringid"

	"github.com/gantry-build/gantry/runner/network"
	"github.com/gantry-build/gantry/runner/process"
	"github.com/gantry-build/gantry/runner/spec"
	"github.com/gantry-build/gantry/runner/volume"
)

// manager is one without containers, whose store nobody asks.
func manager(t *testing.T) *Manager {
	t.Helper()
	dir := t.TempDir()
	volumes, err := volume.Open(filepath.Join(dir, "volumes"))
	if err != nil {
		t.Fatal(err)
	}
	return &Manager{o: Options{Root: dir}, byID: map[string]*container{}, names: map[string]string{}, volumes: volumes}
}

// with adds a container.
func (m *Manager) with(t *testing.T, rec Record) *container {
	t.Helper()
	dir := filepath.Join(m.containersDir(), rec.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := newContainer(dir, rec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.log.Close() })
	m.byID[rec.ID], m.names[rec.Name] = c, rec.ID
	return c
}

func TestNames(t *testing.T) {
	m := manager(t)
	seen := map[string]bool{}
	for range 500 {
		name, err := m.reserve("", stringid.GenerateRandomID())
		if err != nil || seen[name] || !spec.ValidName(name) {
			t.Fatalf("%q %v", name, err)
		}
		seen[name] = true
	}
	if _, err := m.reserve("web", "1"); err != nil {
		t.Error(err)
	}
	if _, err := m.reserve("web", "2"); !errdefs.IsConflict(err) ||
		!strings.HasPrefix(err.Error(), `Conflict. The container name "/web" is already in use by container "1".`) {
		t.Error(err)
	}
	for _, bad := range []string{"a", "-x", "a b", "/a/b"} {
		if _, err := m.reserve(bad, "3"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	m.unreserve("web", "2") // not its owner
	if m.names["web"] != "1" {
		t.Error("a name was taken from its owner")
	}
}

func TestFind(t *testing.T) {
	m := manager(t)
	m.with(t, Record{ID: "aabb11", Name: "one"})
	m.with(t, Record{ID: "aabb22", Name: "aabb1"}) // a name that is also the beginning of an ID
	for ref, want := range map[string]string{"one": "aabb11", "/one": "aabb11", "aabb11": "aabb11", "aabb2": "aabb22", "aabb1": "aabb22"} {
		if c, err := m.find(ref); err != nil || c.id != want {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := m.find("aabb"); !errdefs.IsInvalidArgument(err) {
		t.Error("ambiguous:", err)
	}
	for _, ref := range []string{"", "x"} {
		if _, err := m.find(ref); !errdefs.IsNotFound(err) || err.Error() != "No such container: "+ref {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

func TestRecordSurvives(t *testing.T) {
	m := manager(t)
	c := m.with(t, Record{ID: "ab", Name: "x", Config: spec.Config{Cmd: []string{"a"}, Volumes: map[string]struct{}{"/v": {}}}})
	err := c.update(func(r *Record) {
		r.State = State{Running: true, StartedAt: time.Now().UTC().Truncate(0), Health: &process.Health{Status: "healthy"}}
		r.HostConfig.MaskedPaths = []string{}
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := readRecord(c.dir)
	if err != nil || !got.State.StartedAt.Equal(c.rec.State.StartedAt) || got.State.Health.Status != "healthy" || got.Config.Cmd[0] != "a" {
		t.Errorf("%+v %v", got, err)
	}
	if got.HostConfig.MaskedPaths == nil {
		t.Error("no masked paths became the default ones")
	}
	if left, _ := filepath.Glob(filepath.Join(c.dir, ".*")); len(left) > 0 {
		t.Error("temporary files are left:", left)
	}
}

func TestRestartPolicies(t *testing.T) {
	for _, x := range []struct {
		name        string
		max, code   int
		count       int
		manual, yes bool
	}{
		{name: "", code: 1}, {name: "no", code: 1},
		{name: "always", yes: true}, {name: "always", manual: true},
		{name: "unless-stopped", yes: true}, {name: "unless-stopped", manual: true},
		{name: "on-failure"}, {name: "on-failure", code: 1, yes: true}, {name: "on-failure", code: 1, manual: true},
		{name: "on-failure", code: 1, max: 2, count: 1, yes: true}, {name: "on-failure", code: 1, max: 2, count: 2},
	} {
		if got := restarts(spec.RestartPolicy{Name: x.name, MaximumRetryCount: x.max}, x.code, x.count, x.manual); got != x.yes {
			t.Errorf("%+v: %v", x, got)
		}
	}
	var b backoff
	for _, want := range []time.Duration{100, 200, 400} {
		if got := b.next(time.Second); got != want*time.Millisecond {
			t.Errorf("%v, want %v ms", got, want)
		}
	}
	if got := b.next(time.Hour); got != backoffMin {
		t.Error("a long run does not reset:", got)
	}
	for range 20 {
		b.next(0)
	}
	if got := b.next(0); got != backoffMax {
		t.Error(got)
	}
}

func TestStatus(t *testing.T) {
	now := time.Now()
	for want, s := range map[string]State{
		"created": {}, "running": {Running: true, StartedAt: now}, "paused": {Running: true, Paused: true},
		"restarting": {Running: true, Restarting: true}, "removing": {Removing: true}, "exited": {StartedAt: now, FinishedAt: now},
	} {
		if got := s.Status(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestPorts(t *testing.T) {
	c := spec.Config{ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}}}
	h := spec.HostConfig{NetworkMode: "bridge", PublishAllPorts: true, PortBindings: map[string][]spec.PortBinding{
		"80/tcp": {{HostPort: "8080"}, {HostIP: "127.0.0.1", HostPort: "81"}}, "443": nil,
	}}
	got, err := ports(c, h)
	if err != nil || len(got) != 4 {
		t.Fatalf("%+v %v", got, err)
	}
	if got[0].ContainerPort != 53 || got[0].Proto != "udp" || got[0].HostPort != 0 || got[1].HostPort != 8080 ||
		got[2].HostIP.String() != "127.0.0.1" || got[3].Proto != "tcp" {
		t.Errorf("%+v", got)
	}
	ranged := spec.HostConfig{NetworkMode: "bridge",
		PortBindings: map[string][]spec.PortBinding{"80": {{HostPort: "8000-8010"}}, "81": {{HostPort: "9-9"}}}}
	if got, err := ports(spec.Config{}, ranged); err != nil || got[0].HostPort != 8000 || got[0].HostPortEnd != 8010 ||
		got[1].HostPortEnd != 0 {
		t.Errorf("%+v %v", got, err)
	}
	h.NetworkMode = "host"
	if got, err := ports(c, h); err != nil || got != nil {
		t.Errorf("%+v %v", got, err)
	}
	for _, b := range []map[string][]spec.PortBinding{{"x": nil}, {"0": nil}, {"80/ipx": nil}, {"80": {{HostIP: "x"}}},
		{"80": {{HostPort: "2-1"}}}, {"80": {{HostPort: "1-2-3"}}}, {"80": {{HostPort: "0-9"}}}} {
		if _, err := ports(spec.Config{}, spec.HostConfig{PortBindings: b}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", b, err)
		}
	}
}

func TestEvents(t *testing.T) {
	m := manager(t)
	since := time.Now()
	m.Publish(Event{Type: "image", Action: "pull"})
	ch := m.Events(t.Context(), since)
	m.Publish(Event{Type: "image", Action: "tag"})
	for _, want := range []string{"pull", "tag"} {
		if e := <-ch; e.Action != want || e.Time.IsZero() {
			t.Errorf("%+v, want %s", e, want)
		}
	}
	for range eventsQueued + 1 { // nobody reads
		m.Publish(Event{Action: "x"})
	}
	n := 0
	for range ch {
		n++
	}
	if n != eventsQueued {
		t.Errorf("%d events before the cut, want %d", n, eventsQueued)
	}
	ch = m.Events(t.Context(), time.Time{})
	m.events.close()
	if _, ok := <-ch; ok {
		t.Error("open after close")
	}
}

func TestVolumes(t *testing.T) {
	m := manager(t)
	v, err := m.CreateVolume(volume.Volume{Name: "data", Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.CreateVolume(volume.Volume{Name: "data"}); err != nil || !again.Created.Equal(v.Created) ||
		again.Labels["a"] != "b" {
		t.Errorf("%+v %v", again, err)
	}
	m.with(t, Record{ID: "aa", Name: "user", Mounts: []volume.MountPoint{{Type: "volume", Name: "data"}}})
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

// Networks of a manager that nobody uses: predefined ones with IDs that stay, and records of before there were others.
func TestPredefinedNetworks(t *testing.T) {
	m := manager(t)
	host, err := network.Open(t.Context(), network.Options{Name: "gtyt9", Table: "gantry_test_r", State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	m.o.Network = host
	if err := m.loadNetworks(); err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for _, n := range m.Networks() {
		ids[n.Name] = n.ID
	}
	if err := m.loadNetworks(); err != nil || len(m.Networks()) != 3 || m.Networks()[0].ID != ids["bridge"] {
		t.Errorf("read again: %v, %v", m.Networks(), err)
	}
	for mode, want := range map[string]string{"bridge": "bridge", "none": "none", "host": "host", "container:x": ""} {
		rec := Record{ID: "aa", HostConfig: spec.HostConfig{NetworkMode: mode}}
		m.attachOld(&rec)
		if _, in := rec.in(ids[want]); in != (want != "") {
			t.Errorf("%s: %+v", mode, rec.Attachments)
		}
	}
	for mode, want := range map[string]string{
		"host": "conflicting options: cannot attach both", "none": "private (none) mode", "container:x": "shares another's network",
	} {
		asked := []Attachment{{Name: mode}, {Name: "bridge"}}
		if strings.HasPrefix(mode, "container:") {
			asked = asked[1:]
		}
		if _, err := m.attachments(mode, asked); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", mode, err)
		}
	}
	if got, err := m.attachments("later", nil); err != nil || len(got) != 1 || got[0].Name != "later" || got[0].Network != "" {
		t.Errorf("a network that is made later: %+v, %v", got, err)
	}
}
