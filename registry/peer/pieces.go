package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// pieceSize is how much is asked of one member at once, and ahead how many pieces are kept that can't be written yet.
	pieceSize, ahead = 1 << 20, 16
	// perNode is how many pieces one member sends at once.
	perNode = 2
	// impatience is after how long the piece that all wait for is asked of another member, too.
	impatience = 2 * time.Second
	// firstByte is how long a member may take to make a layer's bytes, and stall how long it may pause after that.
	firstByte, stall = 2 * time.Minute, 15 * time.Second
)

// piece is a part of a blob. Plain: it is not worth compressing.
type piece struct {
	Digest, Of     digest.Digest
	Offset, Length int64
	Plain          bool
}

func (c *Client) request(ctx context.Context, method string, n Node, p piece) (*http.Request, error) {
	q := url.Values{}
	if p.Of != "" {
		q.Set("of", p.Of.String())
	}
	if method == http.MethodGet {
		q.Set("offset", strconv.FormatInt(p.Offset, 10))
		q.Set("length", strconv.FormatInt(p.Length, 10))
	}
	u := url.URL{Scheme: "https", Host: n.ID, Path: Path + p.Digest.String(), RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err == nil {
		req.Header.Set("Accept-Encoding", "identity") // not Go's own gzip
		if !p.Plain {
			req.Header.Set("Accept-Encoding", "zstd")
		}
	}
	return req, err
}

// get asks a member for a piece.
func (c *Client) get(ctx context.Context, n Node, p piece) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := c.request(ctx, http.MethodGet, n, p)
	if err != nil {
		return nil, err
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("node %s answers %s", n.Name, res.Status)
	}
	patience := time.AfterFunc(firstByte, cancel)
	defer patience.Stop()
	data, err := io.ReadAll(io.LimitReader(reads{res.Body, patience}, p.Length+64<<10))
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", n.Name, err)
	}
	if res.Header.Get("Content-Encoding") != "zstd" {
		return data, nil
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(uint64(p.Length)+1<<20), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return z.DecodeAll(data, nil)
}

// reads grants a new delay with each read that gives something.
type reads struct {
	io.Reader
	patience *time.Timer
}

func (r reads) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.patience.Reset(stall)
	}
	return n, err
}

// download is one blob's way here, in pieces of which each is asked of the member that is free first.
type download struct {
	d    ocispec.Descriptor
	of   digest.Digest
	from int64 // what was here before

	mu      sync.Mutex
	turn    chan struct{} // closed at the next change
	next    int           // the first piece that nobody was asked for
	written int           // pieces, all before it too
	again   []int         // pieces that failed
	got     map[int][]byte
	began   map[int]begin // those that are on their way
	workers int
	failed  error
}

// begin is when, and from whom, a piece was asked for last.
type begin struct {
	at time.Time
	by Node
}

// pieces writes what is missing of a blob from offset from on, in order.
func (c *Client) pieces(ctx context.Context, d ocispec.Descriptor, of digest.Digest, nodes []Node, from int64, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	var working sync.WaitGroup
	defer working.Wait()
	defer cancel()
	l := &download{d: d, of: of, from: from, turn: make(chan struct{}), got: map[int][]byte{}, began: map[int]begin{}}
	l.workers = perNode * len(nodes)
	for _, n := range nodes {
		for range perNode {
			working.Go(func() { l.work(ctx, c, n) })
		}
	}
	for i := range l.count() {
		data, err := l.wait(ctx, i)
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return nil
}

func (l *download) count() int { return int((l.d.Size - l.from + pieceSize - 1) / pieceSize) }

func (l *download) piece(i int) piece {
	offset := l.from + int64(i)*pieceSize
	return piece{Digest: l.d.Digest, Of: l.of, Offset: offset, Length: min(pieceSize, l.d.Size-offset), Plain: !packs(l.d.MediaType)}
}

// packs says whether a blob of that kind becomes smaller by compression: layers of plain tar do.
func packs(mediaType string) bool {
	return strings.HasSuffix(mediaType, ".tar") || strings.HasSuffix(mediaType, "+json")
}

// changed wakes all who wait. The caller holds l.mu.
func (l *download) changed() {
	close(l.turn)
	l.turn = make(chan struct{})
}

// wait returns a piece as soon as it is here.
func (l *download) wait(ctx context.Context, i int) ([]byte, error) {
	for {
		l.mu.Lock()
		data, ok := l.got[i]
		if ok {
			delete(l.got, i)
			l.written = i + 1
			l.changed()
		}
		turn, workers, failed := l.turn, l.workers, l.failed
		l.mu.Unlock()
		switch {
		case ok:
			return data, nil
		case workers == 0:
			return nil, failed
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// work asks one member for pieces until there are no more, or it fails twice.
func (l *download) work(ctx context.Context, c *Client, n Node) {
	var failures []error
	for len(failures) < 2 {
		i, ok := l.take(ctx, n)
		if !ok {
			break
		}
		p := l.piece(i)
		data, err := c.get(ctx, n, p)
		if err == nil && int64(len(data)) != p.Length {
			err = fmt.Errorf("node %s gives %d bytes of %d", n.Name, len(data), p.Length)
		}
		if err != nil {
			failures = append(failures, err)
		}
		l.put(i, data, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.workers--
	l.failed = errors.Join(append([]error{l.failed}, failures...)...)
	l.changed()
}

// put notes a piece, unless another member was faster, or that it has to be asked for again.
func (l *download) put(i int, data []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.changed()
	if _, here := l.got[i]; here || i < l.written {
		return
	}
	if err != nil {
		l.again = append(l.again, i)
		return
	}
	l.got[i] = data
	delete(l.began, i)
}

// take says which piece to ask a member for; false when there is nothing more to do.
func (l *download) take(ctx context.Context, n Node) (int, bool) {
	for ctx.Err() == nil {
		l.mu.Lock()
		i, ok := l.choose(n)
		if ok {
			l.began[i] = begin{time.Now(), n}
		}
		turn, over := l.turn, l.written == l.count()
		l.mu.Unlock()
		if ok || over {
			return i, ok
		}
		select {
		case <-turn:
		case <-time.After(impatience / 8):
		case <-ctx.Done():
		}
	}
	return 0, false
}

// choose is the next piece for a member. The caller holds l.mu.
func (l *download) choose(n Node) (int, bool) {
	for len(l.again) > 0 {
		i := l.again[0]
		l.again = l.again[1:]
		if _, here := l.got[i]; !here && i >= l.written {
			return i, true
		}
	}
	if l.next < min(l.count(), l.written+ahead) {
		l.next++
		return l.next - 1, true
	}
	head := l.written // for which all wait
	b, asked := l.began[head]
	if _, here := l.got[head]; asked && !here && b.by != n && time.Since(b.at) > impatience {
		return head, true
	}
	return 0, false
}
