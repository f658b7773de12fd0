package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
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
	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
)

// create pulls an image, all of a repository, or imports one.
func (i *Images) create(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	p, err := platformOf(r)
	if err != nil {
		return err
	}
	if q.Get("fromImage") == "" {
		return i.importTar(w, r, q.Get("fromSrc"), p)
	}
	from := strings.TrimSuffix(q.Get("fromImage"), ":")
	named, err := reference.ParseNormalizedNamed(from)
	if err != nil {
		return fault.Invalid("invalid reference %q: %v", from, err)
	}
	if reference.FamiliarName(named) == "scratch" {
		return errdefs.ErrPermissionDenied.WithMessage("'scratch' is a reserved name")
	}
	creds := credentials(r)
	out := newProgress(w)
	if q.Get("tag") == "" && reference.IsNameOnly(named) {
		tags, err := i.Mover.Tags(r.Context(), named, creds)
		if err != nil {
			return err
		}
		for _, t := range tags {
			name, err := fullName(from, t)
			if err != nil {
				continue // no tag for us
			}
			if err := i.pull(r.Context(), name, p, creds, out); err != nil {
				return out.fail(err)
			}
		}
		return nil
	}
	name, err := fullName(from, q.Get("tag"))
	if err != nil {
		return err
	}
	if err := i.pull(r.Context(), name, p, creds, out); err != nil {
		return out.fail(err)
	}
	return nil
}

func (i *Images) pull(ctx context.Context, name string, p *ocispec.Platform, creds transfer.Credentials, out *progress) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	tag := reference.FamiliarString(named)
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	}
	begin := sync.OnceFunc(func() { out.send(jsonstream.Message{ID: tag, Status: "Pulling from " + reference.Path(named)}) })
	target, newer, err := i.Mover.Pull(ctx, name, p, creds, func(s transfer.Step) {
		begin()
		out.step(s)
	})
	if err != nil {
		return err
	}
	begin()
	status := "Image is up to date for "
	if newer {
		status = "Downloaded newer image for "
	}
	out.send(jsonstream.Message{Status: "Digest: " + target.Digest.String()})
	out.send(jsonstream.Message{Status: "Status: " + status + reference.FamiliarString(named)})
	i.Publish(runner.Event{Type: "image", Action: "pull", ID: reference.FamiliarString(named),
		Attributes: map[string]string{"name": reference.FamiliarName(named)}})
	return nil
}

// importTar makes an image of one layer from the request's body or from what a URL has.
func (i *Images) importTar(w http.ResponseWriter, r *http.Request, from string, p *ocispec.Platform) error {
	q := r.URL.Query()
	var cfg dockerspec.DockerOCIImageConfig
	if err := i.change(&cfg, q["changes"]); err != nil {
		return err
	}
	o := rootfs.Options{Platform: platforms.DefaultSpec(), Message: q.Get("message"), Config: cfg}
	if q.Get("repo") != "" {
		name, err := tagged(q.Get("repo"), q.Get("tag"))
		if err != nil {
			return err
		}
		o.Name = name
	}
	if p != nil {
		o.Platform = *p
	}
	if o.Message == "" {
		o.Message = "Imported from " + from
	}
	out := newProgress(w)
	archive := io.Reader(r.Body)
	if from != "-" {
		res, at, err := download(r.Context(), from)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		out.send(jsonstream.Message{Status: "Downloading from " + at})
		archive = res.Body
	}
	target, err := rootfs.Import(r.Context(), i.Store, archive, o)
	if err != nil {
		return out.fail(err)
	}
	i.tell(r.Context(), "import", target, target.Digest.String())
	if o.Name != "" {
		i.tell(r.Context(), "tag", target, o.Name)
	}
	out.send(jsonstream.Message{Status: target.Digest.String()})
	return nil
}

// download gets what a URL has; without a scheme it is plain HTTP, as with Docker.
func download(ctx context.Context, from string) (*http.Response, string, error) {
	if !strings.Contains(from, "://") {
		from = "http://" + from
	}
	at, err := url.Parse(from)
	if err != nil {
		return nil, "", fault.Invalid("%q is no URL: %v", from, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, "", fault.Invalid("%q is no URL: %v", from, err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, "", fmt.Errorf("downloading %s: %w", at, err)
	}
	if res.StatusCode < 400 {
		return res, at.String(), nil
	}
	_ = res.Body.Close()
	err = fmt.Errorf("failed to GET %s with status %s", at, res.Status)
	switch {
	case res.StatusCode == http.StatusNotFound:
		err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case res.StatusCode < 500:
		err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil, "", err
}

// push uploads an image, or all tags of a repository when none is given.
func (i *Images) push(w http.ResponseWriter, r *http.Request, repo string) error {
	p, err := platformOf(r)
	if err != nil {
		return err
	}
	names, err := i.pushed(r.Context(), repo, r.FormValue("tag"))
	if err != nil {
		return err
	}
	creds := credentials(r)
	out := newProgress(w)
	for n, name := range names {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return err
		}
		if n == 0 {
			out.send(jsonstream.Message{Status: fmt.Sprintf("The push refers to repository [%s]", named.Name())})
		}
		target, err := i.Mover.Push(r.Context(), name, p, creds, out.step)
		if err != nil {
			return out.fail(err)
		}
		tag := "latest"
		if t, ok := named.(reference.Tagged); ok {
			tag = t.Tag()
		}
		out.send(jsonstream.Message{Status: fmt.Sprintf("%s: digest: %s size: %d", tag, target.Digest, target.Size)})
		i.Publish(runner.Event{Type: "image", Action: "push", ID: reference.FamiliarString(named),
			Attributes: map[string]string{"name": reference.FamiliarName(named)}})
	}
	return nil
}

// pushed are the full names that a push means.
func (i *Images) pushed(ctx context.Context, repo, tag string) (names []string, err error) {
	ctx = cache.WithNamespace(ctx)
	named, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return nil, fault.Invalid("invalid reference %q: %v", repo, err)
	}
	if tag != "" || !reference.IsNameOnly(named) {
		name, err := fullName(repo, tag)
		if err != nil {
			return nil, err
		}
		if _, err := i.Store.Lookup(ctx, name); errdefs.IsNotFound(err) {
			named, _ := reference.ParseNormalizedNamed(name)
			return nil, fault.NotFound("An image does not exist locally with the tag: %s", reference.FamiliarName(named))
		} else if err != nil {
			return nil, err
		}
		return []string{name}, nil
	}
	if names, err = i.tagsOf(ctx, named); err == nil && len(names) == 0 {
		err = fault.NotFound("An image does not exist locally with the tag: %s", reference.FamiliarName(named))
	}
	return names, err
}

// tagsOf lists the full names that a repository has here, in order.
func (i *Images) tagsOf(ctx context.Context, repository reference.Named) (names []string, err error) {
	records, err := i.Store.Client.ImageService().List(cache.WithNamespace(ctx))
	for _, rec := range records {
		other, err := reference.ParseNormalizedNamed(rec.Name)
		if err == nil && !cache.IsDangling(rec.Name) && other.Name() == repository.Name() {
			names = append(names, rec.Name)
		}
	}
	slices.Sort(names)
	return names, err
}

// distribution answers GET /distribution/{name}/json: what a registry has under a name, or this machine where it is for the cluster.
func (i *Images) distribution(w http.ResponseWriter, r *http.Request, name string) error {
	full, err := fullName(name, "")
	if err != nil {
		return err
	}
	desc, platforms, err := i.Find(r.Context(), full, credentials(r))
	if err != nil {
		return err
	}
	if platforms == nil {
		platforms = []ocispec.Platform{}
	}
	desc = ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	return writeJSON(w, http.StatusOK, registry.DistributionInspect{Descriptor: desc, Platforms: platforms})
}

// search refuses what is Docker Hub's own.
func (i *Images) search(http.ResponseWriter, *http.Request) error {
	return errdefs.ErrNotImplemented.WithMessage("searching is a service of Docker Hub, which gantry does not ask: " +
		"look at https://hub.docker.com/search")
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

func credentials(r *http.Request) transfer.Credentials {
	return Credentials(r.Header.Get("X-Registry-Auth"))
}

// Credentials reads what the header X-Registry-Auth has. As with Docker, what can't be read stands for an anonymous user.
func Credentials(header string) transfer.Credentials {
	var c registry.AuthConfig
	dt, err := base64.URLEncoding.DecodeString(header)
	if err != nil || json.Unmarshal(dt, &c) != nil {
		return transfer.Credentials{}
	}
	return transfer.Credentials{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken}
}

// progress sends JSON messages as they come; it is safe for concurrent use. Until the first, the answer can be an
// error with a status.
type progress struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	e     *json.Encoder
	begun bool
}

func newProgress(w http.ResponseWriter) *progress { return &progress{w: w, e: json.NewEncoder(w)} }

func (s *progress) send(m jsonstream.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "application/json")
		s.w.WriteHeader(http.StatusOK)
	}
	_ = s.e.Encode(m) // the client may have gone
	if f, ok := s.w.(http.Flusher); ok {
		f.Flush()
	}
}

func (s *progress) step(p transfer.Step) {
	m := jsonstream.Message{ID: p.ID, Status: p.Status, Progress: &jsonstream.Progress{}}
	if p.Total > 0 {
		m.Progress = &jsonstream.Progress{Current: p.Current, Total: p.Total}
	}
	s.send(m)
}

// fail ends the answer with an error: as the last message when the status line is sent already.
func (s *progress) fail(err error) error {
	s.mu.Lock()
	begun := s.begun
	s.mu.Unlock()
	if !begun {
		return err
	}
	s.send(jsonstream.Message{Error: &jsonstream.Error{Message: err.Error()}})
	return nil
}
