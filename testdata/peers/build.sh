#!/usr/bin/env bash
# Builds the clients that tests drive gantry with, and the buildkitd and buildctl that they compare
# it with, into .cache/peers. Modules with exclude directives are refused by `go install PKG@VERSION`,
# so all of them are built from a module of their own.
set -euo pipefail
out=$PWD/.cache/peers
declare -A programs=(
	[buildctl]=github.com/moby/buildkit/cmd/buildctl
	[buildkitd]=github.com/moby/buildkit/cmd/buildkitd
	[docker-buildx]=github.com/docker/buildx/cmd/buildx
	[docker-compose]=github.com/docker/compose/v5/cmd
)
declare -A versions=( # clients ask each other for them
	[docker-buildx]='-X github.com/docker/buildx/version.Version=v0.38.2'
	[docker-compose]='-X github.com/docker/compose/v5/internal.Version=v5.6.0'
)
mkdir -p "$out/src"
cd "$out/src"
cat >go.mod <<EOF
module peers

go 1.26.0

require (
	github.com/docker/buildx v0.38.2
	github.com/docker/compose/v5 v5.6.0
	github.com/moby/buildkit v0.34.2
)
EOF
export GOFLAGS=-mod=mod CGO_ENABLED=0
for program in "${!programs[@]}"; do
	go build -trimpath -ldflags "-s -w ${versions[$program]-}" -o "$out/$program.new" "${programs[$program]}"
	mv "$out/$program.new" "$out/$program"
done

# The Docker CLI keeps its go.mod under another name.
cli=$(go mod download -json github.com/docker/cli@v29.9.3+incompatible | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
rm -rf cli
cp -r "$cli" cli
chmod -R u+w cli
cd cli
mv vendor.mod go.mod
mv vendor.sum go.sum
go mod edit -replace github.com/moby/swarmkit/v2=github.com/moby/swarmkit/v2@v2.1.3-0.20260828175525-ad0357aedfca
go build -trimpath -ldflags '-s -w -X github.com/docker/cli/cli/version.Version=29.9.3' -o "$out/docker.new" ./cmd/docker
mv "$out/docker.new" "$out/docker"
cd ..
rm -rf cli
