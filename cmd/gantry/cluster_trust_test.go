package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// serves starts a registry at a port of this host, and returns where it is.
func (h *host) serves(port string, args ...string) (at string) {
	h.t.Helper()
	at = h.ip + ":" + port
	h.servesAt(at, append([]string{"--addr", at}, args...)...)
	return at
}

// servesAt starts a registry, and waits until it answers at an address.
func (h *host) servesAt(at string, args ...string) {
	h.t.Helper()
	h.serveRegistry(args...)
	eventually(h.t, "the registry at "+at, func() error {
		if out, err := h.get("http://" + at + "/v2/"); err != nil && strings.Contains(err.Error(), "refused") {
			return errors.Join(err, errors.New(out))
		}
		return nil
	})
}

// A node that joins trusts the cluster's registries, whichever node serves them: over TLS, over plain HTTP, with a password. A worker
// can't have others trust it for hosts that are not its own, and who leaves trusts none of them any more.
func TestClusterTrusts(t *testing.T) {
	hosts := newHosts(t, 3)
	m, w, late := hosts[0], hosts[1], hosts[2]
	word, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte("ann:"+string(word)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	first := m.serves("5000", "--tls", "--htpasswd", users)
	plain := m.serves("5001", "--open")
	m.run("login", "-u", "ann", "-p", "secret", first)
	m.run("build", "-q", "-t", first+"/app", "--push", tellsMachine(t, "tls"))
	m.run("build", "-q", "--registry-http", plain, "-t", plain+"/open", "--push", tellsMachine(t, "plain"))
	m.run("swarm", "init", "--advertise-addr", m.ip)
	w.run("swarm", "join", "--token", m.run("swarm", "join-token", "-q", "worker"), m.ip)
	third := w.serves("5000", "--tls", "--open")
	w.run("build", "-q", "-t", third+"/app", "--push", tellsMachine(t, "worker's"))
	late.run("swarm", "join", "--token", m.run("swarm", "join-token", "-q", "worker"), m.ip)

	for _, h := range []*host{w, late} {
		eventually(t, h.name+" trusts the registry over plain HTTP", func() error {
			_, stderr, err := h.try("pull", "-q", plain+"/open")
			return unless(err == nil, "%s", stderr)
		})
	}
	for _, h := range []*host{m, late} {
		eventually(t, h.name+" trusts the worker's registry", func() error {
			_, stderr, err := h.try("pull", "-q", third+"/app")
			return unless(err == nil, "%s", stderr)
		})
	}
	late.fails([]string{"login"}, "pull", "-q", first+"/app")
	m.run("rmi", "-f", first+"/app") // no node has it now: it comes from the registry, by the user's login
	m.run("service", "create", "-d", "-q", "--with-registry-auth", "--name", "web", "--mode", "global", "-p", "8080:8080", first+"/app")
	m.untilRuns("web", 3)
	m.machines("8080", "tls", "amd64")

	// What a worker says of another's registry is not believed.
	w.run("build", "-q", "--registry-http", first, "-t", "nothing", probe(t))
	late.fails([]string{"login"}, "pull", "-q", first+"/app")
	late.run("swarm", "leave", "--force")
	late.run("rmi", "-f", plain+"/open")
	late.fails([]string{plain, "plain HTTP"}, "pull", "-q", plain+"/open")
}
