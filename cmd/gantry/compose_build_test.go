package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// buildKeys has each key that a Compose file has for builds. What a step sees of it, the step checks.
const buildKeys = `name: keys
services:
  inline:
    image: ${REGISTRY}/inline:1
    build:
      context: .
      dockerfile_inline: |
        FROM debian:bookworm-slim AS base
        ARG WHO=nobody
        RUN test "$$WHO" = me
        RUN --mount=type=secret,id=token test "$$(cat /run/secrets/token)" = word
        RUN --mount=type=secret,id=fromenv test "$$(cat /run/secrets/fromenv)" = ${WORD}
        RUN grep '10.9.8.7.*elsewhere' /etc/hosts
        RUN test "$$(ulimit -n)" = 4321
        RUN df -k /dev/shm | grep -w 32768
        RUN test "$$(ls /sys/class/net)" = lo
        COPY --from=extra more.txt /
        COPY --from=other /probe /
        FROM base AS last
        RUN echo never > /never && false
      target: base
      args: {WHO: me}
      secrets: [token, fromenv]
      additional_contexts: {extra: ./extra, other: "service:other"}
      extra_hosts: ["elsewhere:10.9.8.7"]
      ulimits: {nofile: 4321}
      shm_size: 32m
      network: none
      labels: {made.by: compose}
      tags: ["${REGISTRY}/inline:also"]
      platforms: [linux/amd64, linux/arm/v7]
      cache_to: ["type=registry,ref=${REGISTRY}/cache"]
      cache_from: ["type=registry,ref=${REGISTRY}/cache"]
      provenance: mode=max
      sbom: true
  other:
    image: other
    build: {context: "${PROBE}", platforms: [linux/amd64, linux/arm/v7]}
  trusted:
    image: trusted
    build:
      context: .
      privileged: true
      no_cache: true
      dockerfile_inline: |
        # syntax=docker/dockerfile:1
        FROM debian:bookworm-slim
        RUN --security=insecure mount -t tmpfs none /mnt
secrets:
  token: {file: token.txt}
  fromenv: {environment: WORD}
`

// Each key for builds does what Compose says, by either Compose; images for two platforms go to a registry with what
// attests them.
func TestComposeBuildKeys(t *testing.T) {
	g := newGantry(t)
	conf := filepath.Join(dir(t, map[string]string{"gantry.toml": "insecure-entitlements = [\"security.insecure\"]\n"}), "gantry.toml")
	g.env = append(g.env, "GANTRY_CONFIG="+conf)
	g.base("linux/amd64", "linux/arm/v7")
	registry := g.registry(false)
	d := dir(t, map[string]string{"compose.yaml": buildKeys, "token.txt": "word", "extra/more.txt": "more\n"})
	byEach(t, g, d, func(t *testing.T, c composer) {
		c.env = append(c.env, "REGISTRY="+registry, "PROBE="+probe(t), "WORD=spoken")
		c.run("build")
		c.run("push", "inline")
		for _, tag := range []string{"1", "also"} {
			image := registry + "/inline:" + tag
			if out := g.run("image", "inspect", "-f", `{{index .Config.Labels "made.by"}}`, image); out != "compose" {
				t.Errorf("%s has the label %q", image, out)
			}
		}
		var idx struct {
			Manifests []struct{ Platform struct{ Architecture string } }
		}
		if err := json.Unmarshal([]byte(g.run("buildx", "imagetools", "inspect", "--raw", registry+"/inline:1")), &idx); err != nil {
			t.Fatal(err)
		}
		found := map[string]int{}
		for _, m := range idx.Manifests {
			found[m.Platform.Architecture]++
		}
		if found["amd64"] != 1 || found["arm"] != 1 || found["unknown"] != 2 {
			t.Errorf("in the registry are %v; want two platforms, and what attests each", found)
		}
		if out := g.run("buildx", "imagetools", "inspect", "--raw", registry+"/cache"); !strings.Contains(out, "buildkit.cacheconfig") {
			t.Errorf("the cache is not in the registry: %s", out)
		}
		g.run("rmi", "-f", registry+"/inline:1", registry+"/inline:also", "other", "trusted")
	})
}
