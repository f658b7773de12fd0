// Package cluster makes this machine a member of a cluster: it starts and stops a SwarmKit node, which brings Raft, the
// authority for the nodes' certificates and the orchestrators, and runs its tasks by package executor, as containers of the
// runner. A daemon outside of any cluster starts nothing of it.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/encryption"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/internal/state"
	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/cluster/allocator"
	"github.com/gantry-build/gantry/runner/cluster/executor"
	"github.com/gantry-build/gantry/runner/cluster/topology"
	"github.com/gantry-build/gantry/runner/network"
)

// What callers are told, in Docker's words. All but the last two are errdefs.ErrUnavailable.
var (
	ErrNone = errdefs.ErrUnavailable.WithMessage("This node is not part of a swarm")
	ErrIs   = errdefs.ErrUnavailable.WithMessage("This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm " +
		"and join another one.")
	ErrNoManager = errdefs.ErrUnavailable.WithMessage("This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm " +
		"join\" to connect this node to swarm and try again.")
	ErrWorker = errdefs.ErrUnavailable.WithMessage("This node is not a swarm manager. Worker nodes can't be used to view or modify " +
		"cluster state. Please run this command on a manager node or promote the current node to a manager.")
	ErrNoLeader = errdefs.ErrUnavailable.WithMessage("The swarm does not have a leader. It's possible that too few managers are online. " +
		"Make sure more than half of the managers are online.")
	ErrLocked = errdefs.ErrUnavailable.WithMessage("Swarm is encrypted and needs to be unlocked before it can be used. Please use " +
		"\"docker swarm unlock\" to unlock it.")
	ErrExpired = errdefs.ErrUnavailable.WithMessage("Swarm certificates have expired. To replace them, leave the swarm and join again.")
	ErrTimeout = errdefs.ErrUnavailable.WithMessage("Timeout was reached before node joined. The attempt to join the swarm will continue " +
		"in the background. Use the \"docker info\" command to see the current swarm status of your node.")
	ErrNotLocked  = errdefs.ErrConflict.WithMessage("swarm is not locked")
	ErrInvalidKey = errdefs.ErrUnauthenticated.WithMessage("swarm could not be unlocked: invalid key provided")
)

// joinTimeout is how long Join waits for the cluster to take the node.
const joinTimeout = 20 * time.Second

// Options say what a Cluster works with. All are needed.
type Options struct {
	Root     string // what outlives a boot: certificates, Raft's log, the tasks of this node
	State    string // sockets, and what must be on no disk; a short path
	Runner   *runner.Manager
	Network  *network.Host // nil where no task runs
	Describe func() *api.NodeDescription
	Pull     func(ctx context.Context, image, auth string, p *ocispec.Platform) error
	Blobs    http.Handler // what other nodes are answered beside the cluster's own; nil: nothing
	Build    http.Handler // takes over a manager's connection for BuildKit's API; nil: this node builds for nobody
	Log      *slog.Logger

	// Trust has this machine believe what the cluster believes of registry hosts, and nothing else that it believed before; nil: it
	// does not.
	Trust func(map[string]topology.Registry) error
	// Trusted is what this machine believed before it made a cluster, which then believes it, too; nil: nothing.
	Trusted func() (map[string]topology.Registry, error)
}

// Has tells whether a machine whose Options.Root is root is in a cluster.
func Has(root string) bool {
	_, err := os.Stat((&Cluster{o: Options{Root: root}}).file())
	return err == nil
}

// Cluster is this machine's membership, if it has one. All methods are safe for concurrent use.
type Cluster struct {
	o Options

	changing sync.Mutex // by who joins, leaves, unlocks
	mu       sync.RWMutex
	member   *member // nil outside of a cluster
}

// Config is what a node has been told about its addresses. It is kept in a file.
type Config struct {
	Listen       string   // HOST:PORT
	Advertise    string   `json:",omitempty"` // HOST:PORT by which others reach this node; the manager that it joins sees it when empty
	DataPath     string   `json:",omitempty"` // address for the traffic between containers; that of Advertise when empty
	DataPathPort uint32   `json:",omitempty"`
	Pools        []string `json:",omitempty"` // from which networks get subnets
	SubnetSize   uint32   `json:",omitempty"`
	Remote       string   `json:",omitempty"` // the manager that was named in a join
	Joining      bool     `json:",omitempty"` // which has not ended yet
}

// Init is a wish for a new cluster.
type Init struct {
	Config
	ForceNew     bool // of the state of the cluster that this manager is in, without the other managers
	AutoLock     bool
	Availability string // active, pause or drain
}

// Join is a wish to become a member.
type Join struct {
	Config
	Token        string
	Availability string
}

// New returns the membership of a data root; Resume takes up the one that it had.
func New(o Options) *Cluster { return &Cluster{o: o} }

func (c *Cluster) file() string    { return filepath.Join(c.o.Root, "cluster.json") }
func (c *Cluster) nodeDir() string { return filepath.Join(c.o.Root, "node") }
func (c *Cluster) secrets() string { return filepath.Join(c.o.State, "secrets") }

// Resume takes up the membership that the daemon before has had. It does not wait for the cluster.
func (c *Cluster) Resume() error {
	data, err := os.ReadFile(c.file())
	if errors.Is(err, fs.ErrNotExist) {
		c.o.Runner.SetPlaces(nil)
		return nil
	}
	if err != nil {
		return err
	}
	var cfg Config
	if err := json.Unmarshal(data, &cfg); err != nil {
		return fmt.Errorf("%s: %w", c.file(), err)
	}
	c.changing.Lock()
	defer c.changing.Unlock()
	return c.enter(start{Config: cfg, resumed: true})
}

// enter starts a node and makes it this machine's.
func (c *Cluster) enter(s start) error {
	for _, dir := range []string{c.o.Root, c.o.State, c.nodeDir()} {
		if err := state.Private(dir); err != nil {
			return err
		}
	}
	if err := inMemory(c.secrets()); err != nil {
		return fmt.Errorf("a place in memory for the cluster's secrets: %w", err)
	}
	m := newMember(c, s)
	if err := c.save(s.Config); err != nil {
		return err
	}
	c.mu.Lock()
	c.member = m
	c.mu.Unlock()
	go m.run()
	return nil
}

func (c *Cluster) save(cfg Config) error {
	data, err := json.MarshalIndent(cfg, "", "\t")
	if err != nil {
		return err
	}
	return state.Write(c.file(), append(data, '\n'), 0o600)
}

// drop ends the membership and takes its state away.
func (c *Cluster) drop() error {
	c.mu.Lock()
	m := c.member
	c.member = nil
	c.mu.Unlock()
	if m != nil {
		m.end()
	}
	c.o.Runner.SetPlaces(nil)
	var untrust error
	if c.o.Trust != nil {
		untrust = c.o.Trust(nil)
	}
	return errors.Join(untrust, c.forgetNetworks(), os.Remove(c.file()), os.RemoveAll(c.nodeDir()), forget(c.secrets()))
}

func (c *Cluster) current() *member {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.member
}

// Init makes a new cluster, of which this node is the first manager, and returns the node's ID.
func (c *Cluster) Init(ctx context.Context, want Init) (string, error) {
	if err := allocator.HasRoom(want.Pools, want.SubnetSize, nil); err != nil {
		return "", fault.Invalid("%v", err)
	}
	c.changing.Lock()
	defer c.changing.Unlock()
	s := start{Config: want.Config, forceNew: want.ForceNew, autoLock: want.AutoLock, availability: want.Availability}
	if m := c.current(); m != nil {
		if !want.ForceNew {
			return "", ErrIs
		}
		if !m.status().Manager {
			return "", ErrWorker
		}
		s.key = c.key(ctx, m)
		m.end()
	}
	err := c.enter(s)
	if err != nil {
		return "", err
	}
	m := c.current()
	if err := m.untilReady(ctx); err != nil {
		if !want.ForceNew {
			err = errors.Join(err, c.drop())
		}
		return "", err
	}
	manager, err := c.untilManager(ctx, 10*time.Second)
	if err == nil && c.o.Trusted != nil {
		err = c.shareTrusted(ctx, manager)
	}
	if err != nil {
		return "", err
	}
	return m.status().NodeID, nil
}

func (c *Cluster) shareTrusted(ctx context.Context, m Manager) error {
	all, err := c.o.Trusted()
	if err != nil {
		return err
	}
	return shareBy(ctx, m, all)
}

// Join makes this node a member of a cluster.
func (c *Cluster) Join(ctx context.Context, want Join) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	if c.current() != nil {
		return ErrIs
	}
	want.Joining = true
	if err := c.enter(start{Config: want.Config, token: want.Token, availability: want.Availability}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, joinTimeout, ErrTimeout)
	defer cancel()
	err := c.current().untilReady(ctx)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return errors.Join(err, c.drop())
}

// Leave ends the membership. A manager, and a locked node, want force.
func (c *Cluster) Leave(ctx context.Context, force bool) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	m := c.current()
	if m == nil {
		return ErrNone
	}
	st := m.status()
	if !force {
		if err := c.mayLeave(ctx, st); err != nil {
			return err
		}
	}
	m.end()
	var failed error
	for _, rec := range c.o.Runner.List() {
		if rec.Config.Labels[executor.NodeLabel] == st.NodeID && st.NodeID != "" {
			err := c.o.Runner.Remove(ctx, rec.ID, runner.RemoveOptions{Force: true, Volumes: true})
			if err != nil && !errdefs.IsNotFound(err) {
				failed = errors.Join(failed, err)
			}
		}
	}
	return errors.Join(failed, c.drop())
}

// mayLeave says what speaks against leaving, in Docker's words.
func (c *Cluster) mayLeave(ctx context.Context, st Status) error {
	refuse := func(format string, args ...any) error {
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf(format, args...))
	}
	if st.State == Locked {
		return refuse("Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.")
	}
	if !st.Manager {
		return nil
	}
	msg := "You are attempting to leave the swarm on a node that is participating as a manager. "
	m, err := c.Manager()
	if err != nil {
		msg += "Doing so may lose the consensus of your cluster. "
	} else if nodes, err := m.ListNodes(ctx, &api.ListNodesRequest{}); err == nil {
		reachable, all := 0, 0
		for _, n := range nodes.Nodes {
			if s := n.ManagerStatus; s != nil {
				all++
				if s.Reachability == api.RaftMemberStatus_REACHABLE {
					reachable++
				}
			}
		}
		switch {
		case all == 1:
			return refuse("%sRemoving the last manager erases all current state of the swarm. Use `--force` to ignore this message. ", msg)
		case reachable-1 < (all+1)/2:
			msg += fmt.Sprintf("Removing this node leaves %d managers out of %d. Without a Raft quorum your swarm will be inaccessible. ",
				reachable-1, all)
		}
	}
	return refuse("%sThe only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use "+
		"`--force` to suppress this message.", msg)
}

// Unlock gives a locked node the key to its state.
func (c *Cluster) Unlock(ctx context.Context, key string) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	m := c.current()
	if m == nil {
		return ErrNone
	}
	if m.status().State != Locked {
		return ErrNotLocked
	}
	raw, err := encryption.ParseHumanReadableKey(key)
	if err != nil {
		return fault.Invalid("%v", err)
	}
	s := m.start
	s.key = raw
	m.end()
	if err := c.enter(s); err != nil {
		return err
	}
	err = c.current().untilReady(ctx)
	if errors.Is(err, ErrLocked) {
		return ErrInvalidKey
	}
	return err
}

// Status tells how the membership is.
func (c *Cluster) Status() Status {
	m := c.current()
	if m == nil {
		return Status{State: Inactive}
	}
	return m.status()
}

// Close stops the node. Its containers run on, and the next daemon takes them up.
func (c *Cluster) Close() {
	if m := c.current(); m != nil {
		m.end()
	}
}
