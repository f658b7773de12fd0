package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOptions(t *testing.T) {
	good := Options{Name: "gantry0", Table: "gantry", State: "/x"}
	must(t, good.validate())
	for _, change := range []func(*Options){
		func(o *Options) { o.Name = "" },
		func(o *Options) { o.Name = "sixteen-letters-" },
		func(o *Options) { o.Name = "../all" },
		func(o *Options) { o.Table = "a b" },
		func(o *Options) { o.State = "relative" },
		func(o *Options) { o.MTU = 20 },
		func(o *Options) { o.Subnet = netip.MustParsePrefix("fd00::/64") },
		func(o *Options) { o.Subnet = netip.MustParsePrefix("10.0.0.0/30") },
	} {
		bad := good
		change(&bad)
		if bad.validate() == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
}

func TestStore(t *testing.T) {
	s, err := newStore(filepath.Join(t.TempDir(), "state"))
	must(t, err)
	opts := Options{Name: "gtyt0", Table: "gantry_test_x", State: s.dir}
	if p, err := s.subnet(); err != nil || p.IsValid() {
		t.Errorf("empty state: %v, %v", p, err)
	}
	must(t, s.saveSubnet(netip.MustParsePrefix("10.88.7.0/24")))
	must(t, s.save(lease{ID: "kept", IP: netip.MustParseAddr("10.88.7.9"), PID: 1}))
	must(t, writeJSON(s.leasePath("old"), lease{ID: "old", Boot: "another"}, false))
	must(t, os.WriteFile(s.leasePath("torn"), []byte(`{"id":"to`), 0o600))
	h, err := Open(t.Context(), opts)
	must(t, err)
	b := h.Default()
	ep, ok := b.Endpoint("kept")
	if !ok || ep.IP.String() != "10.88.7.9" || ep.PrefixLen != 24 || ep.Gateway.String() != "10.88.7.1" || len(b.leases) != 1 {
		t.Errorf("opened with %+v of %v", ep, b.leases)
	}
	if files, _ := os.ReadDir(s.leaseDir()); len(files) != 1 {
		t.Errorf("kept %v", files)
	}
	opts.Subnet = netip.MustParsePrefix("10.9.0.0/16")
	if _, err := Open(t.Context(), opts); err == nil {
		t.Error("changed the subnet below a container")
	}
	s.drop("kept")
	if h, err = Open(t.Context(), opts); err != nil || h.Default().Subnet() != opts.Subnet {
		t.Errorf("a new subnet: %v", err)
	}
	must(t, os.WriteFile(s.networkPath(), []byte("{"), 0o600))
	if _, err := Open(t.Context(), opts); err == nil || !strings.Contains(err.Error(), s.networkPath()) {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestResolvConf(t *testing.T) {
	for _, c := range []struct{ name, host, want string }{
		{"kept", "# hi\nnameserver 192.0.2.1\nsearch a.example b.example\noptions ndots:2\n",
			"nameserver 192.0.2.1\nsearch a.example b.example\noptions ndots:2\n"},
		{"stub", "nameserver 127.0.0.53\noptions edns0 trust-ad\n", "nameserver 8.8.8.8\nnameserver 1.1.1.1\noptions edns0 trust-ad\n"},
		{"mixed", "nameserver ::1\nnameserver fe80::1%eth0\nnameserver 10.0.0.1\nnameserver 127.0.0.1", "nameserver 10.0.0.1\n"},
		{"empty", "", "nameserver 8.8.8.8\nnameserver 1.1.1.1\n"},
	} {
		if got := string(ResolvConf([]byte(c.host))); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
	r := Resolver{Servers: []netip.Addr{netip.MustParseAddr("127.0.0.11")}, Search: []string{"."}, Options: []string{"ndots:0"}}
	if got := string(r.Conf([]byte("nameserver 192.0.2.1\nsearch x\noptions y\n"))); got != "nameserver 127.0.0.11\noptions ndots:0\n" {
		t.Errorf("overrides:\n%s", got)
	}
}

func TestHostResolvConf(t *testing.T) {
	dir := t.TempDir()
	main, behind := filepath.Join(dir, "main"), filepath.Join(dir, "behind")
	read := func() string {
		b, err := hostResolvConf(main, behind)
		must(t, err)
		return string(b)
	}
	if got := read(); got != "" {
		t.Errorf("no file: %q", got)
	}
	must(t, os.WriteFile(main, []byte("nameserver 127.0.0.53\n"), 0o600))
	if got := read(); got != "nameserver 127.0.0.53\n" {
		t.Errorf("stub alone: %q", got)
	}
	must(t, os.WriteFile(behind, []byte("nameserver 192.0.2.7\n"), 0o600))
	if got := read(); got != "nameserver 192.0.2.7\n" {
		t.Errorf("stub: %q", got)
	}
	must(t, os.WriteFile(main, []byte("nameserver 127.0.0.53\nnameserver 192.0.2.8\n"), 0o600))
	if got := read(); !strings.Contains(got, "192.0.2.8") {
		t.Errorf("own server: %q", got)
	}
}

func TestHosts(t *testing.T) {
	ip := netip.MustParseAddr("172.20.0.2")
	extra, err := ExtraHosts([]string{"db:10.0.0.5", "six:[2001:db8::1]", "me:host-gateway"}, netip.MustParseAddr("172.20.0.1"))
	must(t, err)
	got := strings.TrimPrefix(string(Hosts("web.example.org", []netip.Addr{ip}, extra)), hostsHead)
	want := "10.0.0.5\tdb\n2001:db8::1\tsix\n172.20.0.1\tme\n172.20.0.2\tweb.example.org web\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := string(Hosts("alone", nil, nil)); got != hostsHead {
		t.Errorf("without an address: %q", got)
	}
	for _, bad := range []string{"nocolon", ":1.2.3.4", "a b:1.2.3.4", "x:y", "x:host-gateway"} {
		if _, err := ExtraHosts([]string{bad}, netip.Addr{}); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}
