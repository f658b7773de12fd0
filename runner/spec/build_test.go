package spec

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write testdata anew")

func input() Input {
	return Input{
		ID:     "0123456789ab",
		Config: Config{Hostname: "box", Entrypoint: []string{"/bin/serve"}, Cmd: []string{"-v"}, Env: []string{"A=1"}},
		User:   User{Home: "/root", Groups: []uint32{0}},
		Files:  Files{ResolvConf: "/c/resolv.conf", Hostname: "/c/hostname", Hosts: "/c/hosts"},
		Machine: Machine{SwapLimit: true, RecursiveReadOnly: true, Devices: []specs.LinuxDevice{
			{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229},
		}},
	}
}

func TestGolden(t *testing.T) {
	pids, swappiness := int64(50), int64(0)
	for name, change := range map[string]func(*Input){
		"default": func(*Input) {},
		"user":    func(in *Input) { in.User = User{UID: 1001, GID: 1002, Groups: []uint32{1002, 5}, Home: "/home/ann"} },
		"terminal": func(in *Input) {
			in.Config.Tty, in.Host.ConsoleSize = true, [2]uint{24, 80}
			in.Config.WorkingDir = "/srv/"
		},
		"privileged": func(in *Input) { in.Host.Privileged = true },
		"limits": func(in *Input) {
			in.Host.Resources = Resources{
				Memory: 64 << 20, NanoCPUs: 1500e6, PidsLimit: &pids, MemorySwappiness: &swappiness, CpusetCpus: "0-1",
				CPUShares: 512, BlkioWeight: 300,
				Ulimits: []Ulimit{{Name: "nofile", Soft: 100, Hard: 200}, {Name: "core", Soft: -1, Hard: -1}},
			}
			in.Host.OomScoreAdj = 100
		},
		"security": func(in *Input) {
			in.Host.CapDrop, in.Host.CapAdd = []string{"ALL"}, []string{"net_admin", "CAP_CHOWN"}
			in.Host.SecurityOpt = []string{"no-new-privileges", "systempaths=unconfined"}
			in.Host.ReadonlyRootfs = true
			in.Host.Sysctls = map[string]string{"net.core.somaxconn": "1024"}
		},
		"host": func(in *Input) {
			in.Host.NetworkMode, in.Host.PidMode, in.Host.IpcMode, in.Host.UTSMode, in.Host.CgroupnsMode = "host", "host",
				"host", "host", "host"
		},
		"mounts": func(in *Input) {
			in.Mounts = []Mount{
				{Type: "bind", Source: "/h/inner", Target: "/data/inner"},
				{Type: "bind", Source: "/h/data", Target: "/data/", ReadOnly: true, Propagation: "rslave"},
				{Type: "bind", Source: "/h/hosts", Target: "/etc/hosts", ReadOnly: true, ReadOnlyTop: true},
				{Type: "tmpfs", Target: "/tmp", Options: []string{"size=1m", "exec"}},
				{Type: "bind", Source: "/h/shm", Target: "/dev/shm", NonRecursive: true},
			}
		},
		"devices": func(in *Input) {
			in.Host.Devices = []Device{{PathOnHost: "/dev/fuse", CgroupPermissions: "rw"}}
			in.Devices = in.Machine.Devices
			in.Host.DeviceCgroupRules = []string{"b 8:* r"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			change(&in)
			s, err := Build(in)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, name, s)
		})
	}
}

func compare(t *testing.T, name string, s *specs.Spec) {
	t.Helper()
	got, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	a, b := strings.Split(string(want), "\n"), strings.Split(string(got), "\n")
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			t.Fatalf("%s differs from line %d:\n-%s\n+%s\naccept with: go test ./runner/spec -update",
				file, i+1, strings.Join(a[min(i, len(a)):min(i+5, len(a))], "\n-"), strings.Join(b[min(i, len(b)):min(i+5, len(b))], "\n+"))
		}
	}
}

func TestRefusals(t *testing.T) {
	ok := Config{Cmd: []string{"x"}}
	for text, h := range map[string]HostConfig{
		`invalid PID mode`:           {PidMode: "container:"},
		`invalid IPC mode`:           {IpcMode: "odd"},
		`invalid IPC mode: cont`:     {IpcMode: "container:"},
		`invalid cgroup names`:       {CgroupnsMode: "odd"},
		`--storage-opt is supp`:      {StorageOpt: map[string]string{"size": "1G"}},
		`invalid --security-opt 2`:   {SecurityOpt: []string{"writable-cgroups=1"}},
		`invalid UTS mode`:           {UTSMode: "odd"},
		`unknown policy 'odd'`:       {RestartPolicy: RestartPolicy{Name: "odd"}},
		`invalid CPU shares (-1)`:    {Resources: Resources{CPUShares: -1}},
		`invalid Annotations`:        {Annotations: map[string]string{"": "x"}},
		`logging plugin gelf`:        {LogConfig: LogConfig{Type: "gelf"}},
		"invalid runtime name: kata": {Runtime: "kata"},
		`unknown capability`:         {CapAdd: []string{"FLY"}},
		`security option "label=`:    {SecurityOpt: []string{"label=type:x"}},
		`invalid ulimit type`:        {Resources: Resources{Ulimits: []Ulimit{{Name: "luck"}}}},
		`Minimum memory limit`:       {Resources: Resources{Memory: 1}},
		`device cgroup rule`:         {Resources: Resources{DeviceCgroupRules: []string{"x"}}},
		`can't create 'AutoRemove`:   {AutoRemove: true, RestartPolicy: RestartPolicy{Name: "always"}},
		`maximum retry count`:        {RestartPolicy: RestartPolicy{Name: "always", MaximumRetryCount: 2}},
		`conflicting options`:        {Resources: Resources{NanoCPUs: 1, CPUQuota: 1}},
	} {
		if err := Validate(ok, h); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("want %q: %v", text, err)
		}
	}
	for text, c := range map[string]Config{
		"invalid environment variable: =x":                {Cmd: []string{"x"}, Env: []string{"=x"}},
		"Interval in Healthcheck cannot be less than 1ms": {Cmd: []string{"x"}, Healthcheck: &Healthcheck{Interval: -1}},
		"Retries in Healthcheck cannot be negative":       {Cmd: []string{"x"}, Healthcheck: &Healthcheck{Retries: -1}},
	} {
		if err := Validate(c, HostConfig{}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("want %q: %v", text, err)
		}
	}
	if err := Validate(Config{}, HostConfig{}); !errdefs.IsInvalidArgument(err) {
		t.Error("no command:", err)
	}
	if err := Validate(ok, HostConfig{}); err != nil {
		t.Error(err)
	}
	for _, m := range [][]Mount{{{Target: "/"}}, {{Target: "x"}}, {{Target: "/a"}, {Target: "/a/"}}} {
		in := input()
		in.Mounts = m
		if _, err := Build(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", m, err)
		}
	}
}

func TestMerge(t *testing.T) {
	img := Image{
		Entrypoint: []string{"/e"}, Cmd: []string{"c"}, Env: []string{"A=1", "B=2", "C=3"}, Labels: map[string]string{"x": "1", "y": "1"},
		User: "u", WorkingDir: "/w", Volumes: map[string]struct{}{"/v": {}},
		Healthcheck: &Healthcheck{Test: []string{"CMD", "h"}, Retries: 4},
	}
	for _, x := range []struct {
		c    Config
		want string
	}{
		{Config{}, "/e c"}, {Config{Cmd: []string{"d"}}, "/e d"},
		// The image's command was meant for its own entry point.
		{Config{Entrypoint: []string{"/f"}}, "/f"},
		{Config{Entrypoint: []string{"/f"}, Cmd: []string{"d"}}, "/f d"}, {Config{Entrypoint: []string{""}, Cmd: []string{"d"}}, "d"},
	} {
		got := strings.Join(Merge(x.c, img).Args(), " ")
		if got != x.want {
			t.Errorf("%v: %q, want %q", x.c, got, x.want)
		}
	}
	c := Merge(Config{Env: []string{"B=9", "C"}, Labels: map[string]string{"y": "2"}, User: "v", Healthcheck: &Healthcheck{Retries: 7}},
		img)
	if !slices.Equal(c.Env, []string{"A=1", "B=9"}) || c.Labels["x"]+c.Labels["y"] != "12" || c.User != "v" || c.WorkingDir != "/w" {
		t.Errorf("%+v", c)
	}
	if c.Healthcheck.Retries != 7 || c.Healthcheck.Test[1] != "h" {
		t.Errorf("%+v", c.Healthcheck)
	}
	if img.Labels["y"] != "1" {
		t.Error("the image was changed")
	}
}

func TestSeccomp(t *testing.T) {
	arch := map[string]string{"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64", "arm": "SCMP_ARCH_ARM"}[runtime.GOARCH]
	text := `{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"` + arch + `","subArchitectures":["SCMP_ARCH_X86"]}],
		"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"},
		{"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
		{"names":["clone"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]}},
		{"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
		{"names":["never"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99.0"}},
		{"names":["old"],"action":"SCMP_ACT_ALLOW","excludes":{"minKernel":"4.8"}},
		{"name":"arch_prctl","action":"SCMP_ACT_ALLOW","includes":{"arches":["` + runtime.GOARCH + `"]}},
		{"names":["elsewhere"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["s390x"]}}]}`
	list := func(add ...string) string {
		in := input()
		in.Host.CapAdd, in.Host.SecurityOpt = add, []string{"seccomp=" + text}
		s, err := Build(in)
		if err == nil {
			err = Seccomp(s, in.Host)
		}
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, s := range s.Linux.Seccomp.Syscalls {
			all = append(all, s.Names...)
		}
		return strings.Join(all, " ")
	}
	if got := list(); got != "read clone ptrace arch_prctl" {
		t.Error(got)
	}
	if got := list("SYS_ADMIN"); got != "read mount ptrace arch_prctl" {
		t.Error(got)
	}
	in := input()
	in.Host.SecurityOpt = []string{"seccomp=unconfined"}
	s, err := Build(in)
	if err == nil {
		err = Seccomp(s, in.Host)
	}
	if err != nil || s.Linux.Seccomp != nil {
		t.Error("unconfined:", s.Linux.Seccomp, err)
	}
	if err := Seccomp(s, HostConfig{}); err != nil || s.Linux.Seccomp == nil {
		t.Fatal("default:", err)
	}
	if slices.Contains(s.Linux.Seccomp.Architectures, specs.ArchX32) {
		t.Error("the default profile has rules for x32")
	}
	if err := Seccomp(s, HostConfig{SecurityOpt: []string{"seccomp={"}}); !errdefs.IsInvalidArgument(err) {
		t.Error("broken:", err)
	}
}

func TestExecProcess(t *testing.T) {
	in := input()
	in.Config.Env = append(in.Config.Env, "HOME=/here")
	s, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	p := ExecProcess(s.Process, Exec{Args: []string{"id"}, Env: []string{"A=2"}, Tty: true},
		User{UID: 7, GID: 8, Home: "/home/x"}, in.Machine)
	for name, want := range map[string]string{"A": "2", "TERM": "xterm", "HOME": "/home/x", "HOSTNAME": "box"} {
		if got, _ := LookupEnv(p.Env, name); got != want {
			t.Errorf("%s=%s, want %s", name, got, want)
		}
	}
	if p.Capabilities.Effective != nil || len(p.Capabilities.Bounding) == 0 || p.User.UID != 7 || s.Process.Args[0] != "/bin/serve" {
		t.Errorf("%+v", p)
	}
	if p = ExecProcess(s.Process, Exec{Privileged: true}, User{}, in.Machine); len(p.Capabilities.Effective) != len(AllCapabilities()) {
		t.Errorf("%+v", p.Capabilities)
	}
}
