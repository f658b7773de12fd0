package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/spec"
)

func (c *containersAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	rec, err := c.m.Get(r.PathValue("id"))
	if err != nil {
		return err
	}
	out, err := inspection(rec, c.m.Dir(rec.ID))
	if err != nil {
		return err
	}
	out.ExecIDs = c.m.Processes.Of(rec.ID)
	if flag(r, "size") {
		own, whole, err := c.m.Size(r.Context(), rec.ID)
		if err != nil {
			return err
		}
		out.SizeRw, out.SizeRootFs = &own, &whole
	}
	answer, err := legacy(r, rec, out)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, answer)
}

func inspection(rec runner.Record, dir string) (*container.InspectResponse, error) {
	out := &container.InspectResponse{
		ID: rec.ID, Created: rec.Created.Format(time.RFC3339Nano), Name: "/" + rec.Name,
		State: state(rec.State), Image: rec.ImageID, ImageManifestDescriptor: manifestOf(rec),
		ResolvConfPath: filepath.Join(dir, "resolv.conf"), HostnamePath: filepath.Join(dir, "hostname"),
		HostsPath: filepath.Join(dir, "hosts"), RestartCount: rec.RestartCount,
		Driver: "overlayfs", Platform: rec.Platform.OS, Mounts: mountPoints(rec),
		Config: &container.Config{}, HostConfig: &container.HostConfig{},
		NetworkSettings: &container.NetworkSettings{Ports: portMap(rec), Networks: endpoints(rec)},
	}
	if args := rec.Config.Args(); len(args) > 0 {
		out.Path, out.Args = args[0], args[1:]
	}
	if rec.HostConfig.LogConfig.Type == "json-file" {
		out.LogPath = filepath.Join(dir, rec.ID+"-json.log")
	}
	if rec.State.Running && rec.State.Pid != 0 && len(rec.Attachments) > 0 {
		out.NetworkSettings.SandboxID, out.NetworkSettings.SandboxKey = rec.ID, fmt.Sprintf("/proc/%d/ns/net", rec.State.Pid)
	}
	if err := toAPI(rec.Config, out.Config); err != nil {
		return nil, err
	}
	if err := toAPI(rec.HostConfig, out.HostConfig); err != nil {
		return nil, err
	}
	out.HostConfig.MaskedPaths, out.HostConfig.ReadonlyPaths = spec.HiddenPaths(rec.HostConfig)
	for i, l := range out.HostConfig.Links {
		name, alias := runner.SplitLink(l)
		out.HostConfig.Links[i] = "/" + name + ":/" + rec.Name + "/" + alias
	}
	return out, nil
}

// toAPI is translate's other direction: every field of ours is one of the API's.
func toAPI(from, to any) error {
	data, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(data, to)
	}
	if err != nil {
		return fmt.Errorf("stored container options: %w", err)
	}
	return nil
}

func state(s runner.State) *container.State {
	out := &container.State{
		Status: container.ContainerState(s.Status()), Running: s.Running, Paused: s.Paused, Restarting: s.Restarting,
		OOMKilled: s.OOMKilled, Pid: s.Pid, ExitCode: s.ExitCode, Error: s.Error,
		StartedAt: s.StartedAt.Format(time.RFC3339Nano), FinishedAt: s.FinishedAt.Format(time.RFC3339Nano),
	}
	if h := s.Health; h != nil {
		out.Health = &container.Health{Status: container.HealthStatus(h.Status), FailingStreak: h.FailingStreak}
		for _, p := range h.Log {
			out.Health.Log = append(out.Health.Log,
				&container.HealthcheckResult{Start: p.Start, End: p.End, ExitCode: p.ExitCode, Output: p.Output})
		}
	}
	return out
}

func mountPoints(rec runner.Record) []container.MountPoint {
	out := []container.MountPoint{}
	for _, p := range rec.Mounts {
		if _, short := rec.HostConfig.Tmpfs[p.Destination]; short && p.Type == "tmpfs" {
			continue // docker shows --tmpfs in HostConfig only
		}
		m := container.MountPoint{
			Type: mount.Type(p.Type), Name: p.Name, Source: p.Source, Destination: p.Destination,
			Mode: p.Mode, RW: p.RW, Propagation: mount.Propagation(p.Propagation),
		}
		if p.Type == "volume" {
			m.Driver = "local"
		}
		if p.Type == "bind" && m.Propagation == "" {
			m.Propagation = mount.PropagationRPrivate
		}
		out = append(out, m)
	}
	return out
}

// endpoints are the networks that a container is in, or will be.
func endpoints(rec runner.Record) map[string]*network.EndpointSettings {
	out := map[string]*network.EndpointSettings{}
	for _, a := range rec.Attachments {
		out[a.Name] = endpointOf(rec, a)
	}
	return out
}

// portMap lists all exposed ports, with their places on the host while published.
func portMap(rec runner.Record) network.PortMap {
	m := network.PortMap{}
	if !rec.State.Running {
		return m
	}
	for key := range rec.Config.ExposedPorts {
		if p, err := network.ParsePort(key); err == nil {
			m[p] = nil
		}
	}
	for _, b := range rec.Published() {
		p, ok := network.PortFrom(b.ContainerPort, network.IPProtocol(b.Proto))
		if ok {
			m[p] = append(m[p], network.PortBinding{HostIP: anyAddr(b.HostIP), HostPort: strconv.Itoa(int(b.HostPort))})
		}
	}
	return m
}

func anyAddr(a netip.Addr) netip.Addr {
	if a.IsValid() {
		return a
	}
	return netip.IPv4Unspecified()
}
