package topology

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/api/naming"
	"google.golang.org/grpc"
)

// store is a copy of what the cluster's store has of this package's concern.
type store struct {
	networks map[string]*api.Network
	nodes    map[string]*api.Node
	services map[string]*api.Service
	tasks    map[string]*api.Task
	clusters map[string]*api.Cluster
}

func newStore() *store {
	return &store{
		map[string]*api.Network{}, map[string]*api.Node{}, map[string]*api.Service{}, map[string]*api.Task{}, map[string]*api.Cluster{},
	}
}

func taskName(t *api.Task) string {
	if t.Annotations.Name != "" {
		return t.Annotations.Name
	}
	return naming.Task(t)
}

// put keeps an object, unless a newer one is there.
func put[T interface{ GetMeta() api.Meta }](all map[string]T, id string, o T) {
	if have, ok := all[id]; !ok || have.GetMeta().Version.Index <= o.GetMeta().Version.Index {
		all[id] = o
	}
}

func (s *store) apply(e *api.WatchMessage_Event) {
	gone := e.Action == api.WatchActionKindRemove
	switch o := e.Object.GetObject().(type) {
	case *api.Object_Network:
		if put(s.networks, o.Network.ID, o.Network); gone {
			delete(s.networks, o.Network.ID)
		}
	case *api.Object_Cluster:
		put(s.clusters, o.Cluster.ID, o.Cluster)
	case *api.Object_Node:
		if put(s.nodes, o.Node.ID, o.Node); gone {
			delete(s.nodes, o.Node.ID)
		}
	case *api.Object_Service:
		if put(s.services, o.Service.ID, o.Service); gone {
			delete(s.services, o.Service.ID)
		}
	case *api.Object_Task:
		if put(s.tasks, o.Task.ID, o.Task); gone {
			delete(s.tasks, o.Task.ID)
		}
	}
}

// Hub is what a manager tells nodes. Its zero value knows nothing yet. It is safe for concurrent use.
type Hub struct {
	mu       sync.Mutex
	known    bool
	networks map[string]string   // as JSON
	needs    map[string][]string // of nodes, by their IDs
	members  []Member
	builders []Builder
	trust    string        // in registries, as JSON
	turn     chan struct{} // closed at the next change
}

// Run keeps the hub up to date by a manager's control connection, until ctx or the connection ends.
func (h *Hub) Run(ctx context.Context, conn *grpc.ClientConn, log *slog.Logger) {
	for ctx.Err() == nil {
		err := h.watch(ctx, conn)
		if ctx.Err() != nil {
			return
		}
		log.Debug("the cluster's topology is looked at anew", "reason", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// settle is how long changes are gathered: a rolling update makes several at once.
const settle = 20 * time.Millisecond

func (h *Hub) watch(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	const all = api.WatchActionKindCreate | api.WatchActionKindUpdate | api.WatchActionKindRemove
	req := &api.WatchRequest{}
	for _, kind := range []string{"cluster", "network", "node", "service", "task"} {
		req.Entries = append(req.Entries, &api.WatchRequest_WatchEntry{Kind: kind, Action: all})
	}
	stream, err := api.NewWatchClient(conn).Watch(ctx, req)
	if err == nil {
		_, err = stream.Recv() // from here on nothing is missed
	}
	if err != nil {
		return err
	}
	s := newStore()
	if err := s.fill(ctx, api.NewControlClient(conn)); err != nil {
		return err
	}
	events := make(chan []*api.WatchMessage_Event, 64)
	ended := make(chan error, 1)
	go func() {
		defer close(events)
		for {
			m, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case events <- m.Events:
			case <-ctx.Done():
				return
			}
		}
	}()
	h.publish(s)
	for batch := range events {
		for gather := time.After(settle); batch != nil; {
			for _, e := range batch {
				s.apply(e)
			}
			select {
			case batch = <-events: // nil when they have ended
			case <-gather:
				batch = nil
			}
		}
		h.publish(s)
	}
	select {
	case err = <-ended:
	default:
	}
	return err
}

func (s *store) fill(ctx context.Context, c api.ControlClient) error {
	large := grpc.MaxCallRecvMsgSize(256 << 20)
	networks, err := c.ListNetworks(ctx, &api.ListNetworksRequest{}, large)
	if err != nil {
		return err
	}
	nodes, err := c.ListNodes(ctx, &api.ListNodesRequest{}, large)
	if err != nil {
		return err
	}
	services, err := c.ListServices(ctx, &api.ListServicesRequest{}, large)
	if err != nil {
		return err
	}
	tasks, err := c.ListTasks(ctx, &api.ListTasksRequest{}, large)
	if err != nil {
		return err
	}
	clusters, err := c.ListClusters(ctx, &api.ListClustersRequest{})
	if err != nil {
		return err
	}
	for _, o := range clusters.Clusters {
		s.clusters[o.ID] = o
	}
	for _, o := range networks.Networks {
		s.networks[o.ID] = o
	}
	for _, o := range nodes.Nodes {
		s.nodes[o.ID] = o
	}
	for _, o := range services.Services {
		s.services[o.ID] = o
	}
	for _, o := range tasks.Tasks {
		s.tasks[o.ID] = o
	}
	return nil
}

// publish computes what there is to say, and wakes those who are told.
func (h *Hub) publish(s *store) {
	networks := map[string]string{}
	for id, n := range compute(s) {
		if data, err := json.Marshal(n); err == nil {
			networks[id] = string(data)
		}
	}
	needs := map[string][]string{}
	for id, n := range s.nodes {
		for _, at := range attachments(n) {
			needs[id] = append(needs[id], at.Network.ID)
		}
	}
	trust, err := json.Marshal(registries(s))
	if err != nil {
		trust = nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	same := h.known && h.trust == string(trust) && maps.Equal(h.networks, networks) && maps.EqualFunc(h.needs, needs, equal)
	h.known, h.networks, h.needs, h.trust = true, networks, needs, string(trust)
	h.members, h.builders = members(s), builders(s)
	if !same && h.turn != nil {
		close(h.turn)
		h.turn = nil
	}
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// look returns the networks that a node is in, each as JSON, and a channel that is closed at the next change. known is false as
// long as nothing can be said.
func (h *Hub) look(node string) (mine map[string]string, trust string, known bool, turn <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.turn == nil {
		h.turn = make(chan struct{})
	}
	mine = map[string]string{}
	for _, id := range h.needs[node] {
		if n, ok := h.networks[id]; ok {
			mine[id] = n
		}
	}
	return mine, h.trust, h.known, h.turn
}

// message is one line of what a node is told: networks that it has to know anew, and those that it is in no more.
type message struct {
	Networks []json.RawMessage `json:",omitempty"`
	Gone     []string          `json:",omitempty"`
	Whole    bool              `json:",omitempty"` // there are no others than those of this message

	Registries json.RawMessage `json:",omitempty"` // all, when they have changed
}

// tell says what a node has to know, until ctx or say ends. It says something at least every pulse.
func (h *Hub) tell(ctx context.Context, node string, pulse time.Duration, say func(message) error) error {
	said, trusted := map[string]string{}, ""
	first := true
	for {
		mine, trust, known, turn := h.look(node)
		var m message
		if known {
			m.Whole, first = first, false
			for id, text := range mine {
				if said[id] != text {
					m.Networks = append(m.Networks, json.RawMessage(text))
				}
			}
			for id := range said {
				if _, ok := mine[id]; !ok {
					m.Gone = append(m.Gone, id)
				}
			}
			if said = mine; trust != trusted {
				m.Registries, trusted = json.RawMessage(trust), trust
			}
		}
		if err := say(m); err != nil {
			return err
		}
		select {
		case <-turn:
		case <-time.After(pulse):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
