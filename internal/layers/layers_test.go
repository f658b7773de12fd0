// Package layers holds the import rules of the rooms. It has no code, only the test.
package layers

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/gantry-build/gantry/"

// rooms says what each room may import of the others, and why. internal is open to all.
var rooms = []struct {
	room string
	may  []string
	why  string
}{
	{"cache", nil, "the store is at the bottom: everything else stands on it"},
	{"qemu", nil, "what a machine can run does not depend on what is stored or built"},
	{"frontend", nil, "a request is plain data; the client, which has no daemon inside, makes it"},
	{"solver", []string{"cache", "qemu", "frontend"}, "BuildKit solves over the store; how its results leave is injected"},
	{"exporter", []string{"cache"}, "bytes leave from the store, whoever asks"},
	{"registry", []string{"cache", "exporter"}, "it serves what the store holds, by the exporter's rules of trust"},
	{"runner", []string{"cache", "qemu", "exporter"}, "containers run images; how they were built is over"},
	{"api", []string{"solver", "runner", "cache", "exporter"}, "handlers translate between protocols and rooms"},
	{"cmd", []string{"api", "cache", "cmd", "exporter", "frontend", "qemu", "registry", "runner", "solver"}, "only the command line knows everyone"},
}

// giants are the upstream packages that start something big, and the one folder that may import
// each: an upgrade then touches one folder.
var giants = []struct{ pkg, only, why string }{
	{"github.com/moby/buildkit/control", "solver", "starts BuildKit's controller"},
	{"github.com/moby/buildkit/executor/runcexecutor", "solver", "runs build steps"},
	{"github.com/containerd/containerd/v2/core/runtime/v2", "cache", "is containerd's server side"},
	{"github.com/containerd/containerd/v2/core/metadata/boltutil", "cache", "is containerd's server side"},
	{"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task", "cache/shim", "sets globals that break the daemon"},
	{"github.com/distribution/distribution/v3/registry/handlers", "registry", "is the registry server"},
	{"github.com/docker/cli/cli/command/commands", "cmd/command", "is the Docker CLI's command tree"},
	{"github.com/docker/buildx/commands", "cmd/command", "is buildx's command tree"},
	{"github.com/moby/moby/api/types/image", "api", "Engine API types stay in the API"},
}

func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	for pkg, imports := range list(t) {
		room := roomOf(pkg)
		for _, imp := range imports {
			if rest, ok := strings.CutPrefix(imp, module); ok && !allowed(room, roomOf(rest)) {
				t.Errorf("%s imports %s\n\t%s may import %s: %s", pkg, rest, room, strings.Join(rule(room).may, ", "), rule(room).why)
			}
		}
	}
}

func TestEachGiantHasOneImporter(t *testing.T) {
	for pkg, imports := range list(t) {
		for _, imp := range imports {
			for _, g := range giants {
				if imp == g.pkg && pkg != g.only && !strings.HasPrefix(pkg, g.only+"/") {
					t.Errorf("%s imports %s\n\tonly %s may: it %s", pkg, imp, g.only, g.why)
				}
			}
		}
	}
}

func roomOf(pkg string) string {
	room, _, _ := strings.Cut(pkg, "/")
	return room
}

func allowed(from, to string) bool {
	if from == to || to == "internal" {
		return true
	}
	for _, m := range rule(from).may {
		if m == to {
			return true
		}
	}
	return false
}

func rule(room string) (r struct {
	may []string
	why string
}) {
	for _, x := range rooms {
		if x.room == room {
			r.may, r.why = x.may, x.why
		}
	}
	return r
}

// list returns the direct imports of each package of the module, named without the module.
func list(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		pkgs[strings.TrimPrefix(f[0], module)] = f[1:]
	}
	return pkgs
}
