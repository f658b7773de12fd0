#!/usr/bin/env bash
# The whole way, from a fresh machine to two running containers of two architectures, and back to
# a machine on which nothing runs. Everything it starts, it stops, also when it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
	echo "gantry: the demo builds images and runs containers, which needs root: sudo make demo" >&2
	exit 1
fi

begin=$(date +%s)
step() { printf '\n== %s\n' "$*"; }

step "setting up"
make --no-print-directory setup build
make --no-print-directory bases BASES="amd64 arm"

export GANTRY_ROOT=$PWD/.cache/demo
gantry=$PWD/bin/gantry
port=${DEMO_PORT:-5443}
ref=localhost:$port/simple-rest-app:demo
registry=

finish() {
	status=$?
	"$gantry" rm -f demo-amd64 demo-arm >/dev/null 2>&1 || true
	"$gantry" daemon stop >/dev/null 2>&1 || true
	if [ -n "$registry" ]; then
		kill "$registry" 2>/dev/null || true
		wait "$registry" 2>/dev/null || true
	fi
	exit "$status"
}
trap finish EXIT INT TERM

step "base images, without a hub"
for p in linux/amd64=amd64 linux/arm/v7=arm; do
	"$gantry" import --platform "${p%=*}" ".cache/base/bookworm-slim-${p#*=}.tar" debian:bookworm-slim
done

step "gantry's registry, with a certificate of its own authority"
"$gantry" registry serve --tls --addr "127.0.0.1:$port" &
registry=$!
for _ in $(seq 100); do
	curl -ks "https://localhost:$port/v2/" >/dev/null && break
	kill -0 "$registry" || exit 1
	sleep 0.1
done

step "one image for two platforms, built and pushed"
built=$(date +%s)
digest=$("$gantry" build -q --platform linux/amd64,linux/arm/v7 -t "$ref" --push testdata/simple-rest-app)
built=$(($(date +%s) - built))
echo "$digest in ${built}s"

step "pulled back from the registry, and run"
"$gantry" rmi -f "$ref" >/dev/null
rows=
for p in linux/amd64=amd64=8081 linux/arm/v7=arm=8082; do
	IFS='=' read -r platform name hostport <<<"$p"
	"$gantry" pull -q --platform "$platform" "$ref" >/dev/null
	started=$(date +%s.%N)
	"$gantry" run -d --name "demo-$name" --platform "$platform" -p "$hostport:8080" "$ref" >/dev/null
	answer=
	for _ in $(seq 600); do
		answer=$(curl -fs "http://127.0.0.1:$hostport/" | tr -d '\n') && [ -n "$answer" ] && break
		sleep 0.1
	done
	seconds=$(awk "BEGIN{print $(date +%s.%N) - $started}")
	if [ -z "$answer" ]; then
		echo "gantry: the $platform container does not answer" >&2
		"$gantry" logs "demo-$name" >&2
		exit 1
	fi
	manifest=$("$gantry" image inspect --platform "$platform" --format '{{len .RootFS.Layers}} {{.Size}}' "$ref")
	child=$(curl -ks -H 'Accept: application/vnd.oci.image.index.v1+json' "https://localhost:$port/v2/simple-rest-app/manifests/demo" |
		jq -r --arg a "${platform#linux/}" '.manifests[] | select((.platform.architecture + (if .platform.variant then "/" + .platform.variant else "" end)) == $a) | .digest')
	answer=$(jq -r '.architecture + " on " + .machine' <<<"$answer")
	rows+=$(printf '%s|%s|%s|%s MB|%s|%.1f' "$platform" "${child:0:19}" "${manifest% *}" "$((${manifest#* } / 1000000))" "$answer" "$seconds")$'\n'
done

step "result"
{
	echo 'PLATFORM|MANIFEST|LAYERS|SIZE|ANSWER|SECONDS'
	printf '%s' "$rows"
} | column -t -s '|'
echo
echo "index $digest; the whole demo took $(($(date +%s) - begin))s"
