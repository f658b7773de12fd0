#!/usr/bin/env bash
# Unpacks Debian's docker.io, with its containerd and runc, into .cache/peers/docker.io, to be compared with. It is not
# installed: no daemon is started.
set -euo pipefail
out=$PWD/.cache/peers/docker.io
[ -x "$out/usr/sbin/dockerd" ] && exit 0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -q docker.io containerd runc libdevmapper1.02.1
for deb in *.deb; do
	dpkg -x "$deb" unpacked
done
mkdir -p "$(dirname "$out")"
rm -rf "$out"
mv unpacked "$out"
