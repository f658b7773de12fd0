#!/usr/bin/env bash
# Builds gantry with the race detector, lets it build, run, stop and take up again, and fails with what
# the detector has seen. The detector needs cgo, so this program is not the one that is shipped.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
	echo "gantry: the round builds images and runs containers, which needs root: sudo make race" >&2
	exit 1
fi

work=$(mktemp -d)
gantry=$work/gantry
export GANTRY_ROOT=$work/root GORACE="log_path=$work/race"

# ours drops the reports of a race of BuildKit's own: its steps note in two booleans of the package that
# resolv.conf was made once (executor/oci/resolvconf.go:70, v0.34.2).
ours() { awk -v RS='==================\n' '/DATA RACE/ && !/ by goroutine [0-9]+:\n  github.com\/moby\/buildkit\/executor\/oci.GetResolvConf/'; }

finish() {
	status=$?
	"$gantry" rm -f one two >/dev/null 2>&1 || true
	"$gantry" daemon stop >/dev/null 2>&1 || true
	cat "$work"/race.* 2>/dev/null | ours >"$work/ours" || true
	if [ -s "$work/ours" ]; then
		cat "$work/ours" >&2
		status=1
	elif [ "$status" != 0 ]; then
		tail -n 40 "$GANTRY_ROOT/daemon.log" >&2 || true
	fi
	rm -rf "$work"
	exit "$status"
}
trap finish EXIT INT TERM

CGO_ENABLED=1 go build -race -o "$gantry" ./cmd/engine
mkdir "$work/context"
for arch in amd64 arm; do
	GOARCH=$arch GOARM=7 CGO_ENABLED=0 go build -o "$work/context/$arch" ./testdata/probe
done
cat >"$work/context/Dockerfile" <<'EOF'
FROM scratch
ARG TARGETARCH
COPY ${TARGETARCH} /probe
RUN ["/probe", "say", "a", "step"]
ENTRYPOINT ["/probe"]
EOF

"$gantry" build -q --explain-cache --sbom=true --platform linux/amd64,linux/arm/v7 -t round "$work/context"
"$gantry" build -q --platform linux/amd64,linux/arm/v7 -t round "$work/context"
"$gantry" run -d --name one -p 127.0.0.1::80 round serve :80 hello
"$gantry" run -d --name two --platform linux/arm/v7 --restart always round sleep
"$gantry" exec two /probe say inside
"$gantry" logs one
"$gantry" daemon stop # the containers stay, and the next daemon takes them up
"$gantry" ps
"$gantry" save round >"$work/round.tar"
"$gantry" load -i "$work/round.tar"
"$gantry" stop -t 1 one two
echo "no data race in a round of build, run, restart and stop"
