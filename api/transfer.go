package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/exporter/rootfs"
	"github.com/gantry-build/gantry/exporter/transfer"
)

// create pulls an image, or imports one from the request's body.
func (i *Images) create(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	p, err := platformOf(r)
	if err != nil {
		return err
	}
	if from := q.Get("fromSrc"); from != "" {
		return i.importTar(w, r, from, p)
	}
	name, err := fullName(q.Get("fromImage"), q.Get("tag"))
	if err != nil {
		return err
	}
	creds, err := credentials(r)
	if err != nil {
		return err
	}
	named, _ := reference.ParseNormalizedNamed(name)
	out := newProgress(w)
	tag := "latest"
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	}
	out.send(jsonstream.Message{ID: tag, Status: "Pulling from " + reference.Path(named)})
	target, newer, err := i.Mover.Pull(r.Context(), name, p, creds, out.layer)
	if err != nil {
		return out.fail(err)
	}
	status := "Image is up to date for "
	if newer {
		status = "Downloaded newer image for "
	}
	out.send(jsonstream.Message{Status: "Digest: " + target.Digest.String()})
	out.send(jsonstream.Message{Status: "Status: " + status + reference.FamiliarString(named)})
	return nil
}

func (i *Images) importTar(w http.ResponseWriter, r *http.Request, from string, p *ocispec.Platform) error {
	q := r.URL.Query()
	if from != "-" {
		return fmt.Errorf("importing from a URL is not supported; download %s and import the file: %w", from, errdefs.ErrInvalidArgument)
	}
	var cfg dockerspec.DockerOCIImageConfig
	if err := i.change(&cfg, q["changes"]); err != nil {
		return err
	}
	if q.Get("repo") == "" {
		return fmt.Errorf("import needs a name for the image: %w", errdefs.ErrInvalidArgument)
	}
	name, err := fullName(q.Get("repo"), q.Get("tag"))
	if err != nil {
		return err
	}
	o := rootfs.Options{Name: name, Platform: platforms.DefaultSpec(), Message: q.Get("message"), Config: cfg}
	if p != nil {
		o.Platform = *p
	}
	if o.Message == "" {
		o.Message = "Imported from -"
	}
	target, err := rootfs.Import(r.Context(), i.Store, r.Body, o)
	if err != nil {
		return err
	}
	out := newProgress(w)
	out.send(jsonstream.Message{Status: target.Digest.String()})
	return nil
}

func (i *Images) push(w http.ResponseWriter, r *http.Request, repo string) error {
	p, err := platformOf(r)
	if err != nil {
		return err
	}
	name, err := fullName(repo, r.FormValue("tag"))
	if err != nil {
		return err
	}
	creds, err := credentials(r)
	if err != nil {
		return err
	}
	if _, err := i.Store.Lookup(cache.WithNamespace(r.Context()), name); errdefs.IsNotFound(err) {
		//lint:ignore ST1005 Docker's text
		return fmt.Errorf("An image does not exist locally with the tag: %s: %w", strings.TrimSuffix(repo, "/"), errdefs.ErrNotFound)
	} else if err != nil {
		return err
	}
	out := newProgress(w)
	named, _ := reference.ParseNormalizedNamed(name)
	out.send(jsonstream.Message{Status: fmt.Sprintf("The push refers to repository [%s]", named.Name())})
	target, err := i.Mover.Push(r.Context(), name, p, creds, out.layer)
	if err != nil {
		return out.fail(err)
	}
	tag := "latest"
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	}
	out.send(jsonstream.Message{Status: fmt.Sprintf("%s: digest: %s size: %d", tag, target.Digest, target.Size)})
	return nil
}

// auth checks a user's password at a registry, for `login`.
func (i *Images) auth(w http.ResponseWriter, r *http.Request) error {
	var c registry.AuthConfig
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&c); err != nil {
		return fmt.Errorf("reading credentials: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	host := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(c.ServerAddress, "https://"), "http://"), "/")
	if host == "" || host == "index.docker.io/v1" {
		host = "docker.io"
	}
	if err := i.Login(r.Context(), host,
		transfer.Credentials{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken}); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrUnauthenticated)
	}
	return writeJSON(w, http.StatusOK, registry.AuthResponse{Status: "Login Succeeded"})
}

// credentials reads the header X-Registry-Auth.
func credentials(r *http.Request) (transfer.Credentials, error) {
	var c registry.AuthConfig
	h := r.Header.Get("X-Registry-Auth")
	if h == "" {
		return transfer.Credentials{}, nil
	}
	dt, err := base64.URLEncoding.DecodeString(h)
	if err == nil && len(dt) > 0 {
		err = json.Unmarshal(dt, &c)
	}
	if err != nil {
		return transfer.Credentials{}, fmt.Errorf("header X-Registry-Auth: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return transfer.Credentials{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken}, nil
}

// progress sends JSON messages as they come; it is safe for concurrent use.
type progress struct {
	mu sync.Mutex
	w  http.ResponseWriter
	e  *json.Encoder
}

func newProgress(w http.ResponseWriter) *progress {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	return &progress{w: w, e: json.NewEncoder(w)}
}

func (s *progress) send(m jsonstream.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.e.Encode(m) // the client may have gone
	if f, ok := s.w.(http.Flusher); ok {
		f.Flush()
	}
}

func (s *progress) layer(id, status string) { s.send(jsonstream.Message{ID: id, Status: status}) }

// fail ends the stream with an error: the status line is sent already.
func (s *progress) fail(err error) error {
	s.send(jsonstream.Message{Error: &jsonstream.Error{Message: err.Error()}})
	return nil
}
