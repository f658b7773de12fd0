package logs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/RackSec/srslog"
	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/journal"

	"github.com/gantry-build/gantry/internal/fault"
)

// journald passes lines on to systemd's journal, with Docker's fields (its docs/config/containers/logging/journald).
type journald struct {
	fields map[string]string
	part   map[string]bool // streams whose line goes on
}

func newJournal(of Source, tag string, attrs map[string]string) *journald {
	j := &journald{part: map[string]bool{}, fields: map[string]string{
		"CONTAINER_ID": of.ID[:min(12, len(of.ID))], "CONTAINER_ID_FULL": of.ID, "CONTAINER_NAME": of.Name, "CONTAINER_TAG": tag,
		"IMAGE_NAME": of.Image, "SYSLOG_IDENTIFIER": tag,
	}}
	for k, v := range attrs {
		j.fields[field(k)] = v
	}
	return j
}

// field is a name as the journal can have it: letters, digits and underscores, not at the beginning.
func field(name string) string {
	name = strings.Map(func(r rune) rune {
		if r = unicode.ToUpper(r); r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '_'
	}, name)
	return strings.TrimLeft(name, "_")
}

func (j *journald) Check() error {
	if !journal.Enabled() {
		return errdefs.ErrUnavailable.WithMessage("journald is not enabled on this host: use another --log-driver")
	}
	return nil
}

func (j *journald) Send(e Entry) error {
	fields := map[string]string{}
	for k, v := range j.fields {
		fields[k] = v
	}
	line, whole := strings.CutSuffix(e.Log, "\n")
	if !whole && len(line) >= maxLine-3 {
		fields["CONTAINER_PARTIAL_MESSAGE"] = "true"
	}
	fields["SYSLOG_TIMESTAMP"] = e.Time.Format(time.RFC3339Nano)
	priority := journal.PriInfo
	if e.Stream == "stderr" {
		priority = journal.PriErr
	}
	return journal.Send(line, priority, fields)
}

func (j *journald) Close() error { return nil }

// syslog passes lines on to a syslog server, by RFC 3164 or 5424. It connects when there is something to say, and again
// when the server was gone.
type syslog struct {
	network, address, tag string
	facility              srslog.Priority
	format                srslog.Formatter
	framer                srslog.Framer
	tls                   *tls.Config

	mu sync.Mutex
	w  *srslog.Writer
}

func newSyslog(config map[string]string, tag string) (_ *syslog, err error) {
	s := &syslog{tag: tag, facility: srslog.LOG_DAEMON}
	if s.network, s.address, err = syslogAddress(config["syslog-address"]); err != nil {
		return nil, err
	}
	if f := config["syslog-facility"]; f != "" {
		if s.facility, err = facility(f); err != nil {
			return nil, err
		}
	}
	switch format := config["syslog-format"]; format {
	case "":
		s.format, s.framer = srslog.UnixFormatter, srslog.DefaultFramer
	case "rfc3164":
		s.format, s.framer = srslog.RFC3164Formatter, srslog.DefaultFramer
	case "rfc5424", "rfc5424micro":
		s.format, s.framer = rfc5424(format), srslog.DefaultFramer
		if s.network == "tcp+tls" {
			s.framer = srslog.RFC5425MessageLengthFramer
		}
	default:
		return nil, fault.Invalid("log option syslog-format=%s: %v", format, errFormat)
	}
	if s.network == "tcp+tls" {
		s.tls, err = syslogTLS(config)
	}
	return s, err
}

func rfc5424(name string) srslog.Formatter {
	layout := time.RFC3339
	if name == "rfc5424micro" {
		layout = "2006-01-02T15:04:05.000000Z07:00"
	}
	return func(p srslog.Priority, hostname, tag, content string) string {
		return fmt.Sprintf("<%d>1 %s %s %s %d %s - %s", p, time.Now().Format(layout), hostname, tag, os.Getpid(), tag, content)
	}
}

func syslogAddress(text string) (network, address string, err error) {
	if text == "" {
		return "", "", nil // the machine's own
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", "", fault.Invalid("log option syslog-address=%s: %v", text, err)
	}
	switch u.Scheme {
	case "unix", "unixgram":
		return u.Scheme, u.Path, nil
	case "udp", "tcp", "tcp+tls":
		host := u.Host
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), "514")
		}
		return u.Scheme, host, nil
	}
	return "", "", fault.Invalid("log option syslog-address=%s: it is one of unix://, unixgram://, udp://, tcp:// and tcp+tls://", text)
}

var facilities = []string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"}

func facility(text string) (srslog.Priority, error) {
	if n, err := strconv.Atoi(text); err == nil && n >= 0 && n <= 23 {
		return srslog.Priority(n << 3), nil
	}
	for i, name := range facilities {
		if name == text {
			return srslog.Priority(i << 3), nil
		}
	}
	if n, err := strconv.Atoi(strings.TrimPrefix(text, "local")); err == nil && strings.HasPrefix(text, "local") && n >= 0 && n <= 7 {
		return srslog.Priority((16 + n) << 3), nil
	}
	return 0, fault.Invalid("invalid syslog facility: %s", text)
}

func syslogTLS(config map[string]string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: config["syslog-tls-skip-verify"] != ""}
	if file := config["syslog-tls-ca-cert"]; file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fault.Invalid("log option syslog-tls-ca-cert: %v", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fault.Invalid("log option syslog-tls-ca-cert: %s has no certificate", file)
		}
	}
	if config["syslog-tls-cert"] != "" || config["syslog-tls-key"] != "" {
		pair, err := tls.LoadX509KeyPair(config["syslog-tls-cert"], config["syslog-tls-key"])
		if err != nil {
			return nil, fault.Invalid("log options syslog-tls-cert and syslog-tls-key: %v", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func (s *syslog) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.connect(); err != nil {
		return errdefs.ErrUnavailable.WithMessage("failed to initialize logging driver: " + err.Error())
	}
	return nil
}

func (s *syslog) connect() (err error) {
	if s.w != nil {
		return nil
	}
	if s.network == "tcp+tls" {
		s.w, err = srslog.DialWithTLSConfig(s.network, s.address, s.facility, s.tag, s.tls)
	} else {
		s.w, err = srslog.Dial(s.network, s.address, s.facility, s.tag)
	}
	if err != nil {
		s.w = nil
		return err
	}
	s.w.SetFormatter(s.format)
	s.w.SetFramer(s.framer)
	return nil
}

func (s *syslog) Send(e Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.connect(); err != nil {
		return err
	}
	line := strings.TrimSuffix(e.Log, "\n")
	if e.Stream == "stderr" {
		return s.w.Err(line)
	}
	return s.w.Info(line)
}

func (s *syslog) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w == nil {
		return nil
	}
	err := s.w.Close()
	s.w = nil
	return err
}
