#!/usr/bin/env bash
# Prints the folder of a C library's source that comes in a crate: cargo is only the way to fetch it, and Cargo.lock
# holds its version and SHA-256. Nothing is fetched that is in CACHE already, so that it can be taken elsewhere.
#
#   scripts/crate_source.sh FOLDER CRATE CACHE    FOLDER has the Cargo.toml and Cargo.lock that pin CRATE
#
# Needs awk, and cargo to fetch.
set -euo pipefail

die() { printf 'crate_source: %s\n' "$*" >&2; exit 1; }

[[ $# -eq 3 ]] || die "usage: $0 FOLDER CRATE CACHE"
lock=$1/Cargo.lock crate=$2 cache=$3
[[ -e $lock ]] || die "there is no $lock"
version=$(awk -v crate="\"$crate\"" \
    '$1 == "name" { name = $3 } $1 == "version" && name == crate { gsub(/"/, "", $3); print $3 }' "$lock")
[[ -n $version ]] || die "$lock does not pin $crate"
source=$cache/$crate-$version

# cargo writes the list of checksums last: a folder without it was not finished.
if [[ ! -e $source/.cargo-checksum.json ]]; then
    command -v cargo >/dev/null || die "cargo is needed to fetch the source of $crate"
    mkdir -p "$cache"
    cargo vendor --quiet --locked --versioned-dirs --manifest-path "$1/Cargo.toml" "$cache" >/dev/null
fi
echo "$source"
