package topology

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/ca"
)

// Registry is what all nodes believe of a registry host.
type Registry struct {
	HTTP bool   `json:",omitempty"` // it speaks plain HTTP
	CA   string `json:",omitempty"` // its authorities, as PEM
}

// RegistryLabel begins the labels of a cluster that each tell of a registry host, as JSON.
const RegistryLabel = "com.gantry.registry/"

// RegistriesPath is where a node tells managers of registries.
const RegistriesPath = "/v1/registries"

// registries are those that the cluster's labels tell of.
func registries(s *store) map[string]Registry {
	all := map[string]Registry{}
	for _, c := range s.clusters {
		for label, text := range c.Spec.Annotations.Labels {
			host, ok := strings.CutPrefix(label, RegistryLabel)
			var r Registry
			if ok && json.Unmarshal([]byte(text), &r) == nil {
				all[host] = r
			}
		}
	}
	return all
}

// Sharer takes what nodes tell of registries. A manager may tell of any; a worker of its own only, as one that has been broken into
// could else stand in for all others.
func Sharer(hub func() *Hub, share func(context.Context, map[string]Registry) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, who := hub(), r.TLS.PeerCertificates[0].Subject
		var all map[string]Registry
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&all)
		switch {
		case r.Method != http.MethodPost:
			http.Error(w, "POST tells of registries", http.StatusMethodNotAllowed)
			return
		case h == nil:
			http.Error(w, errNoManager.Error(), http.StatusServiceUnavailable)
			return
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if !slices.Contains(who.OrganizationalUnit, ca.ManagerRole) {
			all = h.ownRegistries(who.CommonName, all)
		}
		if err := share(r.Context(), all); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

// ownRegistries are those of all that are on a node itself, by its name or its address.
func (h *Hub) ownRegistries(node string, all map[string]Registry) map[string]Registry {
	own := map[string]Registry{}
	for _, m := range h.Members() {
		if m.ID != node {
			continue
		}
		at, _, _ := net.SplitHostPort(m.At)
		for host, r := range all {
			name, _, err := net.SplitHostPort(host)
			if err == nil && (name == at || strings.EqualFold(name, m.Name)) {
				own[host] = r
			}
		}
	}
	return own
}

// TellRegistries tells managers, each HOST:PORT, one after the other until one takes it.
func TellRegistries(ctx context.Context, managers []string, id Identity, all map[string]Registry) error {
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	err = errors.New("no manager is known")
	for _, m := range managers {
		if err = tellRegistries(ctx, m, id, text); err == nil {
			return nil
		}
	}
	return err
}

func tellRegistries(ctx context.Context, manager string, id Identity, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	res, err := send(ctx, http.MethodPost, manager, RegistriesPath, id, bytes.NewReader(text))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return fmt.Errorf("manager %s: %s", manager, strings.TrimSpace(string(why)))
	}
	return nil
}

// Labels are those of a cluster after all has been told of, and whether that changes anything.
func Labels(spec api.ClusterSpec, all map[string]Registry) (labels map[string]string, changed bool, err error) {
	labels = map[string]string{}
	for k, v := range spec.Annotations.Labels {
		labels[k] = v
	}
	for host, r := range all {
		text, err := json.Marshal(r)
		if err != nil {
			return nil, false, err
		}
		if key := RegistryLabel + host; labels[key] != string(text) {
			labels[key], changed = string(text), true
		}
	}
	return labels, changed, nil
}
