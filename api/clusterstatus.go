package api

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/v2/daemon/cluster/convert"
	swarmapi "github.com/moby/swarmkit/v2/api"

	"github.com/gantry-build/gantry/internal/check"
	"github.com/gantry-build/gantry/runner/cluster"
	"github.com/gantry-build/gantry/runner/cluster/placement"
)

// ClusterStatus is the answer to GET /gantry/cluster: how the cluster is, as far as it can be told from this node.
type ClusterStatus struct {
	ID      string `json:",omitempty"`
	NodeID  string // of this node
	State   string // of this node: active, pending, locked, error
	Manager bool   // this node is
	Error   string `json:",omitempty"` // why the rest is not known; the rest is empty then
	Peers   []string

	AutoLock   bool
	CARotates  bool
	CAEnds     time.Time
	Nodes      []ClusterNode
	NotRunning []ClusterTask
}

// ClusterNode is a node as its managers know it.
type ClusterNode struct {
	ID, Hostname, Addr, State, Availability, Version string

	Manager         string    // leader, reachable or unreachable; empty for a worker
	Error           string    `json:",omitempty"`
	CertificateEnds time.Time `json:",omitzero"`
}

// ClusterTask is one that should run, and does not.
type ClusterTask struct {
	ID, Name, Node, State, Why string

	Since time.Time
}

// Quorum tells how many managers there are, how many of them answer, and how many have to.
func (s ClusterStatus) Quorum() (managers, answer, need int) {
	for _, n := range s.Nodes {
		if n.Manager != "" {
			managers++
		}
		if n.Manager == "leader" || n.Manager == "reachable" {
			answer++
		}
	}
	return managers, answer, managers/2 + 1
}

// clusterStatus answers GET /gantry/cluster. A node that can't reach its managers answers with what it knows itself.
func (s *Swarm) clusterStatus(w http.ResponseWriter, r *http.Request) error {
	st := s.Cluster.Status()
	if st.State == cluster.Inactive {
		return cluster.ErrNone
	}
	out := ClusterStatus{NodeID: st.NodeID, State: string(st.State), Manager: st.Manager, Peers: []string{}}
	for _, p := range st.Remotes {
		out.Peers = append(out.Peers, p.Addr)
	}
	slices.Sort(out.Peers)
	m, err := s.Cluster.Manager()
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout/2)
		defer cancel()
		err = fromManager(out.ask(ctx, m))
	}
	for i, n := range out.Nodes {
		if n.ID == st.NodeID { // a first manager has signed its own, which the cluster does not keep
			out.Nodes[i].CertificateEnds = certificateEnd(s.Cluster.Certificate())
		}
	}
	if err != nil {
		out.Nodes, out.NotRunning = nil, nil
		out.Error = cmp.Or(errors.Join(st.Err, err), err).Error()
	}
	return writeJSON(w, http.StatusOK, out)
}

// doctor answers GET /gantry/cluster/doctor with []check.Finding: what of the cluster is reached from here.
func (s *Swarm) doctor(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Cluster.Examine(r.Context())
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b check.Finding) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Text, b.Text))
	})
	return writeJSON(w, http.StatusOK, all)
}

func (s *ClusterStatus) ask(ctx context.Context, m cluster.Manager) error {
	c, err := theCluster(ctx, m)
	if err != nil {
		return err
	}
	s.ID = c.ID
	s.AutoLock = c.Spec.EncryptionConfig.AutoLockManagers
	s.CARotates, s.CAEnds = c.RootCA.RootRotation != nil, certificateEnd(c.RootCA.CACert)
	nodes, err := m.ListNodes(ctx, &swarmapi.ListNodesRequest{}, large())
	if err != nil {
		return err
	}
	for _, n := range nodes.Nodes {
		s.Nodes = append(s.Nodes, clusterNode(n))
	}
	slices.SortFunc(s.Nodes, func(a, b ClusterNode) int {
		return cmp.Or(cmp.Compare(a.Hostname, b.Hostname), cmp.Compare(a.ID, b.ID))
	})
	tasks, err := m.ListTasks(ctx, &swarmapi.ListTasksRequest{Filters: &swarmapi.ListTasksRequest_Filters{
		DesiredStates: []swarmapi.TaskState{swarmapi.TaskStateRunning, swarmapi.TaskStateReady, swarmapi.TaskStateCompleted},
		UpToDate:      true,
	}}, large())
	if err != nil {
		return err
	}
	for _, t := range tasks.Tasks {
		if t.Status.State != swarmapi.TaskStateRunning && t.Status.State != swarmapi.TaskStateCompleted {
			s.NotRunning = append(s.NotRunning, s.clusterTask(t))
		}
	}
	slices.SortFunc(s.NotRunning, func(a, b ClusterTask) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

func clusterNode(n *swarmapi.Node) ClusterNode {
	out := ClusterNode{
		ID: n.ID, State: strings.ToLower(n.Status.State.String()), Availability: strings.ToLower(n.Spec.Availability.String()),
		Addr: n.Status.Addr, Error: n.Status.Message, CertificateEnds: certificateEnd(n.Certificate.Certificate),
	}
	if d := n.Description; d != nil {
		out.Hostname = d.Hostname
		if d.Engine != nil {
			out.Version = d.Engine.EngineVersion
		}
	}
	if ms := n.ManagerStatus; ms != nil {
		out.Manager = strings.ToLower(ms.Reachability.String())
		if ms.Leader {
			out.Manager = "leader"
		}
	}
	return out
}

func (s *ClusterStatus) clusterTask(t *swarmapi.Task) ClusterTask {
	name := t.ServiceAnnotations.Name
	switch {
	case t.Slot > 0:
		name = fmt.Sprintf("%s.%d", name, t.Slot)
	case t.NodeID != "":
		name += "." + t.NodeID
	}
	out := ClusterTask{ID: t.ID, Name: name, State: strings.ToLower(t.Status.State.String()), Why: cmp.Or(t.Status.Err, t.Status.Message)}
	if converted, err := convert.TaskFromGRPC(*t); err == nil {
		out.Since = converted.Status.Timestamp
	}
	for _, n := range s.Nodes {
		if n.ID == t.NodeID {
			out.Node = n.Hostname
		}
	}
	return out
}

// certificateEnd is when the first certificate of a PEM text ends; zero if there is none.
func certificateEnd(text []byte) time.Time {
	block, _ := pem.Decode(text)
	if block == nil {
		return time.Time{}
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}
	}
	return c.NotAfter
}

// platforms answers GET /gantry/cluster/platforms?constraint=: for which platforms an image has to be so that all nodes that meet the
// constraints run it.
func (s *Swarm) platforms(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	nodes, err := m.ListNodes(r.Context(), &swarmapi.ListNodesRequest{})
	if err != nil {
		return err
	}
	all, err := placement.Fit(nodes.Nodes, r.URL.Query()["constraint"])
	if err != nil {
		return err
	}
	if all == nil {
		all = []string{}
	}
	return writeJSON(w, http.StatusOK, all)
}
