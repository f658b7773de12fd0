package network

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ruleset owns one nftables table, which is a function of the networks' policies and the published ports.
type ruleset struct {
	table string

	mu       sync.Mutex     // held by whoever talks to the kernel; guards what follows
	conn     *nftables.Conn // nil until it is needed
	policies map[string]policy
	live     map[slot]string // what the maps are meant to hold
	built    bool            // this process has written the table: it has today's layout
}

// slot is where an element is.
type slot struct{ in, key string }

// chunk bounds the elements in one netlink message, whose attributes are limited to 64 KiB.
const chunk = 400

func newRuleset(table string) *ruleset {
	return &ruleset{table: table, policies: map[string]policy{}, live: map[slot]string{}}
}

func (r *ruleset) nft() *nftables.Table {
	return &nftables.Table{Name: r.table, Family: nftables.TableFamilyINet}
}

// connect opens a connection with room for a table of thousands of ports in one batch.
func connect(opts ...nftables.ConnOption) (*nftables.Conn, error) {
	return nftables.New(append(opts, nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(4<<20), c.SetWriteBuffer(4<<20))
	}))...)
}

// session returns the connection that all transactions share. It stays open, because closing one waits until the
// kernel has freed all that was ever deleted (nft_rcv_nl_event in net/netfilter/nf_tables_api.c): 5 to 35 ms, against
// 0.2 ms for the deletion itself. It is called with r.mu held.
func (r *ruleset) session() (*nftables.Conn, error) {
	if r.conn == nil {
		conn, err := connect(nftables.AsLasting())
		if err != nil {
			return nil, fmt.Errorf("opening nftables: %w", needs("nf_tables", err))
		}
		r.conn = conn
	}
	return r.conn, nil
}

// flush sends the transaction. After an error answers may still be under way, which the next transaction would take
// for its own; so it then starts on a new connection.
func (r *ruleset) flush(composing error) error {
	err := composing
	if err == nil {
		err = r.conn.Flush()
	}
	if err != nil {
		r.hangUp()
	}
	return err
}

func (r *ruleset) hangUp() {
	if r.conn != nil {
		_ = r.conn.CloseLasting()
		r.conn = nil
	}
}

// close gives up the connection; the table stays.
func (r *ruleset) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hangUp()
}

// apply changes the maps in one transaction and returns when the kernel has it. When the kernel refuses, somebody
// else has flushed or altered the table: it is then written anew as a whole.
func (r *ruleset) apply(add, del []element) error {
	if len(add)+len(del) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	before := maps.Clone(r.live)
	for _, e := range del {
		delete(r.live, slot{e.in, e.key})
	}
	for _, e := range add {
		r.live[slot{e.in, e.key}] = e.val
	}
	if r.increment(add, del) == nil {
		return nil
	}
	err := r.rebuild()
	if err != nil {
		r.live = before
	}
	return err
}

func (r *ruleset) increment(add, del []element) error {
	conn, err := r.session()
	if err != nil {
		return err
	}
	for _, m := range portMaps(r.nft()) {
		err = errors.Join(err,
			inChunks(del, m, conn.SetDeleteElements),
			inChunks(add, m, conn.SetAddElements))
	}
	return r.flush(err)
}

// inChunks passes on the elements that belong to map m.
func inChunks(es []element, m *nftables.Set, write func(*nftables.Set, []nftables.SetElement) error) error {
	var mine []nftables.SetElement
	for _, e := range es {
		if e.in == m.Name {
			mine = append(mine, nftables.SetElement{Key: []byte(e.key), Val: []byte(e.val)})
		}
	}
	for part := range slices.Chunk(mine, chunk) {
		if err := write(m, part); err != nil {
			return err
		}
	}
	return nil
}

// seed says what the table is meant to hold, without writing it: the next ensure does.
func (r *ruleset) seed(policies []policy, elements []element) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.policies, r.live, r.built = map[string]policy{}, map[slot]string{}, false
	for _, p := range policies {
		r.policies[p.device] = p
	}
	for _, e := range elements {
		r.live[slot{e.in, e.key}] = e.val
	}
}

// ensure writes the table unless this process has, with this policy in it, and the kernel still has it. It is called
// once per attach.
func (r *ruleset) ensure(p policy) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.built && reflect.DeepEqual(r.policies[p.device], p) && r.listed() {
		return nil
	}
	r.policies[p.device] = p
	return r.rebuild()
}

// forget takes a network and its elements out of the table, and the table away with its last network.
func (r *ruleset) forget(device string, elements []element) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.policies, device)
	for _, e := range elements {
		delete(r.live, slot{e.in, e.key})
	}
	if len(r.policies) > 0 && r.built {
		return r.rebuild()
	}
	return r.removeLocked()
}

func (r *ruleset) listed() bool {
	conn, err := r.session()
	if err != nil {
		return false
	}
	t, err := conn.ListTableOfFamily(r.table, nftables.TableFamilyINet)
	if err != nil {
		r.hangUp()
	}
	return err == nil && t != nil
}

// rebuild replaces the whole table in one transaction. It is called with r.mu held.
func (r *ruleset) rebuild() error {
	conn, err := r.session()
	if err != nil {
		return err
	}
	t := r.nft()
	old := &nftables.Table{Name: r.table, Family: nftables.TableFamilyIPv4} // as earlier versions had it
	for _, gone := range []*nftables.Table{t, old} {
		if gone == old && r.built {
			continue
		}
		conn.AddTable(gone) // so that the deletion finds one
		conn.DelTable(gone)
	}
	conn.AddTable(t)
	all := make([]element, 0, len(r.live))
	for k, v := range r.live {
		all = append(all, element{k.in, k.key, v})
	}
	for _, m := range portMaps(t) {
		err = errors.Join(err, conn.AddSet(m, nil), inChunks(all, m, conn.SetAddElements))
	}
	var policies []policy
	for _, device := range slices.Sorted(maps.Keys(r.policies)) {
		policies = append(policies, r.policies[device])
	}
	err = errors.Join(err, layout{conn, t, policies}.add())
	if err := r.flush(err); err != nil {
		return fmt.Errorf("writing nftables table %s: %w", r.table, diagnose(err, r.table+"_probe"))
	}
	r.built = true
	return nil
}

// removeLocked deletes the table; it is no error when there is none. It is called with r.mu held.
func (r *ruleset) removeLocked() error {
	conn, err := r.session()
	if err != nil {
		return err
	}
	conn.DelTable(r.nft())
	err = r.flush(nil)
	r.hangUp()
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("deleting nftables table %s: %w", r.table, err)
	}
	r.live, r.built = map[slot]string{}, false
	return nil
}
