#!/usr/bin/env bash
# Makes the base of the container image without a registry: a minimal Debian with Python, by debootstrap and
# "docker import". Where a registry can be reached this is not needed: deploy/Dockerfile takes any base that has
# python3 >= 3.11 with venv, and setpriv.
#
#   scripts/make_base_image.sh [TAG]        default: cryprq-base:bookworm
#
# Environment: SUITE (bookworm), INCLUDE (more packages, comma separated), ARCH (this machine's; another, such as arm64,
# needs its qemu-user registered in binfmt_misc with the flag F, as Debian's qemu-user-static does), MIRROR (debootstrap's
# default). Needs root, debootstrap and a Docker engine.
set -euo pipefail
TAG=${1:-cryprq-base:bookworm}
SUITE=${SUITE:-bookworm}
ARCH=${ARCH:-$(dpkg --print-architecture)}
MIRROR=${MIRROR:-}

die() { printf 'make_base_image: %s\n' "$*" >&2; exit 2; }
[[ $EUID -eq 0 ]] || die "not root: debootstrap has to make device nodes and to chroot"
command -v debootstrap >/dev/null || die "no debootstrap: apt-get install debootstrap"
docker info >/dev/null 2>&1 || die "no Docker engine answers: see docker info"

root=$(mktemp -d)
trap 'rm -rf -- "$root"' EXIT
debootstrap --arch="$ARCH" --variant=minbase --include="python3,python3-venv${INCLUDE:+,$INCLUDE}" \
    "$SUITE" "$root" ${MIRROR:+"$MIRROR"} >"$root.log" 2>&1 || {
    tail -20 "$root.log" >&2
    die "debootstrap failed; its whole log is $root.log"
}
rm -f "$root.log"
chroot "$root" apt-get clean
rm -rf "$root"/usr/share/{doc,man,info,locale,lintian}/* "$root"/var/lib/apt/lists/* "$root"/var/cache/{apt,debconf}/* \
    "$root"/var/log/{*.log,apt} "$root"/usr/share/i18n "$root"/usr/lib/*/perl-base/unicore "$root"/dev/.udev
find "$root/usr/lib/python3" "$root"/usr/lib/python3.* -name __pycache__ -prune -exec rm -rf {} +
tar --numeric-owner -C "$root" -c . | docker import --platform "linux/$ARCH" --change 'CMD ["/bin/sh"]' - "$TAG" >/dev/null
docker image inspect --format "made {{index .RepoTags 0}}, {{.Size}} bytes, {{.Architecture}}" "$TAG"
