package volume

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/fault"
)

// Driver is the one volume driver: a directory of the data root, or whatever mount(8) can mount there.
const Driver = "local"

// CheckDriver refuses other drivers, as Docker does without their plugins.
func CheckDriver(name string) error {
	if name == "" || name == Driver {
		return nil
	}
	return fault.NotFound("error looking up volume plugin %s: plugin %q not found", name, name)
}

// checkOptions says what is wrong with the options of the driver: type, device and o, as mount(8) has them.
func checkOptions(o map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(o)) {
		switch k {
		case "type", "device", "o":
		case "size":
			return fault.Invalid("quota size requested but no quota support")
		default:
			return fault.Invalid("invalid option: %q", k)
		}
	}
	for _, needs := range [][2]string{{"device", "type"}, {"type", "device"}, {"o", "device"}, {"o", "type"}} {
		_, has := o[needs[0]]
		if _, ok := o[needs[1]]; has && !ok {
			return fault.Invalid("missing required option: %q", needs[1])
		}
	}
	return nil
}

// Use mounts a volume that has options, when it is not mounted, and keeps it so until each user has called
// Disuse. Users are containers that run; one that uses it twice is one user.
func (s *Store) Use(name, user string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.read(name)
	if errors.Is(err, os.ErrNotExist) {
		return fault.NotFound("get %s: no such volume", name)
	}
	if err != nil || len(v.Options) == 0 {
		return err
	}
	if mounted, err := mountinfo.Mounted(v.Path); err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	} else if !mounted {
		if err := v.mount(); err != nil {
			return err
		}
	}
	if s.users[name] == nil {
		s.users[name] = map[string]bool{}
	}
	s.users[name][user] = true
	return nil
}

// Disuse takes a user away, and unmounts the volume after the last one.
func (s *Store) Disuse(name, user string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.users[name][user] {
		return nil
	}
	delete(s.users[name], user)
	if len(s.users[name]) > 0 {
		return nil
	}
	delete(s.users, name)
	return s.unmount(name)
}

// Sweep unmounts what nobody uses: a killed daemon has left it. The users that are left have called Use.
func (s *Store) Sweep() error {
	all, err := s.List()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, v := range all {
		if len(v.Options) > 0 && len(s.users[v.Name]) == 0 {
			errs = append(errs, s.unmount(v.Name))
		}
	}
	return errors.Join(errs...)
}

// unmount is called with s.mu held.
func (s *Store) unmount(name string) error {
	path := s.data(name)
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) &&
		!errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("volume %s: %w", name, &os.PathError{Op: "unmount", Path: path, Err: err})
	}
	return nil
}

// mount mounts what the options say at the volume's place. The kernel knows no names of hosts, so addr=NAME
// of network file systems is looked up here.
func (v Volume) mount() error {
	options, device := v.Options["o"], v.Options["device"]
	if typ := v.Options["type"]; strings.HasPrefix(typ, "nfs") || typ == "cifs" || typ == "smb3" {
		var err error
		if options, err = addressed(options); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	m := mount.Mount{Type: v.Options["type"], Source: device}
	if options != "" {
		m.Options = strings.Split(options, ",")
	}
	if err := m.Mount(v.Path); err != nil {
		return fault.Invalid("error while mounting volume '%s': failed to mount local volume: mount %s:%s, data: %s: %v",
			v.Path, device, v.Path, options, err)
	}
	return nil
}

func addressed(options string) (string, error) {
	all := strings.Split(options, ",")
	for i, o := range all {
		host, ok := strings.CutPrefix(o, "addr=")
		if !ok || net.ParseIP(host) != nil {
			continue
		}
		ip, err := net.ResolveIPAddr("ip", host)
		if err != nil {
			return "", fmt.Errorf("error resolving passed in network volume address: %w", err)
		}
		all[i] = "addr=" + ip.String()
	}
	return strings.Join(all, ","), nil
}
