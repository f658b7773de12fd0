package farm

import (
	"context"
	"errors"
	"io"
	"net"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/grpchijack"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/sshforward"
	"github.com/moby/buildkit/session/upload"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
)

// link is a connection to another machine on which it reaches a client's session, by the session's own name: definitions have it.
// All that one client wants of one machine goes over one, which lives as long as the client's session: a second session of the same
// name would end with the first.
type link struct{ client *client.Client }

func dialer(n Node) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) { return n.Dial(ctx) }
}

// link returns the connection to a machine for a client.
func (f *Farm) link(ctx context.Context, n Node, w *work) (*link, error) {
	caller, err := w.sessions.Get(ctx, w.sid, true)
	if err == nil && caller == nil {
		err = errors.New("the client has no session")
	}
	if err != nil {
		return nil, err
	}
	key := n.ID + " " + w.sid
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.links[key]; l != nil {
		return l, nil
	}
	l, ended, err := open(ctx, n, caller, w.sid)
	if err != nil {
		return nil, err
	}
	f.links[key] = l
	go func() {
		<-ended
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.links, key)
	}()
	return l, nil
}

// sessionHeader names a session (buildkit, session/session.go, v0.34.2).
const sessionHeader = "X-Docker-Expose-Session-Uuid"

// open connects to a machine. ended is closed when the client has gone, or the machine.
func open(ctx context.Context, n Node, caller session.Caller, sid string) (_ *link, ended <-chan struct{}, err error) {
	ctx, end := context.WithCancel(caller.Context(context.WithoutCancel(ctx)))
	c, err := client.New(ctx, "", client.WithContextDialer(dialer(n)))
	if err != nil {
		end()
		return nil, nil, err
	}
	s, err := session.NewSession(ctx, "")
	if err != nil {
		end()
		return nil, nil, errors.Join(err, c.Close())
	}
	s.Allow(relay{caller})
	dial := grpchijack.Dialer(c.ControlClient())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer c.Close()
		defer end()
		// Who waits for the machine sees the end himself.
		_ = s.Run(ctx, func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			meta[sessionHeader] = []string{sid}
			return dial(ctx, proto, meta)
		})
	}()
	return &link{c}, done, nil
}

// relay offers what a client's session offers.
type relay struct{ caller session.Caller }

// offered are the services that a build may ask a client for. Results are not sent from another machine.
var offered = []grpc.ServiceDesc{
	filesync.FileSync_ServiceDesc, auth.Auth_ServiceDesc, secrets.Secrets_ServiceDesc, sshforward.SSH_ServiceDesc,
	upload.Upload_ServiceDesc, contentapi.Content_ServiceDesc, policysession.PolicyVerifier_ServiceDesc,
}

// Register implements session.Attachable.
func (r relay) Register(server *grpc.Server) {
	for _, s := range offered {
		var names []string
		for _, m := range s.Methods {
			names = append(names, m.MethodName)
		}
		for _, m := range s.Streams {
			names = append(names, m.StreamName)
		}
		own := grpc.ServiceDesc{ServiceName: s.ServiceName, HandlerType: (*any)(nil)}
		for _, name := range names {
			if url := session.MethodURL(s.ServiceName, name); r.caller.Supports(url) {
				own.Streams = append(own.Streams, grpc.StreamDesc{
					StreamName: name, ServerStreams: true, ClientStreams: true, Handler: r.handler(url),
				})
			}
		}
		if own.Streams != nil {
			server.RegisterService(&own, nil)
		}
	}
}

// handler passes a call on. Messages are not looked at: an empty one keeps all fields that it does not know.
func (r relay) handler(url string) grpc.StreamHandler {
	return func(_ any, in grpc.ServerStream) error {
		ctx, cancel := context.WithCancel(in.Context())
		defer cancel()
		if md, ok := metadata.FromIncomingContext(ctx); ok {
			ctx = metadata.NewOutgoingContext(ctx, md.Copy())
		}
		out, err := r.caller.Conn().NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, url)
		if err != nil {
			return err
		}
		go func() {
			for {
				var m emptypb.Empty
				if err := in.RecvMsg(&m); err != nil {
					if !errors.Is(err, io.EOF) {
						cancel()
					}
					_ = out.CloseSend()
					return
				}
				if out.SendMsg(&m) != nil {
					return // the other loop hears why
				}
			}
		}()
		for first := true; ; first = false {
			var m emptypb.Empty
			err := out.RecvMsg(&m)
			if md, herr := out.Header(); first && herr == nil {
				_ = in.SetHeader(md)
			}
			if errors.Is(err, io.EOF) {
				in.SetTrailer(out.Trailer())
				return nil
			}
			if err == nil {
				err = in.SendMsg(&m)
			}
			if err != nil {
				return err
			}
		}
	}
}
