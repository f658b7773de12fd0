package volume

import (
	"errors"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/docker/pkg/stringid"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/spec"
)

// Sources are where mounts come from that are not the store's own.
type Sources struct {
	Container func(ref string) ([]MountPoint, error)                // the mounts of another container
	Image     func(ref string) (m spec.Mount, id string, err error) // an image's root file system, and its ID
}

// Resolve turns -v, --mount, --tmpfs, --volumes-from and the image's VOLUMEs into mounts, in this order of
// precedence, and makes the volumes that they name. What was resolved before an error is returned with it.
func (s *Store) Resolve(c spec.Config, h spec.HostConfig, from Sources) ([]MountPoint, error) {
	if err := CheckDriver(h.VolumeDriver); err != nil {
		return nil, err
	}
	var points []MountPoint
	for _, b := range h.Binds {
		p, err := s.bind(b)
		if err != nil {
			return points, err
		}
		points = append(points, p)
	}
	for _, r := range h.Mounts {
		p, err := s.mount(r, from)
		if err != nil {
			return points, err
		}
		points = append(points, p)
	}
	for _, dst := range slices.Sorted(maps.Keys(h.Tmpfs)) {
		switch {
		case !path.IsAbs(dst):
			return nil, fault.Invalid("invalid mount path: '%s' mount path must be absolute", dst)
		case path.Clean(dst) == "/":
			return nil, fault.Invalid("invalid tmpfs mount: destination can't be '/'")
		}
		points = append(points, tmpfs(dst, h.Tmpfs[dst]))
	}
	if err := duplicates(points); err != nil {
		return points, err
	}
	taken := func(dst string) bool {
		return slices.ContainsFunc(points, func(p MountPoint) bool { return p.Destination == path.Clean(dst) })
	}
	for _, ref := range h.VolumesFrom {
		others, err := volumesFrom(ref, from.Container)
		if err != nil {
			return points, err
		}
		for _, p := range others {
			if !taken(p.Destination) {
				points = append(points, p)
			}
		}
	}
	for _, dst := range slices.Sorted(maps.Keys(c.Volumes)) {
		if taken(dst) {
			continue
		}
		p, err := s.volume(Volume{Name: stringid.GenerateRandomID(), Anonymous: true}, dst, true)
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
			return fault.Invalid("Duplicate mount point: %s", p.Destination)
		}
		seen[p.Destination] = true
	}
	return nil
}

func checkTarget(dst string) error {
	if !path.IsAbs(dst) {
		return fault.Invalid("invalid mount path: '%s' mount path must be absolute", dst)
	}
	if path.Clean(dst) == "/" {
		return fault.Invalid("invalid mount path: destination can't be '/'")
	}
	return nil
}

// bind resolves one -v: SOURCE:TARGET[:OPTIONS], where a source that is no absolute path is a volume.
func (s *Store) bind(b string) (MountPoint, error) {
	src, rest, _ := strings.Cut(b, ":")
	dst, mode, _ := strings.Cut(rest, ":")
	if src == "" || dst == "" {
		return MountPoint{}, fault.Invalid("invalid volume specification: '%s'", b)
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
			return p, fault.Invalid("error while creating mount source path '%s': %v", src, err)
		}
		p = bindPoint(src, dst, !o.readOnly)
	} else if p, err = s.volume(Volume{Name: src}, dst, !o.readOnly); err != nil {
		return p, err
	}
	p.Mode, p.Propagation = mode, o.propagation
	p.Mount.Propagation = o.propagation
	return p, s.aboveRoot(&p)
}

// aboveRoot gives a bind of the data root, or of what it is in or has in it, a propagation by which mounts that are
// taken away here go from the container, too: else containers could not be removed.
func (s *Store) aboveRoot(p *MountPoint) error {
	if p.Type != "bind" || !within(s.root, p.Source) && !within(p.Source, s.root) {
		return nil
	}
	switch p.Propagation {
	case "":
		p.Propagation, p.Mount.Propagation = "rslave", "rslave"
	case "rslave", "rshared":
	default:
		return fault.Invalid("invalid mount config: must use either propagation mode \"rslave\" or \"rshared\" when mount source is "+
			"within the "+
			"daemon root, daemon root: %q, bind mount source: %q, propagation: %q", s.root, p.Source, p.Propagation)
	}
	return nil
}

// within says whether path is dir or below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
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
			return o, fault.Invalid("invalid mode: %s", mode)
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
func (s *Store) mount(r spec.MountRequest, from Sources) (p MountPoint, err error) {
	if err := checkTarget(r.Target); err != nil {
		return p, err
	}
	switch r.Type {
	case "bind":
		if p, err = bindMount(r); err != nil {
			return p, err
		}
		return p, s.aboveRoot(&p)
	case "volume":
		return s.volumeMount(r)
	case "tmpfs":
		if r.Source != "" {
			return p, fault.Invalid("invalid mount config for type \"tmpfs\": source must not be specified")
		}
		return tmpfsMount(r), nil
	case "image":
		return imageMount(r, from.Image)
	}
	return p, fault.Invalid("mount type %q is not supported: use bind, volume, tmpfs or image", r.Type)
}
