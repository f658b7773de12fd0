package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// The configuration's name servers and devices reach the steps of every platform.
func TestStepSettings(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	specs := dir(t, map[string]string{"example.json": `{"cdiVersion": "0.6.0", "kind": "example.com/thing", "devices": [
		{"name": "one", "containerEdits": {"env": ["THING=one"], "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/null"}]}},
		{"name": "two", "containerEdits": {"env": ["THING=two"], "deviceNodes": [{"path": "/dev/kmsg"}]}}]}`})
	cfg := filepath.Join(t.TempDir(), "gantry.toml")
	text := fmt.Sprintf("insecure-entitlements = [\"device\"]\n[dns]\nnameservers = [\"198.51.100.53\"]\noptions = "+
		"[\"ndots:3\"]\nsearchDomains = [\"lab.example\"]\n[cdi]\nspecDirs = [%q]\n", specs)
	if err := os.WriteFile(cfg, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g.run("daemon", "stop")
	d := dir(t, map[string]string{"Dockerfile": `FROM debian:bookworm-slim
RUN grep -x "nameserver 198.51.100.53" /etc/resolv.conf && grep -x "search lab.example" /etc/resolv.conf && \
	grep -x "options ndots:3" /etc/resolv.conf
`})
	g.run("--config", cfg, "build", "--platform", both, d)
	d = dir(t, map[string]string{"Dockerfile": `FROM debian:bookworm-slim
RUN --device=example.com/thing=one test "$THING" = one && echo gone > /dev/thing && test -c /dev/thing
`})
	g.run("build", "--allow", "device=example.com/thing=one", d)
	g.fails([]string{"device"}, "build", "--no-cache", d)
	// In the user namespace of an emulated step a device has the path that it has on the host.
	d = dir(t, map[string]string{"Dockerfile": `FROM debian:bookworm-slim
RUN --device=example.com/thing=two test "$THING" = two && test -c /dev/kmsg
`})
	g.run("build", "--allow", "device=example.com/thing=two", "--platform", both, d)
}
