package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// stdin runs a command with text on its standard input.
func (g *gantry) stdin(text []byte, args ...string) string {
	g.t.Helper()
	cmd := g.command(args...)
	cmd.Stdin = bytes.NewReader(text)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		g.t.Fatalf("gantry %s: %v\n%s", strings.Join(args, " "), err, tail(errs.String(), 40))
	}
	return strings.TrimSpace(out.String())
}

// exported is the one file of a build's result, /f.
func (g *gantry) exported(args ...string) string {
	g.t.Helper()
	out := filepath.Join(g.t.(*testing.T).TempDir(), "out")
	g.run(append([]string{"build", "-q", "-o", out}, args...)...)
	return fileIn(g.t.(*testing.T), out, "f")
}

func fileIn(t *testing.T, elem ...string) string {
	t.Helper()
	dt, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(dt))
}

// One build leaves by several doors; what is written about it says the same everywhere.
func TestOutputs(t *testing.T) {
	g := newGantry(t)
	out := t.TempDir()
	at := func(name string) string { return filepath.Join(out, name) }
	digest := g.run("build", "-q", "--platform", both, "-t", "probe",
		"-o", "type=image", "-o", "type=oci,dest="+at("oci.tar"), "-o", "type=oci,tar=false,dest="+at("oci"),
		"--iidfile", at("iid"), "--metadata-file", at("metadata.json"), probe(t))
	// A directory has no image's digest, so --iidfile does not go with it.
	g.run("build", "--platform", both, "-o", "type=local,dest="+at("dir"), "-o", "type=tar,dest="+at("root.tar"), probe(t))
	if id := fileIn(t, at("iid")); id != digest {
		t.Errorf("--iidfile has %s, -q printed %s", id, digest)
	}
	var meta map[string]any
	if err := json.Unmarshal([]byte(fileIn(t, at("metadata.json"))), &meta); err != nil || meta["containerimage.digest"] != digest {
		t.Errorf("metadata: %v, %v; want digest %s", err, meta["containerimage.digest"], digest)
	}
	for _, f := range []string{"oci.tar", "oci/index.json", "dir/linux_amd64/probe", "dir/linux_arm_v7/probe", "root.tar"} {
		if fi, err := os.Stat(at(f)); err != nil || fi.Size() == 0 {
			t.Errorf("%s: %v", f, err)
		}
	}
	g.run("rmi", "-f", "probe")
	g.run("load", "-i", at("oci.tar"))
	if got := g.run("run", "--rm", "--platform", "linux/arm/v7", "probe", "say", "loaded"); got != "loaded" {
		t.Errorf("the loaded image says %q", got)
	}
}

// What the command line hands to steps reaches them, and secrets stay out of the image.
func TestStepFlags(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := dir(t, map[string]string{"Dockerfile": `FROM debian:bookworm-slim AS work
ARG WORD=default
RUN --mount=type=secret,id=s,required=true \
    mkdir /out && { echo "word=$WORD"; echo "secret=$(cat /run/secrets/s)"; grep extra.example /etc/hosts; \
    echo "files=$(ulimit -n)"; df -m /dev/shm | tail -1 | awk '{print "shm=" $2}'; } > /out/f
FROM scratch AS other
COPY --from=work /out/f /f
LABEL stage=other
FROM scratch
COPY --from=work /out/f /f
`})
	got := g.exported("--build-arg", "WORD=given", "--secret", "id=s,src="+secret, "--add-host", "extra.example:192.0.2.7",
		"--ulimit", "nofile=123:456", "--shm-size", "32m", d)
	for _, want := range []string{"word=given", "secret=hush", "192.0.2.7", "files=123", "shm=32"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in\n%s", want, got)
		}
	}
	g.run("build", "-q", "-t", "labelled", "--target", "other", "--secret", "id=s,src="+secret, "--label", "a=b", "--annotation", "k=v", d)
	if labels := g.run("inspect", "--type", "image", "--format", "{{json .Config.Labels}}",
		"labelled"); labels != `{"a":"b","stage":"other"}` {
		t.Errorf("labels are %s", labels)
	}
	g.fails([]string{"Dockerfile:3", "secret s"}, "build", "--no-cache", d)
	g.fails([]string{"nowhere"}, "build", "--secret", "id=s,src=/nowhere", d)
}

// Questions about a Dockerfile are answered without building it.
func TestCall(t *testing.T) {
	g := newGantry(t)
	d := dir(t, map[string]string{"Dockerfile": "FROM scratch AS first\nARG WORD=x\nFROM first as second\nCOPY f /\n", "f": ""})
	if out := g.run("build", "--call", "targets", d); !strings.Contains(out, "first") || !strings.Contains(out, "second") {
		t.Errorf("targets: %s", out)
	}
	if out := g.run("build", "--call", "outline", d); !strings.Contains(out, "WORD") {
		t.Errorf("outline: %s", out)
	}
	out, _, err := g.try("build", "--check", d)
	if err == nil || !strings.Contains(out, "FromAsCasing") {
		t.Errorf("check: %v\n%s", err, out)
	}
}

// A bake file's targets are built in one go, by variables and groups.
func TestBake(t *testing.T) {
	g := newGantry(t)
	d := dir(t, map[string]string{
		"Dockerfile": "FROM scratch\nARG WHO\nCOPY f /\nLABEL who=$WHO\n",
		"f":          "",
		"docker-bake.hcl": "variable \"TAG\" { default = \"1\" }\ngroup \"default\" { targets = [\"a\", \"b\"] }\ntarget \"a\" {\n args " +
			"= { WHO = \"a\" }\n tags = [\"baked-a:${TAG}\"]\n}\ntarget \"b\" {\n inherits = [\"a\"]\n args = { WHO = \"b\" }\n tags = " +
			"[\"baked-b:${TAG}\"]\n platforms = [\"linux/amd64\", \"linux/arm/v7\"]\n}\n",
	})
	cmd := g.command("bake", "--set", "a.labels.extra=yes")
	cmd.Dir = d
	cmd.Env = append(cmd.Env, "TAG=7")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("bake: %v\n%s", err, out)
	}
	for _, who := range []string{"a", "b"} {
		if got := g.run("inspect", "--type", "image", "--format", `{{index .Config.Labels "who"}}`, "baked-"+who+":7"); got != who {
			t.Errorf("baked-%s is by %q", who, got)
		}
	}
}

// A cache that was written by one daemon serves another.
func TestCacheTravels(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	d := dir(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN head -c 16 /dev/urandom | od -An -tx1 > /f\nFROM " +
		"scratch\nCOPY --from=0 /f /f\n"})
	cache := filepath.Join(t.TempDir(), "cache")
	first := g.exported("--cache-to", "type=local,mode=max,dest="+cache, d)
	g.run("prune", "-af")
	if again := g.exported(d); again == first {
		t.Fatal("the cache was not pruned, so the test can't tell")
	}
	g.run("prune", "-af")
	if again := g.exported("--cache-from", "type=local,src="+cache, d); again != first {
		t.Errorf("%s was made again; the exported cache had %s", again, first)
	}
}

// A syntax line that no registry answers is built by the frontend inside, and the user is told.
func TestSyntaxWithoutAHub(t *testing.T) {
	g := newGantry(t)
	g.env = slices.Concat(g.env, []string{"HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1"})
	d := dir(t, map[string]string{"Dockerfile": "# syntax=docker/dockerfile:1\nFROM scratch\nCOPY <<E /f\nbuilt in\nE\n"})
	_, stderr, err := g.try("build", "-t", "x", d)
	if err != nil || !strings.Contains(stderr, "the built-in Dockerfile frontend is used") {
		t.Errorf("%v\n%s", err, stderr)
	}
}

// With --reproducible two daemons that know nothing of each other make the same bytes.
func TestReproducible(t *testing.T) {
	d := dir(t, map[string]string{"Dockerfile": `FROM debian:bookworm-slim AS work
RUN mkdir -p /out/dir && uname -m > /out/dir/machine && touch /out/new && ln -s new /out/link && echo user >> /etc/passwd
FROM work
COPY --from=work /out /copied
COPY f /f
`, "f": "x"})
	var digests []string
	for i, epoch := range []string{"1700000000", "1700000000", "1700000001"} {
		t.Run(strings.Join([]string{"run", epoch}, " "), func(t *testing.T) {
			g := newGantry(t)
			g.env = append(g.env, "SOURCE_DATE_EPOCH="+epoch)
			g.base("linux/amd64", "linux/arm/v7")
			digests = append(digests, g.run("build", "-q", "--reproducible", "--platform", both, "-t", "same", d))
			if i == 0 {
				if out := g.run("run", "--rm", "--platform", "linux/arm/v7", "same", "stat", "-c", "%Y",
					"/copied/dir/machine"); out != epoch {
					t.Errorf("time stamp is %s, want %s", out, epoch)
				}
			}
		})
	}
	if len(digests) != 3 || digests[0] != digests[1] || digests[0] == digests[2] {
		t.Errorf("digests: %v; the first two should be equal, the last another", digests)
	}
	g := newGantry(t)
	g.fails([]string{"SOURCE_DATE_EPOCH"}, "build", "--reproducible", d)
}

// A step can't have more memory than --memory says.
func TestStepLimits(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	d := dir(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN head -c 200m /dev/zero | tail -c 200m > /dev/null\n"})
	g.run("build", "-q", d)
	g.fails([]string{"Dockerfile:2"}, "build", "--no-cache", "--memory", "64m", d)
	g.run("build", "-q", "--no-cache", "--cpus", "1.5", d)
}

// --squash leaves the base image's layers and one more, which hides what later steps removed.
func TestSquash(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	d := dir(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN echo a > /a\nRUN echo b > /b && rm /a " +
		"/etc/debian_version\nCOPY f /f\nCMD [\"cat\", \"/b\"]\n", "f": "x"})
	g.run("build", "-q", "--squash", "-t", "squashed", d)
	if out := g.run("inspect", "--type", "image", "--format", "{{len .RootFS.Layers}}", "squashed"); out != "2" {
		t.Errorf("%s layers", out)
	}
	if out := g.run("run", "--rm", "squashed"); out != "b" {
		t.Errorf("it says %q", out)
	}
	// The layer is the image, not only the snapshot that it was built in.
	host := g.registry(false)
	g.run("tag", "squashed", host+"/squashed")
	g.run("push", host+"/squashed")
	g.run("rmi", "-f", "squashed", host+"/squashed")
	g.run("prune", "-af")
	g.run("pull", host+"/squashed")
	if out := g.run("run", "--rm", host+"/squashed", "sh", "-c", "cat /b /f; ls /a /etc/debian_version 2>&1 | wc -l"); out != "b\nx2" {
		t.Errorf("after a push and a pull it has %q", out)
	}
}

// The log of an emulated step says so, and by which emulator; a native step's has nothing to say.
func TestStepSaysHowItRuns(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "--platform", both, "-t", "probe", probe(t))
	d := dir(t, map[string]string{"Dockerfile": "FROM probe\nRUN [\"/probe\", \"say\", \"done\"]\n"})
	_, log, err := g.try("build", "--platform", both, d)
	if err != nil || strings.Count(log, "emulated linux/arm/v7, qemu-arm ") != 1 || strings.Contains(log, "emulated linux/amd64") {
		t.Errorf("%v\n%s", err, log)
	}
}

// A step's log is kept whole, in the build's output and in its history.
func TestLogsAreWhole(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	const lines = 400_000 // 5 MB
	d := dir(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN seq -f 'line %.0f' 400000 && echo the end\n"})
	_, log, err := g.try("build", "--progress", "plain", d)
	if err != nil {
		t.Fatal(err)
	}
	logs := map[string]string{"output": log, "history": ""}
	if _, logs["history"], err = g.try("history", "logs"); err != nil {
		t.Fatal(err)
	}
	for where, log := range logs {
		// The display breaks a line that two messages share, so a few are not counted.
		n := strings.Count(log, " line ")
		if n < lines*999/1000 || strings.Contains(log, "clipped") || !strings.Contains(log, "the end") {
			t.Errorf("%s: %d of %d lines", where, n, lines)
		}
	}
}
