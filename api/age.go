package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client/pkg/stringid"
	"github.com/moby/moby/client/pkg/versions"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
)

// Clients say in the path which version of the API they speak. An older one gets the fields and defaults of its time
// (docs/api/version-history.md of moby), so that nothing that worked for it stops.

type versionKey struct{}

func withVersion(ctx context.Context, v string) context.Context {
	return context.WithValue(ctx, versionKey{}, v)
}

// before says whether a request is of a client older than a version.
func before(r *http.Request, version string) bool {
	v, ok := r.Context().Value(versionKey{}).(string)
	return ok && versions.LessThan(v, version)
}

// asOfItsTime makes of an old client's request what it means today, and refuses what there was not in its time.
func asOfItsTime(r *http.Request, body *container.CreateRequest, mac string) error {
	h := body.HostConfig
	if h == nil {
		h = &container.HostConfig{}
		body.HostConfig = h
	}
	if before(r, "1.41") && h.CgroupnsMode.IsEmpty() && cgroupVersion() == "1" {
		h.CgroupnsMode = container.CgroupnsModeHost
	}
	if before(r, "1.40") {
		h.PidsLimit = nil
		if h.IpcMode.IsEmpty() {
			h.IpcMode = container.IPCModeShareable
		}
	}
	if before(r, "1.43") {
		h.Annotations = nil
	}
	if before(r, "1.44") && body.Config != nil && body.Healthcheck != nil {
		body.Healthcheck.StartInterval = 0
	}
	for i := range h.Mounts {
		m := &h.Mounts[i]
		switch {
		case before(r, "1.45") && m.VolumeOptions != nil && m.VolumeOptions.Subpath != "":
			return fault.Invalid("VolumeOptions.Subpath needs API v1.45 or newer")
		case before(r, "1.48") && m.Type == mount.TypeImage:
			return fault.Invalid(`Mount type "Image" needs API v1.48 or newer`)
		}
		if before(r, "1.44") && m.Type == mount.TypeBind && m.ReadOnly {
			if m.BindOptions == nil {
				m.BindOptions = &mount.BindOptions{}
			}
			m.BindOptions.ReadOnlyNonRecursive = true
		}
	}
	if mac == "" || h.NetworkMode.IsHost() || h.NetworkMode.IsContainer() {
		return nil
	}
	return giveMAC(body, mac)
}

// giveMAC puts a MAC address where it belongs since version 1.44: to the endpoint in the network of the mode.
func giveMAC(body *container.CreateRequest, mac string) error {
	var hw network.HardwareAddr
	if err := hw.UnmarshalText([]byte(mac)); err != nil {
		return fault.Invalid("invalid MAC address: %s", mac)
	}
	if body.NetworkingConfig == nil {
		body.NetworkingConfig = &network.NetworkingConfig{}
	}
	all := body.NetworkingConfig.EndpointsConfig
	if all == nil {
		all = map[string]*network.EndpointSettings{}
		body.NetworkingConfig.EndpointsConfig = all
	}
	mode := body.HostConfig.NetworkMode.NetworkName()
	if mode == "" || mode == "default" {
		mode = "bridge"
	}
	if all[mode] == nil {
		all[mode] = &network.EndpointSettings{}
	}
	if len(all[mode].MacAddress) == 0 {
		all[mode].MacAddress = hw
	}
	return nil
}

// legacy is a container with what old clients look for, and without what they would not know.
func legacy(r *http.Request, rec runner.Record, out *container.InspectResponse) (any, error) {
	if before(r, "1.45") {
		for _, a := range rec.Attachments {
			if ep := out.NetworkSettings.Networks[a.Name]; ep != nil && a.Name != "bridge" && a.Name != "host" && a.Name != "none" {
				ep.Aliases = slices.Compact(append(slices.Clone(ep.Aliases), stringid.TruncateID(rec.ID), rec.Config.Hostname))
			}
		}
	}
	if before(r, "1.48") {
		out.ImageManifestDescriptor = nil
	}
	if !before(r, "1.52") {
		return out, nil
	}
	bridge := out.NetworkSettings.Networks["bridge"]
	if bridge == nil {
		bridge = &network.EndpointSettings{}
	}
	return with(out, map[string]any{"NetworkSettings": map[string]any{
		"EndpointID": bridge.EndpointID, "Gateway": bridge.Gateway, "GlobalIPv6Address": bridge.GlobalIPv6Address,
		"GlobalIPv6PrefixLen": bridge.GlobalIPv6PrefixLen, "IPAddress": bridge.IPAddress, "IPPrefixLen": bridge.IPPrefixLen,
		"IPv6Gateway": bridge.IPv6Gateway, "MacAddress": bridge.MacAddress,
	}})
}

// with adds fields to what an answer says.
func with(answer any, fields map[string]any) (map[string]any, error) {
	data, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // large ones stay as they are
	if err := d.Decode(&out); err != nil {
		return nil, err
	}
	for k, v := range fields {
		more, nested := v.(map[string]any)
		have, ok := out[k].(map[string]any)
		if !nested || !ok {
			out[k] = v
			continue
		}
		for name, value := range more {
			have[name] = value
		}
	}
	return out, nil
}
