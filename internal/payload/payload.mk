# The programs inside the binary. `make payload` makes what is missing, for GOARCH:
#   .cache/payload/ARCH/NAME, NAME.version   built or downloaded, kept
#   internal/payload/bin/ARCH/               compressed, embedded by go build
# Included by the Makefile; needs gcc, libseccomp-dev, dpkg-deb and apt-get, and for another architecture
# than this machine's also what $(PAYLOAD_CROSS) names, and mmdebstrap.

PAYLOAD_RUNC_VERSION := 1.5.2
PAYLOAD_ARCH := $(TARGETARCH)
PAYLOAD_DIR := $(CURDIR)/.cache/payload/$(PAYLOAD_ARCH)
PAYLOAD_BIN := internal/payload/bin/$(PAYLOAD_ARCH)

# An emulator for every architecture that this one's CPUs do not run.
PAYLOAD_QEMU_amd64 := qemu-arm qemu-aarch64
PAYLOAD_QEMU_arm64 := qemu-arm qemu-x86_64
PAYLOAD_QEMU_arm := qemu-x86_64
PAYLOAD_QEMU := $(PAYLOAD_QEMU_$(PAYLOAD_ARCH))
PAYLOAD_SHIM := containerd-shim-runc-v2
PAYLOAD_INIT := docker-init
PAYLOAD_PROGRAMS := runc $(PAYLOAD_SHIM) $(PAYLOAD_INIT) $(PAYLOAD_QEMU)

# Debian's names: of an architecture, of its compiler, and of the packages with it.
PAYLOAD_DEBIAN_amd64 := amd64
PAYLOAD_DEBIAN_arm64 := arm64
PAYLOAD_DEBIAN_arm := armhf
PAYLOAD_DEBIAN := $(PAYLOAD_DEBIAN_$(PAYLOAD_ARCH))
PAYLOAD_TRIPLET_amd64 := x86_64-linux-gnu
PAYLOAD_TRIPLET_arm64 := aarch64-linux-gnu
PAYLOAD_TRIPLET_arm := arm-linux-gnueabihf
PAYLOAD_TRIPLET := $(PAYLOAD_TRIPLET_$(PAYLOAD_ARCH))
PAYLOAD_CROSS := $(if $(filter-out $(HOSTARCH),$(PAYLOAD_ARCH)),gcc-$(subst _,-,$(PAYLOAD_TRIPLET)) libc6-dev-$(PAYLOAD_DEBIAN)-cross)

.PHONY: payload payload-clean

payload: $(PAYLOAD_BIN)/manifest.json ## Build and fetch the programs that gantry carries (runc, emulators)

payload-clean: ## Remove the carried programs, and what they were made of
	rm -rf .cache/payload internal/payload/bin/*/*.zst internal/payload/bin/*/manifest.json

$(PAYLOAD_BIN)/manifest.json: $(addprefix $(PAYLOAD_DIR)/,$(PAYLOAD_PROGRAMS)) $(wildcard internal/payload/pack/*.go)
	env -u GOARCH -u GOARM CGO_ENABLED=0 go run ./internal/payload/pack -arch $(PAYLOAD_ARCH) -out $(PAYLOAD_BIN) \
		$(foreach p,$(PAYLOAD_PROGRAMS),$(p)=$(PAYLOAD_DIR)/$(p))

ifeq ($(PAYLOAD_CROSS),)
PAYLOAD_CC := env -u GOARCH CGO_ENABLED=1

# Grouped: one download gives them all.
$(addprefix $(PAYLOAD_DIR)/,$(PAYLOAD_QEMU)) &: internal/payload/fetch-qemu.sh
	internal/payload/fetch-qemu.sh $(PAYLOAD_DIR) $(PAYLOAD_QEMU)
	touch $(addprefix $(PAYLOAD_DIR)/,$(PAYLOAD_QEMU))
else
PAYLOAD_FOREIGN := $(PAYLOAD_DIR)/.foreign
PAYLOAD_LIB := $(PAYLOAD_FOREIGN)/usr/lib/$(PAYLOAD_TRIPLET)
PAYLOAD_CC := PKG_CONFIG_LIBDIR=$(PAYLOAD_LIB)/pkgconfig PKG_CONFIG_SYSROOT_DIR=$(PAYLOAD_FOREIGN) CC=$(PAYLOAD_TRIPLET)-gcc \
	CGO_CFLAGS=-I$(PAYLOAD_FOREIGN)/usr/include CGO_LDFLAGS=-L$(PAYLOAD_LIB) CGO_ENABLED=1

# The other architecture's packages, unpacked: none is installed, and no program of them is run.
$(PAYLOAD_FOREIGN)/done: internal/payload/fetch-foreign.sh
	testdata/setup.sh $(PAYLOAD_CROSS)
	internal/payload/fetch-foreign.sh $(PAYLOAD_FOREIGN) $(PAYLOAD_DEBIAN) qemu-user-static libseccomp-dev
	touch $@

$(PAYLOAD_DIR)/runc: $(PAYLOAD_FOREIGN)/done

$(addprefix $(PAYLOAD_DIR)/,$(PAYLOAD_QEMU)): $(PAYLOAD_DIR)/%: $(PAYLOAD_FOREIGN)/done
	cp $(PAYLOAD_FOREIGN)/usr/bin/$*-static $@.new
	grep -aoE -m1 '[0-9]+\.[0-9]+\.[0-9]+ \(Debian' $@.new | sed -n '1s/ .*//p' >$@.version
	[ -s $@.version ]
	mv $@.new $@
endif

# A runc that is not static does not start on a machine without its libraries, and
# one without seccomp runs containers unfiltered: neither may get into the binary.
$(PAYLOAD_DIR)/runc: internal/payload/payload.mk
	rm -rf $(PAYLOAD_DIR)/.runc
	mkdir -p $(PAYLOAD_DIR)/.runc
	GOFLAGS= GOPATH=$(PAYLOAD_DIR)/.runc GOMODCACHE=$$(go env GOMODCACHE) $(PAYLOAD_CC) go install -trimpath -tags 'seccomp,netgo,osusergo' \
		-ldflags '-s -w -linkmode external -extldflags -static' github.com/opencontainers/runc@v$(PAYLOAD_RUNC_VERSION)
	mv $$(find $(PAYLOAD_DIR)/.runc/bin -type f -name runc) $(PAYLOAD_DIR)/.runc/runc
	go version -m $(PAYLOAD_DIR)/.runc/runc | grep -q 'tags=seccomp' || \
		{ echo "runc was built without seccomp; run: apt-get install libseccomp-dev" >&2; exit 1; }
	! readelf --program-headers $(PAYLOAD_DIR)/.runc/runc | grep -q INTERP || \
		{ echo "runc is not static; run: apt-get install libseccomp-dev libc6-dev" >&2; exit 1; }
	echo $(PAYLOAD_RUNC_VERSION) >$(PAYLOAD_DIR)/runc.version
	mv $(PAYLOAD_DIR)/.runc/runc $@
	rm -rf $(PAYLOAD_DIR)/.runc

# Of our own sources, so they are built each time, and new only when they differ.
$(PAYLOAD_DIR)/$(PAYLOAD_INIT): FORCE
	@mkdir -p $(PAYLOAD_DIR)
	$(GO) build -trimpath -ldflags '-s -w' -o $@.new ./cmd/init
	echo 1.0.0 >$@.version
	cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(PAYLOAD_DIR)/$(PAYLOAD_SHIM): FORCE
	@mkdir -p $(PAYLOAD_DIR)
	$(GO) build -trimpath -ldflags '-s -w' -o $@.new ./cmd/shim
	$(GO) list -m -f '{{.Version}}' github.com/containerd/containerd/v2 | sed 's/^v//' >$@.version
	cmp -s $@.new $@ && rm $@.new || mv $@.new $@
