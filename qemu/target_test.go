package qemu

import (
	"strings"
	"testing"
)

// The lines are those of QEMU's scripts/qemu-binfmt-conf.sh for arm and aarch64.
func TestLines(t *testing.T) {
	for arch, want := range map[string]string{
		"arm": `:qemu-arm:M::` +
			`\x7f\x45\x4c\x46\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00:` +
			`\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/q/emu:PFC`,
		"arm64": `:qemu-aarch64:M::` +
			`\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:` +
			`\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/q/emu:PFC`,
		"s390x": `:qemu-s390x:M::` +
			`\x7f\x45\x4c\x46\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16:` +
			`\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff:/q/emu:PFC`,
	} {
		target, _ := targetFor(arch)
		if got, err := target.line(target.program, "/q/emu", flags); err != nil || got != want {
			t.Errorf("%s: %v\n got %s\nwant %s", arch, err, got, want)
		}
	}
}

func TestLineSeparator(t *testing.T) {
	target, _ := targetFor("arm")
	got, err := target.line(target.program, "/a:b/emu", flags)
	if err != nil || !strings.HasPrefix(got, "|qemu-arm|M||") || !strings.HasSuffix(got, "|/a:b/emu|PFC") {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := target.line(target.program, "/a:b|c!d#e", flags); err == nil {
		t.Error("a path with every separator was taken")
	}
}

func TestEntry(t *testing.T) {
	arm, _ := targetFor("arm")
	arm64, _ := targetFor("arm64")
	const text = "%\ninterpreter /usr/bin/qemu-arm-static\nflags: POF\noffset 0\n" +
		"magic 7f454c4601010100000000000000000002002800\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
	e := parseEntry("qemu-arm", []byte(strings.Replace(text, "%", "enabled", 1)))
	if !e.starts(arm) || e.starts(arm64) || !e.reaches() || e.interpreter != "/usr/bin/qemu-arm-static" {
		t.Errorf("entry read as %+v", e)
	}
	if e := parseEntry("off", []byte(strings.Replace(text, "%", "disabled", 1))); e.starts(arm) {
		t.Error("a disabled entry starts programs")
	}
	if e := parseEntry("jar", []byte("enabled\ninterpreter /j\nflags: \nextension .jar\n")); e.starts(arm) {
		t.Error("an entry by file extension starts programs")
	}
}
