#!/usr/bin/env bash
# Builds the static libcrypto that wheels are linked with: two ciphers and what they need, nothing of the host.
#
#   release/build_openssl.sh --fetch           the pinned source (release/openssl/Cargo.lock), into build/openssl/
#   release/build_openssl.sh PREFIX [TARGET]   include/ and lib/libcrypto.a under PREFIX; fetches if need be
#
# TARGET is OpenSSL's name of the platform: linux-x86_64 (or this machine's) or linux-aarch64.
# Environment: CC, AR, RANLIB, JOBS (default: all processors). Needs perl and make, and cargo to fetch.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

die() { printf 'build_openssl: %s\n' "$*" >&2; exit 1; }

# Prints the folder of the pinned crate, fetched if need be.
crate() { "$top/scripts/crate_source.sh" "$top/release/openssl" openssl-src "$top/build/openssl/vendor"; }

# Two ciphers and what they need.
# - no configuration file and no module: an attacker who can write to a compiled-in path would get code into the node
# - no file names and no compiled-in folders of the build: the same bytes wherever it is built
options=(
    no-shared no-apps no-docs no-tests no-fips no-legacy no-engine no-dso no-module no-autoload-config no-filenames
    no-tls no-dtls no-quic no-sock no-dgram no-http no-ui-console no-err no-async no-atexit no-thread-pool
    no-comp no-ct no-cmp no-cms no-ocsp no-ts no-srp no-srtp no-psk no-nextprotoneg no-rfc3779 no-ssl-trace
    no-aria no-bf no-blake2 no-camellia no-cast no-cmac no-des no-idea no-md4 no-multiblock no-ocb no-rc2 no-rc4
    no-rmd160 no-scrypt no-seed no-siphash no-siv no-sm3 no-sm4 no-whirlpool
    no-dh no-dsa no-ec no-ml-dsa no-ml-kem no-slh-dsa
    --prefix=/usr --libdir=lib --openssldir=/etc/ssl
)

build() {
    local prefix=$1 target=${2:-linux-$(uname -m)} source work
    source=$(crate)/openssl
    mkdir -p "$prefix"
    prefix=$(cd "$prefix" && pwd)
    work=$prefix/work
    rm -rf "$work"
    cp -R "$source" "$work"
    cd "$work"
    # The build records its date and the compiler's name.
    SOURCE_DATE_EPOCH=0 ./Configure "$target" "${options[@]}" "CFLAGS=-O3 -fPIC -fvisibility=hidden" >configure.log
    SOURCE_DATE_EPOCH=0 make -s -j "${JOBS:-$(nproc)}" build_generated >make.log 2>&1 || { tail -n 40 make.log >&2; exit 1; }
    SOURCE_DATE_EPOCH=0 make -s -j "${JOBS:-$(nproc)}" libcrypto.a >>make.log 2>&1 || { tail -n 40 make.log >&2; exit 1; }
    mkdir -p "$prefix/lib" "$prefix/include"
    cp -R include/openssl "$prefix/include/"
    cp LICENSE.txt "$prefix/"
    cp libcrypto.a "$prefix/lib/"
    cd "$top"
    rm -rf "$work"
}

case ${1:-} in
    --fetch) crate >/dev/null ;;
    "" | -*) die "usage: $0 --fetch | PREFIX [TARGET]" ;;
    *) build "$@" ;;
esac
