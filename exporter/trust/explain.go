package trust

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/distribution/reference"
)

// refusal is an error that begins with a sentence for the user and ends with its
// cause, in the words of who noticed it.
type refusal struct {
	text  string
	cause string
	err   error
}

func (r *refusal) Error() string { return r.text + " (" + r.cause + ")" }

func (r *refusal) Unwrap() error { return r.err }

// Timeout keeps the answer of the wrapped error: clients that retry ask the
// outermost one (net/url.Error).
func (r *refusal) Timeout() bool {
	return os.IsTimeout(r.err) || errors.Is(r.err, context.DeadlineExceeded)
}

// Explain turns the failures that a user can do something about into one
// sentence: which registry refused, why, what to type next. The original error
// stays reachable by errors.Is, errors.As and errors.Unwrap. Errors of other
// kinds, cancellation and nil come back as they are; one that was explained
// before keeps its sentence and loses what was put around it. Errors that
// crossed a process border are known by their text.
func Explain(host string, err error) error {
	var before *refusal
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &before):
		return &refusal{text: before.text, cause: before.cause, err: err}
	}
	for _, r := range reasons() {
		if r.is(err) {
			return &refusal{text: "registry " + host + ": " + strings.ReplaceAll(r.text(err), "HOST", host), cause: err.Error(), err: err}
		}
	}
	return err
}

// explained finds the sentence of an Explain in another process, named the image in whose transfer
// BuildKit gave up (exporter/containerimage/export.go and client/llb/sourceresolver, v0.34.2).
var (
	explained = regexp.MustCompile(`\bregistry \S+: `)
	named     = regexp.MustCompile(`failed to (?:push|resolve source metadata for) (\S+): `)
)

// ExplainText is Explain for an error of the daemon that came as text: the registry is the one that the
// text is about. One that was explained there, or is about no registry, comes back as it is.
func ExplainText(err error) error {
	if err == nil || explained.MatchString(err.Error()) {
		return err
	}
	m := named.FindAllStringSubmatch(err.Error(), -1)
	if m == nil {
		return err
	}
	ref, perr := reference.ParseNormalizedNamed(m[len(m)-1][1]) // the innermost
	if perr != nil {
		return err
	}
	return Explain(reference.Domain(ref), err)
}

// reason is one kind of failure; the first that fits counts.
type reason struct {
	is   func(error) bool
	text func(error) string
}

func reasons() []reason {
	return []reason{
		{is: either(isType[x509.UnknownAuthorityError], says("signed by unknown authority")),
			text: fixed("its certificate is signed by an authority that this machine does not know; run `gantry registry trust HOST`")},
		{is: either(isType[x509.HostnameError],
			says("certificate is valid for ", "certificate is not valid for any names", "doesn't contain any IP SANs")),
			text: wrongName},
		{is: either(isExpired, says("certificate has expired or is not yet valid")),
			text: fixed("its certificate has ended or has not begun; check the clocks of both machines, then have the registry renew it")},
		{is: either(isHTTP, says("server gave HTTP response to HTTPS client")),
			text: fixed("it speaks plain HTTP; if that is meant, say `--registry-http HOST`")},
		{is: says("Client sent an HTTP request to an HTTPS server"),
			text: fixed("it speaks HTTPS and was asked by plain HTTP; run `gantry registry trust HOST`")},
		{is: either(errno(syscall.ECONNREFUSED), says("connection refused")),
			text: fixed("nothing listens there; is the registry running? `gantry registry serve` starts one")},
		{is: either(isNoHost, says("no such host")),
			text: fixed("no such host; check the name, and the name server of this machine")},
		{is: either(errno(syscall.EHOSTUNREACH, syscall.ENETUNREACH), says("no route to host", "network is unreachable")),
			text: fixed("there is no way to it from here; check the address and the network")},
		{is: either(errIs(docker.ErrInvalidAuthorization), status(http.StatusUnauthorized),
			says("401 Unauthorized", "UNAUTHORIZED: ", "authentication required", "insufficient_scope", "no basic auth credentials")),
			text: fixed("no such repository, or it wants a login; check the name, or run `gantry login HOST`")},
		{is: either(status(http.StatusForbidden), says("403 Forbidden", "DENIED: ", "requested access to the resource is denied")),
			text: fixed("the login in use may not do this; run `gantry login HOST` as someone who may")},
		{is: either(status(http.StatusInsufficientStorage), says("507 Insufficient Storage", "INSUFFICIENT_STORAGE")),
			text: fixed("its disk is full; free space on its host and push again")},
		{is: either(isTimeout, says("i/o timeout", "TLS handshake timeout")),
			text: fixed("no answer in time; check the address, the network and the registry")},
	}
}

func fixed(text string) func(error) string { return func(error) string { return text } }

func wrongName(err error) string {
	var h x509.HostnameError
	if !errors.As(err, &h) || h.Certificate == nil {
		return "its certificate is for other names; reach it by one of those"
	}
	names := slices.Clone(h.Certificate.DNSNames)
	for _, ip := range h.Certificate.IPAddresses {
		names = append(names, ip.String())
	}
	return fmt.Sprintf("its certificate is for other names; reach it by one of %s, or name HOST to `gantry registry serve --host`",
		strings.Join(names, ", "))
}

func either(tests ...func(error) bool) func(error) bool {
	return func(err error) bool {
		for _, t := range tests {
			if t(err) {
				return true
			}
		}
		return false
	}
}

func says(texts ...string) func(error) bool {
	return func(err error) bool {
		all := err.Error()
		for _, t := range texts {
			if strings.Contains(all, t) {
				return true
			}
		}
		return false
	}
}

func isType[T error](err error) bool {
	var t T
	return errors.As(err, &t)
}

func errIs(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func errno(codes ...syscall.Errno) func(error) bool {
	return func(err error) bool {
		var e syscall.Errno
		if !errors.As(err, &e) {
			return false
		}
		for _, c := range codes {
			if e == c {
				return true
			}
		}
		return false
	}
}

func status(code int) func(error) bool {
	return func(err error) bool {
		var s remoteserrors.ErrUnexpectedStatus
		return errors.As(err, &s) && s.StatusCode == code
	}
}

func isExpired(err error) bool {
	var c x509.CertificateInvalidError
	return errors.As(err, &c) && c.Reason == x509.Expired
}

func isHTTP(err error) bool {
	var r tls.RecordHeaderError
	return errors.Is(err, http.ErrSchemeMismatch) || (errors.As(err, &r) && string(r.RecordHeader[:]) == "HTTP/")
}

func isNoHost(err error) bool {
	var d *net.DNSError
	return errors.As(err, &d) && d.IsNotFound
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
