package cluster

import (
	"strings"
	"testing"
)

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		listen, advertise string
		joins             bool
		at, as            string
	}{
		{"0.0.0.0:2377", "10.1.2.3", false, "0.0.0.0:2377", "10.1.2.3:2377"},
		{"0.0.0.0:4000", "10.1.2.3", false, "0.0.0.0:4000", "10.1.2.3:4000"},
		{"0.0.0.0:4000", "10.1.2.3:5000", false, "0.0.0.0:4000", "10.1.2.3:5000"},
		{"10.1.2.3", "", false, "10.1.2.3:2377", "10.1.2.3:2377"},
		{"", "", true, "0.0.0.0:2377", ""},
		{"lo:4000", "lo", false, "127.0.0.1:4000", "127.0.0.1:4000"},
		{"[fd00::1]:4000", "", false, "[fd00::1]:4000", "[fd00::1]:4000"},
		{":4000", "fd00::1", false, "0.0.0.0:4000", "[fd00::1]:4000"},
	} {
		at, as, err := Addresses(c.listen, c.advertise, c.joins)
		if err != nil || at != c.at || as != c.as {
			t.Errorf("%+v: %q, %q, %v", c, at, as, err)
		}
	}
	for _, c := range [][2]string{{"nosuch0", ""}, {"0.0.0.0", "0.0.0.0"}, {"0.0.0.0", "not.an.address:1"}} {
		if at, as, err := Addresses(c[0], c[1], false); err == nil {
			t.Errorf("%v is %q, %q", c, at, as)
		}
	}
}

func TestRemote(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1": "10.0.0.1:2377", "tcp://manager:4000": "manager:4000", "[fd00::1]": "[fd00::1]:2377", "fd00::1": "[fd00::1]:2377",
		"10.0.0.1:": "10.0.0.1:2377",
	} {
		if got, err := Remote(text); err != nil || got != want {
			t.Errorf("%q is %q, %v", text, got, err)
		}
	}
	if _, err := Remote(":2377"); err == nil || !strings.Contains(err.Error(), "no host") {
		t.Error(err)
	}
}
