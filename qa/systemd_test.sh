#!/usr/bin/env bash
# Runs deploy/cryprq-node.service under a real systemd, which is PID 1 of a container: the node is installed from wheels
# as the unit's first lines say, then started, reloaded, restarted, misconfigured, given its identity as a
# credential, robbed of its TUN, hung and stopped. The container is removed at the end.
#
#   qa/systemd_test.sh [--suite SUITE]     a Debian: bookworm (default, systemd 252), trixie (257: notify-reload), ...
#
# Environment: SYSTEMD_IMAGE (cryprq-systemd:SUITE, made by make_base_image.sh if it is missing), WHEELS (the folder that
# release/build_image.sh fills; what it lacks for the Python of the suite is downloaded), PYTHON (.venv/bin/python).
# Exit status: 0 passed, 1 failed, 2 not run. Takes about a minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
WHEELS=${WHEELS:-build/image/wheelhouse}
PYTHON=${PYTHON:-.venv/bin/python}

die() { printf 'systemd_test: %s\n' "$*" >&2; exit 2; }
suite=bookworm
if [[ ${1:-} == --suite && -n ${2:-} ]]; then
    suite=$2
    shift 2
fi
(($# == 0)) || die "usage: $0 [--suite SUITE]"
SYSTEMD_IMAGE=${SYSTEMD_IMAGE:-cryprq-systemd:$suite}
docker info >/dev/null 2>&1 || die "no Docker engine answers here"
wheel=$(compgen -G "$WHEELS/cryprq-*.whl") || die "no wheel in $WHEELS: release/build_image.sh makes one"
[[ -x $PYTHON ]] || die "no $PYTHON: run  make build  first"
if ! docker image inspect "$SYSTEMD_IMAGE" >/dev/null 2>&1; then
    SUITE=$suite INCLUDE=systemd,systemd-sysv,dbus,iproute2,kmod release/make_base_image.sh "$SYSTEMD_IMAGE"
fi

files=$(mktemp -d)
name=cryprq-systemd-test-$$
trap 'docker rm --force --volumes "$name" >/dev/null 2>&1 || true; rm -rf -- "$files"' EXIT
version=$(docker run --rm --network none "$SYSTEMD_IMAGE" \
    python3 -c 'import sys; print("{}.{}".format(*sys.version_info))')
fetch=("$PYTHON" -m pip download --quiet --disable-pip-version-check --only-binary :all: --python-version "$version"
    --find-links "$WHEELS" --dest "$files/wheels" "$wheel")
"${fetch[@]}" --no-index 2>/dev/null || "${fetch[@]}" || die "no wheels of what CrypRQ needs for Python $version"
cp deploy/cryprq-node.service deploy/notify-reload.conf qa/systemd_checks.py "$files"

# Docker mounts the control groups read-only, and those of version 1 where the host still has them; systemd wants to make
# its own, in version 2. What it mounts for a service (credentials) reaches that one by propagation. Not --privileged: the machine's devices, and the other containers, are none of its business.
# shellcheck disable=SC2016  # the container's shell expands it
docker run --detach --name "$name" --network none --cgroupns private --device /dev/net/tun \
    --cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add SYS_PTRACE --cap-add DAC_READ_SEARCH \
    --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined \
    --tmpfs /run --tmpfs /run/lock --tmpfs /tmp --env container=docker --volume "$files:/work:ro" "$SYSTEMD_IMAGE" \
    /bin/sh -c 'umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
        mount --make-rshared / && exec /sbin/init' >/dev/null
for _ in $(seq 60); do
    state=$(docker exec "$name" systemctl is-system-running 2>/dev/null || true)
    [[ $state == running || $state == degraded ]] && break
    sleep 0.5
done
[[ $state == running || $state == degraded ]] || die "systemd does not come up in a container here (${state:-no answer})"
docker exec "$name" python3 /work/systemd_checks.py
