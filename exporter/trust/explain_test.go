package trust

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
)

func TestExplain(t *testing.T) {
	answered := func(code int) error {
		return fmt.Errorf("failed to push: %w", remoteserrors.ErrUnexpectedStatus{StatusCode: code, Status: fmt.Sprint(code)})
	}
	for what, c := range map[string]struct {
		err   error
		wants []string
	}{
		"refused": {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
			[]string{"nothing listens", "gantry registry serve"}},
		"refused text": {errors.New("rpc error: dial tcp 10.0.0.1:5000: connect: connection refused"), []string{"nothing listens"}},
		"unknown CA": {errors.New("tls: failed to verify certificate: x509: certificate signed by unknown authority"),
			[]string{"gantry registry trust r.lan:5000"}},
		"scheme": {fmt.Errorf("x: %w", http.ErrSchemeMismatch), []string{"--registry-http r.lan:5000"}},
		"401":    {answered(401), []string{"gantry login r.lan:5000"}},
		"no auth": {fmt.Errorf("pull access denied: %w", docker.ErrInvalidAuthorization),
			[]string{"no such repository", "gantry login r.lan:5000"}},
		"403":  {answered(403), []string{"may not", "gantry login r.lan:5000"}},
		"507":  {answered(507), []string{"disk is full"}},
		"name": {&net.DNSError{Err: "no such host", Name: "r.lan", IsNotFound: true}, []string{"no such host"}},
		"time": {&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, []string{"no answer in time"}},
	} {
		t.Run(what, func(t *testing.T) {
			err := Explain("r.lan:5000", c.err)
			wantError(t, err, append(c.wants, "registry r.lan:5000: ")...)
			if !errors.Is(err, c.err) {
				t.Error("the original error is lost")
			}
			outer := fmt.Errorf("failed to do request: %w", err)
			if again := Explain("other", outer); again.Error() != err.Error() || !errors.Is(again, c.err) {
				t.Errorf("explained twice: %v", again)
			}
		})
	}
	for _, plain := range []error{nil, io.ErrUnexpectedEOF} {
		if got := Explain("r.lan", plain); got != plain {
			t.Errorf("%v became %v", plain, got)
		}
	}
}

// An error of the daemon is about the registry that it names, not about the one that was pushed to.
func TestExplainText(t *testing.T) {
	for text, want := range map[string]string{
		"failed to solve: failed to push b.lan:5000/x:1: unexpected status from POST request to https://b.lan:5000/v2/x/blobs/uploads/: " +
			"403 Forbidden": "registry b.lan:5000: the login in use may not do this; run `gantry login b.lan:5000` as someone who may " +
			"(failed to solve: failed to push b.lan:5000/x:1: ",
		"failed to solve: base.lan/x: failed to resolve source metadata for base.lan/x:latest: pull access denied, repository does not " +
			"exist or may require authorization: 401 Unauthorized": "registry base.lan: no such repository, or it wants a login; check " +
			"the name, or run `gantry login base.lan` (",
		"failed to push docker.io/library/x:1: 401 Unauthorized": "registry docker.io: ",
		"failed to push b.lan/x:1: failed to do request: registry b.lan: nothing listens (x)": "failed to push b.lan/x:1: failed to do " +
			"request: registry b.lan: nothing listens (x)",
		"process did not complete: 401 Unauthorized, said curl": "process did not complete: 401 Unauthorized, said curl",
		"failed to push b.lan/x:1: something new":               "failed to push b.lan/x:1: something new",
	} {
		cause := errors.New(text)
		got := ExplainText(cause)
		if !strings.HasPrefix(got.Error(), want) || !strings.Contains(got.Error(), text) || !errors.Is(got, cause) {
			t.Errorf("%s\nbecame %v\nwant %s", text, got, want)
		}
	}
	if ExplainText(nil) != nil {
		t.Error("nil became an error")
	}
}

func TestExplainCertificates(t *testing.T) {
	ca := newCA(t)
	s := store(t, Options{})
	ownRegistry(t, s, ca, "127.0.0.1")
	wrong := serve(t, "127.0.0.1:0", with(ca.leaf(time.Hour, "r.lan", "10.0.0.7")), http.HandlerFunc(ok))
	wantError(t, get(only(t, s, host(wrong))), "other names", "r.lan, 10.0.0.7")
	old := serve(t, "127.0.0.1:0", with(ca.leaf(-time.Hour, "127.0.0.1")), http.HandlerFunc(ok))
	wantError(t, get(only(t, s, host(old))), "has ended")
}

func TestFetchCARefusals(t *testing.T) {
	plain := serve(t, "127.0.0.1:0", nil, http.HandlerFunc(ok))
	_, _, err := FetchCA(t.Context(), host(plain))
	wantError(t, err, "plain HTTP", "--registry-http "+host(plain))
	plain.Close()
	_, _, err = FetchCA(t.Context(), host(plain))
	wantError(t, err, "nothing listens")
	_, _, err = FetchCA(t.Context(), "a/b")
	wantError(t, err, "no registry host")
	mixed := newCA(t).leaf(time.Hour, "127.0.0.1")
	mixed.Certificate[1] = newCA(t).cert.Raw
	liar := serve(t, "127.0.0.1:0", with(mixed), http.HandlerFunc(ok))
	if ca, _, err := FetchCA(t.Context(), host(liar)); err == nil || strings.Contains(err.Error(), "panic") {
		t.Errorf("took %s for the authority of a certificate it did not sign", ca)
	}
}
