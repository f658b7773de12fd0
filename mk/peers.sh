#!/usr/bin/env bash
# Builds buildkitd and buildctl, which tests and benchmarks compare with, into .cache/peers. Their
# module has exclude directives, which `go install PKG@VERSION` refuses, so they are built from a
# module of their own.
set -euo pipefail
out=$PWD/.cache/peers
version=v0.34.2
mkdir -p "$out/src"
cd "$out/src"
cat >go.mod <<EOF
module peers

go 1.26.0

require github.com/moby/buildkit $version
EOF
cat >peers.go <<EOF
package peers

import (
	_ "github.com/moby/buildkit/cmd/buildctl/build"
	_ "github.com/moby/buildkit/cmd/buildkitd/config"
	_ "github.com/moby/buildkit/worker/runc"
)
EOF
export GOFLAGS=-mod=mod CGO_ENABLED=0
for program in buildctl buildkitd; do
	go build -trimpath -ldflags '-s -w' -o "$out/$program.new" "github.com/moby/buildkit/cmd/$program"
	mv "$out/$program.new" "$out/$program"
done
