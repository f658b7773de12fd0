package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/docker/cli/cli/command"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/gantry-build/gantry/exporter/trust"
)

// manifests is docker's manifest command: lists that are made here, manifest by manifest, and pushed. Registries are
// reached as everything else here reaches them, which is why it is not the Docker CLI's own.
type manifests struct {
	at       *place
	docker   *command.DockerCli
	insecure bool
	http     []string
}

// member is one manifest of a list.
type member struct {
	Ref              string
	Descriptor       ocispec.Descriptor
	Raw              []byte
	SchemaV2Manifest *ocispec.Manifest `json:",omitempty"`
	OCIManifest      *ocispec.Manifest `json:",omitempty"`
}

// systems and architectures are those that a manifest may be for: Go's names of them, as OCI's image-spec has it.
var (
	systems = []string{
		"aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "linux", "netbsd", "openbsd", "plan9", "solaris", "wasip1",
		"windows",
	}
	architectures = []string{
		"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x", "wasm",
	}
)

func manifestCommand(at *place) *cobra.Command {
	docker, err := command.NewDockerCli(command.WithStandardStreams())
	if err != nil {
		panic(err) // it fails for unknown options only
	}
	m := &manifests{at: at, docker: docker}
	cmd := &cobra.Command{Use: "manifest COMMAND", GroupID: "build", Short: "Manage image manifests and manifest lists", Args: cobra.NoArgs}
	cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := allowHTTP(at, m.http); err != nil {
			return err
		}
		return initBuildx(cmd, docker, at)
	}
	cmd.AddCommand(m.create(), m.annotate(), m.inspect(), m.push(), m.rm())
	for _, c := range cmd.Commands() {
		registryHTTPFlag(c.Flags(), &m.http)
		c.Flags().BoolVar(&m.insecure, "insecure", false, "Accepted for docker's sake: what registries may be is `gantry registry "+
			"trust`'s matter")
	}
	return cmd
}

func (m *manifests) create() *cobra.Command {
	amend := false
	cmd := &cobra.Command{
		Use: "create MANIFEST_LIST MANIFEST [MANIFEST...]", Args: cobra.MinimumNArgs(2),
		Short: "Create a local manifest list for annotating and pushing to a registry",
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := fullName(args[0])
			if err != nil {
				return fmt.Errorf("error parsing name for manifest list %s: %w", args[0], err)
			}
			have, err := m.read(list)
			if err == nil && !amend {
				return errors.New("refusing to amend an existing manifest list with no --amend flag")
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			for _, name := range args[1:] {
				one, err := m.fetch(cmd.Context(), name)
				if err != nil {
					return err
				}
				have = slices.DeleteFunc(have, func(o member) bool { return o.Ref == one.Ref })
				have = append(have, one)
			}
			if err := m.write(list, have); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "Created manifest list", list)
			return nil
		},
	}
	cmd.Flags().BoolVarP(&amend, "amend", "a", false, "Amend an existing manifest list")
	return cmd
}

func (m *manifests) annotate() *cobra.Command {
	var p ocispec.Platform
	cmd := &cobra.Command{
		Use: "annotate [OPTIONS] MANIFEST_LIST MANIFEST", Args: cobra.ExactArgs(2),
		Short: "Add additional information to a local image manifest",
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := fullName(args[0])
			if err != nil {
				return fmt.Errorf("annotate: error parsing name for manifest list %s: %w", args[0], err)
			}
			have, err := m.read(list)
			if err != nil {
				return fmt.Errorf("no such manifest list: %s; `gantry manifest create` makes one", args[0])
			}
			ref, err := fullName(args[1])
			if err != nil {
				return fmt.Errorf("annotate: error parsing name for manifest %s: %w", args[1], err)
			}
			i := slices.IndexFunc(have, func(o member) bool { return o.Ref == ref })
			if i < 0 {
				return fmt.Errorf("manifest for image %s does not exist in %s", args[1], args[0])
			}
			to := have[i].Descriptor.Platform
			for _, f := range []struct{ from, to *string }{
				{&p.OS, &to.OS}, {&p.Architecture, &to.Architecture}, {&p.Variant, &to.Variant}, {&p.OSVersion, &to.OSVersion},
			} {
				if *f.from != "" {
					*f.to = *f.from
				}
			}
			if len(p.OSFeatures) > 0 {
				to.OSFeatures = p.OSFeatures
			}
			if !slices.Contains(systems, to.OS) || !slices.Contains(architectures, to.Architecture) {
				return fmt.Errorf("manifest entry for image has unsupported os/arch combination: %s/%s", to.OS, to.Architecture)
			}
			return m.write(list, have)
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.OS, "os", "", "Set operating system")
	f.StringVar(&p.Architecture, "arch", "", "Set architecture")
	f.StringVar(&p.Variant, "variant", "", "Set architecture variant")
	f.StringVar(&p.OSVersion, "os-version", "", "Set operating system version")
	f.StringSliceVar(&p.OSFeatures, "os-features", nil, "Set operating system feature")
	return cmd
}

func (m *manifests) inspect() *cobra.Command {
	verbose := false
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] [MANIFEST_LIST] MANIFEST", Args: cobra.RangeArgs(1, 2),
		Short: "Display an image manifest, or manifest list",
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := m.shown(cmd.Context(), args, verbose)
			if err != nil {
				return err
			}
			if raw, ok := v.([]byte); ok {
				var out bytes.Buffer
				if err := json.Indent(&out, raw, "", "\t"); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), out.String())
				return nil
			}
			data, err := json.MarshalIndent(v, "", "\t")
			fmt.Fprintln(cmd.OutOrStdout(), string(data))
			return err
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Output additional info including layers and platform")
	return cmd
}

// shown is what inspect prints: a document as it is, or with verbose what is known of each manifest.
func (m *manifests) shown(ctx context.Context, args []string, verbose bool) (any, error) {
	name, err := fullName(args[0])
	if err != nil {
		return nil, err
	}
	have, err := m.read(name)
	switch {
	case err == nil && len(args) == 2:
		ref, err := fullName(args[1])
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(have, func(o member) bool { return o.Ref == ref })
		if i < 0 {
			return nil, fmt.Errorf("no such manifest: %s in %s", args[1], args[0])
		}
		have = have[i : i+1]
	case err == nil && !verbose:
		data, _, err := index(have)
		return data, err
	case err == nil:
		return have, nil
	case len(args) == 2:
		return nil, fmt.Errorf("no such manifest list: %s", args[0])
	default:
		if have, err = m.fetchAll(ctx, args[0], verbose); err != nil {
			return nil, err
		}
	}
	switch {
	case !verbose:
		return have[0].Raw, nil
	case len(have) == 1:
		return have[0], nil
	}
	return have, nil
}

func (m *manifests) push() *cobra.Command {
	purge := false
	cmd := &cobra.Command{
		Use: "push [OPTIONS] MANIFEST_LIST", Args: cobra.ExactArgs(1), Short: "Push a manifest list to a repository",
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := fullName(args[0])
			if err != nil {
				return err
			}
			have, err := m.read(list)
			if err != nil {
				return fmt.Errorf("%s not found: `gantry manifest create` makes it", list)
			}
			desc, err := m.upload(cmd.Context(), list, have)
			if err != nil {
				return trust.ExplainText(err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), desc.Digest)
			if purge {
				return os.Remove(m.path(list))
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&purge, "purge", "p", false, "Remove the local manifest list after push")
	return cmd
}

func (m *manifests) rm() *cobra.Command {
	return &cobra.Command{
		Use:  "rm MANIFEST_LIST [MANIFEST_LIST...]",
		Args: cobra.MinimumNArgs(1), Short: "Delete one or more manifest lists from local storage",
		RunE: func(_ *cobra.Command, args []string) (err error) {
			for _, a := range args {
				list, e := fullName(a)
				if e == nil {
					e = os.Remove(m.path(list))
				}
				if errors.Is(e, os.ErrNotExist) {
					e = fmt.Errorf("no such manifest: %s", a)
				}
				err = errors.Join(err, e)
			}
			return err
		},
	}
}
