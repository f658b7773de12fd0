package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/go-archive"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"

	"github.com/gantry-build/gantry/internal/compressed"
	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/internal/tarball"
)

// classic answers POST /build: what SDKs, test libraries and old clients ask, a context as a tar and options in the query.
// The build is BuildKit's; its progress is told in the classic builder's words, or in BuildKit's for version 2.
func (b *Build) classic(w http.ResponseWriter, r *http.Request) error {
	version := r.URL.Query().Get("version")
	if version != "" && version != "1" && version != "2" {
		return fault.Invalid("invalid version %q of the builder: it is 1 or 2", version)
	}
	o, tags, err := classicOptions(r)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gantry-context-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if _, remote := o.FrontendAttrs["context"]; !remote && !fromSession(r) {
		if err := unpackContext(dir, r.Body); err != nil {
			return err
		}
		if err := localContext(dir, o); err != nil {
			return err
		}
	}
	if version == "2" {
		return b.traced(w, r, o)
	}
	return b.told(w, r, o, tags)
}

// fromSession says whether the context is in the client's session.
func fromSession(r *http.Request) bool {
	q := r.URL.Query()
	return q.Get("remote") == "client-session" && q.Get("session") != "" && q.Get("version") == "2"
}

// told solves and answers in the classic builder's words.
func (b *Build) told(w http.ResponseWriter, r *http.Request, o *client.SolveOpt, tags []string) error {
	bk, err := b.dial(r.Context())
	if err != nil {
		return err
	}
	defer bk.Close()
	out := newProgress(w)
	quiet := flag(r, "q")
	said := make(chan *client.SolveStatus)
	var g errgroup.Group
	g.Go(func() error {
		tell := teller{out: out, quiet: quiet, begun: map[digest.Digest]bool{}, cached: map[digest.Digest]bool{}}
		for s := range said {
			tell.status(s)
		}
		return nil
	})
	res, err := bk.Solve(r.Context(), nil, *o, said)
	_ = g.Wait()
	if err != nil {
		return out.fail(err)
	}
	id := res.ExporterResponse[exportedDigest]
	if quiet {
		out.send(jsonstream.Message{Stream: id + "\n"})
		return nil
	}
	if err := out.aux("", map[string]string{"ID": id}); err != nil {
		return out.fail(err)
	}
	if d, err := digest.Parse(id); err == nil {
		out.send(jsonstream.Message{Stream: "Successfully built " + d.Encoded()[:12] + "\n"})
	}
	for _, t := range tags {
		out.send(jsonstream.Message{Stream: "Successfully tagged " + t + "\n"})
	}
	return nil
}

// exportedDigest is where BuildKit's image exporter says what it has made.
const exportedDigest = "containerimage.digest"

// unpackContext unpacks what the client has sent, compressed or not.
func unpackContext(dir string, r io.Reader) error {
	plain, err := compressed.Open(r)
	if err != nil {
		return fault.Invalid("the build context: %v", err)
	}
	defer plain.Close()
	fits := tarball.Fits(plain, dir)
	defer fits.Close()
	if err := archive.UntarUncompressed(fits, dir, &archive.TarOptions{}); err != nil {
		return fault.Invalid("the build context is no tar that can be unpacked: %v", err)
	}
	return nil
}

// localContext makes a directory the context, and refuses what the classic builder refuses at once.
func localContext(dir string, o *client.SolveOpt) error {
	name := o.FrontendAttrs["filename"]
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	text, err := root.ReadFile(strings.TrimPrefix(filepath.Clean("/"+name), "/"))
	if err != nil {
		return fault.Invalid("Cannot locate specified Dockerfile: %s", name)
	}
	switch {
	case len(text) == 0:
		return fault.Invalid("the Dockerfile (%s) cannot be empty", name)
	case empty(text):
		return fault.Invalid("dockerfile parse error: file with no instructions")
	}
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		return err
	}
	o.LocalMounts = map[string]fsutil.FS{"context": fs, "dockerfile": fs}
	return nil
}

// empty says whether a Dockerfile has nothing but comments.
func empty(dockerfile []byte) bool {
	for line := range bytes.Lines(dockerfile) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// classicOptions are the query's, for BuildKit.
func classicOptions(r *http.Request) (*client.SolveOpt, []string, error) {
	q := r.URL.Query()
	attrs := map[string]string{"filename": "Dockerfile", "image-resolve-mode": "local"}
	for name, attr := range map[string]string{"dockerfile": "filename", "target": "target", "platform": "platform"} {
		if v := q.Get(name); v != "" {
			attrs[attr] = v
		}
	}
	if p := attrs["platform"]; p != "" {
		if _, err := platforms.Parse(p); err != nil {
			return nil, nil, fault.Invalid("%v", err)
		}
	}
	switch remote := q.Get("remote"); {
	case remote == "", fromSession(r):
	case remote == "client-session":
		return nil, nil, fault.Invalid("remote=client-session needs version=2 and a session")
	default:
		attrs["context"] = remote
	}
	if flag(r, "nocache") {
		attrs["no-cache"] = ""
	}
	if flag(r, "pull") {
		attrs["image-resolve-mode"] = "pull"
	}
	if err := classicMaps(r, attrs); err != nil {
		return nil, nil, err
	}
	switch mode := q.Get("networkmode"); mode {
	case "", "default", "bridge":
	case "host", "none":
		attrs["force-network-mode"] = mode
	default:
		return nil, nil, fault.Invalid("network mode %q is not supported by builds: use default, host or none", mode)
	}
	if hosts := q["extrahosts"]; len(hosts) > 0 {
		attrs["add-hosts"] = strings.ReplaceAll(strings.Join(hosts, ","), ":", "=")
	}
	if s := q.Get("shmsize"); s != "" && s != "0" {
		attrs["shm-size"] = s
	}
	tags, err := classicTags(q["t"])
	if err != nil {
		return nil, nil, err
	}
	auth, err := classicAuth(r)
	if err != nil {
		return nil, nil, err
	}
	export := client.ExportEntry{Type: client.ExporterImage, Attrs: map[string]string{"unpack": "true"}}
	if len(tags) > 0 {
		export.Attrs["name"] = strings.Join(tags, ",")
	}
	o := &client.SolveOpt{
		Frontend: "dockerfile.v0", FrontendAttrs: attrs, Exports: []client.ExportEntry{export}, Session: []session.Attachable{auth},
	}
	if attrs["force-network-mode"] == "host" {
		o.AllowedEntitlements = []string{"network.host"}
	}
	familiar := make([]string, 0, len(tags))
	for _, t := range tags {
		if named, err := reference.ParseNormalizedNamed(t); err == nil {
			familiar = append(familiar, reference.FamiliarString(named))
		}
	}
	return o, familiar, nil
}

// classicMaps reads what is JSON in the query.
func classicMaps(r *http.Request, attrs map[string]string) error {
	q := r.URL.Query()
	var args map[string]*string
	var labels map[string]string
	var from []string
	for name, to := range map[string]any{"buildargs": &args, "labels": &labels, "cachefrom": &from} {
		if text := q.Get(name); text != "" {
			if err := json.Unmarshal([]byte(text), to); err != nil {
				return fault.Invalid("error reading %s: %v", name, err)
			}
		}
	}
	for k, v := range args {
		if v != nil {
			attrs["build-arg:"+k] = *v
		}
	}
	for k, v := range labels {
		attrs["label:"+k] = v
	}
	return nil
}

func classicTags(all []string) (tags []string, err error) {
	for _, t := range all {
		if t == "" {
			continue
		}
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return nil, fault.Invalid("%v", err)
		}
		if _, pinned := named.(reference.Canonical); pinned {
			return nil, fault.Invalid("build tag cannot contain a digest")
		}
		if full := reference.TagNameOnly(named).String(); !slices.Contains(tags, full) {
			tags = append(tags, full)
		}
	}
	return tags, nil
}

// classicAuth gives BuildKit the passwords that the client has sent (X-Registry-Config).
func classicAuth(r *http.Request) (session.Attachable, error) {
	file := configfile.New("")
	if text := r.Header.Get("X-Registry-Config"); text != "" {
		data, err := base64.URLEncoding.DecodeString(text)
		if err == nil {
			err = json.Unmarshal(data, &file.AuthConfigs)
		}
		if err != nil {
			return nil, fault.Invalid("X-Registry-Config: %v", err)
		}
		for host, a := range maps.Clone(file.AuthConfigs) {
			if a.ServerAddress == "" {
				a.ServerAddress = host
			}
			file.AuthConfigs[host] = a
		}
	}
	if file.AuthConfigs == nil {
		file.AuthConfigs = map[string]types.AuthConfig{}
	}
	return authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: authprovider.LoadAuthConfig(file),
	}), nil
}

// teller says what a build does in the classic builder's words.
type teller struct {
	out           *progress
	quiet         bool
	begun, cached map[digest.Digest]bool
}

// aStep is the name of an instruction's vertex: [stage 2/3] RUN x.
var aStep = regexp.MustCompile(`^\[(?:.* )?(\d+)/(\d+)\] (.*)$`)

func (t teller) status(s *client.SolveStatus) {
	if t.quiet {
		return
	}
	for _, v := range s.Vertexes {
		step := aStep.FindStringSubmatch(v.Name)
		if v.Started == nil || step == nil {
			continue
		}
		if !t.begun[v.Digest] {
			t.begun[v.Digest] = true
			t.out.send(jsonstream.Message{Stream: fmt.Sprintf("Step %s/%s : %s\n", step[1], step[2], step[3])})
		}
		if v.Cached && !t.cached[v.Digest] {
			t.cached[v.Digest] = true
			t.out.send(jsonstream.Message{Stream: " ---> Using cache\n"})
		}
	}
	for _, l := range s.Logs {
		t.out.send(jsonstream.Message{Stream: string(l.Data)})
	}
	for _, warning := range s.Warnings {
		t.out.send(jsonstream.Message{Stream: "[Warning] " + string(warning.Short) + "\n"})
	}
}
