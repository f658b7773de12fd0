package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gantry-build/gantry/exporter/trust"
	"github.com/gantry-build/gantry/registry"
	"github.com/gantry-build/gantry/runner/cluster"
)

func registryCommand(at *place) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "registry",
		GroupID: "build",
		Short:   "Serve a registry, and say which registries to trust",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(registryServe(at), registryTrust(at))
	return cmd
}

func registryServe(at *place) *cobra.Command {
	var o registry.Options
	cmd := &cobra.Command{
		Use:     "serve [OPTIONS]",
		Short:   "Run a registry until it is stopped",
		Args:    cobra.NoArgs,
		Example: "  gantry registry serve\n  gantry registry serve --tls --addr :5000 --htpasswd users",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Root = filepath.Join(at.Root(), "registry")
			s, err := registry.Start(cmd.Context(), o)
			if err != nil {
				return err
			}
			announce(cmd, s, o)
			go at.keepSharing(cmd.Context(), s)
			return s.Wait()
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Addr, "addr", registry.DefaultAddr, "address to listen on; one that other machines reach needs --htpasswd or --open")
	f.StringVar(&o.Htpasswd, "htpasswd", "", "file with the users that may read and write (htpasswd -Bc FILE USER makes it)")
	f.BoolVar(&o.Open, "open", false, "let everybody read and write, and nobody delete, also from other machines")
	f.BoolVar(&o.TLS, "tls", false, "serve HTTPS with a certificate of an own authority, which is made on first use")
	f.StringArrayVar(&o.Hosts, "host", nil, "further name or address of this machine for the certificate")
	return cmd
}

// announce prints where the registry is and, with TLS, the one line that another machine needs.
func announce(cmd *cobra.Command, s *registry.Server, o registry.Options) {
	scheme := "http"
	if o.TLS {
		scheme = "https"
	}
	out := cmd.ErrOrStderr()
	fmt.Fprintf(out, "gantry: registry at %s://%s\n", scheme, s.Addr())
	if !o.TLS {
		return
	}
	_, fingerprint := s.CA()
	_, port, _ := net.SplitHostPort(s.Addr().String())
	name, err := os.Hostname()
	if err != nil {
		name = "HOST"
	}
	fmt.Fprintf(out, "gantry: on another machine run: gantry registry trust %s --fingerprint %s\n",
		net.JoinHostPort(name, port), fingerprint)
}

func registryTrust(at *place) *cobra.Command {
	var file, want string
	cmd := &cobra.Command{
		Use:   "trust HOST[:PORT] [OPTIONS]",
		Short: "Trust the authority that has signed a registry's certificate",
		Long: `Trust the authority that has signed a registry's certificate, for that registry only.

The authority comes from a file, or from the registry itself; then its fingerprint, which the
registry's machine prints, must be given.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			host := args[0]
			pem, err := authority(cmd, host, file, want)
			if err != nil {
				return err
			}
			if err := trust.New(trust.Options{Root: at.Root()}).TrustCA(host, pem); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "gantry: registry %s is trusted\n", host)
			return at.share(cmd.Context(), map[string]trust.Entry{host: {CA: string(pem)}})
		},
	}
	cmd.Flags().StringVar(&file, "ca", "", "file with the authority's certificate, as PEM")
	cmd.Flags().StringVar(&want, "fingerprint", "", "sha256:... of the authority's certificate")
	return cmd
}

func authority(cmd *cobra.Command, host, file, want string) ([]byte, error) {
	if file != "" {
		return os.ReadFile(file)
	}
	pem, got, err := trust.FetchCA(cmd.Context(), host)
	if err != nil {
		return nil, trust.Explain(host, err)
	}
	if want == "" {
		return nil, fmt.Errorf("registry %s shows an authority with fingerprint %s; if the registry's own machine prints the same, run: "+
			"gantry registry trust %s --fingerprint %s", host, got, host, got)
	}
	if !strings.EqualFold(strings.TrimPrefix(want, "sha256:"), strings.TrimPrefix(got, "sha256:")) {
		return nil, fmt.Errorf("registry %s shows an authority with fingerprint %s, not %s; nothing was changed", host, got, want)
	}
	return pem, nil
}

func registryHTTPFlag(f *pflag.FlagSet, hosts *[]string) {
	f.StringArrayVar(hosts, "registry-http", nil, "registry HOST[:PORT] that speaks plain HTTP; kept for later commands")
}

// speakHTTP gives a verb of the Docker CLI the flag.
func speakHTTP(cmd *cobra.Command, at *place) {
	var hosts []string
	registryHTTPFlag(cmd.Flags(), &hosts)
	connect := cmd.PersistentPreRunE
	cmd.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		if err := allowHTTP(at, hosts); err != nil {
			return err
		}
		return connect(cmd, args)
	}
}

func allowHTTP(at *place, hosts []string) error {
	s := trust.New(trust.Options{Root: at.Root()})
	all := map[string]trust.Entry{}
	for _, h := range hosts {
		if err := s.AllowHTTP(h); err != nil {
			return err
		}
		all[h] = trust.Entry{HTTP: true}
	}
	return at.share(context.Background(), all)
}

// sharedTrust is where what a cluster believes of registries lies.
func (p *place) sharedTrust() string { return filepath.Join(p.clusterRoot(), "trust") }

// clusterRoot is where what this machine knows of its cluster lies.
func (p *place) clusterRoot() string { return filepath.Join(p.Root(), "cluster") }

// share has all nodes of this machine's cluster, if it is in one, believe what it believes of registry hosts. Without a daemon it is
// shared when the next command says it again.
func (p *place) share(ctx context.Context, all map[string]trust.Entry) error {
	maps.DeleteFunc(all, func(host string, _ trust.Entry) bool { return trust.IsLocal(host) })
	if len(all) == 0 || !cluster.Has(p.clusterRoot()) {
		return nil
	}
	if _, err := p.status(ctx); err != nil {
		return nil
	}
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	header := http.Header{"Content-Type": {"application/json"}}
	res, err := p.ask(ctx, http.MethodPost, "/gantry/cluster/registries", header, bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("this machine trusts it, and the other nodes of its cluster are not told: %w", err)
	}
	return res.Body.Close()
}

// sharing is how often a registry tells the cluster of its authority: this machine may join one at any time.
const sharing = 5 * time.Second

// keepSharing has the cluster trust a registry of this machine by each of its names, as long as it is served.
func (p *place) keepSharing(ctx context.Context, s *registry.Server) {
	path, _ := s.CA()
	for {
		if pem, err := os.ReadFile(path); err == nil {
			all := map[string]trust.Entry{}
			for _, host := range s.Hosts() {
				all[host] = trust.Entry{CA: string(pem)}
			}
			if err := p.share(ctx, all); err != nil {
				slog.Debug("the cluster is not told of the registry", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(sharing):
		}
	}
}
