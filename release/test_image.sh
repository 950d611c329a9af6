#!/usr/bin/env bash
# Tests container images as they are shipped: all of them are set up alike, and in each the programs run, an identity is
# made, a configuration passes, and records are sealed and opened through two data planes. For a tunnel between two
# containers see docker_vpn_test.sh.
#
#   release/test_image.sh VERSION IMAGE...
#
# An image of another architecture needs with_emulator.sh. Exit status: 0 passed, 1 failed, 2 not run.
set -euo pipefail

die() { printf 'test_image: %s\n' "$*" >&2; exit "${status:-1}"; }
[[ $# -ge 2 ]] || status=2 die "usage: $0 VERSION IMAGE..."
docker info >/dev/null 2>&1 || status=2 die "no Docker engine answers: see docker info"
version=$1
shift

inspect() { docker image inspect --format "$2" "$1"; }

# What an image says of itself, but for what differs by design.
setup() { inspect "$1" '{{json .Config}}'; }
first=$(setup "$1")
for word in '"9999/udp":{}' '"/var/lib/cryprq":{}' '"Entrypoint":["/usr/local/lib/cryprq/entrypoint.sh"]' \
    '"Healthcheck":{"Test":["CMD",' "\"org.opencontainers.image.version\":\"$version\""; do
    [[ $first == *"$word"* ]] || die "$1 lacks $word: $first"
done

# shellcheck disable=SC2016  # for the shell in the container
program='
set -eu
cryprq-node --version
cd /var/lib/cryprq
cryprq keygen --out identity >/dev/null
cryprq id identity
cryprq-node --check --identity identity --listen /ip4/127.0.0.1/udp/9999/quic-v1 --tun-address 10.66.0.1/24 >/dev/null
cryprq bench --json | /opt/cryprq/bin/python -c "
import json, sys
assert all(each[\"gigabits\"] > 0 for each in json.load(sys.stdin)[\"tunnel\"]), \"no record was opened\""
'
container=""
trap '[[ -z $container ]] || docker rm --force --volumes "$container" >/dev/null' EXIT
for image; do
    [[ $(setup "$image") == "$first" ]] || die "$image is not set up like $1: $(setup "$image")"
    architecture=$(inspect "$image" '{{.Architecture}}')
    # By way of the image's own entry point, which changes the user; without a network, and without a right.
    container=$(docker run --detach --network none --cap-drop ALL --cap-add SETUID --cap-add SETGID --no-healthcheck \
        --platform "linux/$architecture" "$image" sleep 600)
    said=$(docker exec --user cryprq "$container" sh -c "$program" 2>&1) || die "$image: $said"
    user=$(docker exec "$container" stat --format %u /proc/1)
    [[ $user == 9999 ]] || die "$image runs as user $user"
    docker rm --force --volumes "$container" >/dev/null
    container=""
    [[ $said == "cryprq-node $version "* ]] || die "$image is not $version: $said"
    printf 'test_image: %s (%s, %s bytes) passes\n' "$image" "$architecture" "$(inspect "$image" '{{.Size}}')"
done
