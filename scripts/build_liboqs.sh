#!/usr/bin/env bash
# Builds a shared liboqs: FrodoKEM for --kem, and the second implementation that our ML-KEM and ML-DSA are tested against
# (make test-oqs).
#
#   scripts/build_liboqs.sh [PREFIX]    include/ and lib/liboqs.so under PREFIX (default: build/liboqs)
#
# The source is pinned by scripts/liboqs/Cargo.lock, and fetched into build/liboqs-source/ if it isn't there.
# Environment: CC, JOBS (default: all processors). Needs awk, cargo, cmake (3.19 or later), gcc and make.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pins=$top/scripts/liboqs

die() { printf 'build_liboqs: %s\n' "$*" >&2; exit 1; }

[[ $# -le 1 && ${1:-} != -* ]] || die "usage: $0 [PREFIX]"
[[ ${JOBS:-1} =~ ^0*[1-9][0-9]*$ ]] || die "JOBS=$JOBS is no whole number from 1 on"
missing=()
for program in awk cargo cmake "${CC:-gcc}" make; do
    command -v "$program" >/dev/null || missing+=("$program")
done
[[ ${#missing[@]} -eq 0 ]] || die "this machine lacks $(printf '%s, ' "${missing[@]}" | sed 's/, $//')"

# What we speak, and nothing else; each further algorithm costs build time.
# - without OpenSSL: it is what liboqs is compared with, so SHA-3 and random numbers come from liboqs, too
# - code for AVX2 and others is in it, and chosen when it runs
options=(
    "-DOQS_MINIMAL_BUILD=KEM_ml_kem_768;KEM_ml_kem_1024;KEM_frodokem_976_aes;SIG_ml_dsa_65;SIG_ml_dsa_87"
    -DOQS_USE_OPENSSL=OFF -DOQS_DIST_BUILD=ON
    -DOQS_BUILD_ONLY_LIB=ON -DBUILD_SHARED_LIBS=ON -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_LIBDIR=lib
    "-DCMAKE_PROJECT_liboqs_INCLUDE=$pins/additions.cmake"
)

prefix=${1:-$top/build/liboqs}
mkdir -p "$prefix"
prefix=$(cd "$prefix" && pwd)
work=$prefix/work
source=$("$top/scripts/crate_source.sh" "$pins" oqs-sys "$top/build/liboqs-source")/liboqs

# quietly COMMAND...: what it says is shown only if it fails.
quietly() { "$@" >>"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; exit 1; }; }

rm -rf "$work"
mkdir "$work"
quietly cmake -G "Unix Makefiles" -S "$source" -B "$work" "-DCMAKE_INSTALL_PREFIX=$prefix" "${options[@]}"
quietly cmake --build "$work" --parallel "${JOBS:-$(nproc)}"
quietly cmake --install "$work"
rm -rf "$work"
