#!/bin/sh
# fetch-foreign.sh DIR ARCH PACKAGE... unpacks packages of another architecture of Debian's, and those that
# they need, into DIR. Nothing is installed, and no program of theirs is run.
set -eu

die() { echo "fetch-foreign: $*" >&2; exit 1; }

[ $# -ge 3 ] || die "usage: fetch-foreign.sh DIR ARCH PACKAGE..."
dir=$1 arch=$2
shift 2
command -v mmdebstrap >/dev/null || die "mmdebstrap is missing; run: apt-get install mmdebstrap"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$keyring" ] || die "$keyring is missing; run: apt-get install debian-archive-keyring"
mkdir -p "$dir"
work=$(mktemp -d "$dir.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
mmdebstrap --quiet --mode=root --variant=extract --architectures="$arch" --include="$(echo "$*" | tr ' ' ,)" \
	--keyring="$keyring" --aptopt='Acquire::Retries "3"' bookworm "$work/packages.tar" "deb http://deb.debian.org/debian bookworm main"
mkdir "$work/root"
tar -xf "$work/packages.tar" -C "$work/root" --wildcards './usr/bin/qemu-*' './usr/include/*' './usr/lib/*'
rm -rf "$dir"
mv "$work/root" "$dir"
