// Package backup copies a manager's part of a cluster's state while it is in use, reads such a copy, and packs it into an
// archive. What it copies is below a SwarmKit node's directory of state: certificates, the address of a manager, and Raft's
// log and snapshots. The tasks of the node's agent are not of it: managers tell them anew.
package backup

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/ca"
	"github.com/moby/swarmkit/v2/manager"
	"github.com/moby/swarmkit/v2/manager/encryption"
	"github.com/moby/swarmkit/v2/manager/state/raft/storage"
	"github.com/moby/swarmkit/v2/manager/state/store"
	"go.etcd.io/raft/v3/raftpb"
)

// The parts of a node's state that belong together.
const (
	certificates = "certificates"
	raftDir      = "raft"
)

// ErrLocked says that the state is encrypted by a key that was not given, or another one.
var ErrLocked = errors.New("the state is locked by a key")

// Member is a manager that takes part in Raft.
type Member struct{ NodeID, Addr string }

// State is what is known of a copy.
type State struct {
	ClusterID, NodeID string
	Term, Index       uint64 // of the last entry that is committed: of two copies, the one with the higher pair is newer
	Managers          []Member
	Nodes, Services, Tasks, Networks,
	Secrets, Configs int
}

// Copy copies the state of the node whose directory is from to the new directory to, and reads the copy, as the node may
// write meanwhile. key is what the node was unlocked with, if it was.
func Copy(ctx context.Context, from, to string, key []byte) (State, error) {
	var st State
	var err error
	for range 3 { // Raft removes logs that a snapshot has made needless, perhaps in the middle of a copy
		if err = copyOnce(from, to); err == nil {
			if st, err = Read(ctx, to, key); err == nil || errors.Is(err, ErrLocked) {
				return st, err
			}
		}
		err = errors.Join(err, os.RemoveAll(to))
	}
	return st, err
}

func copyOnce(from, to string) error {
	// Snapshots come before the log, so that the log has what came after them.
	snaps, err := filepath.Glob(filepath.Join(from, raftDir, "snap*"))
	if err != nil {
		return err
	}
	parts := []string{certificates, "state.json"}
	for _, s := range snaps {
		parts = append(parts, filepath.Join(raftDir, filepath.Base(s)))
	}
	for _, part := range append(parts, raftDir) {
		err := filepath.WalkDir(filepath.Join(from, part), func(path string, d fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(from, path)
			switch {
			case err != nil:
				return err
			case d.IsDir():
				return os.MkdirAll(filepath.Join(to, rel), 0o700)
			case !d.Type().IsRegular() || strings.HasSuffix(rel, ".tmp"): // which is a log's next file
				return nil
			}
			return copyFile(path, filepath.Join(to, rel))
		})
		if err != nil && !(part == "state.json" && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return nil // a snapshot, with the first pass
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// Read reads the state of a node that does not run. A record that was cut off at the end is dropped, as the node does.
func Read(ctx context.Context, dir string, key []byte) (State, error) {
	var st State
	paths := ca.NewConfigPaths(filepath.Join(dir, certificates))
	keys := ca.NewKeyReadWriter(paths.Node, key, manager.RaftDEKData{})
	cert, _, err := keys.Read()
	if err != nil {
		if invalid := (ca.ErrInvalidKEK{}); errors.As(err, &invalid) {
			return st, ErrLocked
		}
		return st, fmt.Errorf("the node's certificate and key: %w", err)
	}
	block, _ := pem.Decode(cert)
	if block == nil {
		return st, errors.New("the node's certificate is no PEM")
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return st, fmt.Errorf("the node's certificate: %w", err)
	}
	st.NodeID = parsed.Subject.CommonName
	st.ClusterID = strings.Join(parsed.Subject.Organization, "")
	headers, _ := keys.GetCurrentState()
	dek, ok := headers.(manager.RaftDEKData)
	if !ok || dek.CurrentDEK == nil {
		return st, errors.New("the node has no key for Raft's log: it is no manager")
	}
	return st, st.replay(ctx, filepath.Join(dir, raftDir), dek)
}

// replay applies the snapshot and what was committed after it.
func (st *State) replay(ctx context.Context, dir string, dek manager.RaftDEKData) error {
	log := storage.EncryptedRaftLogger{StateDir: dir, EncryptionKey: dek.CurrentDEK}
	var olds [][]byte
	if dek.PendingDEK != nil { // a change of keys that had not ended
		log.EncryptionKey, olds = dek.PendingDEK, [][]byte{dek.CurrentDEK}
	}
	snapshot, data, err := log.BootstrapFromDisk(ctx, olds...)
	if err != nil {
		if cannot := (encryption.ErrCannotDecrypt{}); errors.As(err, &cannot) {
			return ErrLocked
		}
		return fmt.Errorf("the log of Raft: %w", err)
	}
	log.Close(ctx)
	all := store.NewMemoryStore(nil)
	defer all.Close()
	members := map[uint64]Member{}
	if snapshot != nil {
		var s api.Snapshot
		if err := s.Unmarshal(snapshot.Data); err != nil {
			return fmt.Errorf("the snapshot of Raft: %w", err)
		}
		if err := all.Restore(&s.Store); err != nil {
			return fmt.Errorf("the snapshot of Raft: %w", err)
		}
		for _, m := range s.Membership.Members {
			members[m.RaftID] = Member{m.NodeID, m.Addr}
		}
		st.Term, st.Index = snapshot.Metadata.Term, snapshot.Metadata.Index
	}
	for _, e := range data.Entries {
		if e.Index > data.HardState.Commit {
			break
		}
		if err := apply(all, members, e); err != nil {
			return fmt.Errorf("entry %d of Raft's log: %w", e.Index, err)
		}
		st.Term, st.Index = e.Term, e.Index
	}
	st.Managers = slices.SortedFunc(maps.Values(members), func(a, b Member) int { return strings.Compare(a.Addr, b.Addr) })
	all.View(func(tx store.ReadTx) { st.count(tx) })
	return nil
}

func apply(all *store.MemoryStore, members map[uint64]Member, e raftpb.Entry) error {
	switch {
	case len(e.Data) == 0: // a new leader's
		return nil
	case e.Type == raftpb.EntryNormal:
		var r api.InternalRaftRequest
		if err := r.Unmarshal(e.Data); err != nil {
			return err
		}
		return all.ApplyStoreActions(r.Action)
	case e.Type == raftpb.EntryConfChange:
		var change raftpb.ConfChange
		if err := change.Unmarshal(e.Data); err != nil {
			return err
		}
		if change.Type == raftpb.ConfChangeRemoveNode {
			delete(members, change.NodeID)
			return nil
		}
		var m api.RaftMember
		if err := m.Unmarshal(change.Context); err != nil {
			return err
		}
		members[change.NodeID] = Member{m.NodeID, m.Addr}
	}
	return nil
}

func (st *State) count(tx store.ReadTx) {
	nodes, _ := store.FindNodes(tx, store.All)
	services, _ := store.FindServices(tx, store.All)
	tasks, _ := store.FindTasks(tx, store.All)
	networks, _ := store.FindNetworks(tx, store.All)
	secrets, _ := store.FindSecrets(tx, store.All)
	configs, _ := store.FindConfigs(tx, store.All)
	st.Nodes, st.Services, st.Tasks = len(nodes), len(services), len(tasks)
	st.Networks, st.Secrets, st.Configs = len(networks), len(secrets), len(configs)
}
