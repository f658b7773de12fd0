#!/usr/bin/env bash
# build.sh PROGRAM DEBIAN-ARCHITECTURE VERSION PAGES OUT: a Debian package of PROGRAM, with the man pages and completions below
# PAGES, and the program itself, both in OUT. Needs dpkg-deb and gzip; the same input gives the same bytes.
set -euo pipefail
program=$1 arch=$2 version=$3 pages=$4 out=$5
here=$(dirname "$0")
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0} # dpkg-deb reads it, too
# Debian's versions begin with a digit; ~ comes before every release.
version=${version#v}
[[ $version == [0-9]*.* ]] || version="0~$version"
version=${version//-/+}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

install -D -m 755 "$program" "$root/usr/bin/gantry"
install -D -m 644 "$here/gantry.service" "$root/lib/systemd/system/gantry.service"
install -D -m 644 "$here/../../LICENSE" "$root/usr/share/doc/gantry/copyright"
install -D -m 644 "$here/../../CHANGELOG.md" "$root/usr/share/doc/gantry/changelog"
gzip -9n "$root/usr/share/doc/gantry/changelog"
mkdir -p "$root/usr/share/man/man1"
cp "$pages"/man1/*.1 "$root/usr/share/man/man1/"
find "$root/usr/share/man" -type f -exec gzip -9n {} +
install -D -m 644 "$pages/bash" "$root/usr/share/bash-completion/completions/gantry"
install -D -m 644 "$pages/zsh" "$root/usr/share/zsh/vendor-completions/_gantry"
install -D -m 644 "$pages/fish" "$root/usr/share/fish/vendor_completions.d/gantry.fish"

mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do
	install -m 755 "$here/$script" "$root/DEBIAN/$script"
done
cat >"$root/DEBIAN/control" <<END
Package: gantry
Version: $version
Architecture: $arch
Maintainer: The gantry authors <gantry@gantry.build>
Installed-Size: $(du -sk --apparent-size "$root" | cut -f 1)
Section: admin
Priority: optional
Homepage: https://github.com/gantry-build/gantry
Description: builds, ships and runs containers for several architectures
 One program and its daemon: it builds Dockerfiles for this machine's
 architecture and others, serves a registry, runs containers and Compose
 files, and schedules services on the nodes of a cluster. Docker's own
 clients work with it.
END
mkdir -p "$out"
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zgzip -z1 --build "$root" "$out/gantry_${version}_$arch.deb" >/dev/null
install -m 755 "$program" "$out/gantry-linux-$arch"
echo "$out/gantry_${version}_$arch.deb"
