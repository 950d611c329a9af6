#!/usr/bin/env bash
# Runs deploy/cryprq-node.service under a real systemd, which is PID 1 of a container: the node is installed from wheels
# as the unit's first lines say, then started, reloaded, restarted, misconfigured, robbed of its TUN, hung and stopped.
# The container is removed at the end.
#
#   scripts/systemd_test.sh
#
# Environment: SYSTEMD_IMAGE (cryprq-systemd:bookworm, made by make_base_image.sh if it is missing), WHEELS (the folder
# that scripts/build_image.sh fills). Exit status: 0 passed, 1 failed, 2 not run. Takes about a minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
SYSTEMD_IMAGE=${SYSTEMD_IMAGE:-cryprq-systemd:bookworm}
WHEELS=${WHEELS:-build/image/wheelhouse}

die() { printf 'systemd_test: %s\n' "$*" >&2; exit 2; }
docker info >/dev/null 2>&1 || die "no Docker engine answers here"
compgen -G "$WHEELS/cryprq-*.whl" >/dev/null || die "no wheels in $WHEELS: scripts/build_image.sh fetches them"
if ! docker image inspect "$SYSTEMD_IMAGE" >/dev/null 2>&1; then
    INCLUDE=systemd,systemd-sysv,dbus,iproute2,kmod,procps scripts/make_base_image.sh "$SYSTEMD_IMAGE"
fi

files=$(mktemp -d)
name=cryprq-systemd-test-$$
trap 'docker rm --force --volumes "$name" >/dev/null 2>&1 || true; rm -rf -- "$files"' EXIT
cp -r "$WHEELS" "$files/wheels"
cp deploy/cryprq-node.service deploy/notify-reload.conf scripts/qa/systemd_checks.py "$files"

# Docker mounts the control groups read-only; systemd wants to make its own. Not --privileged: the machine's devices,
# and the other containers, are none of its business.
# shellcheck disable=SC2016  # the container's shell expands it
docker run --detach --name "$name" --network none --cgroupns private --device /dev/net/tun \
    --cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add SYS_PTRACE --cap-add DAC_READ_SEARCH \
    --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined \
    --tmpfs /run --tmpfs /run/lock --tmpfs /tmp --env container=docker --volume "$files:/work:ro" "$SYSTEMD_IMAGE" \
    /bin/sh -c 'for each in /sys/fs/cgroup /sys/fs/cgroup/* /sys; do mount -o remount,rw $each 2>/dev/null; done
                exec /sbin/init' >/dev/null
for _ in $(seq 60); do
    state=$(docker exec "$name" systemctl is-system-running 2>/dev/null || true)
    [[ $state == running || $state == degraded ]] && break
    sleep 0.5
done
[[ $state == running || $state == degraded ]] || die "systemd does not come up in a container here (${state:-no answer})"
docker exec "$name" python3 /work/systemd_checks.py
