package runner

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gantry-build/gantry/runner/spec"
)

// resolveMounts turns -v, --mount, --tmpfs, --volumes-from and the image's VOLUMEs into mounts, in
// this order of precedence, and makes the volumes that they name.
func (m *Manager) resolveMounts(rec Record) ([]MountPoint, error) {
	var points []MountPoint
	h := rec.HostConfig
	for _, b := range h.Binds {
		p, err := m.bind(b)
		if err != nil {
			return points, err
		}
		points = append(points, p)
	}
	for _, r := range h.Mounts {
		p, err := m.mount(r)
		if err != nil {
			return points, err
		}
		points = append(points, p)
	}
	for _, dst := range slices.Sorted(maps.Keys(h.Tmpfs)) {
		points = append(points, tmpfs(dst, h.Tmpfs[dst]))
	}
	if err := duplicates(points); err != nil {
		return points, err
	}
	taken := func(dst string) bool {
		return slices.ContainsFunc(points, func(p MountPoint) bool { return p.Destination == path.Clean(dst) })
	}
	for _, from := range h.VolumesFrom {
		others, err := m.volumesFrom(from)
		if err != nil {
			return points, err
		}
		for _, p := range others {
			if !taken(p.Destination) {
				points = append(points, p)
			}
		}
	}
	for _, dst := range slices.Sorted(maps.Keys(rec.Config.Volumes)) {
		if taken(dst) {
			continue
		}
		p, err := m.volume(Volume{Name: newID(), Anonymous: true}, dst, true)
		if err != nil {
			return points, err
		}
		points = append(points, p)
	}
	return points, nil
}

func duplicates(points []MountPoint) error {
	seen := map[string]bool{}
	for _, p := range points {
		if seen[p.Destination] {
			return invalid("Duplicate mount point: %s", p.Destination)
		}
		seen[p.Destination] = true
	}
	return nil
}

func checkTarget(dst string) error {
	if !path.IsAbs(dst) {
		return invalid("invalid mount path: '%s' mount path must be absolute", dst)
	}
	if path.Clean(dst) == "/" {
		return invalid("invalid mount path: destination can't be '/'")
	}
	return nil
}

// bind resolves one -v: SOURCE:TARGET[:OPTIONS], where a source that is no absolute path is a volume.
func (m *Manager) bind(b string) (MountPoint, error) {
	src, rest, _ := strings.Cut(b, ":")
	dst, mode, _ := strings.Cut(rest, ":")
	if src == "" || dst == "" {
		return MountPoint{}, invalid("invalid volume specification: '%s'", b)
	}
	if err := checkTarget(dst); err != nil {
		return MountPoint{}, err
	}
	o, err := parseMode(mode)
	if err != nil {
		return MountPoint{}, err
	}
	var p MountPoint
	if path.IsAbs(src) {
		// Docker makes the directory, which --mount does not.
		if err := os.MkdirAll(src, 0o755); err != nil && !errors.Is(err, os.ErrExist) && !isFile(src) {
			return p, invalid("error while creating mount source path '%s': %v", src, err)
		}
		p = bindPoint(src, dst, !o.readOnly)
	} else if p, err = m.volume(Volume{Name: src}, dst, !o.readOnly); err != nil {
		return p, err
	}
	p.Mode, p.Propagation = mode, o.propagation
	p.Mount.Propagation = o.propagation
	return p, nil
}

func isFile(name string) bool {
	st, err := os.Stat(name)
	return err == nil && !st.IsDir()
}

type mountMode struct {
	readOnly    bool
	propagation string
}

func parseMode(mode string) (o mountMode, err error) {
	for _, w := range strings.Split(mode, ",") {
		switch w {
		case "", "rw", "z", "Z", "nocopy", "consistent", "cached", "delegated":
		case "ro":
			o.readOnly = true
		case "private", "rprivate", "shared", "rshared", "slave", "rslave":
			o.propagation = w
		default:
			return o, invalid("invalid mode: %s", mode)
		}
	}
	return o, nil
}

func bindPoint(src, dst string, rw bool) MountPoint {
	return MountPoint{
		Type: "bind", Source: filepath.Clean(src), Destination: path.Clean(dst), RW: rw,
		Mount: spec.Mount{Type: "bind", Source: filepath.Clean(src), Target: dst, ReadOnly: !rw},
	}
}

// mount resolves one --mount.
func (m *Manager) mount(r spec.MountRequest) (p MountPoint, err error) {
	if err := checkTarget(r.Target); err != nil {
		return p, err
	}
	switch r.Type {
	case "bind":
		return bindMount(r)
	case "volume":
		return m.volumeMount(r)
	case "tmpfs":
		if r.Source != "" {
			return p, invalid("invalid mount config for type \"tmpfs\": source must not be specified")
		}
		return tmpfsMount(r), nil
	}
	return p, invalid("mount type %q is not supported: use bind, volume or tmpfs", r.Type)
}

func bindMount(r spec.MountRequest) (p MountPoint, err error) {
	var o spec.BindOptions
	if r.BindOptions != nil {
		o = *r.BindOptions
	}
	if !path.IsAbs(r.Source) {
		return p, invalid("invalid mount path: '%s' mount path must be absolute", r.Source)
	}
	if _, err := os.Stat(r.Source); errors.Is(err, os.ErrNotExist) && o.CreateMountpoint {
		if err := os.MkdirAll(r.Source, 0o755); err != nil {
			return p, invalid("error while creating mount source path '%s': %v", r.Source, err)
		}
	} else if err != nil {
		return p, invalid("invalid mount config for type \"bind\": bind source path does not exist: %s", r.Source)
	}
	if _, err := parseMode(o.Propagation); err != nil {
		return p, err
	}
	p = bindPoint(r.Source, r.Target, !r.ReadOnly)
	p.Propagation, p.Mount.Propagation = o.Propagation, o.Propagation
	p.Mount.NonRecursive, p.Mount.ReadOnlyTop, p.Mount.ForceRO = o.NonRecursive, o.ReadOnlyNonRecursive, o.ReadOnlyForceRecursive
	return p, nil
}

func (m *Manager) volumeMount(r spec.MountRequest) (p MountPoint, err error) {
	var o spec.VolumeOptions
	if r.VolumeOptions != nil {
		o = *r.VolumeOptions
	}
	if o.DriverConfig != nil && o.DriverConfig.Name != "" && o.DriverConfig.Name != "local" {
		return p, invalid("volume driver %q is not supported: use local", o.DriverConfig.Name)
	}
	if o.Subpath != "" && !filepath.IsLocal(o.Subpath) {
		return p, invalid("volume subpath %q leaves the volume", o.Subpath)
	}
	vol := Volume{Name: r.Source, Labels: o.Labels}
	if vol.Name == "" {
		vol.Name, vol.Anonymous = newID(), true
	}
	if p, err = m.volume(vol, r.Target, !r.ReadOnly); err != nil {
		return p, err
	}
	if o.Subpath != "" {
		sub, err := subpath(p.Source, o.Subpath)
		if err != nil {
			return p, err
		}
		p.Mount.Source = sub
	}
	if o.NoCopy || o.Subpath != "" {
		p.Mode = "nocopy"
	}
	return p, nil
}

// volume makes a volume and mounts it.
func (m *Manager) volume(v Volume, dst string, rw bool) (MountPoint, error) {
	v, err := m.volumes.ensure(v)
	if err != nil {
		return MountPoint{}, err
	}
	p := bindPoint(v.Path, dst, rw)
	p.Type, p.Name, p.Anonymous = "volume", v.Name, v.Anonymous
	return p, nil
}

// volumesFrom returns the mounts of another container, as CONTAINER[:ro|rw] asks.
func (m *Manager) volumesFrom(from string) ([]MountPoint, error) {
	ref, mode, _ := strings.Cut(from, ":")
	if mode != "" && mode != "ro" && mode != "rw" {
		return nil, invalid("invalid mode: %s", mode)
	}
	other, err := m.Get(ref)
	if err != nil {
		return nil, err
	}
	var points []MountPoint
	for _, p := range other.Mounts {
		if p.Type == "tmpfs" {
			continue
		}
		if mode == "ro" {
			p.RW, p.Mount.ReadOnly = false, true
		}
		p.Anonymous = false // it belongs to the other one
		points = append(points, p)
	}
	return points, nil
}

func tmpfs(dst, options string) MountPoint {
	p := MountPoint{Type: "tmpfs", Destination: path.Clean(dst), RW: true, Mode: options, Mount: spec.Mount{Type: "tmpfs", Target: dst}}
	if options != "" {
		p.Mount.Options = strings.Split(options, ",")
	}
	return p
}

func tmpfsMount(r spec.MountRequest) MountPoint {
	var options []string
	if o := r.TmpfsOptions; o != nil {
		if o.SizeBytes > 0 {
			options = append(options, fmt.Sprintf("size=%d", o.SizeBytes))
		}
		if o.Mode != 0 {
			options = append(options, fmt.Sprintf("mode=%o", o.Mode))
		}
		for _, kv := range o.Options {
			options = append(options, strings.Join(kv, "="))
		}
	}
	p := tmpfs(r.Target, strings.Join(options, ","))
	p.RW, p.Mount.ReadOnly = !r.ReadOnly, r.ReadOnly
	return p
}
