package command

import (
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/gantry-build/gantry/api"
	"github.com/gantry-build/gantry/internal/check"
	"github.com/gantry-build/gantry/runner/cluster/backup"
)

func clusterCommand(at *place) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "cluster",
		GroupID: "run",
		Short:   "Look after the cluster that this machine is in: its health, backups, and what to do when managers are lost",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command: gantry cluster %s; gantry cluster --help lists the commands", args[0])
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return at.Connect(cmd.Context())
		},
	}
	cmd.AddCommand(clusterStatus(at), clusterDoctor(at), clusterBackup(at), clusterRestore(at), clusterRecover(at))
	return cmd
}

func clusterStatus(at *place) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show quorum, nodes, certificates, and tasks that should run and do not; exit code 1 when something is to be mended",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s api.ClusterStatus
			if err := at.call(cmd.Context(), http.MethodGet, "/gantry/cluster", &s); err != nil {
				return err
			}
			wrong := concerns(s, time.Now())
			if asJSON {
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(s); err != nil {
					return err
				}
			} else if err := printCluster(cmd.OutOrStdout(), s, wrong); err != nil {
				return err
			}
			if len(wrong) > 0 {
				return cli.StatusError{StatusCode: 1}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

// endsSoon is how long before its end a certificate is a concern: it should have been renewed long ago.
const endsSoon = 72 * time.Hour

// concerns are what is to be mended, each with what to do.
func concerns(s api.ClusterStatus, now time.Time) (all []string) {
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if s.Error != "" {
		say("%s", s.Error)
		if s.Manager && s.State != "locked" {
			say("if the other managers (%s) are lost, see what this one has: gantry cluster recover --dry-run", strings.Join(s.Peers, ", "))
		}
		return all
	}
	for _, n := range s.Nodes {
		if n.Manager == "unreachable" {
			say("manager %s does not answer at %s; if it is lost: gantry node demote %s", n.Hostname, n.Addr, n.ID)
		}
		if n.State != "ready" {
			say("node %s is %s %s", n.Hostname, n.State, n.Error)
		}
		if !n.CertificateEnds.IsZero() && n.CertificateEnds.Sub(now) < endsSoon {
			say("the certificate of %s ends %s; is its clock right, and does it reach a manager?", n.Hostname,
				n.CertificateEnds.Format(time.RFC3339))
		}
	}
	if managers, answer, need := s.Quorum(); answer == need && managers > 1 {
		say("%d of %d managers answer, and %d are needed: the loss of one more ends all changes", answer, managers, need)
	}
	if !s.CAEnds.IsZero() && s.CAEnds.Sub(now) < 30*24*time.Hour {
		say("the cluster's authority ends %s: gantry swarm ca --rotate", s.CAEnds.Format(time.RFC3339))
	}
	for _, t := range s.NotRunning {
		say("task %s is %s since %s: %s", t.Name, t.State, units.HumanDuration(now.Sub(t.Since)), t.Why)
	}
	return all
}

// end is the day on which a certificate ends; its managers do not know that of one which was not signed by them.
func end(at time.Time) string {
	if at.IsZero() {
		return "unknown"
	}
	return at.Format(time.DateOnly)
}

func printCluster(out io.Writer, s api.ClusterStatus, wrong []string) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if s.Error == "" {
		managers, answer, need := s.Quorum()
		fmt.Fprintf(w, "Cluster\t%s\nManagers\t%d, of which %d answer and %d are needed\n", s.ID, managers, answer, need)
		fmt.Fprintf(w, "Authority\tends %s%s\nAutolock\t%t\n\n", s.CAEnds.Format(time.DateOnly),
			map[bool]string{true: ", and is being replaced"}[s.CARotates], s.AutoLock)
		fmt.Fprintln(w, "NODE\tROLE\tSTATE\tAVAILABILITY\tADDRESS\tCERTIFICATE ENDS\tGANTRY")
		for _, n := range s.Nodes {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Hostname, cmp.Or(n.Manager, "worker"), n.State, n.Availability, n.Addr,
				end(n.CertificateEnds), n.Version)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i, text := range wrong {
		if i == 0 && s.Error == "" {
			fmt.Fprintln(out)
		}
		fmt.Fprintln(out, "mend:", text)
	}
	return nil
}

func clusterDoctor(at *place) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this node reaches the others: ports, packet sizes, clocks; exit code 1 when something is to be mended",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all []check.Finding
			if err := at.call(cmd.Context(), http.MethodGet, "/gantry/cluster/doctor", &all); err != nil {
				return err
			}
			if !printFindings(cmd.OutOrStdout(), all) {
				return cli.StatusError{StatusCode: 1}
			}
			return nil
		},
	}
}

func clusterBackup(at *place) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the state of the cluster, as this manager has it, to a file (- for standard output)",
		Long: `Write the state of the cluster, as this manager has it, to a file: services, secrets, configs, nodes, and the cluster's
authority. The manager runs on. The copy is read back before it is written.

Whoever has the file can act as the cluster's manager, unless the cluster is locked (gantry swarm update --autolock); then
its key is needed to restore, and is not in the file.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			res, err := at.ask(cmd.Context(), http.MethodGet, "/gantry/cluster/backup", nil, nil)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			var about backup.About
			if err := json.Unmarshal([]byte(res.Header.Get(api.BackupHeader)), &about); err != nil {
				return err
			}
			if args[0] == "-" {
				return whole(res.Body, cmd.OutOrStdout())
			}
			if err := saveBackup(res.Body, args[0]); err != nil {
				return err
			}
			printState(cmd.OutOrStdout(), about.State)
			return nil
		},
	}
}

// saveBackup writes the whole of an archive to a file, or leaves the file as it is.
func saveBackup(r io.Reader, path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // of mode 0600
	if err != nil {
		if at := new(fs.PathError); errors.As(err, &at) {
			err = at.Err
		}
		return fmt.Errorf("a backup at %s: %w", path, err)
	}
	err = errors.Join(whole(r, f), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// whole copies a gzip stream, and fails if it was cut off.
func whole(r io.Reader, w io.Writer) error {
	z, err := gzip.NewReader(io.TeeReader(r, w))
	if err == nil {
		_, err = io.Copy(io.Discard, z)
	}
	if err != nil {
		return fmt.Errorf("the backup was cut off: %w; see the daemon's log", err)
	}
	return nil
}

// printState says what a copy of the state is.
func printState(w io.Writer, s backup.State) {
	fmt.Fprintf(w, "cluster %s by manager %s, up to entry %d of term %d\n", s.ClusterID, s.NodeID, s.Index, s.Term)
	fmt.Fprintf(w, "%d nodes, %d services, %d tasks, %d networks, %d secrets, %d configs\n", s.Nodes, s.Services, s.Tasks, s.Networks,
		s.Secrets, s.Configs)
}

func clusterRestore(at *place) *cobra.Command {
	var listen, advertise, key string
	cmd := &cobra.Command{
		Use:   "restore [OPTIONS] FILE",
		Short: "Make this machine the only manager of the cluster in a backup (- for standard input)",
		Long: `Make this machine the only manager of the cluster in a backup. It must be in no cluster, and the cluster's other managers
must have gone for good: two machines that restore the same state are two clusters.

Workers come back by themselves if this machine has the address of a manager that they know; others leave and join again. Then
add managers: gantry swarm join-token manager.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			header := http.Header{}
			if key != "" {
				header.Set(api.KeyHeader, key)
			}
			path := "/gantry/cluster/restore?" + url.Values{"listen": {listen}, "advertise": {advertise}}.Encode()
			res, err := at.ask(cmd.Context(), http.MethodPost, path, header, in)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			var about backup.About
			if err := json.NewDecoder(res.Body).Decode(&about); err != nil {
				return err
			}
			printState(cmd.OutOrStdout(), about.State)
			fmt.Fprintf(cmd.OutOrStdout(), "as it was on %s at %s. This node is its manager now.\n", about.Host,
				about.Made.Format(time.RFC3339))
			return nil
		},
	}
	cmd.Flags().StringVar(&listen, "listen-addr", "0.0.0.0:2377", `Listen address (format: "<ip|interface>[:port]")`)
	cmd.Flags().StringVar(&advertise, "advertise-addr", "", `Advertised address (format: "<ip|interface>[:port]")`)
	cmd.Flags().StringVar(&key, "unlock-key", "", "The key of a locked cluster, as `swarm unlock-key` has said it")
	return cmd
}

func clusterRecover(at *place) *cobra.Command {
	dry := false
	cmd := &cobra.Command{
		Use:   "recover [OPTIONS]",
		Short: "Go on with this manager alone when too few managers are left to agree",
		Long: `Go on with this manager alone when too few managers are left to agree. Services, secrets and nodes stay as this manager knows
them; the other managers are members no more. With --dry-run it only says what this manager knows: of several that are left, take the
one with the highest term, and of these the one with the highest entry.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s backup.State
			path := "/gantry/cluster/recover"
			if !dry {
				path += "?do=1"
			}
			if err := at.call(cmd.Context(), http.MethodPost, path, &s); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			printState(out, s)
			for _, m := range s.Managers {
				switch {
				case m.NodeID == s.NodeID:
					fmt.Fprintf(out, "%s at %s: this manager\n", m.NodeID, m.Addr)
				case dry:
					fmt.Fprintf(out, "%s at %s: would be a member no more\n", m.NodeID, m.Addr)
				default:
					fmt.Fprintf(out, "%s at %s: is a member no more; should it come back: gantry swarm leave --force, and join\n",
						m.NodeID, m.Addr)
				}
			}
			if dry {
				fmt.Fprintln(out, "Nothing has been changed.")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be, and change nothing")
	return cmd
}
