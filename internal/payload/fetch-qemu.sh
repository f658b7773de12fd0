#!/bin/sh
# fetch-qemu.sh DIR NAME... puts Debian's statically linked emulators (qemu-arm,
# qemu-aarch64, ...) into DIR, each with its version in NAME.version. Nothing is
# installed. Debian's package is qemu-user-static up to 12 and qemu-user later.
set -eu

die() { echo "fetch-qemu: $*" >&2; exit 1; }

[ $# -ge 2 ] || die "usage: fetch-qemu.sh DIR NAME..."
dir=$1
shift
command -v apt-get >/dev/null || die "apt-get is missing; put static emulators named $* into $dir, with NAME.version files"
mkdir -p "$dir"
work=$(mktemp -d "$dir/.qemu.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# Package lists of its own: those of the machine may be missing, old, or another
# user's to write.
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
apt() {
	apt-get -qq -o APT::Sandbox::User=root -o Acquire::Languages=none \
		-o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" "$@"
}
apt update
for package in qemu-user-static qemu-user; do
	(cd "$work" && apt download "$package" 2>>"$work/errors") || continue
	for deb in "$work/$package"_*.deb; do
		dpkg-deb -x "$deb" "$work/root"
		rm "$deb"
	done
done

for name in "$@"; do
	program=
	for path in "$work/root/usr/bin/$name-static" "$work/root/usr/bin/$name"; do
		if [ -f "$path" ] && [ ! -L "$path" ]; then
			program=$path
			break
		fi
	done
	[ -n "$program" ] || {
		cat "$work/errors" >&2
		die "neither qemu-user-static nor qemu-user has a static $name; see the messages above"
	}
	"$program" --version | sed -n '1s/.*version \([^ ]*\).*/\1/p' >"$work/version"
	[ -s "$work/version" ] || die "$program does not tell its version"
	chmod 755 "$program"
	mv "$work/version" "$dir/$name.version"
	mv "$program" "$dir/$name"
done
