package registry

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func TestStrangersNeedAWord(t *testing.T) {
	refused(t, Options{Root: t.TempDir(), Addr: ":0"}, "--htpasswd", "--open")
	refused(t, Options{Root: t.TempDir(), Addr: "0.0.0.0:0", TLS: true}, "--htpasswd", "--open")
	dir := t.TempDir()
	file := func(text string) string {
		path := filepath.Join(dir, "users")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	refused(t, Options{Root: t.TempDir(), Addr: ":0", Htpasswd: filepath.Join(dir, "none")}, "does not exist", "htpasswd -Bc")
	refused(t, Options{Root: t.TempDir(), Addr: ":0", Htpasswd: file("# nobody\n")}, "no user")
	refused(t, Options{Root: t.TempDir(), Addr: ":0", Htpasswd: file("\nann:{SHA}abc\n")}, "users:2", "htpasswd -B")
	if DefaultAddr != "127.0.0.1:5000" {
		t.Errorf("by default a registry listens on %s", DefaultAddr)
	}
}

// Who may do what, by how the registry was started: 202 and 404 of a delete mean allowed and nothing there.
func TestAccess(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte("ann:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := "/v2/app/manifests/sha256:" + strings.Repeat("0", 64)
	for _, c := range []struct {
		name   string
		o      Options
		method string
		path   string
		user   string
		status int
	}{
		{"loopback reads", Options{Addr: "127.0.0.1:0"}, "GET", "/v2/", "", 200},
		{"loopback deletes", Options{Addr: "127.0.0.1:0"}, "DELETE", gone, "", 404},
		{"open reads", Options{Addr: ":0", Open: true}, "GET", "/v2/", "", 200},
		{"open deletes nothing", Options{Addr: ":0", Open: true}, "DELETE", gone, "", 405},
		{"users read", Options{Addr: ":0", Htpasswd: users}, "GET", "/v2/", "ann:secret", 200},
		{"users delete", Options{Addr: ":0", Htpasswd: users}, "DELETE", gone, "ann:secret", 404},
		{"a wrong password", Options{Addr: ":0", Htpasswd: users}, "GET", "/v2/", "ann:Secret", 401},
		{"no password", Options{Addr: "127.0.0.1:0", Htpasswd: users}, "POST", "/v2/app/blobs/uploads/", "", 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := start(t, c.o)
			_, port, _ := strings.Cut(strings.TrimPrefix(s.Addr().String(), "[::]"), ":")
			req, err := http.NewRequest(c.method, "http://127.0.0.1:"+port+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if user, password, ok := strings.Cut(c.user, ":"); ok {
				req.SetBasicAuth(user, password)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Errorf("%d, want %d", resp.StatusCode, c.status)
			}
		})
	}
}
