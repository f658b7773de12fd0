package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTry(t *testing.T) {
	m := newVM(t, "amd64-6.1")
	bin, _ := filepath.Abs("../../bin/gantry")
	m.serve("gantry", bin)
	for _, n := range []string{"amd64", "arm", "Dockerfile"} {
		m.serve(n, filepath.Join(probe(t), n))
	}
	m.on()
	t.Log(m.run("uname -a; ls /proc/sys/fs/binfmt_misc; mount"))
	m.get("/usr/bin", "gantry")
	m.get("/ctx", "amd64", "arm", "Dockerfile")
	if _, err := os.Stat("/tmp/stay"); err == nil {
		t.Log(m.agent, m.web)
		select {}
	}
	t.Log(m.run("time gantry emulators ls; time gantry build --progress plain --platform linux/amd64,linux/arm/v7 -t probe /ctx"))
	t.Log(m.run("time gantry run --rm --platform linux/arm/v7 probe arch; mount -t binfmt_misc b /proc/sys/fs/binfmt_misc; ls /proc/sys/fs/binfmt_misc/; gantry daemon stop; ls /proc/sys/fs/binfmt_misc"))
}
