package topology

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/moby/swarmkit/v2/ca"
)

// BuildPath is where a node builds for managers: POST, which takes over the connection for BuildKit's API.
const BuildPath = "/v1/build"

// ManagersOnly refuses the nodes that are none: a manager can run anything on any node anyhow.
func ManagersOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peer := r.TLS.PeerCertificates[0]; !slices.Contains(peer.Subject.OrganizationalUnit, ca.ManagerRole) {
			http.Error(w, fmt.Sprintf("node %s is no manager", peer.Subject.CommonName), http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// DialBuild connects to BuildKit's API of the node of an ID, at an address, HOST:PORT.
func DialBuild(ctx context.Context, id Identity, node, at string) (net.Conn, error) {
	conn, err := dial(ctx, "tcp", id, node, at)
	if err != nil {
		return nil, err
	}
	up, err := upgraded(conn)
	if err != nil {
		return nil, fmt.Errorf("node %s does not build for others: %w", node, closing(conn, err))
	}
	return up, nil
}

func closing(c io.Closer, err error) error {
	_ = c.Close()
	return err
}

// upgraded asks for the connection to be taken over.
func upgraded(conn net.Conn) (net.Conn, error) {
	if err := conn.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, "http://node"+BuildPath, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "h2c")
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer res.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return nil, fmt.Errorf("%s: %s", res.Status, text)
	}
	return &ahead{conn, r}, conn.SetDeadline(time.Time{})
}

// ahead is a connection of which some bytes have been read already.
type ahead struct {
	net.Conn
	r *bufio.Reader
}

func (a *ahead) Read(p []byte) (int, error) { return a.r.Read(p) }
