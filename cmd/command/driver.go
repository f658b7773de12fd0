package command

import (
	"context"
	"errors"
	"net"

	"github.com/docker/buildx/driver"
	"github.com/docker/buildx/util/progress"
	"github.com/moby/buildkit/client"
	moby "github.com/moby/moby/client"

	"github.com/gantry-build/gantry/frontend/tree"
	"github.com/gantry-build/gantry/solver"
)

// builderDriver is how buildx's commands reach the daemon: a driver in buildx's sense, as its
// "docker" driver is for a Docker daemon. It is also its own factory.
type builderDriver struct {
	at   *place
	conf driver.InitConfig

	// dirs are the local directories of the build on the command line, by their names in the
	// session; the daemon may look at them itself (see tree.SharedKey).
	dirs map[string]tree.Directory
	// refs are the builds that were asked for, as the history names them.
	refs []string
	// prepare gives the request what the command line said in flags that are not buildx's.
	prepare func(*driver.PrepareBuildOptions) error
}

func (d *builderDriver) Name() string          { return "gantry" }
func (d *builderDriver) Usage() string         { return "gantry" }
func (d *builderDriver) AllowsInstances() bool { return true }

// Priority implements driver.Factory: a builder is ours unless it has another's address. The least counts.
func (d *builderDriver) Priority(_ context.Context, endpoint string, _ moby.APIClient, _ map[string][]string) int {
	if d.at.elsewhere(endpoint) {
		return 100
	}
	return 1
}

func (d *builderDriver) New(_ context.Context, conf driver.InitConfig) (driver.Driver, error) {
	d.conf = conf
	return d, nil
}

func (d *builderDriver) Factory() driver.Factory                          { return d }
func (d *builderDriver) Config() driver.InitConfig                        { return d.conf }
func (d *builderDriver) Bootstrap(context.Context, progress.Logger) error { return nil }
func (d *builderDriver) Stop(context.Context, bool) error                 { return nil }
func (d *builderDriver) Rm(context.Context, bool, bool, bool) error       { return nil }

// called is the driver by another name: builders that a script has made anew, by drivers of buildx's, are this daemon, too.
type called struct {
	*builderDriver
	name string
}

func (c called) Name() string            { return c.name }
func (c called) Factory() driver.Factory { return c }

// Priority keeps it from being taken where no driver is named.
func (c called) Priority(context.Context, string, moby.APIClient, map[string][]string) int {
	return 100
}

func (d *builderDriver) Info(context.Context) (*driver.Info, error) {
	return &driver.Info{Status: driver.Running}, nil
}

func (d *builderDriver) Version(context.Context) (string, error) {
	return solver.BuildkitVersion, nil
}

// IsMobyDriver says that results stay in the builder's own image store unless they are sent elsewhere.
func (d *builderDriver) IsMobyDriver() bool { return true }

// Features implements driver.Driver: the store keeps every platform of an image.
func (d *builderDriver) Features(context.Context) (map[driver.Feature]bool, error) {
	return map[driver.Feature]bool{
		driver.OCIExporter: true, driver.DockerExporter: true, driver.CacheExport: true, driver.MultiPlatform: true,
		driver.DirectPush: true, driver.PreferImageDigest: true, driver.DefaultLoad: true,
	}, nil
}

// HostGatewayIP is what host-gateway means in --add-host: the host as steps see it.
func (d *builderDriver) HostGatewayIP(ctx context.Context) (net.IP, error) {
	c, err := d.Client(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	workers, err := c.ListWorkers(ctx)
	if err != nil {
		return nil, err
	}
	for _, w := range workers {
		if ip := net.ParseIP(w.Labels[solver.LabelGateway]); ip != nil {
			return ip, nil
		}
	}
	return nil, errors.New("host-gateway has no address: the daemon's log says why")
}

func (d *builderDriver) Dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", d.at.Socket())
}

// sharedKeyHeader is the session's header of that name (buildkit, session/session.go, v0.34.2).
const sharedKeyHeader = "X-Docker-Expose-Session-Sharedkey"

// Client implements driver.Driver. Sessions go over connections of their own, which saves the
// context's bytes a second framing.
func (d *builderDriver) Client(ctx context.Context, opts ...client.ClientOpt) (*client.Client, error) {
	engine, err := d.at.API()
	if err != nil {
		return nil, err
	}
	opts = append([]client.ClientOpt{
		client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return d.Dial(ctx) }),
		client.WithSessionDialer(func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			if d.dirs != nil {
				meta[sharedKeyHeader] = []string{tree.SharedKey(d.dirs)}
			}
			return engine.DialHijack(ctx, "/session", proto, meta)
		}),
	}, opts...)
	return client.New(ctx, "", opts...)
}

// PrepareBuild implements driver.BuildPreparer.
func (d *builderDriver) PrepareBuild(_ context.Context, o *driver.PrepareBuildOptions) error {
	d.refs = append(d.refs, o.SolveOpt.Ref)
	if d.prepare == nil {
		return nil
	}
	return d.prepare(o)
}
