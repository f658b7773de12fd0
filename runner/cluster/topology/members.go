package topology

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/swarmkit/v2/api"
)

// Member is a node that is ready.
type Member struct {
	ID, Name string
	At       string // HOST:PORT, where it talks to other nodes
}

// BuildLabel on a node keeps it from building for others, when it is "false".
const BuildLabel = "com.gantry.build"

// Builder is a node that is ready and takes work.
type Builder struct {
	Member
	Description *api.NodeDescription
}

// Builders are the nodes that may build for others; none as long as nothing is known.
func (h *Hub) Builders() []Builder {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.builders
}

func builders(s *store) (all []Builder) {
	for _, m := range members(s) {
		n := s.nodes[m.ID]
		if n.Spec.Availability == api.NodeAvailabilityActive && n.Spec.Annotations.Labels[BuildLabel] != "false" {
			all = append(all, Builder{m, n.Description})
		}
	}
	return all
}

// Members are the nodes that are ready, managers first; none as long as nothing is known.
func (h *Hub) Members() []Member {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.members
}

func members(s *store) (all []Member) {
	managers := map[string]bool{}
	for _, n := range s.nodes {
		at := controlOf(n)
		if n.Status.State != api.NodeStatus_READY || at == "" {
			continue
		}
		managers[n.ID] = n.ManagerStatus != nil
		all = append(all, Member{n.ID, nodeName(n), net.JoinHostPort(at, strconv.Itoa(ListenPort))})
	}
	slices.SortFunc(all, func(a, b Member) int {
		if managers[a.ID] != managers[b.ID] {
			if managers[a.ID] {
				return -1
			}
			return 1
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

// controlOf is the host by which other nodes reach a node itself: a manager tells it, managers see it of the others, and what neither
// is known of, as it is of a leader in its own eyes, is reached as its containers are.
func controlOf(n *api.Node) string {
	texts := []string{n.Status.Addr, pathOf(n).String()}
	if n.ManagerStatus != nil {
		host, _, _ := net.SplitHostPort(n.ManagerStatus.Addr)
		texts = append([]string{host}, texts...)
	}
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil && !a.IsUnspecified() && !a.IsLoopback() {
			return text
		}
	}
	return ""
}

// AskMembers asks managers, each HOST:PORT, one after the other for the nodes that are ready.
func AskMembers(ctx context.Context, managers []string, id Identity) (all []Member, err error) {
	err = errors.New("no manager is known")
	for _, m := range managers {
		if all, err = askMembers(ctx, m, id); err == nil {
			return all, nil
		}
	}
	return nil, err
}

func askMembers(ctx context.Context, manager string, id Identity) (all []Member, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	res, err := ask(ctx, manager, membersPath, id)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return all, json.NewDecoder(res.Body).Decode(&all)
}

// answerWithin is how long a node may take for the beginning of an answer.
const answerWithin = 10 * time.Second

// Transport reaches the node of an ID at https://ID/, and no other: by mutual TLS, at the address that find returns.
func Transport(id Identity, find func(ctx context.Context, node string) (address string, err error)) *http.Transport {
	return &http.Transport{
		MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second, ResponseHeaderTimeout: answerWithin, DisableCompression: true,
		DialTLSContext: func(ctx context.Context, network, host string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(host)
			if err != nil {
				return nil, err
			}
			at, err := find(ctx, node)
			if err != nil {
				return nil, fmt.Errorf("node %s: %w", node, err)
			}
			return dial(ctx, network, id, node, at)
		},
	}
}

// dial connects to the node of an ID, and no other, at an address, HOST:PORT.
func dial(ctx context.Context, network string, id Identity, node, at string) (net.Conn, error) {
	config, err := id.config()
	if err != nil {
		return nil, err
	}
	config.ServerName = node
	return (&tls.Dialer{Config: config, NetDialer: &net.Dialer{Timeout: answerWithin / 2}}).DialContext(ctx, network, at)
}
