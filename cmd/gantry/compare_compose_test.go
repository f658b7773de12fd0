package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantry-build/gantry/internal/need"
)

// BenchmarkComposeAgainstDocker has one Compose bring a file of ten services up and down, at gantry and at Debian's docker.io.
func BenchmarkComposeAgainstDocker(b *testing.B) {
	g := newGantry(b)
	g.base("linux/amd64")
	g.run("tag", "debian:bookworm-slim", benchImage)
	image := filepath.Join(b.TempDir(), "image.tar")
	g.run("save", "-o", image, benchImage)
	docker, _ := dockerEngine(b)
	docker.run("load", "-i", image)
	plugin := need.File(b, "../../.cache/peers/docker-compose", "peers")
	d := dir(b, map[string]string{"compose.yaml": tenServices()})
	sockets := map[string]string{"gantry": g.status().Socket, "docker.io": strings.TrimPrefix(docker.command[2], "unix://")}
	compose := func(engine string, args ...string) {
		cmd := exec.Command(plugin, append([]string{"-f", filepath.Join(d, "compose.yaml")}, args...)...)
		cmd.Env = append(cmd.Environ(), "DOCKER_HOST=unix://"+sockets[engine])
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%s: compose %s: %v\n%s", engine, strings.Join(args, " "), err, out)
		}
	}
	up := row{name: "up -d of ten services"}
	down := row{name: "down of ten services"}
	for round := range 5 {
		for engine, took := range map[string][2]*[]time.Duration{
			"gantry": {&up.gantry, &down.gantry}, "docker.io": {&up.peer, &down.peer},
		} {
			first := timed(func() { compose(engine, "up", "-d") })
			second := timed(func() { compose(engine, "down") })
			if round > 0 { // the first warms up
				*took[0], *took[1] = append(*took[0], first), append(*took[1], second)
			}
		}
	}
	report(b, "compose", "docker.io of Debian", []row{up, down})
}

// tenServices is a file of them: two networks, a volume, and three layers of dependencies.
func tenServices() string {
	var s strings.Builder
	s.WriteString("name: ten\nvolumes: {data: {}}\nnetworks: {front: {}, back: {}}\nservices:\n")
	for i := range 10 {
		fmt.Fprintf(&s, "  s%d:\n    image: %s\n    command: [sleep, '1000']\n    stop_signal: SIGKILL\n", i, benchImage)
		fmt.Fprintf(&s, "    ulimits: {nofile: 1024, nproc: 4096}\n    networks: [%s]\n", []string{"front", "back"}[i%2])
		if i >= 3 {
			fmt.Fprintf(&s, "    depends_on: [s%d]\n", i%3)
		} else {
			s.WriteString("    volumes: ['data:/data']\n")
		}
	}
	return s.String()
}
