package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/moby/client/pkg/stringid"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/qemu"
	"github.com/gantry-build/gantry/runner/logs"
	"github.com/gantry-build/gantry/runner/lookup"
	"github.com/gantry-build/gantry/runner/spec"
	"github.com/gantry-build/gantry/runner/volume"
)

// CreateRequest asks for a container.
type CreateRequest struct {
	Name     string // made up when empty
	Platform *ocispec.Platform
	Config   spec.Config
	Host     spec.HostConfig
	Networks []Attachment // beside that of the network mode, or about it
}

// Create makes a container, which does not run yet, and returns its ID and what the user should know.
// Errors: errdefs.ErrNotFound without the image and only then, since clients pull it and try again;
// ErrInvalidArgument for an option that can't be had, ErrConflict for a taken name, and the qemu room's refusal of a platform.
func (m *Manager) Create(ctx context.Context, req CreateRequest) (id string, warnings []string, err error) {
	if m.ctx.Err() != nil {
		return "", nil, errdefs.ErrUnavailable.WithMessage(errClosing.Error())
	}
	ctx, done, err := m.client.WithLease(cache.WithNamespace(ctx)) // keeps the snapshot until the record names it
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	rec, img, way, err := m.plan(ctx, req)
	if err != nil {
		return "", nil, err
	}
	if rec.Name, err = m.reserve(req.Name, rec.ID); err != nil {
		return "", nil, err
	}
	if err := m.make(ctx, &rec, img); err != nil {
		m.unmake(context.WithoutCancel(ctx), rec)
		m.unreserve(rec.Name, rec.ID)
		return "", nil, err
	}
	m.emit(rec, "create")
	warnings = m.warn(req, rec)
	if req.Host.Memory != rec.HostConfig.Memory || req.Host.MemoryReservation != rec.HostConfig.MemoryReservation {
		warnings = append(warnings, noMemory.Error().Error())
	}
	if way.Shared() {
		warnings = append(warnings, fmt.Sprintf("%s runs under %s, registered for the whole machine while gantry needs it",
			platforms.Format(rec.Platform), filepath.Base(way.Emulator)))
	}
	return rec.ID, warnings, nil
}

// plan settles everything that can be refused before something is made.
func (m *Manager) plan(ctx context.Context, req CreateRequest) (Record, *cache.Image, qemu.Way, error) {
	rec := Record{ID: stringid.GenerateRandomID(), Created: time.Now().UTC(), HostConfig: req.Host}
	img, err := m.store.Open(ctx, req.Config.Image, req.Platform)
	if err != nil {
		return rec, nil, qemu.Way{}, err
	}
	inherited, err := spec.ParseImage(img.RawConfig)
	if err != nil {
		return rec, nil, qemu.Way{}, err
	}
	rec.Config = spec.Merge(req.Config, inherited)
	rec.Image, rec.ImageID = img.Name, img.Target.Digest.String()
	rec.Manifest, rec.Platform = img.Manifest, img.Platform
	if err := m.settle(&rec, req.Networks); err != nil {
		return rec, nil, qemu.Way{}, err
	}
	way, err := m.o.Qemu.Way(img.Platform)
	if err != nil {
		return rec, nil, qemu.Way{}, refused(err)
	}
	rec.Emulated, rec.Emulator = way.Mode == qemu.Emulated, way.Emulator
	return rec, img, way, nil
}

// refused makes the qemu room's refusal the user's error, not the daemon's.
func refused(err error) error {
	if r := (*qemu.RefusedError)(nil); errors.As(err, &r) {
		return errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	return err
}

// settle fills in defaults and checks the options.
func (m *Manager) settle(rec *Record, networks []Attachment) (err error) {
	h, c := &rec.HostConfig, &rec.Config
	if err := m.settleNetwork(rec, networks); err != nil {
		return err
	}
	if err := spec.Validate(*c, *h); err != nil {
		return err
	}
	if most := int64(runtime.NumCPU()); h.NanoCPUs > most*1e9 {
		return fault.Invalid("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", most, most)
	}
	dropMemory(h)
	if _, err := logs.ParseOptions(h.LogConfig.Type, h.LogConfig.Config, logSource(*rec)); err != nil {
		return err
	}
	if h.LogConfig.Type == "" {
		h.LogConfig.Type = "json-file"
	}
	if ref, shares := strings.CutPrefix(h.PidMode, "container:"); shares {
		other, err := m.find(ref)
		if err != nil {
			return fault.Invalid("%v", err) // not a 404: docker run would pull the image
		}
		h.PidMode = "container:" + other.id
	}
	if spec.HasInit(*h) && m.o.Init == "" {
		return errdefs.ErrUnavailable.WithMessage("--init: this gantry was built without the programs that it carries; build it with make")
	}
	if err := m.settleIPC(h); err != nil {
		return err
	}
	if h.CgroupnsMode == "" {
		h.CgroupnsMode = "host" // as with Docker
		if lookup.Unified() {
			h.CgroupnsMode = "private"
		}
	}
	if h.PidsLimit != nil && *h.PidsLimit < 0 {
		h.PidsLimit = new(int64) // none
	}
	if c.WorkingDir != "" {
		c.WorkingDir = path.Clean(c.WorkingDir)
	}
	for _, l := range h.Links {
		name, _ := SplitLink(l)
		if _, err := m.find(name); err != nil {
			return fault.Invalid("could not get container for %s: %v", name, err)
		}
	}
	if h.ShmSize == 0 {
		h.ShmSize = 64 << 20
	}
	if rec.Ports, err = ports(*c, *h); err != nil {
		return err
	}
	if _, err := stopSignal(*c, ""); err != nil {
		return err
	}
	if c.Hostname == "" {
		c.Hostname = rec.ID[:12]
		if h.NetworkMode == "host" {
			c.Hostname, _ = os.Hostname()
		}
	}
	return nil
}

// make does what plan has settled: volumes, snapshot, containerd's container, record.
func (m *Manager) make(ctx context.Context, rec *Record, img *cache.Image) (err error) {
	if _, err := m.client.SnapshotService(cache.Snapshotter).Prepare(ctx, rec.ID, img.Snapshot); err != nil {
		return fmt.Errorf("root file system of %s: %w", rec.Image, err)
	}
	if rec.Mounts, err = m.volumes.Resolve(rec.Config, rec.HostConfig,
		volume.Sources{Container: m.mountsOf, Image: m.imageOf(ctx, rec.ID)}); err != nil {
		return err
	}
	for _, p := range rec.Mounts {
		if p.IsNew {
			m.emitVolume("create", p.Name)
		}
	}
	if err := m.useVolumes(*rec); err != nil { // to be filled
		return err
	}
	rootfs := func(f func(root string) error) error { return m.withRootfs(ctx, rec.ID, f) }
	err = volume.Fill(rec.Mounts, rootfs)
	m.disuseVolumes(*rec) // before anyone can start it
	if err != nil {
		return err
	}
	name, opts := m.runtime()
	_, err = m.client.NewContainer(ctx, rec.ID,
		client.WithRuntime(name, opts),
		client.WithContainerLabels(map[string]string{"gantry.build/name": rec.Name}),
		client.WithSpec(&oci.Spec{Version: "1.2.0"}), // each start writes the real one
		func(_ context.Context, _ *client.Client, c *containers.Container) error {
			c.Snapshotter, c.SnapshotKey, c.Image = cache.Snapshotter, rec.ID, rec.Image
			return nil
		})
	if err != nil {
		return fmt.Errorf("container %s: %w", rec.ID, err)
	}
	return m.enter(*rec)
}

// enter writes the record and makes the container findable.
func (m *Manager) enter(rec Record) error {
	dir := filepath.Join(m.containersDir(), rec.ID)
	if err := os.Mkdir(dir, 0o710); err != nil {
		return err
	}
	c, err := newContainer(dir, rec)
	if err != nil {
		return err
	}
	c.mu.Lock()
	err = c.save()
	c.mu.Unlock()
	if err != nil {
		return errors.Join(err, c.log.Close())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byID[rec.ID] = c
	return nil
}

// unmake undoes a make that failed somewhere. What is not there is no error.
func (m *Manager) unmake(ctx context.Context, rec Record) {
	err := m.client.ContainerService().Delete(ctx, rec.ID)
	if e := m.client.SnapshotService(cache.Snapshotter).Remove(ctx, rec.ID); err == nil || errdefs.IsNotFound(err) {
		err = e
	}
	if err != nil && !errdefs.IsNotFound(err) {
		m.log.Warn("undoing a failed create", "container", rec.ID, "error", err)
	}
	if err := m.dropViews(ctx, rec.ID); err != nil {
		m.log.Warn("undoing a failed create", "container", rec.ID, "error", err)
	}
	m.dropVolumes(rec)
	if err := os.RemoveAll(filepath.Join(m.containersDir(), rec.ID)); err != nil {
		m.log.Warn("undoing a failed create", "container", rec.ID, "error", err)
	}
}

// runtime is the shim with a runc state directory of this daemon's own, so that two data roots do
// not meet in /run/runc.
func (m *Manager) runtime() (string, *options.Options) {
	name, o := m.store.Runtime()
	if o == nil {
		o = &options.Options{}
	}
	return name, &options.Options{
		BinaryName: o.BinaryName, SystemdCgroup: o.SystemdCgroup, ShimCgroup: o.ShimCgroup,
		Root: filepath.Join(m.o.State, "runc"),
	}
}

// warn tells of a foreign platform that nobody asked for, in Docker's words.
func (m *Manager) warn(req CreateRequest, rec Record) []string {
	host := platforms.DefaultSpec()
	if req.Platform != nil || platforms.Only(host).Match(rec.Platform) {
		return nil
	}
	return []string{fmt.Sprintf("The requested image's platform (%s) does not match the detected host platform (%s) and no specific "+
		"platform was requested",
		platforms.FormatAll(rec.Platform), platforms.FormatAll(host))}
}

// withRootfs calls f with the container's root file system, mounted for reading in a private place.
// The container must not run.
func (m *Manager) withRootfs(ctx context.Context, id string, f func(root string) error) error {
	mounts, err := m.client.SnapshotService(cache.Snapshotter).Mounts(ctx, id)
	if err != nil {
		return fmt.Errorf("root file system of container %s: %w", id, err)
	}
	var inner error
	err = mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		inner = f(root)
		return nil
	})
	return errors.Join(inner, err)
}
