package api

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/v2/daemon/cluster/convert"
	swarmapi "github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/encryption"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/cluster"
)

// Swarm answers what clients ask of the cluster. All fields are needed.
type Swarm struct {
	Cluster *cluster.Cluster
	// Platforms tells for which an image is; auth is the header of that name.
	Platforms func(ctx context.Context, image, auth string) ([]ocispec.Platform, error)
}

// requestTimeout is how long a manager may take for an answer.
const requestTimeout = 20 * time.Second

// largeAnswer is the size of the largest list that is taken from a manager.
const largeAnswer = 64 << 20

// Routes adds the endpoints.
func (s *Swarm) Routes(r *Router) {
	r.Handle(http.MethodPost, "/swarm/init", s.init)
	r.Handle(http.MethodPost, "/swarm/join", s.join)
	r.Handle(http.MethodPost, "/swarm/leave", s.leave)
	r.Handle(http.MethodPost, "/swarm/unlock", s.unlock)
	r.Handle(http.MethodGet, "/swarm", s.managed(s.inspect))
	r.Handle(http.MethodPost, "/swarm/update", s.managed(s.update))
	r.Handle(http.MethodGet, "/swarm/unlockkey", s.managed(s.unlockKey))

	r.Handle(http.MethodGet, "/gantry/cluster", s.clusterStatus)
	r.Handle(http.MethodGet, "/gantry/cluster/doctor", s.doctor)
	r.Handle(http.MethodGet, "/gantry/cluster/backup", s.backup)
	r.Handle(http.MethodPost, "/gantry/cluster/restore", s.restore)
	r.Handle(http.MethodPost, "/gantry/cluster/recover", s.recover)
	r.Handle(http.MethodPost, "/gantry/cluster/registries", s.shareRegistries)
	r.Handle(http.MethodGet, "/gantry/cluster/platforms", s.managed(s.platforms))

	r.Handle(http.MethodGet, "/nodes", s.managed(s.nodes))
	r.Handle(http.MethodGet, "/nodes/{id}", s.managed(s.node))
	r.Handle(http.MethodPost, "/nodes/{id}/update", s.managed(s.updateNode))
	r.Handle(http.MethodDelete, "/nodes/{id}", s.managed(s.removeNode))

	r.Handle(http.MethodGet, "/services", s.managed(s.services))
	r.Handle(http.MethodPost, "/services/create", s.managed(s.createService))
	r.Handle(http.MethodGet, "/services/{id}", s.managed(s.service))
	r.Handle(http.MethodPost, "/services/{id}/update", s.managed(s.updateService))
	r.Handle(http.MethodDelete, "/services/{id}", s.managed(s.removeService))
	r.Handle(http.MethodGet, "/services/{id}/logs", s.streamed(s.serviceLogs))

	r.Handle(http.MethodGet, "/tasks", s.managed(s.tasks))
	r.Handle(http.MethodGet, "/tasks/{id}", s.managed(s.task))
	r.Handle(http.MethodGet, "/tasks/{id}/logs", s.streamed(s.taskLogs))

	r.Handle(http.MethodGet, "/secrets", s.managed(s.secrets))
	r.Handle(http.MethodPost, "/secrets/create", s.managed(s.createSecret))
	r.Handle(http.MethodGet, "/secrets/{id}", s.managed(s.secret))
	r.Handle(http.MethodPost, "/secrets/{id}/update", s.managed(s.updateSecret))
	r.Handle(http.MethodDelete, "/secrets/{id}", s.managed(s.removeSecret))

	r.Handle(http.MethodGet, "/configs", s.managed(s.configs))
	r.Handle(http.MethodPost, "/configs/create", s.managed(s.createConfig))
	r.Handle(http.MethodGet, "/configs/{id}", s.managed(s.config))
	r.Handle(http.MethodPost, "/configs/{id}/update", s.managed(s.updateConfig))
	r.Handle(http.MethodDelete, "/configs/{id}", s.managed(s.removeConfig))
}

// managerFunc answers a request by the cluster's control.
type managerFunc func(m cluster.Manager, w http.ResponseWriter, r *http.Request) error

// managed has f answer where the cluster can be managed, within the time that managers have.
func (s *Swarm) managed(f managerFunc) HandlerFunc {
	return s.streamed(func(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		return f(m, w, r.WithContext(ctx))
	})
}

// streamed is managed without a bound.
func (s *Swarm) streamed(f managerFunc) HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		m, err := s.Cluster.Manager()
		if err == nil {
			err = f(m, w, r)
		}
		return fromManager(err)
	}
}

// fromManager is an error of SwarmKit's as one of errdefs, with its words alone.
func fromManager(err error) error {
	if err == nil {
		return nil
	}
	said, ok := status.FromError(err)
	if !ok {
		return err
	}
	if said.Code() == codes.ResourceExhausted && strings.Contains(said.Message(), "larger than max") {
		return fault.Invalid("the request is too large for the cluster's managers, which keep it in memory and in Raft's log (%s): "+
			"put large content into a config, a volume or the image", said.Message())
	}
	return errgrpc.ToNative(err)
}

// large is for lists.
func large() grpc.CallOption { return grpc.MaxCallRecvMsgSize(largeAnswer) }

// pick finds the one thing that a reference means: its ID, else its name, else the beginning of its ID.
func pick[T any](what, ref string, byID func() (T, error), list func(names, prefixes []string) ([]T, error)) (none T, err error) {
	if found, err := byID(); err == nil {
		return found, nil
	}
	all, err := list([]string{ref}, nil)
	if err != nil || len(all) == 0 {
		all, err = list(nil, []string{ref})
	}
	switch {
	case err != nil:
		return none, err
	case len(all) == 0:
		return none, errdefs.ErrNotFound.WithMessage(what + " " + ref + " not found")
	case len(all) > 1:
		return none, fault.Invalid("%s %s is ambiguous (%d matches found)", what, ref, len(all))
	}
	return all[0], nil
}

// versionOf is the version of a thing on which a change is based.
func versionOf(r *http.Request, what string) (*swarmapi.Version, error) {
	text := r.URL.Query().Get("version")
	index, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, fault.Invalid("invalid %s version '%s': %v", what, text, err)
	}
	return &swarmapi.Version{Index: index}, nil
}

func theCluster(ctx context.Context, m cluster.Manager) (*swarmapi.Cluster, error) {
	found, err := m.ListClusters(ctx, &swarmapi.ListClustersRequest{})
	if err != nil {
		return nil, err
	}
	if len(found.Clusters) == 0 {
		return nil, cluster.ErrNone
	}
	return found.Clusters[0], nil
}

func (s *Swarm) init(w http.ResponseWriter, r *http.Request) error {
	var req swarm.InitRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if name := req.Spec.Annotations.Name; name != "" && name != "default" {
		return fault.Invalid(`swarm spec must be named "default"`)
	}
	req.Spec.Annotations.Name = "default"
	if req.ListenAddr == "" {
		return fault.Invalid("invalid ListenAddr \"\": invalid empty address")
	}
	listen, advertise, err := cluster.Addresses(req.ListenAddr, req.AdvertiseAddr, false)
	if err != nil {
		return err
	}
	want := cluster.Init{
		Config: cluster.Config{
			Listen: listen, Advertise: advertise, DataPath: req.DataPathAddr, DataPathPort: req.DataPathPort, SubnetSize: req.SubnetSize,
		},
		ForceNew: req.ForceNewCluster, AutoLock: req.AutoLockManagers, Availability: string(req.Availability),
	}
	for _, p := range req.DefaultAddrPool {
		want.Pools = append(want.Pools, p.String())
	}
	id, err := s.Cluster.Init(r.Context(), want)
	if err != nil {
		return err
	}
	if err := s.settle(r.Context(), req.Spec); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, id)
}

// settle gives a new cluster what the user has said of it, beside SwarmKit's defaults.
func (s *Swarm) settle(ctx context.Context, spec swarm.Spec) error {
	m, err := s.Cluster.Manager()
	if err != nil {
		return err
	}
	c, err := theCluster(ctx, m)
	if err != nil {
		return fromManager(err)
	}
	merged, err := convert.MergeSwarmSpecToGRPC(spec, c.Spec)
	if err != nil {
		return fault.Invalid("%v", err)
	}
	_, err = m.UpdateCluster(ctx, &swarmapi.UpdateClusterRequest{ClusterID: c.ID, ClusterVersion: &c.Meta.Version, Spec: &merged})
	return fromManager(err)
}

func (s *Swarm) join(w http.ResponseWriter, r *http.Request) error {
	var req swarm.JoinRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if len(req.RemoteAddrs) == 0 {
		return fault.Invalid("at least 1 RemoteAddr is required to join")
	}
	listen, advertise, err := cluster.Addresses(cmp.Or(req.ListenAddr, "0.0.0.0:"+cluster.DefaultPort), req.AdvertiseAddr, true)
	if err != nil {
		return err
	}
	remote, err := cluster.Remote(req.RemoteAddrs[0])
	if err != nil {
		return err
	}
	err = s.Cluster.Join(r.Context(), cluster.Join{
		Config: cluster.Config{Listen: listen, Advertise: advertise, DataPath: req.DataPathAddr, Remote: remote},
		Token:  req.JoinToken, Availability: string(req.Availability),
	})
	if err != nil {
		return fromManager(err)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Swarm) leave(w http.ResponseWriter, r *http.Request) error {
	if err := s.Cluster.Leave(r.Context(), flag(r, "force")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Swarm) unlock(w http.ResponseWriter, r *http.Request) error {
	var req swarm.UnlockRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if err := s.Cluster.Unlock(r.Context(), req.UnlockKey); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Swarm) inspect(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	c, err := theCluster(r.Context(), m)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, convert.SwarmFromGRPC(*c))
}

func (s *Swarm) update(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	var spec swarm.Spec
	if err := readJSON(r, &spec); err != nil {
		return err
	}
	version, err := versionOf(r, "swarm")
	if err != nil {
		return err
	}
	if spec.Annotations.Name = cmp.Or(spec.Annotations.Name, "default"); spec.Annotations.Name != "default" {
		return fault.Invalid(`swarm spec must be named "default"`)
	}
	var rotate swarmapi.KeyRotation
	for name, to := range map[string]*bool{
		"rotateWorkerToken": &rotate.WorkerJoinToken, "rotateManagerToken": &rotate.ManagerJoinToken,
		"rotateManagerUnlockKey": &rotate.ManagerUnlockKey,
	} {
		text := r.URL.Query().Get(name)
		if *to, err = strconv.ParseBool(cmp.Or(text, "false")); err != nil {
			return fault.Invalid("invalid value for %s: %s", name, text)
		}
	}
	c, err := theCluster(r.Context(), m)
	if err != nil {
		return err
	}
	converted, err := convert.SwarmSpecToGRPC(spec)
	if err != nil {
		return fault.Invalid("%v", err)
	}
	_, err = m.UpdateCluster(r.Context(), &swarmapi.UpdateClusterRequest{
		ClusterID: c.ID, Spec: &converted, ClusterVersion: version, Rotation: rotate,
	})
	return done(w, err)
}

// done answers that something has been done.
func done(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusOK)
	}
	return err
}

func (s *Swarm) unlockKey(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	key, err := m.CA.GetUnlockKey(r.Context(), &swarmapi.GetUnlockKeyRequest{})
	if err != nil {
		return err
	}
	answer := swarm.UnlockKeyResponse{}
	if len(key.UnlockKey) > 0 {
		answer.UnlockKey = encryption.HumanReadableKey(key.UnlockKey)
	}
	return writeJSON(w, http.StatusOK, answer)
}

// header is the membership in the words of the header Swarm.
func (s *Swarm) header() string {
	st := s.Cluster.Status()
	switch {
	case st.State != cluster.Active:
		return string(st.State)
	case st.Manager:
		return string(st.State) + "/manager"
	}
	return string(st.State) + "/worker"
}

// info is the membership as /info has it.
func (s *Swarm) info(ctx context.Context) swarm.Info {
	st := s.Cluster.Status()
	info := swarm.Info{LocalNodeState: swarm.LocalNodeState(st.State), NodeID: st.NodeID, ControlAvailable: st.Control}
	if addr, err := netip.ParseAddrPort(st.Addr); err == nil {
		info.NodeAddr = addr.Addr().String()
	}
	if st.Err != nil {
		info.Error = st.Err.Error()
	}
	for _, p := range st.Remotes {
		info.RemoteManagers = append(info.RemoteManagers, swarm.Peer{NodeID: p.NodeID, Addr: p.Addr})
	}
	m, err := s.Cluster.Manager()
	if err != nil {
		return info
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	c, err := theCluster(ctx, m)
	if err != nil {
		info.Error = fromManager(err).Error()
		return info
	}
	whole := convert.SwarmFromGRPC(*c)
	info.Cluster = &whole.ClusterInfo
	nodes, err := m.ListNodes(ctx, &swarmapi.ListNodesRequest{}, large())
	if err != nil {
		info.Error = fromManager(err).Error()
		return info
	}
	info.Nodes = len(nodes.Nodes)
	for _, n := range nodes.Nodes {
		if n.ManagerStatus != nil {
			info.Managers++
		}
	}
	if info.Managers == 2 {
		info.Warnings = append(info.Warnings, twoManagers)
	}
	return info
}

const twoManagers = `WARNING: Running Swarm in a two-manager configuration. This configuration provides
         no fault tolerance, and poses a high risk to lose control over the cluster.
         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the
         Swarm for fault-tolerance.`
