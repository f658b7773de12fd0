#!/usr/bin/env bash
# Installs from Debian what a fresh machine lacks. Says so, and fails, when it is not root.
set -euo pipefail

# To build: gcc and libseccomp for runc. For base images: mmdebstrap. For tests: the foreign tools
# that gantry's work is held against. Further packages are arguments.
packages=(gcc libc6-dev libseccomp-dev pkg-config git curl ca-certificates mmdebstrap skopeo jq iproute2 bsdextrautils bzip2 xz-utils zstd "$@")

missing=()
for p in "${packages[@]}"; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" != 0 ]; then
	echo "gantry: ${missing[*]} must be installed first; run this as root (sudo make ...)" >&2
	exit 1
fi
echo "gantry: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
