#!/bin/sh
# finish.sh ROOT SUITES runs after the packages are installed and gives the root
# file system the settings of an image instead of those of the machine that made
# it. SUITES is "security", or "plain" when there was no index of security updates.
set -eu
root=$1 suites=$2

put() { # put MODE PATH: standard input becomes the file
	cat >"$root/$2"
	chmod "$1" "$root/$2"
}

# The image's own archive, whatever the packages were fetched from.
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/*
put 644 etc/apt/sources.list.d/debian.sources <<'END'
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
# Without a valid index every `apt-get update` in a build would fail, so the
# image then says what is left out instead of asking for it.
if [ "$suites" = security ]; then enabled=yes; else enabled=no; fi
cat >>"$root/etc/apt/sources.list.d/debian.sources" <<END

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: bookworm-security
Components: main
Enabled: $enabled
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END

mv "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/slim"
chmod 644 "$root/etc/dpkg/dpkg.cfg.d/slim"
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap"

# A layer is kept or thrown away as a whole: dpkg's fsync after each file only costs.
put 644 etc/dpkg/dpkg.cfg.d/unsafe-io <<'END'
force-unsafe-io
END
# No package file and no translation belongs in a layer. The name docker-clean is
# the one that Dockerfiles remove to keep packages in a cache mount.
put 644 etc/apt/apt.conf.d/docker-clean <<'END'
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
APT::Update::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
END
put 644 etc/apt/apt.conf.d/image <<'END'
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Apt::AutoRemove::SuggestsImportant "false";
END
# No service is started by installing its package.
put 755 usr/sbin/policy-rc.d <<'END'
#!/bin/sh
exit 101
END

# Traces of the machine and the moment.
rm -f "$root"/etc/resolv.conf "$root"/etc/hostname "$root"/etc/machine-id \
	"$root"/var/lib/dbus/machine-id "$root"/var/cache/ldconfig/aux-cache
: >"$root/etc/machine-id"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/*-old \
	"$root"/var/lib/dpkg/*-old "$root"/var/log/apt "$root"/var/log/*.log "$root"/tmp/*
