package debug

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// debugService carries a shell over the same socket as BuildKit's API, in the messages with which
// BuildKit's gateway runs processes (frontend/gateway/pb, ExecMessage, v0.34.2).
var debugService = grpc.ServiceDesc{
	ServiceName: "gantry.v1.Debug",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName: "Shell", ServerStreams: true, ClientStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error { return srv.(*server).shell(stream) },
	}},
}

const (
	shellMethod = "/gantry.v1.Debug/Shell"
	// sessionKey is where a call names the session that serves its secrets.
	sessionKey = "gantry-session"
)

// Register makes a server run shells in the place of kept steps.
func Register(r grpc.ServiceRegistrar, steps *Steps, in Runs) {
	r.RegisterService(&debugService, &server{steps, in})
}

type server struct {
	steps *Steps
	in    Runs
}

func (s *server) shell(stream grpc.ServerStream) error {
	var first gatewayapi.ExecMessage
	if err := stream.RecvMsg(&first); err != nil {
		return err
	}
	init := first.GetInit()
	if init == nil {
		return errors.New("a shell's first message is not its beginning")
	}
	out := &messages{send: stream.SendMsg}
	in, typed := io.Pipe()
	resize := make(chan Size, 1)
	// It ends with the stream, which is when this function has returned.
	go receiveInput(stream, typed, resize)
	defer in.Close()
	sh := Shell{
		Args: init.GetMeta().GetArgs(), Env: init.GetMeta().GetEnv(), Tty: init.Tty,
		Stdin: in, Stdout: out.file(1), Stderr: out.file(2), Resize: resize,
	}
	if md, ok := metadata.FromIncomingContext(stream.Context()); ok && len(md.Get(sessionKey)) > 0 {
		sh.Session = md.Get(sessionKey)[0]
	}
	exit, err := s.steps.Run(stream.Context(), init.ContainerID, sh, s.in)
	if err != nil {
		return err
	}
	end := &gatewayapi.ExitMessage{Code: uint32(exit)}
	return out.message(&gatewayapi.ExecMessage{Input: &gatewayapi.ExecMessage_Exit{Exit: end}})
}

func receiveInput(stream grpc.ServerStream, typed *io.PipeWriter, resize chan<- Size) {
	for {
		var m gatewayapi.ExecMessage
		if err := stream.RecvMsg(&m); err != nil {
			typed.CloseWithError(err)
			return
		}
		if f := m.GetFile(); f != nil {
			if _, err := typed.Write(f.Data); err != nil {
				continue // the process has ended
			}
			if f.EOF {
				typed.Close()
			}
		}
		if r := m.GetResize(); r != nil {
			select {
			case resize <- Size{Rows: r.Rows, Cols: r.Cols}:
			case <-stream.Context().Done():
				return
			}
		}
	}
}

// Open is [Steps.Run] over a connection to a daemon: it runs sh in the place of the kept step id and
// returns its exit code. sh.Stdin is read until the process has ended, and not closed.
func Open(ctx context.Context, conn grpc.ClientConnInterface, id string, sh Shell) (exit int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if sh.Session != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, sessionKey, sh.Session)
	}
	stream, err := conn.NewStream(ctx, &debugService.Streams[0], shellMethod)
	if err != nil {
		return 0, err
	}
	out := &messages{send: stream.SendMsg}
	err = out.message(&gatewayapi.ExecMessage{Input: &gatewayapi.ExecMessage_Init{Init: &gatewayapi.InitMessage{
		ContainerID: id, Tty: sh.Tty, Meta: &pb.Meta{Args: sh.Args, Env: sh.Env},
	}}})
	if err != nil {
		return 0, err
	}
	go func() { // nothing ends a read from a terminal; the process does
		stdin := out.file(0)
		_, _ = io.Copy(stdin, sh.Stdin)
		stdin.Close()
	}()
	go func() {
		for {
			select {
			case s := <-sh.Resize:
				to := &gatewayapi.ResizeMessage{Rows: s.Rows, Cols: s.Cols}
				_ = out.message(&gatewayapi.ExecMessage{Input: &gatewayapi.ExecMessage_Resize{Resize: to}})
			case <-ctx.Done():
				return
			}
		}
	}()
	return receiveOutput(stream, sh)
}

func receiveOutput(stream grpc.ClientStream, sh Shell) (exit int, err error) {
	for {
		var m gatewayapi.ExecMessage
		if err := stream.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the daemon ended the shell")
			}
			return 0, err
		}
		if e := m.GetExit(); e != nil {
			return int(e.Code), nil
		}
		f := m.GetFile()
		if f == nil {
			continue
		}
		w := sh.Stdout
		if f.Fd == 2 {
			w = sh.Stderr
		}
		if _, err := w.Write(f.Data); err != nil {
			return 0, fmt.Errorf("the shell's output: %w", err)
		}
	}
}

// messages sends, one at a time.
type messages struct {
	mu   sync.Mutex
	send func(any) error
}

func (o *messages) message(m *gatewayapi.ExecMessage) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.send(m)
}

func (o *messages) file(fd uint32) io.WriteCloser { return messageFile{o, fd} }

// messageFile is one of a process's standard streams.
type messageFile struct {
	out *messages
	fd  uint32
}

func (f messageFile) Write(p []byte) (int, error) {
	piece := &gatewayapi.FdMessage{Fd: f.fd, Data: p}
	return len(p), f.out.message(&gatewayapi.ExecMessage{Input: &gatewayapi.ExecMessage_File{File: piece}})
}

func (f messageFile) Close() error {
	end := &gatewayapi.FdMessage{Fd: f.fd, EOF: true}
	return f.out.message(&gatewayapi.ExecMessage{Input: &gatewayapi.ExecMessage_File{File: end}})
}
