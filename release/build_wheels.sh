#!/usr/bin/env bash
# Builds, checks and tests the wheels of the commit that is checked out, for both architectures, on one x86_64 Linux
# machine without any image from a registry. zig (from PyPI) is the cross compiler, with the symbol versions of an old
# glibc; libcrypto is linked in. Two runs of one commit give the same bytes. The wheels for musl come from cibuildwheel
# (see pyproject.toml).
#
#   release/build_wheels.sh [--no-test] [TARGET...]     into wheelhouse/
#
# TARGET: manylinux_2_28_x86_64, manylinux_2_28_aarch64 (default: both)
# Environment: PYTHON (default: python3), OUT (wheelhouse), JOBS (all processors). Needs cargo, perl and make, and for
# the test of the aarch64 wheel qemu-user and apt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
top=$PWD
PYTHON=${PYTHON:-python3}
OUT=${OUT:-wheelhouse}
work=$top/build/wheels
tools=$top/build/release-tools
umask 022 # the modes of files are part of a wheel

. scripts/steps.sh
say() { printf 'build_wheels: %s\n' "$*"; }
die() { printf 'build_wheels: %s\n' "$*" >&2; exit 1; }

test_wheels=1
targets=()
for argument; do
    case $argument in
        --no-test) test_wheels=0 ;;
        manylinux_2_28_x86_64 | manylinux_2_28_aarch64) targets+=("$argument") ;;
        *) die "unknown target $argument" ;;
    esac
done
[[ ${#targets[@]} -gt 0 ]] || targets=(manylinux_2_28_x86_64 manylinux_2_28_aarch64)

[[ ${JOBS:-1} =~ ^[1-9][0-9]*$ ]] || die "JOBS=$JOBS is no whole number from 1 on"

missing=()
for program in "$PYTHON" git make perl cargo; do
    command -v "$program" >/dev/null || missing+=("$program")
done
if [[ $test_wheels == 1 && ${targets[*]} == *aarch64* && $(uname -m) != aarch64 ]]; then
    command -v qemu-aarch64 >/dev/null || missing+=("qemu-aarch64 (Debian: qemu-user), or --no-test")
fi
[[ ${#missing[@]} -eq 0 ]] || die "this machine lacks $(printf '%s, ' "${missing[@]}" | sed 's/, $//')"
git rev-parse --git-dir >/dev/null 2>&1 || die "this is no git checkout: a wheel is built from a commit"
[[ -z $(git status --porcelain --untracked-files=no) ]] || say "note: what is not committed is not in the wheels"
commit=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
CRYPRQ_GIT_SHA=$(git rev-parse --short=12 HEAD)
export SOURCE_DATE_EPOCH CRYPRQ_GIT_SHA
export ZIG_GLOBAL_CACHE_DIR=$top/build/zig-cache ZIG_LOCAL_CACHE_DIR=$top/build/zig-cache

release/tools.sh "$tools" "$PYTHON"
export PATH=$tools/bin:$PATH

machine_of() { echo "${1#manylinux_2_28_}"; }

# OpenSSL records the compiler's name, so it is called by a short one.
compilers() {
    mkdir -p "$work/bin"
    local target
    for target in "${targets[@]}"; do
        printf '#!/bin/sh\nexec "%s/bin/python" -m ziglang cc -target %s-linux-gnu.2.28 "$@"\n' \
            "$tools" "$(machine_of "$target")" >"$work/bin/cc-$target"
    done
    printf '#!/bin/sh\nexec "%s/bin/python" -m ziglang ar "$@"\n' "$tools" >"$work/bin/zig-ar"
    printf '#!/bin/sh\nexec "%s/bin/python" -m ziglang ranlib "$@"\n' "$tools" >"$work/bin/zig-ranlib"
    chmod +x "$work"/bin/*
    export PATH=$work/bin:$PATH
}

# libcrypto for a target, kept in build/ until its source, its options or the compiler change.
openssl() {
    local target=$1 prefix=$top/build/openssl/$1 key
    key=$(cat release/build_openssl.sh release/openssl/Cargo.lock <(python -m ziglang version) | sha256sum)
    step "$target: libcrypto (about two minutes, if it is not there yet)"
    if [[ ! -e $prefix/key || $(<"$prefix/key") != "$key" ]]; then
        rm -rf "$prefix"
        CC=cc-$target AR=zig-ar RANLIB=zig-ranlib release/build_openssl.sh "$prefix" "linux-$(machine_of "$target")"
        printf '%s' "$key" >"$prefix/key"
    fi
}

# The headers of this machine's Python, with pyconfig.h itself where Debian has one that asks for the architecture. All
# that the stable ABI takes from pyconfig.h is the same on every 64-bit Linux.
headers() {
    local include config
    include=$("$tools/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    rm -rf "$work/include"
    cp -RL "$include" "$work/include"
    config=/usr/include/$(uname -m)-linux-gnu/$(basename "$include")/pyconfig.h
    if grep -q "linux-gnu/$(basename "$include")/pyconfig.h" "$work/include/pyconfig.h" && [[ -e $config ]]; then
        cp "$config" "$work/include/pyconfig.h"
    fi
}

build() {
    local target=$1 source=$work/$1
    rm -rf "$source"
    mkdir -p "$source" "$OUT"
    git archive "$commit" | tar -x -C "$source"
    step "$target: building"
    # -s: no debug information and no local symbols; a checkout's own build has them.
    (
        cd "$source"
        env CC="cc-$target" LDSHARED="cc-$target -shared" CFLAGS="-I$work/include -g0 -DNDEBUG -fwrapv" \
            LDFLAGS="-Wl,-s" CRYPRQ_WERROR=1 \
            CRYPRQ_OPENSSL="$top/build/openssl/$target" _PYTHON_HOST_PLATFORM="$target" \
            python -m build --wheel --no-isolation --outdir dist . >build.log 2>&1 || { tail -n 40 build.log >&2; exit 1; }
    )
    python release/wheel_contents.py "$source"/dist/*.whl
    rm -f "$OUT"/cryprq-*"$target".whl
    cp "$source"/dist/*.whl "$OUT/"
    rm -rf "$source"
}

compilers
headers
steps_in_all $((${#targets[@]} * (2 + test_wheels))) build_wheels:
for target in "${targets[@]}"; do
    openssl "$target"
    build "$target"
    if [[ $test_wheels == 1 ]]; then
        step "$target: testing"
        release/test_wheel.sh "$OUT"/cryprq-*"$target".whl
    fi
done
(cd "$OUT" && sha256sum cryprq-*.whl)
