package executor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	gogotypes "github.com/gogo/protobuf/types"
	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/api/genericresource"
	"github.com/moby/swarmkit/v2/api/naming"

	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/spec"
)

const (
	// label begins the labels by which a task's container is known.
	label = "com.docker.swarm."
	// NodeLabel has the node for which a container was made.
	NodeLabel = label + "node.id"
	// predefinedLabel marks networks that each node has for itself.
	predefinedLabel = "com.docker.swarm.predefined"
)

func nameOf(t *api.Task) string { return cmp.Or(t.Annotations.Name, naming.Task(t)) }

func predefined(n *api.Network) bool { return n.Spec.Annotations.Labels[predefinedLabel] == "true" }

// request is the container that the task wants. What it may read of secrets and configs is written first.
func (c *controller) request() (runner.CreateRequest, error) {
	s := c.task.Spec.GetContainer()
	host, err := c.host(s)
	if err != nil {
		return runner.CreateRequest{}, err
	}
	files, err := writeFiles(c.files, s, c.deps)
	if err != nil {
		return runner.CreateRequest{}, err
	}
	host.Mounts = append(host.Mounts, files...)
	return runner.CreateRequest{
		Name: c.name, Platform: c.platform(), Config: c.config(s), Host: host, Networks: c.places(),
	}, nil
}

// places are the task's in the cluster's networks. Their names and aliases are the cluster's to tell.
func (c *controller) places() (all []runner.Attachment) {
	for _, at := range c.task.Networks {
		if predefined(at.Network) {
			continue
		}
		a := runner.Attachment{Name: at.Network.ID, Task: true}
		for _, text := range at.Addresses {
			p, err := netip.ParsePrefix(text)
			switch {
			case err != nil:
			case p.Addr().Is4():
				a.IP = p.Addr()
			case c.o.Speaks6(at.Network.ID):
				a.IP6 = p.Addr()
			}
		}
		if at.Network.Spec.Ingress {
			a.GwPriority = -1 // what leaves takes another way where there is one
		}
		all = append(all, a)
	}
	return all
}

func (c *controller) config(s *api.ContainerSpec) spec.Config {
	out := spec.Config{
		Hostname: s.Hostname, User: s.User, WorkingDir: s.Dir, Tty: s.TTY, OpenStdin: s.OpenStdin, StopSignal: s.StopSignal,
		Image: imageOf(s), Labels: c.labels(s),
		Env:          append(s.Env, genericresource.EnvFormat(c.task.AssignedGenericResources, "DOCKER_RESOURCE")...),
		ExposedPorts: map[string]struct{}{},
	}
	if len(s.Command) > 0 { // instead of all that the image says
		out.Entrypoint, out.Cmd = s.Command, s.Args
	} else if len(s.Args) > 0 {
		out.Cmd = s.Args
	}
	if s.StopGracePeriod != nil {
		grace := int(duration(s.StopGracePeriod).Round(time.Second) / time.Second)
		out.StopTimeout = &grace
	}
	if h := s.Healthcheck; h != nil {
		out.Healthcheck = &spec.Healthcheck{
			Test: h.Test, Interval: duration(h.Interval), Timeout: duration(h.Timeout), Retries: int(h.Retries),
			StartPeriod: duration(h.StartPeriod), StartInterval: duration(h.StartInterval),
		}
	}
	for port := range c.ports() {
		out.ExposedPorts[port] = struct{}{}
	}
	return out
}

func duration(d *gogotypes.Duration) time.Duration {
	if d == nil {
		return 0
	}
	v, _ := gogotypes.DurationFromProto(d) // 0 if it is out of range
	return v
}

func imageOf(s *api.ContainerSpec) string {
	named, err := reference.ParseNormalizedNamed(s.Image)
	if err != nil {
		return s.Image
	}
	return reference.FamiliarString(reference.TagNameOnly(named))
}

func (c *controller) labels(s *api.ContainerSpec) map[string]string {
	all := map[string]string{}
	maps.Copy(all, s.Labels)
	maps.Copy(all, c.task.Annotations.Labels)
	maps.Copy(all, map[string]string{
		label + "task": "", label + "task.id": c.task.ID, label + "task.name": c.name, NodeLabel: c.task.NodeID,
		label + "service.id": c.task.ServiceID, label + "service.name": c.task.ServiceAnnotations.Name,
	})
	return all
}

// ports are those of this node by which the task is reached, by the ports of the container.
func (c *controller) ports() map[string][]spec.PortBinding {
	all := map[string][]spec.PortBinding{}
	if c.task.Endpoint == nil {
		return all
	}
	for _, p := range c.task.Endpoint.Ports {
		if p.PublishMode != api.PublishModeHost {
			continue
		}
		b := spec.PortBinding{}
		if p.PublishedPort != 0 {
			b.HostPort = strconv.Itoa(int(p.PublishedPort))
		}
		port := fmt.Sprintf("%d/%s", p.TargetPort, strings.ToLower(p.Protocol.String()))
		all[port] = append(all[port], b)
	}
	return all
}

// publishedOf are the ports that a container has got.
func publishedOf(rec runner.Record) (all []*api.PortConfig) {
	for _, at := range rec.Attachments {
		if at.Endpoint == nil {
			continue
		}
		for _, p := range at.Endpoint.Ports {
			protocol, ok := api.PortConfig_Protocol_value[strings.ToUpper(p.Proto)]
			if !ok || p.HostPort == 0 {
				continue
			}
			all = append(all, &api.PortConfig{
				Protocol: api.PortConfig_Protocol(protocol), PublishMode: api.PublishModeHost,
				TargetPort: uint32(p.ContainerPort), PublishedPort: uint32(p.HostPort),
			})
		}
	}
	return all
}

func (c *controller) host(s *api.ContainerSpec) (spec.HostConfig, error) {
	h := spec.HostConfig{
		PortBindings: c.ports(), GroupAdd: s.Groups, ReadonlyRootfs: s.ReadOnly, Sysctls: s.Sysctls, OomScoreAdj: int(s.OomScoreAdj),
		CapAdd: s.CapabilityAdd, CapDrop: s.CapabilityDrop, Resources: c.resources(s),
	}
	if s.Isolation != api.ContainerIsolationDefault {
		h.Isolation = s.Isolation.String()
	}
	if s.Init != nil {
		with := s.Init.Value
		h.Init = &with
	}
	if d := s.DNSConfig; d != nil {
		h.DNS, h.DNSSearch, h.DNSOptions = d.Nameservers, d.Search, d.Options
	}
	for _, line := range s.Hosts { // as in hosts(5)
		if words := strings.Fields(line); len(words) > 1 {
			for _, name := range words[1:] {
				h.ExtraHosts = append(h.ExtraHosts, name+":"+words[0])
			}
		}
	}
	if d := c.task.LogDriver; d != nil {
		h.LogConfig = spec.LogConfig{Type: d.Name, Config: d.Options}
	}
	if len(c.task.Networks) > 0 {
		h.NetworkMode = c.task.Networks[0].Network.Spec.Annotations.Name
	}
	var err error
	if h.SecurityOpt, err = security(s.Privileges); err != nil {
		return h, err
	}
	for _, m := range s.Mounts {
		converted, err := mountOf(m)
		if err != nil {
			return h, err
		}
		h.Mounts = append(h.Mounts, converted)
	}
	return h, nil
}

func (c *controller) resources(s *api.ContainerSpec) (r spec.Resources) {
	if s.PidsLimit > 0 {
		r.PidsLimit = &s.PidsLimit
	}
	for _, u := range s.Ulimits {
		r.Ulimits = append(r.Ulimits, spec.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	asked := c.task.Spec.Resources
	if asked == nil {
		return r
	}
	if l := asked.Limits; l != nil {
		r.Memory, r.NanoCPUs = l.MemoryBytes, l.NanoCPUs
	}
	if l := asked.Reservations; l != nil {
		r.MemoryReservation = l.MemoryBytes
	}
	switch v := asked.SwapBytes; {
	case v == nil:
		r.MemorySwap = 2 * r.Memory // as the engine does when nothing is said of it
	case v.Value < 0:
		r.MemorySwap = -1
	case r.Memory > 0:
		r.MemorySwap = r.Memory + v.Value
	}
	if asked.MemorySwappiness != nil && asked.MemorySwappiness.Value >= 0 {
		r.MemorySwappiness = &asked.MemorySwappiness.Value
	}
	return r
}

// security are a task's privileges as options of a container.
func security(p *api.Privileges) (opts []string, err error) {
	if p == nil {
		return nil, nil
	}
	if p.CredentialSpec != nil {
		return nil, fmt.Errorf("credential specs are for Windows: %w", exec.ErrRuntimeUnsupported)
	}
	if se := p.SELinuxContext; se != nil {
		if se.Disable {
			opts = append(opts, "label=disable")
		}
		for word, value := range map[string]string{"user": se.User, "role": se.Role, "type": se.Type, "level": se.Level} {
			if value != "" {
				opts = append(opts, "label="+word+":"+value)
			}
		}
	}
	if sc := p.Seccomp; sc != nil {
		switch sc.Mode {
		case api.Privileges_SeccompOpts_UNCONFINED:
			opts = append(opts, "seccomp=unconfined")
		case api.Privileges_SeccompOpts_CUSTOM:
			opts = append(opts, "seccomp="+string(sc.Profile))
		}
	}
	if p.Apparmor != nil && p.Apparmor.Mode == api.Privileges_AppArmorOpts_DISABLED {
		opts = append(opts, "apparmor=unconfined")
	}
	if p.NoNewPrivileges {
		opts = append(opts, "no-new-privileges=true")
	}
	return opts, nil
}

func mountOf(m api.Mount) (spec.MountRequest, error) {
	out := spec.MountRequest{Type: strings.ToLower(m.Type.String()), Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	if m.Type == api.MountTypeCluster || m.Type == api.MountTypeNamedPipe {
		return out, fmt.Errorf("mount type %q is not there: use bind, volume or tmpfs", out.Type)
	}
	if b := m.BindOptions; b != nil {
		out.BindOptions = &spec.BindOptions{
			Propagation: strings.ToLower(b.Propagation.String()), NonRecursive: b.NonRecursive, CreateMountpoint: b.CreateMountpoint,
			ReadOnlyNonRecursive: b.ReadOnlyNonRecursive, ReadOnlyForceRecursive: b.ReadOnlyForceRecursive,
		}
	}
	if v := m.VolumeOptions; v != nil {
		out.VolumeOptions = &spec.VolumeOptions{NoCopy: v.NoCopy, Labels: v.Labels, Subpath: v.Subpath}
		if v.DriverConfig != nil {
			out.VolumeOptions.DriverConfig = &spec.Driver{Name: v.DriverConfig.Name, Options: v.DriverConfig.Options}
		}
	}
	if t := m.TmpfsOptions; t != nil {
		out.TmpfsOptions = &spec.TmpfsOptions{SizeBytes: t.SizeBytes, Mode: uint32(t.Mode)}
		if t.Options != "" {
			if err := json.Unmarshal([]byte(t.Options), &out.TmpfsOptions.Options); err != nil {
				return out, fmt.Errorf("options of the tmpfs at %s: %w", m.Target, err)
			}
		}
	}
	return out, nil
}
