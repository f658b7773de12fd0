package command

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-build/gantry/cmd/thin"
)

func TestConfigRefusals(t *testing.T) {
	for text, wants := range map[string][]string{
		"[grpc]\naddress = [\"tcp://0.0.0.0:1234\"]\n":                   {":1: grpc has no effect here", "--socket"},
		"debug = true\nroot = \"/x\"\n":                                  {":2: root has no effect", "--root"},
		"[worker.oci]\nmax-parallelism = 2\nbinary = \"crun\"\n":         {":3: worker.oci.binary has no effect", "runc is inside"},
		"[worker.oci]\nmax-paralelism = 2\n":                             {":2: worker.oci.max-paralelism is unknown"},
		"[worker.containerd]\naddress = \"/run/containerd.sock\"\n":      {":2: worker.containerd.address has no effect"},
		"[worker.containerd]\nenabled = true\n":                          {"containerd is inside"},
		"[worker.oci]\nenabled = false\n":                                {"no other worker"},
		"[worker.oci]\nsnapshotter = \"stargz\"\n":                       {"stargz", "overlayfs"},
		"[log]\nlevel = \"loud\"\n":                                      {"loud", "debug, info, warn or error"},
		"[log]\nformat = \"xml\"\n":                                      {"xml", "text or json"},
		"[otel]\nsocketPath = \"/x\"\n":                                  {":1: otel has no effect"},
		"debug = \"yes\"\n":                                              {":1: debug"},
		"emulation = \"host\"\n":                                         {`emulation "host" is unknown; it is one of auto, private, off`},
		"[[default-address-pools]]\nbase = \"10.0.0.0\"\nsize = 24\n":    {`default-address-pools: base = "10.0.0.0"`, "want a prefix"},
		"[[default-address-pools]]\nbase = \"10.0.0.0/24\"\nsize = 16\n": {"default-address-pools: ", "do not fit"},
		"[[default-address-pools]]\nbass = \"10.0.0.0/8\"\n":             {":2: default-address-pools.bass is unknown"},
		"labels = [\"a\"]\n":                                             {"labels: ", "a"},
		"node-generic-resources = [\"GPU\"]\n":                           {"node-generic-resources: "},
		"metrics-addr = \"9323\"\n":                                      {"metrics-addr = \"9323\": want HOST:PORT"},
		"[dns\n":                                                         {":1: "},
		"\n\n[history]\nmaxEntries = \"many\"\n":                         {":4: history.maxEntries"},
	} {
		t.Run(text, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "gantry.toml")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := loadConfig(&place{thin.At("", "", path)})
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range append(wants, path) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in: %v", w, err)
				}
			}
		})
	}
	if _, err := loadConfig(&place{thin.At("", "", filepath.Join(t.TempDir(), "none.toml"))}); err == nil {
		t.Error("a file that was named and is not there is no error")
	}
}

// A configuration as buildkitd's users write it.
const usualConfig = `
debug = true
insecure-entitlements = [ "network.host", "security.insecure" ]
proxyNetwork = false
provenanceEnvDir = "/etc/buildkit/provenance.d"
[log]
  format = "json"
[dns]
  nameservers=["1.1.1.1","8.8.8.8"]
[history]
  maxAge = 172800
  maxEntries = 50
[worker.oci]
  enabled = true
  snapshotter = "auto"
  gc = true
  reservedSpace = "30%"
  maxUsedSpace = "60%"
  minFreeSpace = "20GB"
  networkMode = "bridge"
  apparmor-profile = ""
  max-parallelism = 4
  [worker.oci.labels]
    "foo" = "bar"
  [[worker.oci.gcpolicy]]
    reservedSpace = "512MB"
    keepDuration = "48h"
    filters = [ "type==source.local", "type==exec.cachemount", "type==source.git.checkout"]
[worker.containerd]
  enabled = false
[registry."docker.io"]
  mirrors = ["hub.lan:5000"]
  http = true
[frontend."dockerfile.v0"]
  enabled = true
[frontend."gateway.v0"]
  enabled = true
  allowedRepositories = []
`

func TestUsualConfig(t *testing.T) {
	cfg, err := parseConfig([]byte(usualConfig))
	if err != nil {
		t.Fatal(err)
	}
	if level, err := logLevel(cfg.Config); err != nil || level != slog.LevelDebug || cfg.Log.Format != "json" ||
		cfg.Workers.OCI.MaxParallelism != 4 {
		t.Errorf("%v, %v: %+v", level, err, cfg)
	}
}
