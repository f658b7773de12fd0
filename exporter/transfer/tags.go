package transfer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"github.com/gantry-build/gantry/exporter/trust"
	"github.com/gantry-build/gantry/internal/fault"
)

const (
	maxTagsPage = 4 << 20 // bytes of one answer
	maxTags     = 10_000
)

// Tags lists the tags that a registry has of a repository (OCI distribution-spec v1.1, "Listing Tags").
func (m *Mover) Tags(ctx context.Context, repository reference.Named, c Credentials) ([]string, error) {
	hosts, err := m.hosts(c, reference.Domain(repository))
	if err != nil {
		return nil, err
	}
	err = fault.NotFound("no registry is known for %s", repository)
	for _, h := range hosts {
		if !h.Capabilities.Has(docker.HostCapabilityResolve) {
			continue
		}
		var tags []string
		if tags, err = tagsAt(ctx, h, reference.Path(repository)); err == nil {
			return tags, nil
		}
	}
	return nil, fmt.Errorf("listing the tags of %s: %w",
		reference.FamiliarName(repository), trust.Explain(reference.Domain(repository), err))
}

func tagsAt(ctx context.Context, h docker.RegistryHost, path string) (all []string, err error) {
	next := &url.URL{Scheme: h.Scheme, Host: h.Host, Path: h.Path + "/" + path + "/tags/list"}
	ctx = docker.WithScope(ctx, "repository:"+path+":pull")
	for next != nil && len(all) < maxTags {
		var page struct{ Tags []string }
		link, err := get(ctx, h, next, &page)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Tags...)
		if next, err = following(next, link); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// following is where a Link header (RFC 8288) says that the list goes on; nil: nowhere.
func following(at *url.URL, link string) (*url.URL, error) {
	target, rest, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || !strings.Contains(rest, "next") {
		return nil, nil
	}
	next, err := at.Parse(target)
	if err == nil && next.Host != at.Host {
		return nil, fmt.Errorf("%s says that its list of tags goes on at another host, %s", at.Host, next.Host)
	}
	return next, err
}

// get asks a registry twice when it wants to know who asks.
func get(ctx context.Context, h docker.RegistryHost, at *url.URL, v any) (link string, err error) {
	var seen []*http.Response
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
		if err != nil {
			return "", err
		}
		for k, values := range h.Header {
			req.Header[k] = values
		}
		if err := h.Authorizer.Authorize(ctx, req); err != nil {
			return "", err
		}
		res, err := h.Client.Do(req)
		if err != nil {
			return "", err
		}
		body, err := io.ReadAll(io.LimitReader(res.Body, maxTagsPage))
		_ = res.Body.Close()
		if err != nil {
			return "", err
		}
		switch {
		case res.StatusCode == http.StatusOK:
			return res.Header.Get("Link"), json.Unmarshal(body, v)
		case res.StatusCode == http.StatusUnauthorized && len(seen) == 0:
			seen = append(seen, res)
			if err := h.Authorizer.AddResponses(ctx, seen); err != nil {
				return "", err
			}
		case res.StatusCode == http.StatusNotFound:
			return "", errdefs.ErrNotFound.WithMessage("repository does not exist")
		default:
			return "", fmt.Errorf("%s answered %s", at.Host, res.Status)
		}
	}
}
