package qemu

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"
)

var both = map[string]Emulator{"arm": {"/q/arm", "7.2"}, "arm64": {"/q/arm64", "7.2"}, "amd64": {"/q/amd64", "7.2"}}

// errOldKernel has no private tables.
var errOldKernel = errors.New("kernel 6.1 has one table")

func hostArm(flags string) entry {
	t, _ := targetFor("arm")
	return entry{name: "qemu-arm", interpreter: "/usr/bin/qemu-arm-static", flags: flags, enabled: true, magic: t.magic(), mask: t.mask()}
}

func TestPlatforms(t *testing.T) {
	for _, c := range []struct {
		name string
		k    fake
		o    Options
		want string
	}{
		{"amd64", fake{cpus: cpu("amd64", "v2", "v3"), also: true}, Options{Emulators: both},
			"linux/amd64 linux/amd64/v2 linux/amd64/v3 linux/386 linux/arm64 linux/arm/v7 linux/arm/v6"},
		{"no 386", fake{cpus: cpu("amd64")}, Options{Emulators: both}, "linux/amd64 linux/arm64 linux/arm/v7 linux/arm/v6"},
		{"arm64 with arm", fake{cpus: cpu("arm64"), also: true}, Options{Emulators: both},
			"linux/arm64 linux/arm/v7 linux/arm/v6 linux/amd64"},
		{"arm64 without", fake{cpus: cpu("arm64")}, Options{Emulators: both},
			"linux/arm64 linux/arm/v7 linux/arm/v6 linux/amd64"},
		{"nothing carried", fake{cpus: cpu("amd64")}, Options{}, "linux/amd64"},
		{"old kernel", fake{cpus: cpu("amd64"), refuse: errOldKernel}, Options{Emulators: both}, "linux/amd64"},
		{"old kernel, host entry", fake{cpus: cpu("amd64"), refuse: errOldKernel, host: []entry{hostArm("POF")}}, Options{Emulators: both},
			"linux/amd64 linux/arm/v7 linux/arm/v6"},
		{"broken emulator", fake{cpus: cpu("amd64"), failed: map[string]string{"arm": "write: exec format error"}},
			Options{Emulators: both},
			"linux/amd64 linux/arm64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, p := range open(t, c.o, c.k).Platforms() {
				got = append(got, platforms.Format(p))
			}
			if g := strings.Join(got, " "); g != c.want {
				t.Errorf("\n got %s\nwant %s", g, c.want)
			}
		})
	}
}

func TestWay(t *testing.T) {
	m := open(t, Options{Emulators: both}, fake{cpus: cpu("amd64", "v2"), host: []entry{hostArm("POF")}})
	for _, c := range []struct {
		platform string
		mode     Mode
		emulator string
	}{
		{"linux/amd64", Native, ""},
		{"linux/amd64/v1", Native, ""},
		{"linux/amd64/v2", Native, ""},
		{"linux/arm64", Emulated, "/q/arm64"},
		{"linux/arm64/v8", Emulated, "/q/arm64"},
		{"linux/arm", Emulated, "/q/arm"}, // ours, although the host has one
		{"linux/arm/v5", Emulated, "/q/arm"},
	} {
		w, err := m.Way(platforms.MustParse(c.platform))
		if err != nil || w.Mode != c.mode || w.Emulator != c.emulator || (w.Namespace != "") != (c.mode == Emulated) {
			t.Errorf("%s: %+v, %v", c.platform, w, err)
		}
	}
}

func TestHostEntry(t *testing.T) {
	m := open(t, Options{Emulators: both}, fake{cpus: cpu("amd64"), refuse: errOldKernel, host: []entry{hostArm("POF")}})
	w, err := m.Way(platforms.MustParse("linux/arm/v7"))
	if err != nil || w.Mode != Emulated || w.Emulator != "/usr/bin/qemu-arm-static" || w.Namespace != "" {
		t.Errorf("%+v, %v", w, err)
	}
}

func TestRefusals(t *testing.T) {
	const next = "; install emulators for the whole machine (Debian: apt-get install qemu-user-static binfmt-support) and restart the " +
		"daemon"
	for _, c := range []struct {
		platform string
		k        fake
		want     string
	}{
		{"linux/s390x", fake{}, "linux/s390x: no native CPU and no emulator installed" + next},
		{"linux/mips", fake{}, "linux/mips: no native CPU and no emulator known; this machine runs linux/amd64, linux/amd64/v2, " +
			"linux/arm64, linux/arm/v7, linux/arm/v6"},
		{"windows/amd64", fake{failed: map[string]string{"arm": "x", "arm64": "x"}}, "windows/amd64: only linux containers run here; " +
			"this machine runs linux/amd64, linux/amd64/v2"},
		{"linux/amd64/v4", fake{refuse: errOldKernel}, "linux/amd64/v4: this CPU has no v4 of amd64; this machine runs linux/amd64, " +
			"linux/amd64/v2"},
		{"linux/arm64/v9", fake{refuse: errOldKernel}, "linux/arm64/v9: qemu-aarch64 does not run this variant; this machine runs " +
			"linux/amd64, linux/amd64/v2"},
		{"linux/arm/v7", fake{refuse: errOldKernel}, "linux/arm/v7: kernel 6.1 has one table" + next},
		{"linux/arm/v7", fake{refuse: errOldKernel, host: []entry{hostArm("PO")}}, "linux/arm/v7: kernel 6.1 has one table, and the " +
			"host's entry qemu-arm lacks flag F, which containers need" + next},
		{"linux/arm/v7", fake{failed: map[string]string{"arm": "write: no such file"}}, "linux/arm/v7: /q/arm was not accepted by the " +
			"kernel: write: no such file" + next},
	} {
		c.k.cpus = cpu("amd64", "v2")
		_, err := open(t, Options{Emulators: both}, c.k).Way(platforms.MustParse(c.platform))
		var refused *RefusedError
		if !errors.As(err, &refused) || err.Error() != c.want {
			t.Errorf("\n got %v\nwant %s", err, c.want)
		}
	}
	k := fake{cpus: cpu("amd64"), host: []entry{hostArm("PO")}}
	_, err := open(t, Options{}, k).Way(platforms.MustParse("linux/arm/v7"))
	if err == nil || !strings.Contains(err.Error(), "the host's entry qemu-arm lacks flag F") {
		t.Errorf("got %v", err)
	}
}

// Native architectures are not registered: their programs would run emulated.
func TestRegistrations(t *testing.T) {
	asked := make(chan []registration, 1)
	open(t, Options{Emulators: both}, fake{cpus: cpu("amd64"), asked: asked})
	var got []string
	for _, r := range <-asked {
		got = append(got, r.Arch)
	}
	if !slices.Equal(got, []string{"arm64", "arm"}) {
		t.Errorf("registered %v", got)
	}
}
