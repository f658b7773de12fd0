package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/v2/daemon/cluster/convert"
	swarmapi "github.com/moby/swarmkit/v2/api"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/cluster"
)

// pairs are values of a filter, each NAME or NAME=VALUE.
func pairs(values []string) map[string]string {
	all := map[string]string{}
	for _, v := range values {
		k, value, _ := strings.Cut(v, "=")
		all[k] = value
	}
	return all
}

func findNode(ctx context.Context, m cluster.Manager, ref string) (*swarmapi.Node, error) {
	return pick("node", ref, func() (*swarmapi.Node, error) {
		got, err := m.GetNode(ctx, &swarmapi.GetNodeRequest{NodeID: ref})
		if err != nil {
			return nil, err
		}
		return got.Node, nil
	}, func(names, prefixes []string) ([]*swarmapi.Node, error) {
		got, err := m.ListNodes(ctx, &swarmapi.ListNodesRequest{
			Filters: &swarmapi.ListNodesRequest_Filters{Names: names, IDPrefixes: prefixes},
		}, large())
		if err != nil {
			return nil, err
		}
		return got.Nodes, nil
	})
}

func (s *Swarm) nodes(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r)
	if err == nil {
		err = f.only("id", "label", "node.label", "membership", "name", "role")
	}
	if err != nil {
		return err
	}
	asked := &swarmapi.ListNodesRequest_Filters{
		IDPrefixes: f.values("id"), NamePrefixes: f.values("name"), Labels: pairs(f.values("label")),
		NodeLabels: pairs(f.values("node.label")),
	}
	for _, v := range f.values("role") {
		role, ok := swarmapi.NodeRole_value[strings.ToUpper(v)]
		if !ok {
			return fault.Invalid("invalid role filter: '%s'", v)
		}
		asked.Roles = append(asked.Roles, swarmapi.NodeRole(role))
	}
	for _, v := range f.values("membership") {
		membership, ok := swarmapi.NodeSpec_Membership_value[strings.ToUpper(v)]
		if !ok {
			return fault.Invalid("invalid membership filter: '%s'", v)
		}
		asked.Memberships = append(asked.Memberships, swarmapi.NodeSpec_Membership(membership))
	}
	got, err := m.ListNodes(r.Context(), &swarmapi.ListNodesRequest{Filters: asked}, large())
	if err != nil {
		return err
	}
	all := make([]swarm.Node, 0, len(got.Nodes))
	for _, n := range got.Nodes {
		all = append(all, convert.NodeFromGRPC(*n))
	}
	return writeJSON(w, http.StatusOK, all)
}

func (s *Swarm) node(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	n, err := findNode(r.Context(), m, r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, convert.NodeFromGRPC(*n))
}

func (s *Swarm) updateNode(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	var spec swarm.NodeSpec
	if err := readJSON(r, &spec); err != nil {
		return err
	}
	version, err := versionOf(r, "node")
	if err != nil {
		return err
	}
	converted, err := convert.NodeSpecToGRPC(spec)
	if err != nil {
		return fault.Invalid("%v", err)
	}
	n, err := findNode(r.Context(), m, r.PathValue("id"))
	if err != nil {
		return err
	}
	_, err = m.UpdateNode(r.Context(), &swarmapi.UpdateNodeRequest{NodeID: n.ID, Spec: &converted, NodeVersion: version})
	return done(w, err)
}

func (s *Swarm) removeNode(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	n, err := findNode(r.Context(), m, r.PathValue("id"))
	if err != nil {
		return err
	}
	_, err = m.RemoveNode(r.Context(), &swarmapi.RemoveNodeRequest{NodeID: n.ID, Force: flag(r, "force")})
	return done(w, err)
}
