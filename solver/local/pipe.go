package local

import (
	"bytes"
	"context"
	"io"

	"github.com/tonistiigi/fsutil/types"
)

// pipe returns the two ends of a stream of fsutil's protocol inside this process. What goes through it is not
// encoded, so that names may be any bytes. Both ends end with ctx.
func pipe(ctx context.Context) (sender, receiver *end) {
	there, back := make(chan *types.Packet, 64), make(chan *types.Packet, 64)
	return &end{ctx, there, back}, &end{ctx, back, there}
}

type end struct {
	ctx context.Context
	out chan<- *types.Packet
	in  <-chan *types.Packet
}

func (e *end) Context() context.Context { return e.ctx }

// close tells the other end that no more will come.
func (e *end) close() { close(e.out) }

func (e *end) SendMsg(m any) error {
	p := m.(*types.Packet)
	// The sender uses its buffer again.
	q := &types.Packet{Type: p.Type, Stat: p.Stat, ID: p.ID, Data: bytes.Clone(p.Data)}
	select {
	case e.out <- q:
		return nil
	case <-e.ctx.Done():
		return context.Cause(e.ctx)
	}
}

func (e *end) RecvMsg(m any) error {
	p := m.(*types.Packet)
	select {
	case q, ok := <-e.in:
		if !ok {
			return io.EOF
		}
		p.Type, p.Stat, p.ID, p.Data = q.Type, q.Stat, q.ID, q.Data
		return nil
	case <-e.ctx.Done():
		return context.Cause(e.ctx)
	}
}
