package topology

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Managers of the cluster get a connection on which all bytes pass, also those that come with the answer; workers, nodes of other clusters
// and those of another authority get none, and neither does who takes one node for another.
func TestDialBuild(t *testing.T) {
	build := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nhello\n")
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(conn, "you said "+line)
	})
	mux := http.NewServeMux()
	mux.Handle(BuildPath, ManagersOnly(build))
	ours, theirs := newAuthority(t), newAuthority(t)
	at := serve(t, ours.identity("w", "swarm-worker", "c"), mux)

	conn, err := DialBuild(t.Context(), ours.identity("m", "swarm-manager", "c"), "w", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for _, want := range []string{"hello\n", "you said so\n"} {
		if got, err := in.ReadString('\n'); err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
		_, _ = io.WriteString(conn, "so\n") // the second one comes too late, and is not read
	}
	for name, c := range map[string]struct {
		id   Identity
		node string
		says string
	}{
		"a worker":           {ours.identity("x", "swarm-worker", "c"), "w", "node x is no manager"},
		"another cluster":    {ours.identity("m", "swarm-manager", "d"), "w", ""},
		"another authority":  {theirs.identity("m", "swarm-manager", "c"), "w", ""},
		"meant another node": {ours.identity("m", "swarm-manager", "c"), "y", ""},
	} {
		conn, err := DialBuild(t.Context(), c.id, c.node, at)
		if err == nil {
			conn.Close()
			t.Errorf("%s builds", name)
		} else if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}
