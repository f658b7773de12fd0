package main

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// tellsMachine is an image whose answer says for which architecture it was made, with a layer that can be told from others.
func tellsMachine(t testing.TB, mark string) string {
	t.Helper()
	d := dir(t, map[string]string{
		"Dockerfile": "FROM scratch\nARG TARGETARCH\nCOPY ${TARGETARCH} /probe\nCOPY mark /mark\nENTRYPOINT [\"/probe\"]\n" +
			"CMD [\"serve\", \":8080\", \"" + mark + "\"]\n",
		"mark": strings.Repeat(mark, 1<<20),
	})
	for _, arch := range []string{"amd64", "arm"} {
		data, err := os.ReadFile(filepath.Join(probe(t), arch))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, arch), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// machines asks a service by its published port on a host until each of the architectures has answered, and nobody else.
func (h *host) machines(port, mark string, want ...string) {
	h.t.Helper()
	h.machinesAt(h.ip, port, mark, want...)
}

// machinesAt asks another host.
func (h *host) machinesAt(ip, port, mark string, want ...string) {
	h.t.Helper()
	within(h.t, cmp.Or(h.patience, time.Minute), mark+" answers at "+ip, func() error {
		var got []string
		for range 2 * len(want) {
			out, err := h.get("http://" + ip + ":" + port)
			if err != nil {
				return err
			}
			if !slices.Contains(got, out) {
				got = append(got, out)
			}
		}
		slices.Sort(got)
		var all []string
		for _, w := range want {
			all = append(all, mark+" "+w)
		}
		return unless(slices.Equal(got, all), "%q, want %q", got, all)
	})
}

// mixedCluster is three managers, of which two are of the second architecture. They find no registry.
func mixedCluster(t *testing.T) (pc, pi, second *host) {
	t.Helper()
	hosts := newHosts(t, 3)
	pc, pi, second = hosts[0], hosts[1], hosts[2]
	pc.run("swarm", "init", "--advertise-addr", pc.ip)
	for _, h := range []*host{pi, second} {
		h.restartAs("", "linux/arm/v7")
		h.run("swarm", "join", "--token", pc.run("swarm", "join-token", "-q", "manager"), pc.ip)
	}
	return pc, pi, second
}

// An image that was built on one node runs on all, without any registry: each gets the blobs of its own platform from those that have
// them, whether the one that built it is there or not, and never takes wrong bytes.
func TestClusterNeedsNoRegistry(t *testing.T) {
	pc, pi, second := mixedCluster(t)
	pc.run("build", "-q", "-t", "app", "--platform", both, tellsMachine(t, "first"))
	id := pc.run("image", "inspect", "-f", "{{.Id}}", "app")
	pc.run("service", "create", "-d", "-q", "--name", "web", "--replicas", "2", "-p", "8080:8080",
		"--constraint", "node.hostname!=host3", "app")
	pc.untilRuns("web", 2)
	if image := pc.run("service", "inspect", "-f", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", "web"); image != "app:latest@"+id {
		t.Errorf("the service's image is %s, want it by its digest %s", image, id)
	}
	for _, h := range []*host{pc, pi, second} {
		h.machines("8080", "first", "amd64", "arm")
	}
	if arch := pi.run("image", "inspect", "-f", "{{.Architecture}}", "app@"+id); arch != "arm" {
		t.Errorf("the second node has the image for %s", arch)
	}

	// The node that built it is stopped, and the only other one has a wrong byte: nothing starts, and once it is right again, all do.
	pc.kill()
	repair := pi.corrupt()
	pi.untilLeads()
	pi.run("service", "update", "-d", "-q", "--constraint-rm", "node.hostname!=host3", "--constraint-add", "node.hostname==host3", "web")
	eventually(t, "the reason why nothing starts", func() error {
		out := pi.run("service", "ps", "--no-trunc", "--format", "{{.Error}}", "web")
		return unless(strings.Contains(out, "not those of the digest"), "%s", out)
	})
	if n := containers([]*host{second}, "web"); n != 0 {
		t.Errorf("%d containers run on wrong bytes", n)
	}
	repair()
	pi.untilRuns("web", 2)
	second.machines("8080", "first", "arm")
	pc.start()
}

// untilLeads waits until the cluster can be managed by this host.
func (h *host) untilLeads() {
	h.t.Helper()
	eventually(h.t, "the other managers go on", func() error {
		_, stderr, err := h.try("node", "ls")
		return unless(err == nil, "%s", stderr)
	})
}

// corrupt changes a byte of the largest blob of a host, and returns what changes it back.
func (h *host) corrupt() (repair func()) {
	h.t.Helper()
	var path string
	var size int64
	err := filepath.WalkDir(filepath.Join(h.root, "store"), func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(p, "/blobs/sha256/") {
			return nil // snapshots come and go meanwhile
		}
		if info, err := d.Info(); err == nil && info.Size() > size {
			path, size = p, info.Size()
		}
		return nil
	})
	if err != nil || path == "" {
		h.t.Fatalf("%s has no blobs: %v", h.name, err)
	}
	flip := func() {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			h.t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, 4096); err != nil {
			h.t.Fatal(err)
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b, 4096); err != nil {
			h.t.Fatal(err)
		}
	}
	flip()
	return flip
}
