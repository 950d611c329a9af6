#!/usr/bin/env bash
# Makes the base of the container image without a registry: a minimal Debian with Python and its security updates, by
# debootstrap. The same state of the mirrors gives the same bytes. Where a registry can be reached this is not needed:
# deploy/Dockerfile takes any base that has python3 >= 3.11 with venv, and setpriv.
#
#   release/make_base_image.sh [TAG]        default: cryprq-base:bookworm
#
# Environment: SUITE (bookworm), INCLUDE (more packages, comma separated), ARCH (this machine's; for another one see
# with_emulator.sh), MIRROR (debootstrap's default), SECURITY_MIRROR (MIRROR with -security behind it); where both are
# snapshots, the image is always the same. Needs root and a Docker engine; debootstrap is installed where it is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'make_base_image: %s\n' "$*" >&2; exit 2; }
[[ $# -le 1 ]] || die "usage: $0 [TAG]"
docker info >/dev/null 2>&1 || die "no Docker engine answers: see docker info"
scripts/bootstrap.sh --images || exit 2
[[ $EUID -eq 0 ]] || die "not root: debootstrap has to make device nodes and to chroot"

TAG=${1:-cryprq-base:bookworm}
SUITE=${SUITE:-bookworm}
ARCH=${ARCH:-$(dpkg --print-architecture)}
MIRROR=${MIRROR:-}
# The day on which passwords were set is in /etc/shadow.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH LC_ALL=C DEBIAN_FRONTEND=noninteractive

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
root=$work/root
# attempt COMMAND...: quiet, unless it fails.
attempt() {
    "$@" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; die "$1 failed for $SUITE, $ARCH"; }
}
# Without a keyring (Ubuntu: debian-archive-keyring) it would go on unchecked.
attempt debootstrap --force-check-gpg --arch="$ARCH" --variant=minbase \
    --include="python3,python3-venv${INCLUDE:+,$INCLUDE}" "$SUITE" "$root" ${MIRROR:+"$MIRROR"}
mirror=$(awk '$1 == "deb" { print $2; exit }' "$root/etc/apt/sources.list")
printf 'deb %s %s main\n' "$mirror" "$SUITE" "$mirror" "$SUITE-updates" \
    "${SECURITY_MIRROR:-${mirror%/}-security}" "$SUITE-security" >"$root/etc/apt/sources.list"
attempt chroot "$root" apt-get -o APT::Sandbox::User=root update
attempt chroot "$root" apt-get -y -o APT::Sandbox::User=root --no-install-recommends dist-upgrade
attempt chroot "$root" apt-get clean

# What the image can do without, and what is different each time: logs, caches, what debootstrap took from this machine.
rm -rf "$root"/usr/share/{doc,man,info,locale,lintian}/* "$root"/usr/share/i18n "$root"/usr/lib/*/perl-base/unicore \
    "$root"/var/lib/apt/lists/* "$root"/var/cache/{apt,debconf,ldconfig}/* "$root"/var/log/{*.log,apt} \
    "$root"/var/lib/dpkg/*-old "$root"/var/cache/debconf/*-old "$root"/etc/{passwd,group,shadow,gshadow}- \
    "$root"/etc/{hostname,resolv.conf,.pwd.lock} "$root"/dev/.udev
find "$root/usr/lib/python3" "$root"/usr/lib/python3.* -name __pycache__ -prune -exec rm -rf {} +

# The archive is written here and loaded: "docker import" of older engines takes every image for this machine's.
mkdir "$work/image"
tar --numeric-owner --sort=name --mtime="@$SOURCE_DATE_EPOCH" --clamp-mtime --format=gnu -C "$root" \
    -cf "$work/image/layer.tar" .
date=$(date --utc --date="@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cat >"$work/image/config.json" <<END
{"architecture": "$ARCH", "os": "linux", "created": "$date", "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=$path"]},
 "history": [{"created": "$date", "created_by": "debootstrap $SUITE"}],
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$(sha256sum <"$work/image/layer.tar" | cut -d' ' -f1)"]}}
END
[[ $TAG == *:* ]] || TAG=$TAG:latest
printf '[{"Config": "config.json", "RepoTags": ["%s"], "Layers": ["layer.tar"]}]\n' "$TAG" >"$work/image/manifest.json"
tar -C "$work/image" -c . | docker load --quiet >/dev/null
docker image inspect --format "made {{index .RepoTags 0}}, {{.Size}} bytes, {{.Architecture}}" "$TAG"
