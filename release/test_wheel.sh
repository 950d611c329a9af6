#!/usr/bin/env bash
# Installs a wheel as a user would, with nothing of this checkout in reach, and tests what was installed.
#
#   release/test_wheel.sh WHEEL...
#
# A wheel for this machine is installed into a bare environment of every Python >= 3.11 found here. One for aarch64 is
# installed and run by an aarch64 Python under qemu-user, which also meets a node of this machine in a tunnel.
#
# Environment: PYTHONS (default: python3.11 to python3.15 and python3, and pyenv's).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
top=$PWD
work=$top/build/wheel-tests

# What needs the installed package and its extension but no whole node: published and own vectors, records, the plane.
TESTS=(plane/test_{vectors_plane,plane,plane_sends,plane_control}.py unit/test_{identity,handshake,session_world}.py)
TEST_PACKAGES=(pytest hypothesis cryptography-vectors)

say() { printf 'test_wheel: %s\n' "$*"; }
die() { printf 'test_wheel: %s\n' "$*" >&2; exit 1; }

# One path for each version of Python that runs and is new enough.
pythons() {
    local candidate version seen=" "
    for candidate in ${PYTHONS:-python3.11 python3.12 python3.13 python3.14 python3.15 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3}; do
        version=$("$candidate" -c 'import sys, venv; sys.exit(1) if sys.version_info < (3, 11) else print("%d.%d" % sys.version_info[:2])' \
            2>/dev/null) || continue
        [[ $seen != *" $version "* ]] || continue
        seen+="$version "
        command -v "$candidate"
    done
}

# The tests, away from the checkout, so that "import cryprq" can only find what was installed.
copy_tests() {
    rm -rf "$1"
    mkdir -p "$1"
    cp -R tests "$1/tests"
    cp -R lab "$1/lab"
    cp -R docs "$1/docs"
    cp pyproject.toml "$1/"
}

# run_tests FOLDER PYTHON...
run_tests() {
    local folder=$1
    shift
    (
        cd "$folder"
        "$@" -m pytest -q -p no:cacheprovider --hypothesis-profile ci "${TESTS[@]/#/tests/}" >tests.log 2>&1 || { tail -n 60 tests.log >&2; exit 1; }
        tail -n 1 tests.log
    )
}

test_native() {
    local wheel=$1 python folder version
    local -a found
    mapfile -t found < <(pythons)
    [[ ${#found[@]} -gt 0 ]] || die "no Python >= 3.11 to test $wheel with"
    copy_tests "$work/native"
    for python in "${found[@]}"; do
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        folder=$work/venv-$version
        "$python" -m venv --clear "$folder" 2>/dev/null || "$python" -m venv --clear --without-pip "$folder"
        "$python" -m pip --python "$folder/bin/python" install --quiet --only-binary :all: "$wheel"
        (
            cd "$work/native"
            "$folder/bin/cryprq-node" --version
            rm -f identity
            "$folder/bin/cryprq" keygen --out identity >/dev/null
            "$folder/bin/cryprq-node" --check --identity identity --listen /ip4/127.0.0.1/udp/9999/quic-v1 \
                --tun-address 10.66.0.1/24 >/dev/null
            "$folder/bin/cryprq" deploy --print unit | cmp - "$top/deploy/cryprq-node.service"
            cmp "$folder/share/man/man8/cryprq-node.8" "$top/deploy/share/man/man8/cryprq-node.8"
        )
        "$python" -m pip --python "$folder/bin/python" install --quiet --only-binary :all: "${TEST_PACKAGES[@]}"
        run_tests "$work/native" "$folder/bin/python" -P
        say "$(basename "$wheel"): passes on Python $version"
    done
}

# A Debian of the other architecture, only unpacked: enough to run its Python under qemu, without root and without
# registering an interpreter with the kernel. Kept in build/.
foreign_python() {
    local root=$work/aarch64-root apt=$work/aarch64-apt package
    if [[ ! -e $root/complete ]]; then
        rm -rf "$root" "$apt"
        mkdir -p "$root" "$apt/state/lists/partial" "$apt/cache/archives/partial"
        : >"$apt/status"
        local options=(-qq -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
            -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Install-Recommends=false
            -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)")
        apt-get "${options[@]}" update >&2
        apt-get "${options[@]}" -y --download-only install python3 >&2
        for package in "$apt"/cache/archives/*.deb; do
            dpkg-deb -x "$package" "$root"
        done
        rm -rf "$apt"
        : >"$root/complete"
    fi
    echo "$root"
}

test_aarch64() {
    local wheel=$1 root site=$work/aarch64-site python
    root=$(foreign_python)
    # A Python started by this one would not be emulated, so programs are run as modules.
    python=(qemu-aarch64 -L "$root" "$(echo "$root"/usr/bin/python3.*[0-9])" -P)
    copy_tests "$work/foreign"
    rm -rf "$site"
    # This machine's pip, run by the foreign Python: it picks wheels for the foreign one.
    say "$(basename "$wheel"): installing under qemu (a minute or two)"
    PYTHONPATH=$("$top/build/release-tools/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
        "${python[@]}" -c 'import sys; from pip._internal.cli.main import main; sys.exit(main(sys.argv[1:]))' \
        install --quiet --root-user-action ignore --only-binary :all: --target "$site" "$wheel" "${TEST_PACKAGES[@]}"
    (
        cd "$work/foreign"
        export PYTHONPATH=$site PYTHONDONTWRITEBYTECODE=1
        # It starts another Python, which qemu-user without binfmt_misc cannot.
        export PYTEST_ADDOPTS="--deselect tests/plane/test_plane_control.py::test_unknown_aead_back_end_is_an_error_at_the_start"
        "${python[@]}" -c 'import sys; from cryprq.cli.node import main; sys.exit(main())' --version
        run_tests . "${python[@]}"
    )
    FOREIGN_PYTHON="${python[*]}" FOREIGN_SITE=$site "$top/.venv/bin/python" release/foreign_tunnel.py
    say "$(basename "$wheel"): passes on aarch64 under qemu"
}

[[ $# -gt 0 ]] || die "usage: $0 WHEEL..."
native=() foreign=()
for wheel; do
    [[ -f $wheel ]] || die "there is no $wheel"
    case $wheel in
        *_"$(uname -m)".whl) native+=("$(realpath "$wheel")") ;;
        *_aarch64.whl) foreign+=("$(realpath "$wheel")") ;;
        *) die "no way to run $wheel on this machine" ;;
    esac
done
if [[ ${#foreign[@]} -gt 0 ]]; then
    command -v qemu-aarch64 >/dev/null || die "no qemu-aarch64 to run ${foreign[0]}: apt-get install qemu-user"
    command -v apt-get >/dev/null || die "no apt-get to fetch a Python for ${foreign[0]}"
fi
for wheel in "${native[@]}"; do
    test_native "$wheel"
done
for wheel in "${foreign[@]}"; do
    test_aarch64 "$wheel"
done
