package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantry-build/gantry/internal/need"
)

// Builders on other machines are named, listed, chosen and taken away by buildx's own commands: gantry's daemon by its socket and over
// SSH, buildkitd by mutual TLS. What is built is built there, and nowhere else.
func TestBuilders(t *testing.T) {
	near, far := newGantry(t), newGantry(t)
	far.run("images")
	socket := far.status().Socket
	near.run("builder", "create", "--name", "far", "unix://"+socket)
	farm := buildkitdByTLS(t)
	near.run(append([]string{"builder", "create", "--name", "farm", "--platform", "linux/amd64"}, farm...)...)
	ssh := sshTo(t, far)
	near.env = append(near.env, "PATH="+ssh+":"+os.Getenv("PATH"))
	near.run("builder", "create", "--name", "shell", "ssh://root@localhost"+socket)
	list := near.run("builder", "ls")
	for _, want := range []string{"default", "far", "farm", "shell", "remote", "running"} {
		if !strings.Contains(list, want) {
			t.Errorf("%s is not in the list:\n%s", want, list)
		}
	}
	for i, name := range []string{"far", "farm", "shell"} {
		if out := near.run("builder", "inspect", "--bootstrap", name); !strings.Contains(out, "linux/amd64") {
			t.Errorf("%s:\n%s", name, out)
		}
		tag := fmt.Sprint("app:", name)
		near.run("build", "-q", "--builder", name, "--build-arg", fmt.Sprint("N=", i), "-t", tag, "--load", probe(t))
		if out := near.run("run", "--rm", tag); out != "hello" {
			t.Errorf("what %s built says %q", name, out)
		}
	}
	if n := strings.Count(near.run("history", "ls"), "\n"); n != 0 {
		t.Errorf("%d builds ran here", n)
	}
	if n := strings.Count(far.run("history", "ls"), "\n"); n != 2 {
		t.Errorf("%d builds ran there, want 2", n)
	}

	// One that was chosen is used, also when it does not answer.
	near.run("builder", "use", "far")
	near.run("build", "-q", "--build-arg", "N=9", probe(t))
	if n := strings.Count(far.run("history", "ls"), "\n"); n != 3 {
		t.Errorf("%d builds ran there, want 3", n)
	}
	far.run("daemon", "stop")
	near.fails([]string{"builder far does not answer"}, "build", "-q", "-t", "lost", probe(t))
	near.run("builder", "rm", "far")
	if list := near.run("builder", "ls"); strings.Contains(list, "far ") {
		t.Errorf("it is still there:\n%s", list)
	}
	near.run("build", "-q", "-t", "here", probe(t))
	if n := strings.Count(near.run("history", "ls"), "\n"); n != 1 {
		t.Errorf("%d builds ran here, want 1", n)
	}
	near.fails([]string{"no builder \"nowhere\" found"}, "build", "--builder", "nowhere", probe(t))
}

// buildkitdByTLS starts one, and returns how a builder for it is made.
func buildkitdByTLS(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	certificates(t, dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := "tcp://" + l.Addr().String()
	l.Close()
	runc, err := filepath.Abs(need.File(t, "../../.cache/payload/amd64/runc", "build"))
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	daemon := exec.Command(need.File(t, "../../.cache/peers/buildkitd", "peers"), "--root", file("root"), "--addr", addr,
		"--tlscacert", file("ca.pem"), "--tlscert", file("server.pem"), "--tlskey", file("server-key.pem"),
		"--oci-worker-net", "host", "--oci-worker-snapshotter", "overlayfs", "--containerd-worker=false")
	daemon.Env = append(os.Environ(), "PATH="+filepath.Dir(runc)+":"+os.Getenv("PATH"))
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(os.Interrupt)
		_ = daemon.Wait()
	})
	eventually(t, "buildkitd listens", func() error {
		c, err := net.Dial("tcp", strings.TrimPrefix(addr, "tcp://"))
		if err == nil {
			c.Close()
		}
		return err
	})
	return []string{
		"--driver-opt", "cacert=" + file("ca.pem") + ",cert=" + file("client.pem") + ",key=" + file("client-key.pem"), addr,
	}
}

// certificates writes an authority's, a server's and a client's into dir.
func certificates(t *testing.T, dir string) {
	t.Helper()
	pair := func(name string, tmpl, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.SerialNumber, tmpl.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		if parent == nil {
			parent, signer = tmpl, key
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for file, b := range map[string]*pem.Block{
			name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + "-key.pem": {Type: "EC PRIVATE KEY", Bytes: raw},
		} {
			if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	ca, key := pair("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	pair("server", &x509.Certificate{
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, ca, key)
	pair("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, key)
}

// sshTo is a folder with an ssh that does on this machine, by a shell, what it is asked to do on another one, where gantry is in PATH.
func sshTo(t *testing.T, g *gantry) string {
	t.Helper()
	dir := t.TempDir()
	bin, err := filepath.Abs(g.bin)
	if err != nil {
		t.Fatal(err)
	}
	there := filepath.Join(dir, "there")
	if err := os.Mkdir(there, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(bin, filepath.Join(there, "gantry")); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\n" +
		"PATH=" + there + ":$PATH GANTRY_ROOT=" + g.root + " exec sh -c \"$*\"\n"
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
