# gantry: build, test, install. `make help` lists the targets.
SHELL      := /bin/bash
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO         ?= go
PREFIX     ?= /usr/local
BASE       := .cache/base
HOSTARCH   := $(shell env -u GOARCH $(GO) env GOARCH)
TARGETARCH := $(or $(GOARCH),$(HOSTARCH))
PROGRAM    := bin/gantry$(if $(filter-out $(HOSTARCH),$(TARGETARCH)),-$(TARGETARCH))
BASES      ?= amd64 arm arm64
LDFLAGS    := -s -w -X github.com/gantry-build/gantry/cmd/thin.Version=$(VERSION)
ENGINELD    = $(LDFLAGS) $(foreach v,$(CARRIED),-X $(firstword $(subst =, ,$(v)))=$(shell $(GO) list -m -f '{{.Version}}' $(lastword $(subst =, ,$(v)))))
# Which variables tell the versions of the command lines that gantry carries, and of which modules.
CARRIED    := github.com/docker/buildx/version.Version=github.com/docker/buildx \
	github.com/docker/compose/v5/internal.Version=github.com/docker/compose/v5

export CGO_ENABLED = 0
export GOARM ?= 7
export GOFLAGS += -buildvcs=false

.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

include internal/payload/payload.mk

build: $(PROGRAM) ## build bin/gantry, static, with runc and the emulators inside; GOARCH=arm or arm64 gives bin/gantry-ARCH

ENGINE := .cache/engine/$(TARGETARCH)

$(PROGRAM): payload FORCE
	@mkdir -p bin $(ENGINE)
	$(GO) build -trimpath -ldflags '$(ENGINELD)' -o $(ENGINE)/gantry ./cmd/engine
	@echo $(VERSION) >$(ENGINE)/gantry.version
	env -u GOARCH -u GOARM $(GO) run ./internal/payload/pack -level 3 -arch $(TARGETARCH) -out cmd/gantry/bin/$(TARGETARCH) gantry=$(ENGINE)/gantry
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/gantry

setup: ## install what a build, the demo and the tests need from Debian (as root)
	@testdata/setup.sh

MACHINES ?= amd64-6.1

vms: ## make what the tests' virtual machines boot from: MACHINES (as root)
	@testdata/setup.sh qemu-system-x86 qemu-system-arm seabios kmod cpio e2fsprogs
	testdata/vm/build.sh $(MACHINES)

e2e-vm: MACHINES := amd64-5.10 amd64-6.1 amd64-6.12 arm-6.1
e2e-vm: setup bases vms ## the main job on four kernels, in virtual machines (as root)
	$(MAKE) build GOARCH=arm
	GANTRY_VM=all GANTRY_TEST_REQUIRE=all $(GO) test -count=1 -timeout 60m -v -run TestMachines ./cmd/gantry

bases: build ## make the Debian base images' root file systems (as root)
	testdata/base/build.sh $(CURDIR)/bin/gantry $(BASES)

demo: ## set up, build gantry, build and push the sample for two platforms, run both (as root)
	@testdata/demo.sh

# Three at once: tests of clusters wait more than they work, and the others are not parallel.
# Uncached: some tests read what the cache of go test can't see. As root nothing may be missing.
test: setup bases peers vms ## run every test (as root)
	$(if $(filter 0,$(shell id -u)),GANTRY_TEST_REQUIRE=all) $(GO) test -count=1 -timeout 50m -parallel 3 $(TESTFLAGS) ./...

faults: setup bases peers ## make every fault as often as a release wants it (as root)
	GANTRY_FAULTS=all GANTRY_TEST_REQUIRE=all $(GO) test -count=1 -timeout 60m -v -run 'TestKillsInTheMiddle|TestNothingLeaks|TestLogFlood' ./cmd/gantry

# Not: packages whose tests make namespaces, containers or daemons, or need a static test program, and
# frontend, as BuildKit's Dockerfile frontend sets a field to one value from many goroutines
# (frontend/dockerfile/builder/resolvecache.go:30, v0.34.2).
RACELESS := /frontend$$|/api$$|/cmd/gantry$$|/qemu$$|/runner/network$$|/cache/shim$$|/testdata/

race: setup payload ## run tests and one round of the real daemon under the race detector (as root)
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 20m $$($(GO) list ./... | grep -Ev '$(RACELESS)')
	@testdata/race.sh

PEERS := $(addprefix .cache/peers/,buildkitd buildctl docker docker-buildx docker-compose)

peers: $(PEERS) .cache/peers/crane ## build the tools that tests and benchmarks compare with

$(PEERS) &:
	@testdata/peers/build.sh

.cache/peers/crane:
	GOBIN=$(CURDIR)/.cache/peers $(GO) install github.com/google/go-containerregistry/cmd/crane@v0.22.1

lint: payload ## vet, staticcheck and formatting
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w on these'; exit 1; }
	for arch in amd64 arm arm64; do GOARCH=$$arch $(GO) vet ./... || exit 1; done
	$(GO) tool staticcheck ./...

bench: setup bases peers ## compare with buildkitd, buildctl and docker.io; writes docs/benchmarks.md's numbers
	@testdata/setup.sh podman
	$(GO) test -run '^$$' -bench . -benchtime 10x ./solver ./runner/network
	@testdata/peers/dockerio.sh
	$(GO) test -timeout 60m -run '^$$' -bench Against -benchtime 1x ./cmd/gantry

PACKAGES ?= amd64 arm64 arm

packages: setup build ## make static programs and Debian packages for PACKAGES in dist/ (as root: it fetches other architectures' libraries)
	rm -rf .cache/pages dist
	env -u GOARCH -u GOARM $(GO) run ./cmd/man .cache/pages
	for arch in $(PACKAGES); do \
		$(MAKE) build GOARCH=$$arch && \
		SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) internal/packages/build.sh bin/gantry$$([ $$arch = $(HOSTARCH) ] || echo -$$arch) \
			$$([ $$arch = arm ] && echo armhf || echo $$arch) $(VERSION) .cache/pages dist || exit 1; \
	done

install: build ## install to PREFIX (/usr/local)
	install -D -m 0755 bin/gantry $(DESTDIR)$(PREFIX)/bin/gantry

clean: ## remove what was built and downloaded
	rm -rf bin .cache {internal/payload,cmd/gantry}/bin/*/{*.zst,manifest.json}

FORCE:
.PHONY: help build packages setup bases vms e2e-vm demo test faults race peers lint bench install clean FORCE
