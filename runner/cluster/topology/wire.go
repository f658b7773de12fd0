package topology

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/moby/swarmkit/v2/ca"
)

// ListenPort is where nodes talk to each other, TCP: managers tell of networks, and all give each other blobs. With Docker it is
// gossip's.
const ListenPort = 7946

const (
	path, clockPath, membersPath = "/v1/topology", "/v1/clock", "/v1/members"
	// pulse is how often a node hears of its manager, and patience how long it waits for that.
	pulse, patience = 3 * time.Second, 10 * time.Second
	// retry is how long a node waits between two managers, at most.
	retry = 2 * time.Second
)

// Identity is a node's certificate for the cluster's mutual TLS, as SwarmKit keeps it. It is read at each connection, as it is
// renewed.
type Identity struct {
	Dir string        // of certificates
	Key func() []byte // to the private key; nil when it is not locked
}

func (i Identity) config() (*tls.Config, error) {
	paths := ca.NewConfigPaths(i.Dir)
	cert, key, err := ca.NewKeyReadWriter(paths.Node, i.Key(), nil).Read()
	if err != nil {
		return nil, fmt.Errorf("the node's certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("the node's certificate: %w", err)
	}
	root, err := os.ReadFile(paths.RootCA.Cert)
	if err != nil {
		return nil, fmt.Errorf("the cluster's authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		return nil, errors.New("the cluster's authority: there is no certificate in " + paths.RootCA.Cert)
	}
	own, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert,
		VerifyConnection: func(s tls.ConnectionState) error { // one authority may have had several clusters
			if peer := s.PeerCertificates[0]; !slices.Equal(peer.Subject.Organization, own.Subject.Organization) {
				return fmt.Errorf("%s is a node of another cluster", peer.Subject.CommonName)
			}
			return nil
		},
	}, nil
}

// Serve answers the cluster's nodes, and nobody else, at an address, until ctx ends: with what the hub knows while hub returns one, as
// it does on a manager, and with what others, which may be nil, has.
func Serve(ctx context.Context, address string, hub func() *Hub, others http.Handler, id Identity, log *slog.Logger) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return id.config() },
	}
	server := &http.Server{
		Handler: handler(hub, others, log), TLSConfig: config, ReadHeaderTimeout: patience,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

var errNoManager = errors.New("this node is no manager")

func handler(hub func() *Hub, others http.Handler, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	asManager := func(pattern string, f func(h *Hub, w http.ResponseWriter, r *http.Request)) {
		mux.HandleFunc("GET "+pattern, func(w http.ResponseWriter, r *http.Request) {
			if h := hub(); h != nil {
				f(h, w, r)
				return
			}
			http.Error(w, errNoManager.Error(), http.StatusServiceUnavailable)
		})
	}
	asManager(path, func(h *Hub, w http.ResponseWriter, r *http.Request) {
		node := r.TLS.PeerCertificates[0].Subject.CommonName
		flush, out := http.NewResponseController(w), json.NewEncoder(w)
		err := h.tell(r.Context(), node, pulse, func(m message) error {
			if hub() != h {
				return errNoManager
			}
			if err := flush.SetWriteDeadline(time.Now().Add(patience)); err != nil {
				return err
			}
			return errors.Join(out.Encode(m), flush.Flush())
		})
		log.Debug("a node follows no more", "node", node, "reason", err)
	})
	asManager(clockPath, func(_ *Hub, w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, time.Now().UTC().Format(time.RFC3339Nano))
	})
	asManager(membersPath, func(h *Hub, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(h.Members())
	})
	if others != nil {
		mux.Handle("/", others)
	}
	return mux
}

// Update is what a node is told.
type Update struct {
	Networks []Network // new, or changed
	Gone     []string  // those that the node is in no more
	Whole    bool      // there are no others than those of this update

	Registries map[string]Registry // all that are trusted; nil when they are as before
}

func (m message) update() (u Update, err error) {
	u.Gone, u.Whole = m.Gone, m.Whole
	if m.Registries != nil {
		if err := json.Unmarshal(m.Registries, &u.Registries); err != nil {
			return u, err
		}
	}
	for _, raw := range m.Networks {
		var n Network
		if err := json.Unmarshal(raw, &n); err != nil {
			return u, err
		}
		u.Networks = append(u.Networks, n)
	}
	return u, nil
}

// Follow has learn called with all that a manager says to this node, until ctx ends. managers are those that it may ask, each
// HOST:PORT; own, when it is a manager itself, its hub.
func Follow(ctx context.Context, node string, own func() *Hub, managers func() []string, id Identity, learn func(Update) error,
	log *slog.Logger,
) {
	last := ""
	for turn := 0; ctx.Err() == nil; turn++ {
		var err error
		began := time.Now()
		if hub := own(); hub != nil {
			err = followOwn(ctx, node, own, hub, learn)
		} else if all := managers(); len(all) > 0 {
			err = followOne(ctx, all[turn%len(all)], id, learn)
		}
		if time.Since(began) > retry {
			last = ""
		}
		if err != nil && ctx.Err() == nil && err.Error() != last {
			last = err.Error()
			log.Warn("what is on the cluster's networks is not told", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(retry, 100*time.Millisecond<<min(turn, 5))):
		}
	}
}

// followOwn follows this node's hub as long as it is the one.
func followOwn(ctx context.Context, node string, own func() *Hub, hub *Hub, learn func(Update) error) error {
	return hub.tell(ctx, node, pulse, func(m message) error {
		if own() != hub {
			return errNoManager
		}
		u, err := m.update()
		if err != nil {
			return err
		}
		return learn(u)
	})
}

// Clock asks a manager, HOST:PORT, for its time.
func Clock(ctx context.Context, manager string, id Identity) (time.Time, error) {
	res, err := ask(ctx, manager, clockPath, id)
	if err != nil {
		return time.Time{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64))
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339Nano, string(text))
}

// ask asks a manager by the cluster's mutual TLS.
func ask(ctx context.Context, manager, path string, id Identity) (*http.Response, error) {
	res, err := send(ctx, http.MethodGet, manager, path, id, nil)
	if err == nil && res.StatusCode != http.StatusOK {
		res.Body.Close()
		err = fmt.Errorf("manager %s answers %s", manager, res.Status)
	}
	return res, err
}

func send(ctx context.Context, method, manager, path string, id Identity, body io.Reader) (*http.Response, error) {
	config, err := id.config()
	if err != nil {
		return nil, err
	}
	config.ServerName = ca.ManagerRole
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+manager+path, body)
	if err != nil {
		return nil, err
	}
	return client.Do(req)
}

func followOne(ctx context.Context, manager string, id Identity, learn func(Update) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	idle := time.AfterFunc(patience, cancel)
	defer idle.Stop()
	res, err := ask(ctx, manager, path, id)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	for in := json.NewDecoder(res.Body); ; {
		var m message
		if err := in.Decode(&m); err != nil {
			if ctx.Err() != nil {
				err = fmt.Errorf("manager %s is silent", manager)
			}
			return err
		}
		idle.Reset(patience)
		u, err := m.update()
		if err == nil {
			err = learn(u)
		}
		if err != nil {
			return err
		}
	}
}

// LocalTo is the address of this machine from which it sends to another one.
func LocalTo(remote string) (netip.Addr, error) {
	conn, err := net.Dial("udp", remote)
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	at, err := netip.ParseAddrPort(conn.LocalAddr().String())
	return at.Addr().Unmap(), err
}
