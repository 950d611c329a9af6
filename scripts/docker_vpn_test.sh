#!/usr/bin/env bash
# End-to-end check of a CrypRQ tunnel between two containers: handshake over QUIC, traffic through the tunnel both ways
# (ping, UDP without loss, TCP with checksums), /healthz, metrics, rights of the process, orderly end. Everything that
# was started is removed again; the logs are kept only if something failed.
#
#   scripts/docker_vpn_test.sh                     with Docker; without IMAGE it builds and removes one
#   scripts/docker_vpn_test.sh --runtime netns     the same checks in network namespaces, without an engine
#
# Environment: IMAGE. Exit status: 0 passed, 1 failed, 2 not run (no Docker engine answers, or a wrong call).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() { printf 'docker_vpn_test: %s\n' "$*" >&2; exit 2; }
usage() { die "usage: $0 [--runtime docker|netns]; --help says more"; }
runtime=docker
while (($#)); do
    case $1 in
        --runtime) runtime=${2:-}; shift 2 || usage ;;
        --help) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) usage ;;
    esac
done
[[ $runtime =~ ^(docker|netns)$ ]] || usage
if [[ $runtime == docker ]]; then
    docker info >/dev/null 2>&1 || die "no Docker engine answers here; --runtime netns makes the same checks without one"
    # What an image is made with. Root gets it installed where it comes to that (make_base_image.sh).
    [[ $EUID -eq 0 || -n ${IMAGE:-} ]] || "$ROOT/scripts/bootstrap.sh" --images || exit 2
fi

evidence=$(mktemp -d "${TMPDIR:-/tmp}/cryprq-vpn-test.XXXXXX")
status=0
"$ROOT/scripts/sweep.sh" --scenario "baseline-$runtime-handshake" --runtime "$runtime" --output "$evidence" || status=$?
if ((status == 0)); then
    rm -rf -- "$evidence"
    echo "docker_vpn_test: passed; its evidence is removed"
elif ((status == 2)); then
    rm -rf -- "$evidence"
else
    for log in "$evidence"/*/node-*.log; do
        printf -- '--- %s\n' "${log##*/}"
        tail -20 "$log"
    done
    echo "docker_vpn_test: failed; logs, metrics and verdict are in $evidence" >&2
fi
exit "$status"
