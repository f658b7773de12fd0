#!/bin/bash
# Makes what a virtual machine boots from: a kernel that Debian ships, an initrd, and a root file system
# with nothing in it but busybox.
#
#   build.sh MACHINE...        see the table below
#
# writes .cache/vm/MACHINE/{kernel,initrd,root,release} at the top of the repository, and busybox-ARCH.tar for
# images that run in it, and leaves alone what is already there. Needs root, mmdebstrap, kmod, cpio and the Debian archive keyring. No program of another
# architecture is run, and no package's scripts are.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
out=$top/.cache/vm
mirror=http://deb.debian.org/debian
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
work=

say() { printf 'vm: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

cleanup() { [ -z "$work" ] || rm -rf --one-file-system "$work"; }

# describe MACHINE: Debian's architecture, release and kernel package, and what the initrd needs.
describe() {
	local pci="virtio_pci virtio_blk ext4 virtio_net" mmio="virtio_mmio virtio_blk ext4 virtio_net"
	case $1 in
	amd64-5.10) echo "amd64 bullseye linux-image-cloud-amd64 $pci" ;;
	amd64-6.1) echo "amd64 bookworm linux-image-cloud-amd64 $pci" ;;
	amd64-6.12) echo "amd64 trixie linux-image-cloud-amd64 $pci" ;;
	arm-6.1) echo "armhf bookworm linux-image-armmp $mmio" ;;
	*) die "$1: unknown machine; use amd64-5.10, amd64-6.1, amd64-6.12 or arm-6.1" ;;
	esac
}

# initrd ROOT RELEASE MODULE...: loads the modules, mounts the disk and goes there.
initrd() {
	local root=$1 release=$2 dir=$work/initrd module path
	shift 2
	mkdir -p "$dir"/{bin,dev,proc,sys,disk,lib}
	cp "$root/bin/busybox" "$dir/bin/"
	for module in "$@"; do
		modprobe -S "$release" -d "$root" --show-depends "$module"
	done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' >"$work/modules"
	while read -r path; do
		cp "$path" "$dir/lib/"
		echo "/lib/$(basename "$path")"
	done <"$work/modules" >"$dir/modules"
	cat >"$dir/init" <<'END'
#!/bin/busybox sh
busybox mount -t devtmpfs dev /dev
for m in $(busybox cat /modules); do busybox insmod "$m"; done
n=0
while ! busybox mount -t ext4 /dev/vda /disk 2>/dev/null; do
	n=$((n + 1))
	[ $n -lt 100 ] || { echo "no disk"; busybox poweroff -f; }
	busybox sleep 0.1
done
busybox mount --move /dev /disk/dev
exec busybox switch_root /disk /sbin/init
END
	chmod 755 "$dir/init"
	(cd "$dir" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/made/initrd"
}

# finish ROOT: the settings, and the one program, of a machine on which nothing is installed.
finish() {
	local root=$1 name
	mkdir -p "$root"/{dev,proc,sys,run,tmp,etc,root,sbin,usr/bin,usr/sbin,var/lib}
	for name in init modprobe poweroff reboot; do ln -sf /bin/busybox "$root/sbin/$name"; done
	for name in sh mount ip; do ln -sf /bin/busybox "$root/bin/$name"; done
	install -m 755 "$here/rc" "$root/etc/rc"
	cat >"$root/etc/inittab" <<'END'
::sysinit:/etc/rc
::respawn:/run/agent
::ctrlaltdel:/sbin/reboot -f
END
	echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
	echo 'root:x:0:' >"$root/etc/group"
	echo '127.0.0.1 localhost' >"$root/etc/hosts"
	echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
}

# extract ARCH SUITE PACKAGES: the kernel, the modules and busybox of packages, in $work/packages. Newer
# releases have all in /usr.
extract() {
	local dir=$work/packages
	mmdebstrap --quiet --mode=root --variant=extract --architectures="$1" --include="$3" --keyring="$keyring" \
		--aptopt='Acquire::Retries "3"' "$2" "$work/packages.tar" "deb $mirror $2 main" >&2
	tar -tf "$work/packages.tar" | grep -E '^\./(usr/)?(boot/vmlinuz-|bin/busybox$|lib/modules/.*[^/]$)' >"$work/list"
	mkdir "$dir"
	tar -xf "$work/packages.tar" -C "$dir" --transform 's,^\./usr/,./,' --files-from "$work/list"
}

machine() {
	local name=$1 arch suite package modules release root
	if [ -s "$out/$name/release" ]; then
		finish "$out/$name/root"
		say "$out/$name is there"
		return
	fi
	read -r arch suite package modules <<<"$(describe "$name")"
	say "making $out/$name"
	work=$(mktemp -d "$out/.work.XXXXXX")
	root=$work/made/root
	mkdir -p "$root/bin" "$root/lib"
	extract "$arch" "$suite" "$package,busybox-static"
	mv "$work"/packages/boot/vmlinuz-* "$work/made/kernel"
	mv "$work/packages/bin/busybox" "$root/bin/"
	mv "$work/packages/lib/modules" "$root/lib/"
	release=$(ls "$root/lib/modules")
	# busybox loads no compressed modules.
	find "$root/lib/modules" -name '*.ko.xz' -print0 | xargs -0 -r -P 2 -n 100 unxz
	depmod -b "$root" "$release"
	finish "$root"
	# shellcheck disable=SC2086 # a list
	initrd "$root" "$release" $modules
	echo "$release" >"$work/made/release"
	rm -rf "${out:?}/$name"
	mv "$work/made" "$out/$name"
	cleanup
	work=
}

# busybox ARCH: a root file system for images, as a tar: the one program, and links to it.
busybox() {
	local file=$out/busybox-$1.tar deb=$1 dir name
	[ ! -s "$file" ] || return 0
	say "making $file"
	[ "$deb" != arm ] || deb=armhf
	work=$(mktemp -d "$out/.work.XXXXXX")
	extract "$deb" bookworm busybox-static
	dir=$work/image
	mkdir -p "$dir"/{bin,dev,etc,proc,sys,tmp}
	cp "$work/packages/bin/busybox" "$dir/bin/"
	for name in sh cat echo uname tail sleep ls cp chmod wget true; do ln -s busybox "$dir/bin/$name"; done
	echo 'root:x:0:0:root:/:/bin/sh' >"$dir/etc/passwd"
	chmod 1777 "$dir/tmp"
	tar -C "$dir" --sort=name --numeric-owner --owner=0 --group=0 -cf "$work/tar" .
	mv "$work/tar" "$file"
	cleanup
	work=
}

[ $# -ge 1 ] || die "usage: build.sh MACHINE..."
[ "$(id -u)" = 0 ] || die "needs root, to own the files it makes; run it with sudo"
for tool in mmdebstrap depmod cpio; do
	command -v $tool >/dev/null || die "$tool is missing; run: make vms"
done
mkdir -p "$out"
exec 9>"$out/.lock"
flock 9
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
for name in amd64 arm arm64; do
	busybox "$name"
done
for name in "$@"; do
	machine "$name"
done
