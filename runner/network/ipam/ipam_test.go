package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func pool(t *testing.T, c Config) *Pool {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// It goes round: after what was taken, then from the beginning.
func TestRound(t *testing.T) {
	p := pool(t, Config{Subnet: prefix("10.1.2.8/29")})
	if err := p.Take(addr("10.1.2.12"), "kept"); err != nil || p.Gateway != addr("10.1.2.9") {
		t.Fatal(p.Gateway, err)
	}
	var got []string
	for range 4 {
		a, err := p.Next("c")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.String())
	}
	if s := strings.Join(got, " "); s != "10.1.2.13 10.1.2.14 10.1.2.10 10.1.2.11" {
		t.Errorf("handed out %s", s)
	}
	p.Free(addr("10.1.2.13"), "c")
	if a, err := p.Next("c"); err != nil || a != addr("10.1.2.13") {
		t.Errorf("%s, %v", a, err)
	}
}

// All that a pool has to give is given once, in order, and what comes back is given last.
func TestNext(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{Subnet: prefix("10.0.0.0/29")}, "2 3 4 5 6"},
		{Config{Subnet: prefix("10.0.0.0/29"), Gateway: addr("10.0.0.6")}, "1 2 3 4 5"},
		{Config{Subnet: prefix("10.0.0.0/29"), Aux: map[string]netip.Addr{"a": addr("10.0.0.3")}}, "2 4 5 6"},
		{Config{Subnet: prefix("10.0.0.0/24"), Range: prefix("10.0.0.8/30")}, "8 9 10 11"},
		{Config{Subnet: prefix("10.0.0.0/24"), Range: prefix("10.0.0.252/30")}, "252 253 254"},
		{Config{Subnet: prefix("10.0.0.0/24"), Range: prefix("10.0.0.0/30")}, "2 3"},
		{Config{Subnet: prefix("fd00::/125")}, "fd00::2 fd00::3 fd00::4 fd00::5 fd00::6 fd00::7"},
	} {
		p := pool(t, c.config)
		var got []string
		for {
			a, err := p.Next("c")
			if err != nil {
				if !errdefs.IsUnavailable(err) {
					t.Error(err)
				}
				break
			}
			got = append(got, strings.TrimPrefix(a.String(), "10.0.0."))
		}
		if fmt.Sprint(got) != "["+c.want+"]" || p.InUse() != len(got) {
			t.Errorf("%+v: %v, want %s", c.config, got, c.want)
		}
	}
	p := pool(t, Config{Subnet: prefix("fd00::/64")})
	first, _ := p.Next("a")
	p.Free(first, "a")
	if second, err := p.Next("b"); err != nil || second != addr("fd00::3") {
		t.Errorf("%s after %s, %v", second, first, err)
	}
	if again, err := p.Next("a"); err != nil || again != first {
		t.Errorf("%s came back and got %s, %v", first, again, err)
	}
	p.Free(first, "a")
	if err := p.Take(first, "c"); err != nil {
		t.Error(err)
	}
	if other, err := p.Next("a"); err != nil || other != addr("fd00::4") {
		t.Errorf("an old address is another's, got %s, %v", other, err)
	}
}

func TestTake(t *testing.T) {
	p := pool(t, Config{Subnet: prefix("10.0.0.0/24"), Range: prefix("10.0.0.128/25"),
		Aux: map[string]netip.Addr{"router": addr("10.0.0.254")}})
	if err := p.Take(addr("10.0.0.5"), "a"); err != nil {
		t.Fatal(err) // one that is asked for need not be of the range
	}
	for a, is := range map[string]func(error) bool{
		"10.0.0.5": errdefs.IsPermissionDenied, "10.0.0.1": errdefs.IsPermissionDenied, "10.0.0.254": errdefs.IsPermissionDenied,
		"10.0.0.0": errdefs.IsPermissionDenied, "10.0.0.255": errdefs.IsPermissionDenied, "10.0.1.1": errdefs.IsInvalidArgument,
		"fd00::1": errdefs.IsInvalidArgument,
	} {
		if err := p.Take(addr(a), "b"); !is(err) {
			t.Errorf("%s: %v", a, err)
		}
	}
	if next, err := p.Next("b"); err != nil || next != addr("10.0.0.128") {
		t.Errorf("%s, %v", next, err)
	}
	p.Free(addr("10.0.0.5"), "a")
	if err := p.Take(addr("10.0.0.5"), "c"); err != nil {
		t.Error(err)
	}
}

func TestBadConfigs(t *testing.T) {
	for want, c := range map[string]Config{
		"needs a subnet":                   {},
		"it should be 10.0.0.0/24":         {Subnet: prefix("10.0.0.1/24")},
		"no room":                          {Subnet: prefix("10.0.0.0/31")},
		"it should be 10.0.0.128/25":       {Subnet: prefix("10.0.0.0/24"), Range: prefix("10.0.0.129/25")},
		"does not contain ip-range":        {Subnet: prefix("10.0.0.0/24"), Range: prefix("10.0.0.0/16")},
		"invalid gateway address 10.0.1.1": {Subnet: prefix("10.0.0.0/24"), Gateway: addr("10.0.1.1")},
		"auxiliary address a=fd00::1":      {Subnet: prefix("10.0.0.0/24"), Aux: map[string]netip.Addr{"a": addr("fd00::1")}},
	} {
		if _, err := New(c); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		from []Range
		used string
		want string
	}{
		{Defaults, "", "172.20.0.0/16"},
		{Defaults, "172.20.3.0/24 172.21.0.0/16", "172.22.0.0/16"},
		{Defaults, "172.16.0.0/12", "10.88.0.0/24"},
		{Defaults, "172.16.0.0/12 10.88.0.0/23 10.88.2.128/25", "10.88.3.0/24"},
		{Defaults, "172.16.0.0/12 10.0.0.0/8", ""},
		{[]Range{{prefix("fd00::/16"), 64}}, "fd00::/17", "fd00:8000::/64"},
		{[]Range{{prefix("255.255.0.0/16"), 24}}, "255.0.0.0/8", ""},
		{[]Range{{prefix("ffff::/16"), 64}}, "ff00::/8", ""},
	} {
		var used []netip.Prefix
		for _, u := range strings.Fields(c.used) {
			used = append(used, prefix(u))
		}
		got, err := Choose(c.from, used)
		if c.want == "" {
			if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), c.from[0].Base.String()) {
				t.Errorf("%s: %s, %v", c.used, got, err)
			}
		} else if err != nil || got != prefix(c.want) {
			t.Errorf("%s: %s, %v, want %s", c.used, got, err, c.want)
		}
	}
	for want, all := range map[string][]Range{
		"first address":  {{prefix("10.0.0.1/8"), 24}},
		"size /7":        {{prefix("10.0.0.0/8"), 7}},
		"size /31":       {{prefix("10.0.0.0/8"), 31}},
		"10.1.0.0/16 ov": {{prefix("10.0.0.0/8"), 24}, {prefix("10.1.0.0/16"), 24}},
	} {
		if err := CheckRanges(all); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := CheckRanges(Defaults); err != nil {
		t.Error(err)
	}
}

// Whatever is configured, no address is given twice, and none that is the network's own.
func FuzzPool(f *testing.F) {
	f.Add("10.0.0.0/28", "10.0.0.8/29", "10.0.0.9", []byte{0, 1, 2, 3})
	f.Add("fd00::/120", "", "", []byte{0, 0, 0, 130, 0})
	f.Fuzz(func(t *testing.T, subnet, within, gateway string, steps []byte) {
		var c Config
		c.Subnet, _ = netip.ParsePrefix(subnet)
		c.Range, _ = netip.ParsePrefix(within)
		c.Gateway, _ = netip.ParseAddr(gateway)
		p, err := New(c)
		if err != nil {
			return
		}
		had := map[netip.Addr]bool{}
		var order []netip.Addr
		for _, s := range steps {
			if s >= 128 && len(order) > 0 {
				a := order[int(s)%len(order)]
				p.Free(a, "c")
				delete(had, a)
				continue
			}
			a, err := p.Next("c")
			if err != nil {
				continue
			}
			if had[a] || a == p.Gateway || a == c.Subnet.Addr() || !c.Subnet.Contains(a) || c.Range.IsValid() && !c.Range.Contains(a) {
				t.Fatalf("%s of %+v", a, c)
			}
			had[a], order = true, append(order, a)
		}
		if p.InUse() != len(had) {
			t.Errorf("%d in use, %d given", p.InUse(), len(had))
		}
	})
}
