package farm

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc"
)

// joined is a session of a manager that offers some services.
func joined(t *testing.T, offers ...session.Attachable) (*session.Manager, string) {
	t.Helper()
	m, err := session.NewManager()
	if err != nil {
		t.Fatal(err)
	}
	s, err := session.NewSession(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range offers {
		s.Allow(o)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx, func(_ context.Context, _ string, meta map[string][]string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { _ = m.HandleConn(ctx, theirs, meta) }()
			return ours, nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		_ = s.Close()
		<-done
	})
	return m, s.ID()
}

func callerOf(t *testing.T, m *session.Manager, id string) session.Caller {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := m.Get(ctx, id, false)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What a client's session offers is offered on, and nothing else: files, secrets, and the errors of both.
func TestRelay(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(from, "file"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := fsutil.NewFS(from)
	if err != nil {
		t.Fatal(err)
	}
	m, id := joined(t, secretsprovider.FromMap(map[string][]byte{"word": []byte("secret")}),
		filesync.NewFSSyncProvider(filesync.StaticDirSource{"context": files}))
	far, id := joined(t, relay{callerOf(t, m, id)})
	c := callerOf(t, far, id)
	if got, err := secrets.GetSecret(t.Context(), c, "word"); err != nil || string(got) != "secret" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := secrets.GetSecret(t.Context(), c, "other"); !errors.Is(err, secrets.ErrNotFound) {
		t.Errorf("a secret that is not there: %v", err)
	}
	if err := filesync.FSSync(t.Context(), c, filesync.FSSendRequestOpt{Name: "context", DestDir: to}); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(filepath.Join(to, "file")); err != nil || string(got) != "text" {
		t.Errorf("%q, %v", got, err)
	}
	if err := filesync.FSSync(t.Context(), c, filesync.FSSendRequestOpt{Name: "other", DestDir: to}); err == nil {
		t.Error("a directory that is not there has come")
	}
	for url, want := range map[string]bool{
		session.MethodURL(secrets.Secrets_ServiceDesc.ServiceName, "GetSecret"):  true,
		session.MethodURL(filesync.FileSend_ServiceDesc.ServiceName, "DiffCopy"): false,
		session.MethodURL("moby.filesync.v1.Auth", "Credentials"):                false,
	} {
		if c.Supports(url) != want {
			t.Errorf("%s is offered: %v", url, !want)
		}
	}
}

// A machine that hangs is given up when it is no longer among those that are ready.
func TestLost(t *testing.T) {
	hangs := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		<-s.Context().Done()
		return s.Context().Err()
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = hangs.Serve(l) }()
	defer hangs.Stop()
	m, id := joined(t)
	callerOf(t, m, id)
	var d net.Dialer
	n := Node{ID: "x", Name: "x", Dial: func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}}
	began := time.Now()
	f := New(Options{Nodes: func(context.Context, ocispec.Platform) ([]Node, bool) {
		if time.Since(began) > glance*3/2 {
			return nil, true
		}
		return []Node{n}, true
	}})
	_, err = f.on(t.Context(), n, &work{sid: id, sessions: m, parts: []*pb.Definition{{}}})
	if !errors.Is(err, errLost) || time.Since(began) < 2*glance {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}
