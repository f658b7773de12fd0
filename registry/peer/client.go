package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
)

const (
	// wave is how many members are asked at once whether they have a blob, and answerWithin how long they have for it.
	wave, answerWithin = 16, 2 * time.Second
	// grace is how long others may follow the first that has it.
	grace = 100 * time.Millisecond
	// shunned is for how long a member that did not answer is not asked again.
	shunned = 15 * time.Second
)

// Node is another member.
type Node struct{ ID, Name string }

// Client brings blobs from other members. The fields are needed. It is safe for concurrent use.
type Client struct {
	Content content.Store
	Nodes   func(ctx context.Context) ([]Node, error) // the other members; none outside of a cluster
	HTTP    *http.Client                              // reaches a member at https://ID/, and knows who it is
	Log     *slog.Logger

	mu     sync.Mutex
	silent map[string]time.Time // members that did not answer, and when
	parts  map[digest.Digest]part
}

// errWrong is of bytes that are not what their digest says.
var errWrong = errors.New("the bytes are not those of the digest")

// Resolve brings the manifest or index of a digest here, and returns its descriptor. errdefs.ErrNotFound: no member that answers has
// it.
func (c *Client) Resolve(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	holders, err := c.holders(ctx, d, "")
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	err = notHeld(d)
	for _, n := range holders {
		data, gerr := c.get(ctx, n, piece{Digest: d, Length: blob.MaxSize, Plain: true})
		if gerr == nil && d.Algorithm().FromBytes(data) != d {
			gerr = errWrong
		}
		desc := ocispec.Descriptor{Digest: d, Size: int64(len(data))}
		if gerr == nil {
			desc.MediaType, gerr = mediaType(data)
		}
		if gerr == nil {
			return desc, c.keep(cache.WithNamespace(ctx), desc, data)
		}
		c.Log.Warn("a node has not what it says", "node", n.Name, "digest", d, "error", gerr)
		err = errors.Join(err, gerr)
	}
	return ocispec.Descriptor{}, err
}

func (c *Client) keep(ctx context.Context, d ocispec.Descriptor, data []byte) error {
	w, err := content.OpenWriter(ctx, c.Content, content.WithRef(ingest(d)), content.WithDescriptor(d))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	if err = w.Truncate(0); err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Commit(ctx, d.Size, d.Digest)
	}
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// ingest is what a transfer is called in the store, so that a later one goes on where it broke off.
func ingest(d ocispec.Descriptor) string { return "peer-" + d.Digest.String() }

// mediaType is what a manifest or index says that it is, or what it must be.
func mediaType(data []byte) (string, error) {
	var m struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Config    json.RawMessage `json:"config"`
	}
	switch err := json.Unmarshal(data, &m); {
	case err != nil:
		return "", err
	case images.IsIndexType(m.MediaType) || images.IsManifestType(m.MediaType):
		return m.MediaType, nil
	case m.MediaType == "" && m.Manifests != nil:
		return ocispec.MediaTypeImageIndex, nil
	case m.MediaType == "" && m.Config != nil:
		return ocispec.MediaTypeImageManifest, nil
	}
	return "", fmt.Errorf("%q is no image", m.MediaType)
}

func notHeld(d digest.Digest) error {
	return fmt.Errorf("no other node of the cluster has %s: %w", d, errdefs.ErrNotFound)
}

// Fetch brings a blob here; of is the manifest that it belongs to, if it belongs to one. It goes on where an earlier one broke off.
// errdefs.ErrNotFound: no member that answers has it. Where all at once give wrong bytes, each is asked alone.
func (c *Client) Fetch(ctx context.Context, d ocispec.Descriptor, of digest.Digest) error {
	ctx = cache.WithNamespace(ctx)
	if _, err := c.Content.Info(ctx, d.Digest); err == nil {
		return nil
	}
	holders, err := c.holders(ctx, d.Digest, of)
	if err != nil {
		return err
	}
	if len(holders) == 0 {
		return notHeld(d.Digest)
	}
	err = c.bring(ctx, d, of, holders)
	for i := 0; errors.Is(err, errWrong) && i < len(holders); i++ {
		if len(holders) > 1 {
			err = c.bring(ctx, d, of, holders[i:i+1])
		}
		if errors.Is(err, errWrong) {
			c.Log.Warn("a node has a blob that is not what its digest says", "node", holders[i].Name, "digest", d.Digest)
		}
	}
	if err != nil {
		return fmt.Errorf("%s from other nodes: %w", d.Digest, err)
	}
	return nil
}

// bring writes what some members have into the store.
func (c *Client) bring(ctx context.Context, d ocispec.Descriptor, of digest.Digest, from []Node) error {
	w, err := content.OpenWriter(ctx, c.Content, content.WithRef(ingest(d)), content.WithDescriptor(d))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	have, err := w.Status()
	if err == nil && have.Offset > d.Size {
		have.Offset, err = 0, w.Truncate(0)
	}
	if err != nil {
		return err
	}
	if err := c.pieces(ctx, d, of, from, have.Offset, w); err != nil {
		return err
	}
	if w.Digest() != d.Digest {
		return errors.Join(errWrong, w.Truncate(0))
	}
	if err := w.Commit(ctx, d.Size, d.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// holders asks members whether they have a blob, until some do.
func (c *Client) holders(ctx context.Context, d digest.Digest, of digest.Digest) (found []Node, err error) {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	nodes = c.speaking(nodes)
	for len(nodes) > 0 && len(found) == 0 && ctx.Err() == nil {
		n := min(wave, len(nodes))
		found = c.ask(ctx, nodes[:n], d, of)
		nodes = nodes[n:]
	}
	return found, ctx.Err()
}

// speaking are nodes without those that did not answer a moment ago, in any order.
func (c *Client) speaking(all []Node) (some []Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range all {
		if at, ok := c.silent[n.ID]; !ok || time.Since(at) > shunned {
			some = append(some, n)
		}
	}
	rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	return some
}

func (c *Client) shun(n Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent == nil {
		c.silent = map[string]time.Time{}
	}
	c.silent[n.ID] = time.Now()
}

// ask returns those of a few members that have a blob, and does not wait long for the others once one has.
func (c *Client) ask(ctx context.Context, nodes []Node, d digest.Digest, of digest.Digest) (found []Node) {
	asking, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	answers := make(chan *Node, len(nodes))
	for _, n := range nodes {
		go func() {
			has, err := c.has(asking, n, d, of)
			switch {
			case has:
				answers <- &n
			default:
				if err != nil && (asking.Err() == nil || errors.Is(asking.Err(), context.DeadlineExceeded)) {
					c.shun(n)
					c.Log.Debug("a node does not answer", "node", n.Name, "error", err)
				}
				answers <- nil
			}
		}()
	}
	var enough <-chan time.Time
	for range nodes {
		select {
		case n := <-answers:
			if n != nil {
				found = append(found, *n)
			}
			if n != nil && enough == nil {
				enough = time.After(grace)
			}
		case <-enough:
			return found
		}
	}
	return found
}

func (c *Client) has(ctx context.Context, n Node, d digest.Digest, of digest.Digest) (bool, error) {
	req, err := c.request(ctx, http.MethodHead, n, piece{Digest: d, Of: of})
	if err != nil {
		return false, err
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		return false, err
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK, nil
}
