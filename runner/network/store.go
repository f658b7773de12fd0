package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/gantry-build/gantry/internal/state"
)

// lease is an endpoint as the state directory remembers it.
type lease struct {
	ID        string           `json:"id"`
	IP        netip.Addr       `json:"ip"`
	IP6       netip.Addr       `json:"ip6,omitzero"`
	MAC       net.HardwareAddr `json:"mac,omitempty"` // zero: made of the address
	Ports     []Port           `json:"ports,omitempty"`
	Interface string           `json:"interface,omitempty"` // its name in the container
	Sysctls   []string         `json:"-"`
	LinkLocal []netip.Addr     `json:"-"`
	PID       int              `json:"pid"`
	Nonce     string           `json:"nonce,omitempty"`
	Boot      string           `json:"boot"`

	fleeting bool // ends with this process: never written down, and Restore leaves it alone
}

// address is the one of a family, which may be zero.
func (l lease) address(is4 bool) netip.Addr {
	if is4 {
		return l.IP
	}
	return l.IP6
}

func (l lease) addresses() (all []netip.Addr) {
	for _, a := range []netip.Addr{l.IP, l.IP6} {
		if a.IsValid() {
			all = append(all, a)
		}
	}
	return all
}

func (l lease) mac() net.HardwareAddr {
	if len(l.MAC) > 0 {
		return l.MAC
	}
	if l.IP.IsValid() {
		return macOf(l.IP)
	}
	return macOf(l.IP6)
}

// store is the state directory: network.json with the subnet, and leases/ID.json per container, so that an attach
// writes one small file however many containers there are.
type store struct {
	dir  string
	boot string // names the running boot; a lease of another boot has no container
}

// newStore does not touch the directory.
func newStore(dir string) (store, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return store{}, fmt.Errorf("reading the boot id: %w", err)
	}
	return store{dir: dir, boot: strings.TrimSpace(string(b))}, nil
}

type networkFile struct {
	Subnet netip.Prefix `json:"subnet"`
}

var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,199}$`)

func (s store) leaseDir() string           { return filepath.Join(s.dir, "leases") }
func (s store) networkPath() string        { return filepath.Join(s.dir, "network.json") }
func (s store) leasePath(id string) string { return filepath.Join(s.leaseDir(), id+".json") }

func (s store) saveSubnet(p netip.Prefix) error {
	return writeJSON(s.networkPath(), networkFile{p}, true)
}

func (s store) save(l lease) error {
	l.Boot = s.boot
	if err := writeJSON(s.leasePath(l.ID), l, false); err != nil {
		return fmt.Errorf("writing the lease of %s: %w", l.ID, err)
	}
	return nil
}

// subnet returns the subnet chosen earlier, zero when there is none.
func (s store) subnet() (netip.Prefix, error) {
	b, err := os.ReadFile(s.networkPath())
	if errors.Is(err, fs.ErrNotExist) {
		return netip.Prefix{}, nil
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("reading the network's state: %w", err)
	}
	var f networkFile
	if err := json.Unmarshal(b, &f); err != nil {
		return netip.Prefix{}, fmt.Errorf("reading the network's state %s: %w; remove the file to choose a new subnet",
			s.networkPath(), err)
	}
	if err := validSubnet(f.Subnet); err != nil {
		return netip.Prefix{}, fmt.Errorf("reading the network's state %s: %w; remove the file to choose a new subnet",
			s.networkPath(), err)
	}
	return f.Subnet.Masked(), nil
}

// leases returns those of this boot. Others, and files that a crash of the machine cut short, are removed.
func (s store) leases(log *slog.Logger) ([]lease, error) {
	entries, err := os.ReadDir(s.leaseDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the network's leases: %w", err)
	}
	var kept []lease
	for _, e := range entries {
		path := filepath.Join(s.leaseDir(), e.Name())
		l, err := readLease(path)
		if err == nil && l.Boot == s.boot && s.leasePath(l.ID) == path {
			kept = append(kept, l)
			continue
		}
		log.Debug("dropping a stale lease", "file", e.Name(), "error", err)
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("dropping a stale lease: %w", err)
		}
	}
	return kept, nil
}

func readLease(path string) (l lease, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return l, err
	}
	return l, json.Unmarshal(b, &l)
}

// drop forgets a lease. One that stays behind is dropped by the next Restore.
func (s store) drop(id string) { _ = os.Remove(s.leasePath(id)) }

// remove deletes the whole state.
func (s store) remove() error {
	err := errors.Join(os.RemoveAll(s.leaseDir()), removeIfThere(s.networkPath()))
	_ = os.Remove(s.dir) // unless other networks' are in it
	return err
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// writeJSON replaces a file in one step. Only what must survive a crash of the machine is synced: a lease ends with
// the boot anyway, and a sync per container start would cost more than the rest of the attach.
func writeJSON(path string, v any, sync bool) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if sync {
		return state.Write(path, b, 0o600)
	}
	return state.Replace(path, b, 0o600)
}
