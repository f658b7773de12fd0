package command

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	buildx "github.com/docker/buildx/commands"
	"github.com/docker/buildx/store"
	"github.com/docker/cli/cli/command"
	"github.com/moby/buildkit/util/tracing"
	moby "github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/gantry-build/gantry/exporter/trust"
)

// mountBuildxTree adds `buildx`, all of it.
func mountBuildxTree(root *cobra.Command, at *place, d *builderDriver, docker *command.DockerCli) {
	bx := buildx.NewRootCmd("buildx", false, docker)
	bx.GroupID = "build"
	bx.Short = "Build with BuildKit, by the commands of docker's plugin"
	bx.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return initBuildx(cmd, docker, at) }
	extendBuild(child(bx, "build"), at, d)
	tools := child(bx, "imagetools")
	for _, cmd := range tools.Commands() {
		mountImagetools(cmd, at, docker)
	}
	root.AddCommand(bx)
}

// toolsBuilder is the builder whose configuration tells imagetools of mirrors.
const toolsBuilder = "gantry"

// mountImagetools has a command reach registries as everything else here does, and take local images for sources.
func mountImagetools(cmd *cobra.Command, at *place, docker *command.DockerCli) {
	var plainHTTP []string
	registryHTTPFlag(cmd.Flags(), &plainHTTP)
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := allowHTTP(at, plainHTTP); err != nil {
			return err
		}
		names := slices.Clone(args)
		if tags, err := cmd.Flags().GetStringArray("tag"); err == nil {
			names = append(names, tags...)
		}
		if err := errors.Join(at.noteRegistries(names), at.trustRegistries()); err != nil {
			return err
		}
		if err := cmd.Flags().Set("builder", toolsBuilder); err != nil {
			return err
		}
		dir, err := os.MkdirTemp("", "gantry-imagetools-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		for i := range args {
			if args[i], err = at.layoutOf(cmd.Context(), docker.Client(), args[i], filepath.Join(dir, fmt.Sprint(i))); err != nil {
				return err
			}
		}
		return trust.ExplainText(run(cmd, args))
	}
}

// noteRegistries writes the mirrors where buildx looks for them.
func (p *place) noteRegistries(names []string) error {
	group, err := p.registries(names)
	if err != nil {
		return err
	}
	data, err := json.Marshal(group)
	if err != nil {
		return err
	}
	dir := filepath.Join(p.buildxDir(), "instances")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, toolsBuilder), data, 0o600)
}

// registries has the mirrors of some images' registries, as buildx has them: in the configuration of a builder.
func (p *place) registries(names []string) (*store.NodeGroup, error) {
	cfg, err := loadConfig(p)
	if err != nil {
		return nil, err
	}
	mirrors := map[string]any{}
	for _, n := range names {
		named, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			continue // a layout, or a digest
		}
		if c := cfg.Registries[reference.Domain(named)]; len(c.Mirrors) > 0 {
			mirrors[reference.Domain(named)] = map[string]any{"mirrors": c.Mirrors}
		}
	}
	text, err := toml.Marshal(map[string]any{"registry": mirrors})
	return &store.NodeGroup{Name: toolsBuilder, Driver: "gantry", Nodes: []store.Node{
		{Name: toolsBuilder + "0", Endpoint: "unix://" + p.Socket(), Files: map[string][]byte{"buildkitd.toml": text}},
	}}, err
}

// trustRegistries has buildx's clients of registries reach them as everything else here does. They are one for the whole
// process (buildkit, util/tracing, v0.34.2; net/http's for tokens), which ends with the command.
func (p *place) trustRegistries() error {
	cfg, err := loadConfig(p)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: trust.New(trust.Options{Root: p.Root(), Shared: p.sharedTrust(), Static: cfg.Registries}).Transport()}
	tracing.DefaultClient, http.DefaultClient = client, client
	return nil
}

// layoutOf is where an image can be read that is here and in no registry: an OCI layout below dir, in buildx's words. All
// other names are returned as they are.
func (p *place) layoutOf(ctx context.Context, engine moby.APIClient, name, dir string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil || strings.Contains(name, "://") || strings.HasPrefix(name, "{") {
		return name, nil
	}
	if _, err := engine.ImageInspect(ctx, name); err != nil {
		return name, nil
	}
	if _, err := engine.DistributionInspect(ctx, reference.TagNameOnly(named).String(), moby.DistributionInspectOptions{}); err == nil {
		return name, nil
	}
	archive, err := engine.ImageSave(ctx, []string{name})
	if err != nil {
		return "", err
	}
	defer archive.Close()
	if err := unpackLayout(archive, dir); err != nil {
		return "", fmt.Errorf("image %s: %w", name, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return "", err
	}
	var idx ocispec.Index
	if err := json.Unmarshal(data, &idx); err != nil || len(idx.Manifests) == 0 {
		return "", fmt.Errorf("image %s has no manifest here: %w", name, err)
	}
	return "oci-layout://" + dir + "@" + idx.Manifests[0].Digest.String(), nil
}

// unpackLayout writes the files of an archive below dir, which it makes.
func unpackLayout(r io.Reader, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Clean(h.Name)
		if h.Typeflag == tar.TypeDir {
			err = root.MkdirAll(name, 0o700)
		} else if h.Typeflag == tar.TypeReg {
			err = writeFile(root, name, tr)
		}
		if err != nil {
			return err
		}
	}
}

func writeFile(root *os.Root, name string, r io.Reader) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
