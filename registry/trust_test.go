package registry

import (
	"path/filepath"
	"testing"

	"github.com/gantry-build/gantry/exporter/trust"
)

// ping asks a registry for its version through what a store says about it.
func ping(t *testing.T, s *trust.Store, host string) error {
	t.Helper()
	hosts, err := s.Hosts(host)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := hosts[0].Client.Get(hosts[0].Scheme + "://" + hosts[0].Host + "/v2/")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func TestTheDataRootsOwnDaemonTrustsIt(t *testing.T) {
	root := t.TempDir()
	s, _ := start(t, Options{Root: filepath.Join(root, "registry"), TLS: true})
	near := trust.New(trust.Options{Root: root, CertDirs: []string{}})
	if err := ping(t, near, s.Addr().String()); err != nil {
		t.Error(err)
	}
}

func TestAnotherMachineTrustsWhatItPrints(t *testing.T) {
	s, _ := start(t, Options{TLS: true})
	host := s.Addr().String()
	far := trust.New(trust.Options{Root: t.TempDir(), CertDirs: []string{}})
	if err := ping(t, far, host); err == nil {
		t.Fatal("trusted without being told")
	}
	ca, got, err := trust.FetchCA(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	if _, want := s.CA(); got != want {
		t.Fatalf("fetched %s, the registry prints %s", got, want)
	}
	if err := far.TrustCA(host, ca); err != nil {
		t.Fatal(err)
	}
	if err := ping(t, far, host); err != nil {
		t.Error(err)
	}
}
