package topology

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/swarmkit/v2/api"
)

// authority gives nodes their certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "swarm-ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}, key}
}

func (a *authority) identity(node, role, cluster string) Identity {
	a.t.Helper()
	dir := a.t.TempDir()
	write := func(name, kind string, der []byte, err error) {
		a.t.Helper()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
		}
		if err != nil {
			a.t.Fatal(err)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, a.key.Public(), a.key)
	write("swarm-root-ca.crt", "CERTIFICATE", der, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter, DNSNames: []string{role, node},
		Subject:     pkix.Name{CommonName: node, OrganizationalUnit: []string{role}, Organization: []string{cluster}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, key.Public(), a.key)
	write("swarm-node.crt", "CERTIFICATE", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(key)
	write("swarm-node.key", "PRIVATE KEY", der, err)
	return Identity{Dir: dir, Key: func() []byte { return nil }}
}

// A node is told what it is in, changes as they come, and what it is in no more.
func TestFollow(t *testing.T) {
	ours := newAuthority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	address := l.Addr().String()
	hub := &Hub{}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		id := ours.identity("m", "swarm-manager", "c")
		served <- Serve(ctx, address, func() *Hub { return hub }, nil, id, slog.New(slog.DiscardHandler))
	}()

	overlay := func(id string) *api.Network { return &api.Network{ID: id, DriverState: &api.Driver{Name: "overlay"}} }
	s := newStore()
	s.networks["one"], s.networks["two"] = overlay("one"), overlay("two")
	in := func(ids ...string) {
		var at []*api.NetworkAttachment
		for i, id := range ids {
			at = append(at, attachment(s.networks[id], fmt.Sprintf("10.0.%d.2/24", i)))
		}
		s.nodes["w"] = node("w", "192.0.2.1", api.NodeStatus_READY, at...)
		hub.publish(s)
	}
	in("one")

	told := make(chan string, 16)
	go Follow(ctx, "w", func() *Hub { return nil }, func() []string { return []string{address} }, ours.identity("w", "swarm-worker", "c"),
		func(u Update) error {
			var ids []string
			for _, n := range u.Networks {
				ids = append(ids, n.ID)
			}
			slices.Sort(ids)
			if text := fmt.Sprint(ids, u.Gone, u.Whole); text != "[] [] false" {
				told <- text
			}
			return nil
		}, slog.New(slog.DiscardHandler))
	next := func(want string) {
		t.Helper()
		select {
		case got := <-told:
			if got != want {
				t.Errorf("told %s, want %s", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("not told %s", want)
		}
	}
	next("[one] [] true")
	in("one", "two")
	next("[two] [] false")
	in("two")
	next("[two] [one] false") // its own address there has changed

	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// serve serves a hub, and others if they are not nil, with an identity at an address of its own, until the test ends.
func serve(t *testing.T, id Identity, others http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	hub := &Hub{}
	hub.publish(newStore())
	go func() {
		_ = Serve(t.Context(), l.Addr().String(), func() *Hub { return hub }, others, id, slog.New(slog.DiscardHandler))
	}()
	for {
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			c.Close()
			return l.Addr().String()
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// One of another cluster is told nothing, and nobody believes one that is no manager.
func TestFollowsMembersOnly(t *testing.T) {
	ours := newAuthority(t)
	manager := serve(t, ours.identity("m", "swarm-manager", "c"), nil)
	learn := func(Update) error { return errors.New("told") }
	for what, c := range map[string]struct {
		who  Identity
		want string
	}{
		"a foreign authority": {newAuthority(t).identity("w", "swarm-worker", "c"), "certificate"},
		"another cluster":     {ours.identity("w", "swarm-worker", "other"), "another cluster"},
		"a member":            {ours.identity("w", "swarm-worker", "c"), "told"},
	} {
		if err := followOne(t.Context(), manager, c.who, learn); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", what, err, c.want)
		}
	}
	err := followOne(t.Context(), serve(t, ours.identity("w2", "swarm-worker", "c"), nil), ours.identity("w", "swarm-worker", "c"), learn)
	if err == nil || !strings.Contains(err.Error(), "swarm-manager") {
		t.Errorf("one that is no manager: %v", err)
	}
}
