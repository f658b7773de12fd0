package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A cluster whose only manager has lost everything comes back from a backup, with its worker and what runs there. A locked one
// wants its key.
func TestClusterBackup(t *testing.T) {
	hosts := newCluster(t, 1, 1)
	m, w := hosts[0], hosts[1]
	file := filepath.Join(t.TempDir(), "cluster.backup")
	m.fails([]string{"no such file"}, "cluster", "restore", file)
	m.fails([]string{"already part of a swarm"}, "cluster", "restore", os.Args[0])
	w.fails([]string{"not a swarm manager"}, "cluster", "backup", file)

	pw := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(pw, []byte("the secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.run("secret", "create", "pw", pw)
	m.service("--name", "web", "--constraint", "node.role==worker", "--secret", "pw", "probe", "serve", ":8080", "x")
	m.untilRuns("web", 1)
	task := m.tasks("web")[0].ID
	m.run("swarm", "update", "--autolock")
	key := m.run("swarm", "unlock-key", "-q")

	out := m.run("cluster", "backup", file)
	if !strings.Contains(out, "2 nodes, 1 services, 1 tasks") || !strings.Contains(out, "1 secrets") {
		t.Errorf("the backup says:\n%s", out)
	}
	m.service("--name", "later", "probe", "sleep")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the backup: %v, %v", info, err)
	}

	m.run("swarm", "leave", "--force")
	m.fails([]string{"not part of a swarm"}, "cluster", "backup", file)
	m.fails([]string{"not part of a swarm"}, "cluster", "status")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(t.TempDir(), "half")
	if err := os.WriteFile(half, data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	restore := []string{"cluster", "restore", "--listen-addr", m.ip}
	m.fails([]string{"not the whole of one"}, append(restore, half)...)
	m.fails([]string{"no backup of a cluster"}, append(restore, pw)...)
	m.fails([]string{"locked"}, append(restore, file)...)
	m.fails([]string{"invalid key"}, append(restore, "--unlock-key", "SWMKEY-1-7+2ysnTJ7dFlTHWwdJaCDEFyGhUXmYNYMnUrw6SKJ6g", file)...)
	if out := m.run("info", "-f", "{{.Swarm.LocalNodeState}}"); out != "inactive" {
		t.Fatalf("after restores that failed, it is %s", out)
	}

	m.run(append(restore, "--unlock-key", key, file)...)
	if out := m.run("service", "ls", "--format", "{{.Name}}"); out != "web" {
		t.Errorf("services: %s", out)
	}
	eventually(t, "the worker comes back", func() error {
		out, _, err := m.try("cluster", "status")
		return unless(err == nil, "%s", out)
	})
	if after := m.untilRuns("web", 1); after[0] != "host2" || m.tasks("web")[0].ID != task {
		t.Errorf("the task was %s, now: %+v", task, m.tasks("web"))
	}
	m.run("service", "update", "-d", "-q", "--force", "web") // its secret is asked for again
	eventually(t, "a new task", func() error {
		now := m.tasks("web")[0]
		return unless(now.ID != task && strings.HasPrefix(now.CurrentState, "Running"), "%+v", now)
	})
}

// One of three managers goes on alone when the others are lost.
func TestClusterRecovers(t *testing.T) {
	hosts := newCluster(t, 3, 0)
	m := hosts[0]
	m.service("--name", "web", "--replicas", "3", "probe", "serve", ":8080", "x")
	m.untilRuns("web", 3)
	if out := m.run("cluster", "status"); !strings.Contains(out, "3, of which 3 answer and 2 are needed") {
		t.Errorf("status:\n%s", out)
	}
	if out := m.run("cluster", "status"); strings.Contains(out, "unknown") || strings.Contains(out, "0001-") {
		t.Errorf("the ends of certificates:\n%s", out)
	}
	m.fails([]string{"unknown command: gantry cluster frob"}, "cluster", "frob")
	m.fails([]string{"nothing is lost"}, "cluster", "recover", "--dry-run")
	hosts[1].kill()
	eventually(t, "status tells of a lost manager", func() error {
		out, _, err := m.try("cluster", "status")
		return unless(err != nil && strings.Contains(out, "mend: manager host2 does not answer"), "%v: %s", err, out)
	})
	hosts[2].kill()
	eventually(t, "status tells of a lost quorum", func() error {
		out, _, err := m.try("cluster", "status")
		return unless(err != nil && strings.Contains(out, "cluster recover --dry-run"), "%v: %s", err, out)
	})
	dry := m.run("cluster", "recover", "--dry-run")
	if !strings.Contains(dry, "3 nodes, 1 services, 3 tasks") || strings.Count(dry, "would be a member no more") != 2 {
		t.Errorf("the dry run:\n%s", dry)
	}
	if _, _, err := m.try("service", "ls"); err == nil {
		t.Error("a dry run has made a cluster")
	}
	m.run("cluster", "recover")
	m.run("service", "update", "-d", "-q", "--replicas", "2", "web")
	eventually(t, "all tasks run here", func() error {
		nodes := m.running("web")
		return unless(strings.Join(nodes, " ") == "host1 host1", "%v", nodes)
	})
	if out, _, _ := m.try("cluster", "status"); !strings.Contains(out, "1, of which 1 answer and 1 are needed") {
		t.Errorf("status:\n%s", out)
	}
}
