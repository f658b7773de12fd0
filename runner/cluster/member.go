package cluster

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/moby/swarmkit/v2/agent"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/allocator/networkallocator"
	"github.com/moby/swarmkit/v2/node"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/cluster/allocator"
	"github.com/gantry-build/gantry/runner/cluster/executor"
	"github.com/gantry-build/gantry/runner/cluster/topology"
)

const (
	// A leader is missed after electionTicks, of which each is a second: a write is accepted some six seconds after its end.
	heartbeatTicks, electionTicks = 1, 3

	firstDelay, lastDelay = 100 * time.Millisecond, 30 * time.Second // between attempts to start a node that has ended
	stopTimeout           = 15 * time.Second
)

// State is how a membership is, with the words of the Engine API.
type State string

// The states.
const (
	Inactive State = "inactive"
	Pending  State = "pending"
	Active   State = "active"
	Failed   State = "error"
	Locked   State = "locked"
)

// Status is what is known of a membership.
type Status struct {
	State   State
	NodeID  string
	Addr    string // by which others reach the node
	Manager bool
	Control bool // the cluster can be managed here and now
	Remotes []api.Peer
	Err     error
}

// start is how a node is to begin.
type start struct {
	Config
	token, availability string
	forceNew, autoLock  bool
	key                 []byte
	resumed             bool // it was a member in a daemon before
}

// member is a node that is started again when it ends by itself.
type member struct {
	c     *Cluster
	start start
	nets  *networks

	claims *claims
	hub    atomic.Pointer[topology.Hub] // while this node is a manager
	others others

	ctx  context.Context // ends with end
	stop context.CancelFunc
	done chan struct{} // closed when run has returned

	mu    sync.Mutex // guards what follows
	node  *node.Node // nil between two
	conn  *grpc.ClientConn
	ready bool  // this node is
	once  bool  // one has been
	err   error // why the last one has ended
	turn  chan struct{}
}

func newMember(c *Cluster, s start) *member {
	m := &member{c: c, start: s, done: make(chan struct{}), turn: make(chan struct{})}
	m.ctx, m.stop = context.WithCancel(context.Background())
	m.nets = newNetworks(c.o, m.dataPath)
	m.claims = &claims{o: c.o, agent: m.agent}
	c.o.Runner.OnJoin(m.nets.tell)
	c.o.Runner.SetPlaces(m.claims)
	return m
}

// changed wakes those who wait for a change. The caller holds m.mu.
func (m *member) changed() {
	close(m.turn)
	m.turn = make(chan struct{})
}

// run keeps a node until end. One that was never a member is not tried again, as its wishes may be wrong; one that was is,
// as its address may be there later.
func (m *member) run() {
	defer close(m.done)
	for delay := firstDelay; ; delay = min(2*delay, lastDelay) {
		err := m.live()
		m.mu.Lock()
		lived := m.ready
		m.node, m.conn, m.ready, m.err = nil, nil, false, err
		again := (m.once || m.start.resumed) && !errors.Is(err, ErrLocked)
		m.changed()
		m.mu.Unlock()
		if m.ctx.Err() != nil || !again {
			return
		}
		if lived {
			delay = firstDelay
		}
		m.c.o.Log.Warn("the cluster's node has ended, and is started again", "error", err, "in", delay)
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

// live is one node's life.
func (m *member) live() error {
	n, err := m.make()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	if err := n.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	m.mu.Lock()
	m.node = n
	m.mu.Unlock()
	var watching sync.WaitGroup
	watching.Go(func() { m.watchReady(ctx, n) })
	watching.Go(func() { m.watchControl(ctx, n) })
	watching.Go(func() { m.follow(ctx, n) })
	watching.Go(func() { m.serve(ctx, n) })
	watching.Go(func() { m.nets.check(ctx) })
	watching.Go(func() {
		<-ctx.Done()
		stopping, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		_ = n.Stop(stopping) // what it ends with, Err says
	})
	err = explained(n.Err(context.Background()))
	cancel()
	watching.Wait()
	return err
}

func (m *member) make() (*node.Node, error) {
	s := m.start
	cfg := &node.Config{
		StateDir: m.c.nodeDir(), ListenControlAPI: filepath.Join(m.c.o.State, "control.sock"),
		ListenRemoteAPI: s.Listen, AdvertiseRemoteAPI: s.Advertise, JoinToken: s.token,
		ForceNewCluster: s.forceNew, AutoLockManagers: s.autoLock, UnlockKey: s.key,
		HeartbeatTick: heartbeatTicks, ElectionTick: electionTicks,
		NetworkProvider: allocator.Provider{},
		NetworkConfig: &networkallocator.Config{
			DefaultAddrPool: s.Pools, SubnetSize: s.SubnetSize, VXLANUDPPort: s.DataPathPort,
		},
		Executor: executor.New(executor.Options{
			Runner: m.c.o.Runner, Describe: m.describe, Pull: m.c.o.Pull, Secrets: m.c.secrets(), Log: m.c.o.Log,
			Join: m.nets.join, Configure: m.nets.configure, Speaks6: m.nets.speaks6,
			Attachments: executor.Attachments{Came: m.claims.came, Watch: m.claims.watch},
		}),
	}
	m.mu.Lock()
	if s.Joining && !m.once {
		cfg.JoinAddr = s.Remote
	}
	if m.once { // of a cluster that is there
		cfg.ForceNewCluster = false
	}
	m.mu.Unlock()
	if s.availability != "" {
		v, ok := api.NodeSpec_Availability_value[strings.ToUpper(s.availability)]
		if !ok {
			return nil, fault.Invalid("invalid Availability: %q", s.availability)
		}
		cfg.Availability = api.NodeSpec_Availability(v)
	}
	return node.New(cfg)
}

func (m *member) watchReady(ctx context.Context, n *node.Node) {
	select {
	case <-ctx.Done():
		return
	case <-n.Ready():
	}
	m.mu.Lock()
	m.ready, m.once, m.err = true, true, nil
	cfg := m.start.Config
	joined := cfg.Joining
	m.start.Joining, cfg.Joining = false, false
	m.changed()
	m.mu.Unlock()
	if joined {
		if err := m.c.save(cfg); err != nil {
			m.c.o.Log.Error("the join could not be noted", "error", err)
		}
	}
}

func (m *member) watchControl(ctx context.Context, n *node.Node) {
	var telling sync.WaitGroup
	defer telling.Wait()
	stop := func() {}
	defer func() { stop() }()
	for conn := range n.ListenControlSocket(ctx) {
		m.mu.Lock()
		m.conn = conn
		m.changed()
		m.mu.Unlock()
		stop()
		m.hub.Store(nil)
		if conn == nil {
			continue
		}
		managing, cancel := context.WithCancel(ctx)
		stop = cancel
		hub := &topology.Hub{}
		m.hub.Store(hub)
		telling.Go(func() { m.publish(managing, conn) })
		telling.Go(func() { hub.Run(managing, conn, m.c.o.Log) })
	}
}

// explained gives what a node has ended with the words for users.
func explained(err error) error {
	if err == nil {
		return nil
	}
	var invalid x509.CertificateInvalidError
	switch {
	case errors.Is(err, node.ErrInvalidUnlockKey):
		return ErrLocked
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if begin := invalid.Cert.NotBefore; time.Now().Before(begin) {
			return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("the cluster's certificates are valid from %s on, and here it is %s: "+
				"set this machine's clock", begin.Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339)))
		}
		return ErrExpired
	}
	if _, ok := status.FromError(err); ok { // a manager's words
		return errgrpc.ToNative(err)
	}
	return fmt.Errorf("the cluster's node: %w", err)
}

// untilReady waits until the node is, or has failed.
func (m *member) untilReady(ctx context.Context) error {
	for {
		m.mu.Lock()
		ready, err, turn := m.ready, m.err, m.turn
		m.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-turn:
		case <-m.done:
			m.mu.Lock()
			err = m.err
			m.mu.Unlock()
			if err == nil {
				err = errors.New("the cluster's node has ended")
			}
			return err
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// agent is the node's, nil when there is none.
func (m *member) agent() *agent.Agent {
	m.mu.Lock()
	n := m.node
	m.mu.Unlock()
	if n == nil {
		return nil
	}
	return n.Agent()
}

func (m *member) connection() *grpc.ClientConn {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.conn
}

func (m *member) status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := Status{State: Pending, Addr: m.start.Advertise, Control: m.conn != nil, Err: m.err}
	switch {
	case errors.Is(m.err, ErrLocked):
		st.State = Locked
	case m.err != nil:
		st.State = Failed
	case m.ready:
		st.State = Active
	}
	if n := m.node; n != nil {
		st.NodeID, st.Manager, st.Remotes = n.NodeID(), n.Manager() != nil, n.Remotes()
	}
	return st
}

// end stops the node, and returns when it has.
func (m *member) end() {
	m.stop()
	<-m.done
}
