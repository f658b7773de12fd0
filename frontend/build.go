// Package frontend says what a user asked to be built, in the terms of the solver: the context,
// the platforms, the names of the result, the arguments. BuildKit's Dockerfile frontend, on the
// daemon's side, turns it into an LLB graph.
package frontend

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/tonistiigi/fsutil"
)

// Build is a request as the command line gives it. The zero value of a field is the default.
type Build struct {
	Context    string   // directory
	Dockerfile string   // path; default Dockerfile in the context
	Platforms  []string // each may be a list with commas
	Tags       []string
	Args       []string // NAME=value, or NAME for the environment's value
	Labels     []string
	Target     string
	NoCache    bool
	Pull       bool // ask the registry for newer base images, also when there is a local one
	Push       bool
}

// Names of a build's local directories in a session, as the Dockerfile frontend asks for them.
const (
	localContext    = "context"
	localDockerfile = "dockerfile"
)

// Solve checks the request and returns it as BuildKit's client sends it, and the directories that
// are read, by their names. Errors name the flag or file at fault.
func (b *Build) Solve() (client.SolveOpt, map[string]string, error) {
	attrs, err := b.attrs()
	if err != nil {
		return client.SolveOpt{}, nil, err
	}
	dirs, file, err := b.locate()
	if err != nil {
		return client.SolveOpt{}, nil, err
	}
	attrs["filename"] = file
	names, err := b.names()
	if err != nil {
		return client.SolveOpt{}, nil, err
	}
	mounts := map[string]fsutil.FS{}
	for name, dir := range dirs {
		if mounts[name], err = fsutil.NewFS(dir); err != nil {
			return client.SolveOpt{}, nil, err
		}
	}
	return client.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: attrs,
		LocalMounts:   mounts,
		Session:       []session.Attachable{credentials()},
		Exports:       []client.ExportEntry{b.export(names)},
	}, dirs, nil
}

func (b *Build) attrs() (map[string]string, error) {
	attrs := map[string]string{"image-resolve-mode": "local"}
	if b.Pull {
		attrs["image-resolve-mode"] = "pull"
	}
	if b.NoCache {
		attrs["no-cache"] = ""
	}
	if b.Target != "" {
		attrs["target"] = b.Target
	}
	for _, a := range b.Args {
		name, value, ok := strings.Cut(a, "=")
		if name == "" {
			return nil, fmt.Errorf("--build-arg %q has no name; write NAME=value", a)
		}
		if !ok {
			if value, ok = os.LookupEnv(name); !ok {
				continue // as docker build: an unset variable leaves the ARG's default
			}
		}
		attrs["build-arg:"+name] = value
	}
	for _, l := range b.Labels {
		name, value, _ := strings.Cut(l, "=")
		if name == "" {
			return nil, fmt.Errorf("--label %q has no name; write name=value", l)
		}
		attrs["label:"+name] = value
	}
	platforms, err := Platforms(b.Platforms)
	if err != nil {
		return nil, err
	}
	if len(platforms) > 0 {
		attrs["platform"] = strings.Join(platforms, ",")
	}
	return attrs, nil
}

// locate finds the context's and the Dockerfile's directory, and the Dockerfile's name in it.
func (b *Build) locate() (dirs map[string]string, file string, err error) {
	fi, err := os.Stat(b.Context)
	if err != nil {
		return nil, "", fmt.Errorf("build context: %w", err)
	}
	if !fi.IsDir() {
		return nil, "", fmt.Errorf("build context %s is not a directory", b.Context)
	}
	path := b.Dockerfile
	if path == "" {
		path = filepath.Join(b.Context, "Dockerfile")
	}
	fi, err = os.Stat(path)
	switch {
	case err != nil:
		//lint:ignore ST1005 a proper name
		return nil, "", fmt.Errorf("Dockerfile: %w; name another with --file", err)
	case fi.IsDir():
		return nil, "", fmt.Errorf("%s is a directory, not a Dockerfile: %w", path, fs.ErrInvalid)
	}
	return map[string]string{localContext: b.Context, localDockerfile: filepath.Dir(path)}, filepath.Base(path), nil
}

// names returns the full names of the result, docker.io/library/app:latest for app.
func (b *Build) names() ([]string, error) {
	var names []string
	for _, t := range b.Tags {
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return nil, fmt.Errorf("--tag %q: %w", t, err)
		}
		if _, ok := named.(reference.Canonical); ok {
			return nil, fmt.Errorf("--tag %q: a new image can't have a digest in its name", t)
		}
		names = append(names, reference.TagNameOnly(named).String())
	}
	if b.Push && len(names) == 0 {
		return nil, fmt.Errorf("--push needs a name to push to; give one with --tag")
	}
	return names, nil
}

func (b *Build) export(names []string) client.ExportEntry {
	attrs := map[string]string{
		"name": strings.Join(names, ","),
		// A result without a name is kept, and found by its digest.
		"dangling-name-prefix":    "gantry-dangling",
		"danging-name-empty-only": "true", // sic: BuildKit spells it so
	}
	if b.Push {
		attrs["push"] = "true"
	}
	return client.ExportEntry{Type: client.ExporterImage, Attrs: attrs}
}

// credentials answers the daemon's questions for passwords from the user's ~/.docker/config.json.
func credentials() session.Attachable {
	return authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: authprovider.LoadAuthConfig(config.LoadDefaultConfigFile(os.Stderr)),
	})
}

// Host is the registry that an image's name belongs to.
func Host(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}
