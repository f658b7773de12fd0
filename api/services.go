package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/v2/daemon/cluster/convert"
	swarmapi "github.com/moby/swarmkit/v2/api"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/cluster"
	"github.com/gantry-build/gantry/runner/cluster/placement"
)

func findService(ctx context.Context, m cluster.Manager, ref string, defaults bool) (*swarmapi.Service, error) {
	get := func(id string) (*swarmapi.Service, error) {
		got, err := m.GetService(ctx, &swarmapi.GetServiceRequest{ServiceID: id, InsertDefaults: defaults})
		if err != nil {
			return nil, err
		}
		return got.Service, nil
	}
	found, err := pick("service", ref, func() (*swarmapi.Service, error) { return get(ref) },
		func(names, prefixes []string) ([]*swarmapi.Service, error) {
			got, err := m.ListServices(ctx, &swarmapi.ListServicesRequest{
				Filters: &swarmapi.ListServicesRequest_Filters{Names: names, IDPrefixes: prefixes},
			}, large())
			if err != nil {
				return nil, err
			}
			return got.Services, nil
		})
	if err != nil || !defaults || found.ID == ref {
		return found, err
	}
	return get(found.ID)
}

// modeOf is a service's mode in the words of the filter.
func modeOf(s *swarmapi.Service) string {
	switch s.Spec.GetMode().(type) {
	case *swarmapi.ServiceSpec_Global:
		return "global"
	case *swarmapi.ServiceSpec_ReplicatedJob:
		return "replicated-job"
	case *swarmapi.ServiceSpec_GlobalJob:
		return "global-job"
	}
	return "replicated"
}

func (s *Swarm) services(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r)
	if err == nil {
		err = f.only("name", "id", "label", "mode", "runtime")
	}
	if err != nil {
		return err
	}
	asked := &swarmapi.ListServicesRequest_Filters{
		NamePrefixes: f.values("name"), IDPrefixes: f.values("id"), Labels: pairs(f.values("label")), Runtimes: f.values("runtime"),
	}
	if len(asked.Runtimes) == 0 {
		asked.Runtimes = []string{string(swarm.RuntimeContainer)}
	}
	got, err := m.ListServices(r.Context(), &swarmapi.ListServicesRequest{Filters: asked}, large())
	if err != nil {
		return err
	}
	all := make([]swarm.Service, 0, len(got.Services))
	var ids []string
	for _, found := range got.Services {
		if f.any("mode") && !f.has("mode", modeOf(found)) {
			continue
		}
		converted, err := convert.ServiceFromGRPC(*found)
		if err != nil {
			return err
		}
		all, ids = append(all, converted), append(ids, found.ID)
	}
	if flag(r, "status") && len(ids) > 0 {
		if err := addStatuses(r.Context(), m, all, ids); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, all)
}

func addStatuses(ctx context.Context, m cluster.Manager, all []swarm.Service, ids []string) error {
	got, err := m.ListServiceStatuses(ctx, &swarmapi.ListServiceStatusesRequest{Services: ids}, large())
	if err != nil {
		return err
	}
	byID := map[string]*swarm.ServiceStatus{}
	for _, st := range got.Statuses {
		byID[st.ServiceID] = &swarm.ServiceStatus{
			RunningTasks: st.RunningTasks, DesiredTasks: st.DesiredTasks, CompletedTasks: st.CompletedTasks,
		}
	}
	for i := range all {
		all[i].ServiceStatus = byID[all[i].ID]
	}
	return nil
}

func (s *Swarm) service(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	defaults := false
	if text := r.URL.Query().Get("insertDefaults"); text != "" {
		var err error
		if defaults, err = strconv.ParseBool(text); err != nil {
			return fault.Invalid("invalid value for insertDefaults: %s", text)
		}
	}
	found, err := findService(r.Context(), m, r.PathValue("id"), defaults)
	if err != nil {
		return err
	}
	converted, err := convert.ServiceFromGRPC(*found)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, converted)
}

// readService is the service that a client wants, as SwarmKit has it, and what the user should know.
func (s *Swarm) readService(r *http.Request, m cluster.Manager) (*swarmapi.ServiceSpec, error) {
	var spec swarm.ServiceSpec
	if err := readJSON(r, &spec); err != nil {
		return nil, err
	}
	serviceFor(r, &spec)
	if err := networkIDs(r.Context(), m, &spec); err != nil {
		return nil, err
	}
	if spec.Name == "" {
		spec.Name = runner.RandomName()
	}
	converted, err := convert.ServiceSpecToGRPC(spec)
	if err != nil {
		return nil, fault.Invalid("%v", err)
	}
	if converted.Task.GetContainer() == nil {
		return nil, fault.Invalid("services run containers: spec type %q is not supported", spec.TaskTemplate.Runtime)
	}
	if p := converted.Task.GetContainer().Privileges; p != nil && p.CredentialSpec != nil {
		return nil, fault.Invalid("credential specs are for Windows containers")
	}
	return &converted, nil
}

// serviceFor takes out of a service what clients of an older version of the API do not mean.
func serviceFor(r *http.Request, spec *swarm.ServiceSpec) {
	c := spec.TaskTemplate.ContainerSpec
	if before(r, "1.52") && spec.TaskTemplate.Resources != nil {
		spec.TaskTemplate.Resources.SwapBytes, spec.TaskTemplate.Resources.MemorySwappiness = nil, nil
	}
	if c == nil {
		return
	}
	if before(r, "1.46") {
		c.OomScoreAdj = 0
		for _, m := range c.Mounts {
			if m.TmpfsOptions != nil {
				m.TmpfsOptions.Options = nil
			}
		}
	}
	if before(r, "1.44") {
		if c.Privileges != nil {
			c.Privileges.Seccomp, c.Privileges.AppArmor, c.Privileges.NoNewPrivileges = nil, nil, false
		}
		if c.Healthcheck != nil {
			c.Healthcheck.StartInterval = 0
		}
	}
	if before(r, "1.41") {
		c.CapabilityAdd, c.CapabilityDrop, c.Ulimits = nil, nil, nil
		if res := spec.TaskTemplate.Resources; res != nil && res.Limits != nil {
			res.Limits.Pids = 0
		}
		spec.Mode.ReplicatedJob, spec.Mode.GlobalJob = nil, nil
	}
}

// networkIDs has a service name its networks by their IDs.
func networkIDs(ctx context.Context, m cluster.Manager, spec *swarm.ServiceSpec) error {
	for i, n := range spec.TaskTemplate.Networks {
		found, err := findNetwork(ctx, m, n.Target)
		if err != nil {
			return err
		}
		spec.TaskTemplate.Networks[i].Target = found.ID
	}
	return nil
}

// place has a service's tasks go where its image can run, whatever the client has thought of that, and says what the user
// should know.
func (s *Swarm) place(ctx context.Context, m cluster.Manager, spec *swarmapi.ServiceSpec, auth string) (warnings []string) {
	image := spec.Task.GetContainer().Image
	if spec.Task.Placement == nil {
		spec.Task.Placement = &swarmapi.Placement{}
	}
	spec.Task.Placement.Platforms = nil
	platforms, err := s.Platforms(ctx, image, auth)
	if err != nil {
		return []string{"for which platforms image " + image + " is could not be found out, so its tasks may go to nodes that can't run " +
			"it: " + err.Error()}
	}
	spec.Task.Placement.Platforms = placement.FromImage(platforms)
	nodes, err := m.ListNodes(ctx, &swarmapi.ListNodesRequest{}, large())
	if err != nil {
		return nil // the tasks will say it
	}
	if why := placement.Nowhere(platforms, placement.MayEmulate(spec.Task.GetContainer()), nodes.Nodes); why != "" {
		return []string{"no node can run it: " + why}
	}
	return nil
}

func (s *Swarm) createService(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	spec, err := s.readService(r, m)
	if err != nil {
		return err
	}
	auth := r.Header.Get("X-Registry-Auth")
	if auth != "" {
		spec.Task.GetContainer().PullOptions = &swarmapi.ContainerSpec_PullOptions{RegistryAuth: auth}
	}
	answer := swarm.ServiceCreateResponse{Warnings: s.place(r.Context(), m, spec, auth)}
	made, err := m.CreateService(r.Context(), &swarmapi.CreateServiceRequest{Spec: spec})
	if err != nil {
		return err
	}
	answer.ID = made.Service.ID
	return writeJSON(w, http.StatusCreated, answer)
}

func (s *Swarm) updateService(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	version, err := versionOf(r, "service")
	if err != nil {
		return err
	}
	spec, err := s.readService(r, m)
	if err != nil {
		return err
	}
	now, err := findService(r.Context(), m, r.PathValue("id"), false)
	if err != nil {
		return err
	}
	auth, err := authOf(r, now)
	if err != nil {
		return err
	}
	if auth != "" {
		spec.Task.GetContainer().PullOptions = &swarmapi.ContainerSpec_PullOptions{RegistryAuth: auth}
	}
	req := &swarmapi.UpdateServiceRequest{ServiceID: now.ID, Spec: spec, ServiceVersion: version}
	switch v := r.URL.Query().Get("rollback"); v {
	case "", "none":
	case "previous":
		req.Rollback = swarmapi.UpdateServiceRequest_PREVIOUS
	default:
		return fault.Invalid("unrecognized rollback option %s", v)
	}
	answer := swarm.ServiceUpdateResponse{Warnings: s.place(r.Context(), m, spec, auth)}
	if _, err := m.UpdateService(r.Context(), req); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, answer)
}

// authOf are the credentials for a service's image: those that the client sends, else those that the service has had.
func authOf(r *http.Request, now *swarmapi.Service) (string, error) {
	if auth := r.Header.Get("X-Registry-Auth"); auth != "" {
		return auth, nil
	}
	from := &now.Spec
	switch v := swarm.RegistryAuthSource(r.URL.Query().Get("registryAuthFrom")); v {
	case "", swarm.RegistryAuthFromSpec:
	case swarm.RegistryAuthFromPreviousSpec:
		if from = now.PreviousSpec; from == nil {
			return "", fault.Invalid("service does not have a previous spec")
		}
	default:
		return "", fault.Invalid("invalid registryAuthFrom '%s'", v)
	}
	if c := from.Task.GetContainer(); c != nil && c.PullOptions != nil {
		return c.PullOptions.RegistryAuth, nil
	}
	return "", nil
}

func (s *Swarm) removeService(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	found, err := findService(r.Context(), m, r.PathValue("id"), false)
	if err != nil {
		return err
	}
	_, err = m.RemoveService(r.Context(), &swarmapi.RemoveServiceRequest{ServiceID: found.ID})
	return done(w, err)
}

// taskLabel begins the names of what a line of a service's log is about.
const taskLabel = "com.docker.swarm."

func hasTTY(c *swarmapi.ContainerSpec) (bool, error) {
	if c == nil {
		return false, fault.Invalid("logs only supported on container tasks")
	}
	return c.TTY, nil
}

func (s *Swarm) serviceLogs(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	found, err := findService(r.Context(), m, r.PathValue("id"), false)
	if err != nil {
		return err
	}
	tty, err := hasTTY(found.Spec.Task.GetContainer())
	if err != nil {
		return err
	}
	return clusterLogs(m, w, r, &swarmapi.LogSelector{ServiceIDs: []string{found.ID}}, tty)
}

func (s *Swarm) taskLogs(m cluster.Manager, w http.ResponseWriter, r *http.Request) error {
	found, err := findTask(r.Context(), m, r.PathValue("id"))
	if err != nil {
		return err
	}
	tty, err := hasTTY(found.Spec.GetContainer())
	if err != nil {
		return err
	}
	return clusterLogs(m, w, r, &swarmapi.LogSelector{TaskIDs: []string{found.ID}}, tty)
}

// about puts a line's origin among its details, over what the task has said of it.
func about(l swarmapi.LogMessage) map[string]string {
	all := map[string]string{}
	for _, a := range l.Attrs {
		all[a.Key] = a.Value
	}
	for word, id := range map[string]string{"node": l.Context.NodeID, "service": l.Context.ServiceID, "task": l.Context.TaskID} {
		all[taskLabel+strings.ToLower(word)+".id"] = id
	}
	return all
}
