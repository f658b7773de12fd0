package network

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ruleset owns one nftables table. Changes that arrive while another is being written travel together in the next
// transaction: a deletion waits for the kernel's RCU grace period, and so pays it once for all of them.
type ruleset struct {
	table  string
	device string

	queueMu sync.Mutex
	queue   []*change

	// writing is held by whoever writes; it guards what follows.
	writing sync.Mutex
	subnet  netip.Prefix
	live    map[string][8]byte // what the maps are meant to hold, by key
}

// change is one caller's additions and deletions.
type change struct {
	add, del []element
	done     bool
	err      error
}

// chunk bounds the elements in one netlink message, whose attributes are limited to 64 KiB.
const chunk = 400

func newRuleset(table, device string) *ruleset {
	return &ruleset{table: table, device: device, live: map[string][8]byte{}}
}

func (r *ruleset) nft() *nftables.Table {
	return &nftables.Table{Name: r.table, Family: nftables.TableFamilyIPv4}
}

// connect opens a connection per transaction, with room for a table of thousands of ports in one batch.
func connect() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(4<<20), c.SetWriteBuffer(4<<20))
	}))
}

// apply changes the maps and returns when the kernel has the change.
func (r *ruleset) apply(add, del []element) error {
	if len(add)+len(del) == 0 {
		return nil
	}
	c := &change{add: add, del: del}
	r.queueMu.Lock()
	r.queue = append(r.queue, c)
	r.queueMu.Unlock()

	r.writing.Lock()
	defer r.writing.Unlock()
	if c.done { // another caller took it along
		return c.err
	}
	r.queueMu.Lock()
	batch := r.queue
	r.queue = nil
	r.queueMu.Unlock()
	err := r.write(batch)
	for _, c := range batch {
		c.done, c.err = true, err
	}
	return err
}

// write is called with r.writing held. When the kernel refuses an incremental change, somebody else has flushed or
// altered the table: it is then written anew as a whole.
func (r *ruleset) write(batch []*change) error {
	before := maps.Clone(r.live)
	var add, del []element
	for _, c := range batch {
		for _, e := range c.del {
			delete(r.live, e.key)
		}
		for _, e := range c.add {
			r.live[e.key] = e.val
		}
		add, del = append(add, c.add...), append(del, c.del...)
	}
	err := r.increment(add, del)
	if err == nil {
		return nil
	}
	if !r.subnet.IsValid() { // the table of an earlier process, of which this one knows nothing but this change
		if errors.Is(err, unix.ENOENT) && len(add) == 0 {
			return nil
		}
		return fmt.Errorf("changing nftables table %s: %w", r.table, err)
	}
	if err = r.rebuild(); err != nil {
		r.live = before
	}
	return err
}

func (r *ruleset) increment(add, del []element) error {
	conn, err := connect()
	if err != nil {
		return err
	}
	published, at := portMaps(r.nft())
	for _, m := range []*nftables.Set{published, at} {
		err = errors.Join(err,
			inChunks(del, m, conn.SetDeleteElements),
			inChunks(add, m, conn.SetAddElements))
	}
	return errors.Join(err, conn.Flush())
}

// inChunks passes on the elements that belong to map m.
func inChunks(es []element, m *nftables.Set, write func(*nftables.Set, []nftables.SetElement) error) error {
	var mine []nftables.SetElement
	for _, e := range es {
		if len(e.key) == int(m.KeyType.Bytes) {
			mine = append(mine, nftables.SetElement{Key: []byte(e.key), Val: slices.Clone(e.val[:])})
		}
	}
	for part := range slices.Chunk(mine, chunk) {
		if err := write(m, part); err != nil {
			return err
		}
	}
	return nil
}

// replace writes the whole table anew for a subnet and exactly these elements, in one transaction.
func (r *ruleset) replace(subnet netip.Prefix, elements []element) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.subnet = subnet
	r.live = map[string][8]byte{}
	for _, e := range elements {
		r.live[e.key] = e.val
	}
	return r.rebuild()
}

// rebuild is called with r.writing held.
func (r *ruleset) rebuild() error {
	conn, err := connect()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", needs("nf_tables", err))
	}
	t := conn.AddTable(r.nft()) // so that the deletion finds one
	conn.DelTable(t)
	conn.AddTable(t)
	published, at := portMaps(t)
	all := make([]element, 0, len(r.live))
	for k, v := range r.live {
		all = append(all, element{k, v})
	}
	for _, m := range []*nftables.Set{published, at} {
		if err := errors.Join(conn.AddSet(m, nil), inChunks(all, m, conn.SetAddElements)); err != nil {
			return fmt.Errorf("composing nftables table %s: %w", r.table, err)
		}
	}
	layout{conn, t, r.device, r.subnet}.add(published, at)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("writing nftables table %s: %w", r.table, diagnose(err, r.table+"_probe"))
	}
	return nil
}

// present says whether the table is there and written for the subnet.
func (r *ruleset) present(subnet netip.Prefix) bool {
	r.writing.Lock()
	defer r.writing.Unlock()
	if r.subnet != subnet {
		return false
	}
	conn, err := connect()
	if err != nil {
		return false
	}
	t, err := conn.ListTableOfFamily(r.table, nftables.TableFamilyIPv4)
	return err == nil && t != nil
}

// remove deletes the table; it is no error when there is none.
func (r *ruleset) remove() error {
	r.writing.Lock()
	defer r.writing.Unlock()
	conn, err := connect()
	if err != nil {
		return err
	}
	conn.DelTable(r.nft())
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("deleting nftables table %s: %w", r.table, err)
	}
	r.subnet, r.live = netip.Prefix{}, map[string][8]byte{}
	return nil
}
