// Package layers holds the import rules of the rooms. It has no code, only the test.
package layers

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/gantry-build/gantry/"

// rooms says what each room may import of the others, what else it is handed when it is put together,
// which its tests may import, and why. internal is open to all.
var rooms = map[string]rule{
	"internal": {nil, nil, "it is open to all, so it can stand on none"},
	"cache":    {nil, nil, "the store is at the bottom: everything else stands on it"},
	"qemu":     {nil, nil, "what a machine can run does not depend on what is stored or built"},
	"frontend": {nil, nil, "a request is plain data; the client, which has no daemon inside, makes it"},
	"solver": {[]string{"cache", "qemu", "frontend"}, []string{"exporter"},
		"BuildKit solves over the store; how its results leave is injected"},
	"exporter": {[]string{"cache"}, nil, "bytes leave from the store, whoever asks"},
	"registry": {[]string{"cache", "exporter"}, nil, "it serves what the store holds, by the exporter's rules of trust"},
	"runner":   {[]string{"cache", "qemu", "exporter"}, nil, "containers run images; how they were built is over"},
	"api":      {[]string{"solver", "runner", "cache", "exporter"}, []string{"qemu"}, "handlers translate between protocols and rooms"},
	"cmd": {[]string{"api", "cache", "exporter", "frontend", "qemu", "registry", "runner", "solver"}, nil,
		"only the command line knows everyone"},
	"testdata": {nil, nil, "samples are what users write: they know nothing of gantry"},
}

type rule struct {
	may    []string
	handed []string
	why    string
}

// giants are the upstream packages, with all below them, that start something big, and the one folder that
// may import each: an upgrade then touches that.
var giants = []upstream{
	{"github.com/moby/buildkit/control", []string{"solver"}, "starts BuildKit's controller"},
	{"github.com/moby/buildkit/worker", []string{"solver"}, "is BuildKit's worker"},
	{"github.com/moby/buildkit/executor", []string{"solver"}, "runs build steps"},
	{"github.com/moby/buildkit/source", []string{"solver"}, "reads what builds start from"},
	{"github.com/containerd/containerd/v2/plugins", []string{"cache"}, "is containerd's server side"},
	{"github.com/containerd/containerd/v2/core/runtime", []string{"cache"}, "is containerd's server side"},
	{"github.com/containerd/containerd/v2/core/metadata", []string{"cache"}, "is containerd's server side"},
	{"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task", []string{"cache/shim"}, "sets globals that break the daemon"},
	{"github.com/distribution/distribution/v3/registry", []string{"registry"}, "is the registry server"},
	{"github.com/docker/cli/cli/command/container", []string{"cmd/thin"}, "is of the Docker CLI's command tree"},
	{"github.com/docker/cli/cli/command/commands", []string{"cmd/command"}, "links all of the Docker CLI, Swarm too"},
	{"github.com/docker/buildx/commands", []string{"cmd/command"}, "is buildx's command tree"},
	{"github.com/docker/compose/v5", []string{"cmd/command"}, "is Compose"},
	{"github.com/moby/swarmkit/v2/node", []string{"runner/cluster"}, "starts a node of a cluster"},
	{"github.com/moby/moby/v2", []string{"api"}, "is Docker's daemon; its conversions between the Engine API and SwarmKit are used"},
	{"github.com/moby/moby/api/types", []string{"api"}, "Engine API types stay in the API"},
}

// seams are the upstream packages whose types cross from one room to another, and the folders between which.
var seams = []upstream{
	{"github.com/moby/buildkit/cache", []string{"solver", "exporter"}, "is BuildKit's view of snapshots; results leave as its refs"},
	{"github.com/moby/buildkit/exporter", []string{"solver", "exporter", "cmd/command", "frontend"},
		"sends results; frontends name them by its types"},
	{"github.com/moby/buildkit/session", []string{"solver", "exporter", "api", "cmd/command"}, "is the client's end of a build"},
}

type upstream struct {
	pkg  string
	only []string
	why  string
}

// test marks the imports of a package's tests.
const test = " (test)"

func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	for _, wrong := range broken(list(t)) {
		t.Error(wrong)
	}
}

// What the thin client links, it initialises at each start.
func TestThinClientIsThin(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", module+"cmd/gantry")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		rest, ours := strings.CutPrefix(pkg, module)
		if room := roomOf(rest); ours && room != "internal" && !slices.Contains([]string{"cmd/gantry", "cmd/thin", "cmd/ui"}, rest) {
			t.Errorf("cmd/gantry links %s; what needs it belongs in cmd/engine", rest)
		}
		for _, g := range slices.Concat(giants, seams) {
			if below(pkg, g.pkg) && !slices.Contains(g.only, "cmd/thin") && !slices.Contains(g.only, "api") {
				t.Errorf("cmd/gantry links %s, which %s; what needs it belongs in cmd/engine", pkg, g.why)
			}
		}
	}
}

// Each kind of violation is seen: else the test above proves nothing.
func TestViolationsAreSeen(t *testing.T) {
	for name, c := range map[string]struct{ from, to, says string }{
		"an arrow upward": {"solver/x", module + "exporter/attest", "solver may import cache, qemu, frontend: BuildKit solves " +
			"over the store"},
		"an arrow out of a room":  {"internal/need", module + "cache", "internal may import no room: it is open to all"},
		"a giant":                 {"runner", "github.com/moby/buildkit/worker/base", "only solver may: it is BuildKit's worker"},
		"a giant by another name": {"cache/solver", "github.com/moby/buildkit/control", "only solver may"},
		"a room without a row":    {"attic", module + "cache", "attic has no row in rooms"},
		"a test's arrow upward":   {"cache" + test, module + "solver", "cache (test) may import no room"},
		"the way into one":        {"cmd/command", module + "attic", "attic has no row in rooms"},
	} {
		got := broken(map[string][]string{c.from: {c.to}})
		if len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), c.says) {
			t.Errorf("%s: %q, want %q", name, got, c.says)
		}
	}
	if got := broken(map[string][]string{"api" + test: {module + "qemu"},
		"solver/local": {"github.com/moby/buildkit/control",
			module + "internal/state", "github.com/moby/buildkit/controls"}}); len(got) > 0 {
		t.Errorf("allowed imports are refused: %q", got)
	}
}

func TestGiantsHaveOneImporter(t *testing.T) {
	for _, g := range giants {
		if len(g.only) != 1 {
			t.Errorf("%s has %d importers", g.pkg, len(g.only))
		}
	}
}

// broken returns what is wrong with the imports of packages, which are named without the module, with
// the reason of the row that they break.
func broken(imports map[string][]string) (wrong []string) {
	for _, pkg := range slices.Sorted(maps.Keys(imports)) {
		room := roomOf(pkg)
		if _, ok := rooms[room]; !ok {
			wrong = append(wrong, room+" has no row in rooms: say in internal/layers what "+pkg+" may import, and why")
			continue
		}
		for _, imp := range imports[pkg] {
			if rest, ok := strings.CutPrefix(imp, module); ok {
				wrong = append(wrong, roomRule(pkg, room, rest)...)
			}
			wrong = append(wrong, giantRule(pkg, imp)...)
		}
	}
	return wrong
}

func roomRule(pkg, room, imp string) []string {
	to := roomOf(imp)
	if _, ok := rooms[to]; !ok {
		return []string{pkg + " imports " + imp + "\n\t" + to + " has no row in rooms"}
	}
	allowed := rooms[room].may
	if strings.HasSuffix(pkg, test) {
		room += test
		allowed = append(slices.Clip(allowed), rooms[roomOf(pkg)].handed...)
	}
	if roomOf(pkg) == to || to == "internal" || slices.Contains(allowed, to) {
		return nil
	}
	may := strings.Join(allowed, ", ")
	if may == "" {
		may = "no room"
	}
	return []string{pkg + " imports " + imp + "\n\t" + room + " may import " + may + ": " + rooms[roomOf(pkg)].why}
}

func giantRule(pkg, imp string) (wrong []string) {
	for _, g := range slices.Concat(giants, seams) {
		if !below(imp, g.pkg) || slices.ContainsFunc(g.only,
			func(folder string) bool { return below(strings.TrimSuffix(pkg, test), folder) }) {
			continue
		}
		wrong = append(wrong, pkg+" imports "+imp+"\n\tonly "+strings.Join(g.only, ", ")+" may: it "+g.why)
	}
	return wrong
}

func below(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

func roomOf(pkg string) string {
	room, _, _ := strings.Cut(strings.TrimSuffix(pkg, test), "/")
	return room
}

// list returns the imports of each package of the module, tests included, without the module's name.
func list(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-test", "-json=ImportPath,Imports", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := map[string][]string{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		name, ok := strings.CutPrefix(p.ImportPath, module)
		if !ok || strings.HasSuffix(name, ".test") {
			continue
		}
		name, _, isTest := strings.Cut(name, " ") // "a/b [a/b.test]" is a/b, or a/b_test, built for its test
		if isTest {
			name = strings.TrimSuffix(name, "_test") + test
		}
		for _, imp := range p.Imports {
			imp, _, _ = strings.Cut(imp, " ")
			pkgs[name] = append(pkgs[name], imp)
		}
	}
	if len(pkgs) < 20 {
		t.Fatalf("go list names %d packages", len(pkgs))
	}
	return pkgs
}
