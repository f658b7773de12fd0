package volume

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/docker/docker/pkg/stringid"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/spec"
)

func bindMount(r spec.MountRequest) (p MountPoint, err error) {
	var o spec.BindOptions
	if r.BindOptions != nil {
		o = *r.BindOptions
	}
	if !path.IsAbs(r.Source) {
		return p, fault.Invalid("invalid mount path: '%s' mount path must be absolute", r.Source)
	}
	if _, err := os.Stat(r.Source); errors.Is(err, os.ErrNotExist) && o.CreateMountpoint {
		if err := os.MkdirAll(r.Source, 0o755); err != nil {
			return p, fault.Invalid("error while creating mount source path '%s': %v", r.Source, err)
		}
	} else if err != nil {
		return p, fault.Invalid("invalid mount config for type \"bind\": bind source path does not exist: %s", r.Source)
	}
	if _, err := parseMode(o.Propagation); err != nil {
		return p, err
	}
	p = bindPoint(r.Source, r.Target, !r.ReadOnly)
	p.Propagation, p.Mount.Propagation = o.Propagation, o.Propagation
	p.Mount.NonRecursive, p.Mount.ReadOnlyTop, p.Mount.ForceRO = o.NonRecursive, o.ReadOnlyNonRecursive, o.ReadOnlyForceRecursive
	return p, nil
}

// errSubpath is Docker's refusal.
var errSubpath = fault.Invalid("subpath must be a relative path within the volume")

func (s *Store) volumeMount(r spec.MountRequest) (p MountPoint, err error) {
	var o spec.VolumeOptions
	if r.VolumeOptions != nil {
		o = *r.VolumeOptions
	}
	var driver spec.Driver
	if o.DriverConfig != nil {
		driver = *o.DriverConfig
	}
	if err := CheckDriver(driver.Name); err != nil {
		return p, fmt.Errorf("create %s: %w", r.Source, err)
	}
	if o.Subpath != "" && !filepath.IsLocal(o.Subpath) {
		return p, errSubpath
	}
	vol := Volume{Name: r.Source, Labels: o.Labels, Options: driver.Options}
	if vol.Name == "" {
		vol.Name, vol.Anonymous = stringid.GenerateRandomID(), true
	}
	if p, err = s.volume(vol, r.Target, !r.ReadOnly); err != nil {
		return p, err
	}
	p.Subpath = o.Subpath            // which is looked for at each start
	p.Mode, p.NoCopy = "z", o.NoCopy // z as Docker shows it
	return p, nil
}

// volume makes a volume and mounts it.
func (s *Store) volume(v Volume, dst string, rw bool) (MountPoint, error) {
	v, isNew, err := s.Ensure(v)
	if err != nil {
		return MountPoint{}, err
	}
	p := bindPoint(v.Path, dst, rw)
	p.Type, p.Name, p.Anonymous, p.IsNew = "volume", v.Name, v.Anonymous, isNew
	return p, nil
}

// volumesFrom returns the mounts of another container, as CONTAINER[:ro|rw] asks.
func volumesFrom(from string, mountsOf func(ref string) ([]MountPoint, error)) ([]MountPoint, error) {
	ref, mode, _ := strings.Cut(from, ":")
	if mode != "" && mode != "ro" && mode != "rw" {
		return nil, fault.Invalid("invalid mode: %s", mode)
	}
	others, err := mountsOf(ref)
	if err != nil {
		return nil, fault.Invalid("%v", err) // not a 404: docker run would pull the image
	}
	var points []MountPoint
	for _, p := range others {
		if p.Type == "tmpfs" || p.Type == "image" {
			continue
		}
		if mode == "ro" {
			p.RW, p.Mount.ReadOnly = false, true
		}
		p.Anonymous, p.IsNew = false, false // it belongs to the other one
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

// imageMount is an image's root file system, read-only, as this machine's containers have it.
func imageMount(r spec.MountRequest, open func(ref string) (spec.Mount, string, error)) (p MountPoint, err error) {
	if r.Source == "" {
		return p, fault.Invalid("invalid mount config for type \"image\": field Source must not be empty")
	}
	sub := ""
	if r.ImageOptions != nil {
		sub = r.ImageOptions.Subpath
	}
	if sub != "" && !filepath.IsLocal(sub) {
		return p, errSubpath
	}
	m, id, err := open(r.Source)
	if err != nil {
		return p, err
	}
	m.Target = r.Target
	return MountPoint{Type: "image", Source: r.Source, ImageID: id, Destination: path.Clean(r.Target), Mount: m, Subpath: sub}, nil
}
