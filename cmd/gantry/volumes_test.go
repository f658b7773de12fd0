package main

import (
	"strings"
	"testing"
)

// The unmodified docker CLI keeps data in volumes, between containers of both architectures, and sees the networks.
func TestVolumesByDocker(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	c := newClient(t, g)
	docker, expect := c.docker, c.expect
	const base = "debian:bookworm-slim"
	expect("data", "volume", "create", "--label", "of=test", "data")
	expect("local data map[of:test] map[] local",
		"volume", "inspect", "-f", "{{.Driver}} {{.Name}} {{.Labels}} {{.Options}} {{.Scope}}", "data")
	docker("run", "--rm", "-v", "data:/d", base, "sh", "-c", "echo native >/d/f && chown 12:34 /d/f && chmod 640 /d/f")
	expect("native 12:34 640 armv7l", "run", "--rm", "--platform", "linux/arm/v7", "--mount", "type=volume,src=data,dst=/d,readonly", base,
		"sh", "-c", "echo $(cat /d/f) $(stat -c '%u:%g %a' /d/f) $(uname -m)")
	// An empty volume gets what the image has there, with owners and modes; nocopy and data that is there prevent it.
	expect("2775 0:8", "run", "--rm", "-v", "mail:/var/mail", base, "stat", "-c", "%a %u:%g", "/var/mail")
	expect("0", "run", "--rm", "-v", "none:/etc:nocopy", base, "sh", "-c", "ls /etc/debian_version 2>/dev/null | wc -l")
	expect("f\nhostname\nhosts\nresolv.conf", "run", "--rm", "-v", "data:/etc", base, "ls", "/etc")
	docker("run", "-d", "--name", "user", "-v", "data:/d", "-v", "/anonymous", base, "sleep", "1000")
	expect("data", "volume", "ls", "-q", "-f", "name=dat", "-f", "dangling=false")
	expect("native", "run", "--rm", "--volumes-from", "user:ro", base, "cat", "/d/f")
	docker("rm", "-f", "-v", "user")
	expect("data\nmail\nnone", "volume", "ls", "-q")
	docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=2m,uid=77", "fast")
	expect("tmpfs 77 2048", "run", "--rm", "-v", "fast:/x", base, "sh", "-c",
		"echo $(stat -f -c %T /x) $(stat -c %u /x) $(df -k /x | awk 'NR==2 {print $2}')")
	host := dir(t, map[string]string{"f": "the host's"})
	docker("volume", "create", "-o", "type=none", "-o", "device="+host, "-o", "o=bind", "there")
	expect("the host's", "run", "--rm", "--platform", "linux/arm/v7", "-v", "there:/x", base, "cat", "/x/f")
	expect("12", "run", "--rm", "--mount", "type=image,src="+base+",dst=/img", base, "cut", "-d.", "-f1", "/img/etc/debian_version")
	expect("12", "run", "--rm", "--mount", "type=image,src="+base+",dst=/img,image-subpath=etc/debian_version",
		base, "cut", "-d.", "-f1", "/img")
	docker("run", "--rm", "-v", "parts:/p", base, "sh", "-c", "mkdir /p/mail && ln -s / /p/out")
	expect("2775", "run", "--rm", "--mount", "type=volume,src=parts,dst=/var/mail,volume-subpath=mail",
		base, "stat", "-c", "%a", "/var/mail")
	if out := c.fails("docker", "run", "--rm", "--mount", "type=volume,src=parts,dst=/x,volume-subpath=out", base,
		"ls", "/x"); !strings.Contains(out, "path concatenation escapes the base directory") {
		t.Errorf("%s", out)
	}
	if got := docker("volume", "prune", "-a", "-f"); !strings.Contains(got, "data") || !strings.Contains(got, "Total reclaimed space: ") {
		t.Errorf("%s", got)
	}
	expect("fast\nthere", "volume", "ls", "-q") // as Docker, it leaves those that have options
	expect("bridge bridge local\nhost host local\nnone null local", "network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}")
	g.fails([]string{"get data: no such volume"}, "volume", "inspect", "data")
	if got := g.output("volume", "create"); len(got) != 64 {
		t.Errorf("%q", got)
	}
}
