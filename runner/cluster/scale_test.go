package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/log"
	gogotypes "github.com/gogo/protobuf/types"
	"github.com/moby/swarmkit/v2/agent"
	swarmexec "github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/node"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/gantry-build/gantry/runner"
)

// scaleManager is the directory of a manager that this process is to be, beside the benchmark's.
const scaleManager = "GANTRY_SCALE_MANAGER"

func TestMain(m *testing.M) {
	_ = log.SetLevel("fatal") // SwarmKit's
	if dir := os.Getenv(scaleManager); dir != "" {
		manage(dir)
		return
	}
	os.Exit(m.Run())
}

// manage is a manager's life: it has no runner, as it is drained, and does what it reads.
func manage(dir string) {
	said := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	c := New(Options{
		Root: dir, State: filepath.Join(dir, "s"), Runner: &runner.Manager{}, Log: slog.New(slog.DiscardHandler),
		Describe: func() *api.NodeDescription { return &api.NodeDescription{Hostname: "manager"} },
	})
	if _, err := os.Stat(c.file()); err == nil {
		said(c.Resume())
	} else {
		_, err := c.Init(context.Background(), Init{
			Config: Config{Listen: os.Getenv("LISTEN"), Advertise: os.Getenv("LISTEN")}, Availability: "drain",
		})
		said(err)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	c.Close()
}

// fleet is a manager in a process of its own, and nodes in this one whose tasks do nothing.
type fleet struct {
	b       *testing.B
	dir     string
	listen  string
	manager *exec.Cmd
	control Manager
	running atomic.Int64
	nodes   []*node.Node
}

func (f *fleet) Describe(context.Context) (*api.NodeDescription, error) {
	return &api.NodeDescription{
		Hostname: "fake", Platform: &api.Platform{Architecture: "x86_64", OS: "linux"},
		Resources: &api.Resources{NanoCPUs: 64e9, MemoryBytes: 256 << 30},
		Engine:    &api.EngineDescription{Plugins: []api.PluginDescription{{Type: "Network", Name: "overlay"}}},
	}, nil
}
func (f *fleet) Configure(context.Context, *api.Node) error         { return nil }
func (f *fleet) SetNetworkBootstrapKeys([]*api.EncryptionKey) error { return nil }
func (f *fleet) Controller(*api.Task) (swarmexec.Controller, error) {
	return &fakeTask{f: f, end: make(chan struct{})}, nil
}
func (t *fakeTask) Update(context.Context, *api.Task) error { return nil }
func (t *fakeTask) Prepare(context.Context) error           { return nil }
func (t *fakeTask) Shutdown(context.Context) error          { t.stop(); return nil }
func (t *fakeTask) Terminate(context.Context) error         { t.stop(); return nil }
func (t *fakeTask) Remove(context.Context) error            { t.stop(); return nil }
func (t *fakeTask) Close() error                            { return nil }
func (t *fakeTask) Start(context.Context) error             { t.started = true; t.f.running.Add(1); return nil }

type fakeTask struct {
	f       *fleet
	started bool
	once    sync.Once
	end     chan struct{}
}

func (t *fakeTask) stop() {
	t.once.Do(func() {
		close(t.end)
		if t.started {
			t.f.running.Add(-1)
		}
	})
}

func (t *fakeTask) Wait(ctx context.Context) error {
	select {
	case <-t.end:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start starts the manager's process, anew after a kill, and connects to it.
func (f *fleet) start() {
	f.b.Helper()
	f.manager = exec.Command(os.Args[0])
	f.manager.Env = append(os.Environ(), scaleManager+"="+f.dir, "LISTEN="+f.listen)
	f.manager.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := f.manager.StdinPipe()
	if err != nil {
		f.b.Fatal(err)
	}
	f.b.Cleanup(func() { in.Close() })
	f.manager.Stderr = os.Stderr
	if err := f.manager.Start(); err != nil {
		f.b.Fatal(err)
	}
	for {
		if f.control, err = dialControl(filepath.Join(f.dir, "s", "control.sock")); err == nil {
			var found *api.ListClustersResponse
			if found, err = f.control.ListClusters(f.b.Context(), &api.ListClustersRequest{}); err == nil && len(found.Clusters) > 0 {
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// phase reports how long a part has taken, and what memory the manager has then.
func (f *fleet) phase(name string, do func()) {
	begin := time.Now()
	do()
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.manager.Process.Pid))
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	kib, _ := strconv.Atoi(strings.Fields(after)[0])
	f.b.ReportMetric(time.Since(begin).Seconds(), name+"-s")
	f.b.ReportMetric(float64(kib>>10), name+"-MiB")
	f.b.Logf("%s: %.1f s, the manager has %d MiB", name, time.Since(begin).Seconds(), kib>>10)
}

func (f *fleet) join(n int) {
	found, err := f.control.ListClusters(f.b.Context(), &api.ListClustersRequest{})
	if err != nil {
		f.b.Fatal(err)
	}
	turns := make(chan struct{}, 16)
	var joining sync.WaitGroup
	for i := range n {
		turns <- struct{}{}
		joining.Go(func() {
			defer func() { <-turns }()
			dir := filepath.Join(f.dir, "nodes", strconv.Itoa(i))
			worker, err := node.New(&node.Config{
				Hostname: fmt.Sprint("node", i), StateDir: dir, JoinAddr: f.listen, JoinToken: found.Clusters[0].RootCA.JoinTokens.Worker,
				ListenControlAPI: filepath.Join(dir, "c.sock"), ListenRemoteAPI: "127.0.0.1:0",
				Executor: struct {
					*fleet
					swarmexec.DependencyManager
				}{f, agent.NewDependencyManager(nil)},
			})
			if err == nil {
				err = worker.Start(context.WithoutCancel(f.b.Context()))
			}
			if err != nil {
				f.b.Error(err)
				return
			}
			<-worker.Ready()
			f.nodes[i] = worker
		})
	}
	joining.Wait()
}

func (f *fleet) spec(version string, replicas int) *api.ServiceSpec {
	return &api.ServiceSpec{
		Annotations: api.Annotations{Name: "many"},
		Task: api.TaskSpec{Runtime: &api.TaskSpec_Container{
			Container: &api.ContainerSpec{Image: "x", Env: []string{"V=" + version}},
		}},
		Mode:   &api.ServiceSpec_Replicated{Replicated: &api.ReplicatedService{Replicas: uint64(replicas)}},
		Update: &api.UpdateConfig{Parallelism: 100, Monitor: gogotypes.DurationProto(time.Second)},
	}
}

func (f *fleet) until(ok func() bool) {
	for !ok() && f.b.Context().Err() == nil {
		time.Sleep(50 * time.Millisecond)
	}
}

// update changes the service, and returns when all of its tasks are new ones.
func (f *fleet) update(id string, tasks int) {
	ctx := f.b.Context()
	f.until(func() bool {
		got, err := f.control.GetService(ctx, &api.GetServiceRequest{ServiceID: id})
		if err != nil {
			return false
		}
		_, err = f.control.UpdateService(ctx, &api.UpdateServiceRequest{
			ServiceID: id, ServiceVersion: &got.Service.Meta.Version, Spec: f.spec("2", tasks),
		})
		return err == nil
	})
	f.until(func() bool {
		got, err := f.control.GetService(ctx, &api.GetServiceRequest{ServiceID: id})
		return err == nil && got.Service.UpdateStatus != nil && got.Service.UpdateStatus.State == api.UpdateStatus_COMPLETED
	})
}

// Nodes join, tasks start, all are updated, and the manager is killed and started again.
func BenchmarkScale(b *testing.B) {
	for _, size := range [][2]int{{200, 1000}, {1000, 5000}, {5000, 50000}} {
		b.Run(fmt.Sprintf("%dnodes/%dtasks", size[0], size[1]), func(b *testing.B) {
			for b.Loop() {
				scale(b, size[0], size[1])
			}
		})
	}
}

func scale(b *testing.B, nodes, tasks int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	l.Close()
	f := &fleet{b: b, dir: b.TempDir(), listen: l.Addr().String(), nodes: make([]*node.Node, nodes)}
	ctx := b.Context()
	f.start()
	defer func() {
		defer func() { _ = forget(filepath.Join(f.dir, "s", "secrets")) }()
		_ = f.manager.Process.Kill()
		_ = f.manager.Wait()
		for _, n := range f.nodes {
			if n != nil {
				stopping, cancel := context.WithTimeout(context.Background(), time.Second)
				_ = n.Stop(stopping)
				cancel()
			}
		}
	}()
	f.phase("join", func() { f.join(nodes) })
	var service *api.Service
	f.phase("start", func() {
		made, err := f.control.CreateService(ctx, &api.CreateServiceRequest{Spec: f.spec("1", tasks)})
		if err != nil {
			b.Fatal(err)
		}
		service = made.Service
		f.until(func() bool { return f.running.Load() == int64(tasks) })
	})
	f.phase("update", func() { f.update(service.ID, tasks) })
	_ = f.manager.Process.Kill()
	_ = f.manager.Wait()
	f.phase("restart", func() {
		f.start()
		f.until(func() bool {
			all, err := f.control.ListNodes(ctx, &api.ListNodesRequest{})
			ready := 0
			if err == nil {
				for _, n := range all.Nodes {
					if n.Status.State == api.NodeStatus_READY {
						ready++
					}
				}
			}
			return ready == nodes+1
		})
	})
	if got := f.running.Load(); got != int64(tasks) {
		b.Errorf("%d of %d tasks run after the manager's restart", got, tasks)
	}
}

func dialControl(socket string) (Manager, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(512<<20)))
	if err != nil {
		return Manager{}, err
	}
	return Manager{ControlClient: api.NewControlClient(conn), conn: conn}, nil
}
