package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/encryption"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/cluster/backup"
)

// ErrQuorum says that a cluster needs no recovery.
var ErrQuorum = errdefs.ErrConflict.WithMessage("the cluster has a leader, and managers enough to agree: nothing is lost. To go on " +
	"with this manager alone, have the others leave, or use `swarm init --force-new-cluster`")

// leaderWait is how long a leader is looked for before it is held to be lost: two elections.
const leaderWait = 10 * time.Second

// copyDir is where a copy of the state is while it is read or packed.
func (c *Cluster) copyDir() string { return filepath.Join(c.o.Root, "copy") }

// copyState copies what this manager has. The caller removes copyDir, and holds c.changing.
func (c *Cluster) copyState(ctx context.Context) (backup.State, error) {
	m, err := c.manages()
	if err == nil {
		err = os.RemoveAll(c.copyDir())
	}
	if err != nil {
		return backup.State{}, err
	}
	return backup.Copy(ctx, c.nodeDir(), c.copyDir(), c.key(ctx, m))
}

// manages is this machine's membership, if it is a manager's. There may be no leader.
func (c *Cluster) manages() (*member, error) {
	m := c.current()
	switch {
	case m == nil:
		return nil, ErrNone
	case m.status().State == Locked:
		return nil, ErrLocked
	case !m.status().Manager:
		return nil, ErrWorker
	}
	return m, nil
}

// key is what the node's state is locked by; nil when it is not, or when nobody knows it here.
func (c *Cluster) key(ctx context.Context, m *member) []byte {
	if m.start.key != nil {
		return m.start.key
	}
	control, err := c.Manager()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	answer, err := control.CA.GetUnlockKey(ctx, &api.GetUnlockKeyRequest{})
	if err != nil {
		return nil
	}
	return answer.UnlockKey
}

// Backup writes an archive of this manager's state to the writer that open gives, which is called when the state has been
// copied and read. The node runs on. The archive has the cluster's keys.
func (c *Cluster) Backup(ctx context.Context, open func(backup.About) io.Writer) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	defer os.RemoveAll(c.copyDir())
	st, err := c.copyState(ctx)
	if err != nil {
		return explainedCopy(err)
	}
	host, _ := os.Hostname()
	about := backup.About{Made: time.Now().UTC().Truncate(time.Second), Host: host, State: st}
	return backup.Pack(open(about), c.copyDir(), about)
}

func explainedCopy(err error) error {
	if errors.Is(err, backup.ErrLocked) {
		return ErrLocked
	}
	return err
}

// Restore makes this machine the only manager of the cluster whose state an archive has. key, if the state is locked, is what
// `swarm unlock-key` has said. Other machines of that cluster are members again when they find this one at the address of a
// manager that they know, or join anew.
func (c *Cluster) Restore(ctx context.Context, r io.Reader, cfg Config, key string) (backup.About, error) {
	c.changing.Lock()
	defer c.changing.Unlock()
	var about backup.About
	if c.current() != nil {
		return about, ErrIs
	}
	s := start{Config: cfg, forceNew: true}
	if key != "" {
		raw, err := encryption.ParseHumanReadableKey(key)
		if err != nil {
			return about, fault.Invalid("%v", err)
		}
		s.key = raw
	}
	if err := os.MkdirAll(c.o.Root, 0o700); err != nil {
		return about, err
	}
	if err := errors.Join(os.RemoveAll(c.copyDir()), os.RemoveAll(c.nodeDir())); err != nil {
		return about, err
	}
	defer os.RemoveAll(c.copyDir())
	about, err := backup.Unpack(r, c.copyDir())
	if err != nil {
		return about, fault.Invalid("%v", err)
	}
	if about.State, err = backup.Read(ctx, c.copyDir(), s.key); err != nil {
		if errors.Is(err, backup.ErrLocked) && key != "" {
			return about, ErrInvalidKey
		}
		return about, explainedCopy(err)
	}
	if err := os.Rename(c.copyDir(), c.nodeDir()); err != nil {
		return about, err
	}
	if err := c.enter(s); err != nil {
		return about, errors.Join(err, c.drop())
	}
	if err := c.current().untilReady(ctx); err != nil {
		return about, errors.Join(err, c.drop())
	}
	_, err = c.untilManager(ctx, leaderWait)
	return about, err
}

// Recover makes a new cluster out of this manager's state when too few managers are left to agree, and returns what the state
// is. Without do, nothing is changed.
func (c *Cluster) Recover(ctx context.Context, do bool) (backup.State, error) {
	m, err := c.manages()
	if err != nil {
		return backup.State{}, err
	}
	if _, err := c.untilManager(ctx, leaderWait); err == nil {
		return backup.State{}, ErrQuorum
	} else if ctx.Err() != nil {
		return backup.State{}, context.Cause(ctx)
	}
	c.changing.Lock()
	st, err := c.copyState(ctx)
	err = explainedCopy(errors.Join(err, os.RemoveAll(c.copyDir())))
	c.changing.Unlock()
	if err != nil || !do {
		return st, err
	}
	if _, err := c.Init(ctx, Init{Config: m.start.Config, ForceNew: true}); err != nil {
		return st, fmt.Errorf("a new cluster out of entry %d: %w", st.Index, err)
	}
	return st, nil
}
