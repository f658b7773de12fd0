# The programs inside the binary. `make payload` makes what is missing:
#   .cache/payload/ARCH/NAME, NAME.version   built or downloaded, kept
#   internal/payload/bin/                    compressed, embedded by go build
# Included by the Makefile; needs gcc, libseccomp-dev, dpkg-deb and apt-get.

PAYLOAD_RUNC_VERSION := 1.5.2
PAYLOAD_ARCH := $(shell env -u GOARCH go env GOARCH)
PAYLOAD_DIR := $(CURDIR)/.cache/payload/$(PAYLOAD_ARCH)
PAYLOAD_BIN := internal/payload/bin

# An emulator for every architecture that this one's CPUs do not run.
PAYLOAD_QEMU_amd64 := qemu-arm qemu-aarch64
PAYLOAD_QEMU_arm64 := qemu-arm qemu-x86_64
PAYLOAD_QEMU := $(PAYLOAD_QEMU_$(PAYLOAD_ARCH))
PAYLOAD_PROGRAMS := runc $(PAYLOAD_QEMU)

.PHONY: payload payload-clean

payload: $(PAYLOAD_BIN)/manifest.json ## Build and fetch the programs that gantry carries (runc, emulators)

payload-clean: ## Remove the carried programs, and what they were made of
	rm -rf .cache/payload $(PAYLOAD_BIN)/*.zst $(PAYLOAD_BIN)/manifest.json

$(PAYLOAD_BIN)/manifest.json: $(addprefix $(PAYLOAD_DIR)/,$(PAYLOAD_PROGRAMS)) $(wildcard internal/payload/pack/*.go)
	env -u GOARCH CGO_ENABLED=0 go run ./internal/payload/pack -arch $(PAYLOAD_ARCH) -out $(PAYLOAD_BIN) \
		$(foreach p,$(PAYLOAD_PROGRAMS),$(p)=$(PAYLOAD_DIR)/$(p))

# A runc that is not static does not start on a machine without its libraries, and
# one without seccomp runs containers unfiltered: neither may get into the binary.
$(PAYLOAD_DIR)/runc: mk/payload.mk
	rm -rf $(PAYLOAD_DIR)/.runc
	mkdir -p $(PAYLOAD_DIR)/.runc
	env -u GOARCH GOFLAGS= GOBIN=$(PAYLOAD_DIR)/.runc CGO_ENABLED=1 go install -trimpath -tags 'seccomp,netgo,osusergo' \
		-ldflags '-s -w -linkmode external -extldflags -static' github.com/opencontainers/runc@v$(PAYLOAD_RUNC_VERSION)
	$(PAYLOAD_DIR)/.runc/runc --version | grep -q '^libseccomp:' || \
		{ echo "runc was built without seccomp; run: apt-get install libseccomp-dev" >&2; exit 1; }
	! readelf --program-headers $(PAYLOAD_DIR)/.runc/runc | grep -q INTERP || \
		{ echo "runc is not static; run: apt-get install libseccomp-dev libc6-dev" >&2; exit 1; }
	echo $(PAYLOAD_RUNC_VERSION) >$(PAYLOAD_DIR)/runc.version
	mv $(PAYLOAD_DIR)/.runc/runc $@
	rmdir $(PAYLOAD_DIR)/.runc

# Grouped: one download gives them all.
$(addprefix $(PAYLOAD_DIR)/,$(PAYLOAD_QEMU)) &: internal/payload/fetch-qemu.sh
	internal/payload/fetch-qemu.sh $(PAYLOAD_DIR) $(PAYLOAD_QEMU)
	touch $(addprefix $(PAYLOAD_DIR)/,$(PAYLOAD_QEMU))
