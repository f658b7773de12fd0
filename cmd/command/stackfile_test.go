package command

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	dockerloader "github.com/docker/cli/cli/compose/loader"
	dockertypes "github.com/docker/cli/cli/compose/types"
	"go.yaml.in/yaml/v3"
)

// lowered loads a stack file and turns it into the Docker CLI's format, which that reads. kept are the files in memory.
func lowered(t *testing.T, text string) (_ *dockertypes.Config, kept map[string]string, warnings []string, _ []error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"stack.yaml": text, "pw.txt": "pw", "web.env": "FROM_FILE=1\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kept = map[string]string{}
	p, err := stackFlags{}.project(t.Context(), []string{filepath.Join(dir, "stack.yaml")}, "My")
	if err != nil {
		t.Fatal(err)
	}
	doc, warnings, errs := lowerStack(p, func(name string, data []byte) (string, error) {
		kept[name] = string(data)
		return "/in/memory/" + name, nil
	})
	if len(errs) > 0 {
		return nil, kept, warnings, errs
	}
	data, err := yaml.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := dockerloader.ParseYAML(data)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := dockerloader.Load(dockertypes.ConfigDetails{
		Version: "3.13", WorkingDir: "/", ConfigFiles: []dockertypes.ConfigFile{{Config: parsed}},
	}, func(o *dockerloader.Options) { o.SkipInterpolation = true })
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	return cfg, kept, warnings, nil
}

const wholeStack = `
services:
  web:
    image: nginx:${TAG:-1}
    env_file: web.env
    ports: ["8080:80", {target: 443, published: 8443, mode: host}]
    depends_on: {db: {condition: service_healthy}}
    restart: on-failure:3
    tmpfs: /run
    cpus: 0.5
    mem_limit: 64m
    pids_limit: 10
    volumes: ["./pw.txt:/pw:ro", "data:/data"]
    secrets: [{source: pw, mode: 0440, uid: "7"}, token]
    configs: [{source: cfg, target: /etc/cfg}]
    extra_hosts: ["a:1.2.3.4", "b:::1"]
    deploy:
      replicas: 2
      mode: replicated
      update_config: {order: start-first, delay: 1s, parallelism: 0}
      x-gantry: {emulate: true}
  db: {image: db, network_mode: host, scale: 3, deploy: {resources: {reservations: {cpus: "0.25"}}}}
  dbg: {image: x, profiles: [debug]}
secrets:
  pw: {file: pw.txt}
  token: {environment: TOKEN}
configs:
  cfg: {content: "hello ${TAG:-1}"}
networks:
  default: {attachable: true, ipam: {config: [{subnet: 10.9.0.0/24}]}}
  old: {name: given, external: true}
volumes: {data: {}}
`

func TestStackIsLowered(t *testing.T) {
	t.Setenv("TOKEN", "secret$1")
	cfg, kept, warnings, errs := lowered(t, wholeStack)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if len(cfg.Services) != 2 {
		t.Fatalf("%d services", len(cfg.Services))
	}
	db, web := cfg.Services[0], cfg.Services[1]
	if db.Name != "db" {
		db, web = web, db
	}
	for what, pair := range map[string][2]any{
		"image":    {web.Image, "nginx:1"},
		"env_file": {*web.Environment["FROM_FILE"], "1"},
		"ports": {web.Ports, "[{Mode:ingress Target:80 Published:8080 Protocol:tcp} " +
			"{Mode:host Target:443 Published:8443 Protocol:tcp}]"},
		"restart":     {[]any{web.Deploy.RestartPolicy.Condition, *web.Deploy.RestartPolicy.MaxAttempts}, []any{"on-failure", 3}},
		"limits":      {*web.Deploy.Resources.Limits, dockertypes.ResourceLimit{NanoCPUs: "0.5", MemoryBytes: 64 << 20, Pids: 10}},
		"emulate":     {web.Labels["com.gantry.emulate"], "true"},
		"hosts":       {web.ExtraHosts, "[a:1.2.3.4 b:::1]"},
		"mode":        {*web.Secrets[0].Mode, 0o440},
		"tmpfs":       {web.Volumes[len(web.Volumes)-1].Type + web.Volumes[len(web.Volumes)-1].Target, "tmpfs/run"},
		"parallelism": {*web.Deploy.UpdateConfig.Parallelism, 0},
		"scale":       {*db.Deploy.Replicas, 3},
		"host":        {cfg.Networks["host"].External.External, true},
		"default":     {[]any{cfg.Networks["default"].Name, cfg.Networks["default"].Attachable}, []any{"", true}},
		"external":    {cfg.Networks["old"].Name, "given"},
		"reservation": {db.Deploy.Resources.Reservations.NanoCPUs, "0.25"},
		"token":       {cfg.Secrets["token"].File + kept["token"], "/in/memory/tokensecret$1"},
		"config":      {cfg.Configs["cfg"].File + kept["cfg"], "/in/memory/cfghello 1"},
		"volume":      {cfg.Volumes["data"].Name, ""},
		"warnings":    {warnings, "[services.web.depends_on: a cluster starts services in any order, and does not wait for db]"},
	} {
		if got, want := fmt.Sprintf("%+v", pair[0]), fmt.Sprintf("%+v", pair[1]); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
}

func TestStackRefuses(t *testing.T) {
	_, _, _, errs := lowered(t, `
services:
  web:
    image: a
    privileged: true
    container_name: one
    ports: ["127.0.0.1:80:80", "90-91:90-91"]
    tmpfs: /run:size=1m
    networks: {n: {ipv4_address: 10.0.0.1}}
    credential_spec: {file: x}
    deploy: {x-gantry: {emulat: true}, resources: {reservations: {devices: [{capabilities: [gpu]}]}}}
  builds: {build: .}
  joins: {image: b, network_mode: "service:web"}
networks: {n: {enable_ipv6: true, ipam: {config: [{subnet: 10.1.0.0/24, gateway: 10.1.0.9}]}}}
secrets: {s: {environment: NOT_SET_ANYWHERE}}
`)
	var got strings.Builder
	for _, err := range errs {
		key, _, _ := strings.Cut(err.Error(), ": ")
		fmt.Fprintln(&got, key)
	}
	want := `networks.n.enable_ipv6
networks.n.ipam.config
secrets.s.environment
services.builds
services.joins.network_mode
services.web.container_name
services.web.credential_spec
services.web.deploy.resources.reservations.devices
services.web.deploy.x-gantry
services.web.networks.n.ipv4_address
services.web.ports
services.web.privileged
services.web.tmpfs
`
	if got.String() != want {
		t.Errorf("refused:\n%s", got.String())
	}
}
