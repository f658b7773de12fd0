#!/bin/bash
# Makes root file systems that stand in for debian:bookworm-slim, so that a
# build needs no image hub:
#
#   build.sh GANTRY ARCH...        ARCH is amd64, arm (armhf) or arm64
#
# writes .cache/base/bookworm-slim-ARCH.tar at the top of the repository and
# leaves alone what is already there. Needs root, mmdebstrap and the Debian
# archive keyring. A foreign architecture runs under `GANTRY emulators exec`,
# inside a user namespace of its own: nothing is registered on the host.
#
# The mirror's state decides the packages; everything else is fixed, so two runs
# against one mirror state give the same bytes. SOURCE_DATE_EPOCH caps the times.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(cd "$here/../.." && pwd)/.cache/base
mirror=http://deb.debian.org
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1767225600}
work=

say() { printf 'base: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Whatever stops the script, no half-made tree stays behind. --one-file-system
# keeps rm out of a mount that a killed mmdebstrap may have left.
cleanup() {
	[ -z "$work" ] || rm -rf --one-file-system "$work"
}

deb_arch() {
	case $1 in
	amd64 | arm64) echo "$1" ;;
	arm) echo armhf ;;
	*) die "$1: unknown architecture; use amd64, arm or arm64" ;;
	esac
}

needs() {
	[ "$(id -u)" = 0 ] || die "needs root, to own the files it makes; run it with sudo"
	command -v mmdebstrap >/dev/null || die "mmdebstrap is missing; run: apt-get install mmdebstrap"
	[ -r "$keyring" ] || die "$keyring is missing; run: apt-get install debian-archive-keyring"
}

# has_security ARCH: whether the mirror's index of security updates is the one
# that Debian signed. Mirrors have been seen to lag with one architecture for
# days, and apt rightly takes nothing from such an index.
has_security() {
	local dir=$work/security
	mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
	chmod 755 "$work" "$dir"
	echo "deb [signed-by=$keyring] $mirror/debian-security bookworm-security main" >"$dir/sources.list"
	apt-get update --quiet=2 --error-on=any -o Acquire::Languages=none -o Acquire::Retries=3 \
		-o APT::Architecture="$1" -o APT::Architectures="$1" -o APT::Sandbox::User=root \
		-o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" >&2
}

# strap ARCH SUITES COMMAND...: the root file system of ARCH in $work/root; SUITES
# is "security" or "plain", COMMAND the prefix (none when native) under which the
# architecture's programs run.
#
# arch-test, which check/qemu would run, asks the host's table and not the
# namespace's. The device nodes that mmdebstrap makes or binds stay out of the
# tar, since a user namespace cannot make them and every runtime brings its own.
# "mount: permission denied" is mmdebstrap's first try there; it goes on with
# binds. usr-is-merged with a tree merged beforehand keeps usrmerge and the whole
# of Perl (46 MB) out.
strap() {
	local arch=$1 suites=$2 sources=(
		"deb $mirror/debian bookworm main"
		"deb $mirror/debian bookworm-updates main"
	)
	shift 2
	[ "$suites" = plain ] || sources+=("deb $mirror/debian-security bookworm-security main")
	"$@" mmdebstrap --quiet --mode=root --format=directory --variant=minbase \
		--architectures="$arch" --skip=check/qemu --keyring="$keyring" \
		--aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' \
		--dpkgopt="$here/slim.dpkg" --include=usr-is-merged \
		--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
		--customize-hook="'$here/finish.sh' \"\$1\" $suites" \
		bookworm "$work/root" "${sources[@]}"
}

pack() {
	tar --create --file "$1" --directory "$work/root" \
		--sort=name --numeric-owner --clamp-mtime --mtime="@$SOURCE_DATE_EPOCH" \
		--format=posix --pax-option='exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime' \
		--xattrs --xattrs-include=security.capability --one-file-system \
		--exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' .
}

base() {
	local name=$1 arch suites=security prefix=() tar
	arch=$(deb_arch "$name")
	tar=$out/bookworm-slim-$name.tar
	if [ -s "$tar" ]; then
		say "$tar is there"
		return
	fi
	[ "$arch" = "$(dpkg --print-architecture)" ] || prefix=("$gantry" emulators exec --)
	say "making $tar"
	work=$(mktemp -d "$out/.work.XXXXXX")
	if ! has_security "$arch"; then
		suites=plain
		say "WARNING: $mirror has no valid index of security updates for $arch;"
		say "WARNING: $tar is made without them; remove it and try again later"
	fi
	strap "$arch" "$suites" ${prefix[@]+"${prefix[@]}"}
	pack "$work/tar"
	sync -d "$work/tar"
	mv "$work/tar" "$tar"
	cleanup
	work=
}

[ $# -ge 2 ] || die "usage: build.sh GANTRY ARCH..., ARCH being amd64, arm or arm64"
gantry=$1
shift
needs
mkdir -p "$out"
exec 9>"$out/.lock"
flock 9
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
for name in "$@"; do
	base "$name"
done
