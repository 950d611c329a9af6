#!/usr/bin/env bash
# Makes a fresh Debian or Ubuntu machine able to build, test and run CrypRQ from this checkout:
# installs the Debian packages that are missing (only as root), creates .venv, installs the package and its tools into it.
#
#   scripts/bootstrap.sh            what building and running need
#   scripts/bootstrap.sh --system   of that only the Debian packages
#   scripts/bootstrap.sh --tests    what only tests need; they are skipped, or say so, where it cannot be had
#   scripts/bootstrap.sh --fuzz     what fuzzing needs (make fuzz)
#   scripts/bootstrap.sh --images   what makes a base image (make_base_image.sh)
#
# Environment: PYTHON (default: the first Python >= 3.11 found), VENV (default: .venv).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}
PATH=$PATH:/usr/sbin:/sbin

say() { printf 'bootstrap: %s\n' "$*"; }
die() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }

# The first interpreter that runs and is new enough; a pyenv shim without a version behind it does not run.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

has() { command -v "$1" >/dev/null; }
is_debian_python() { [[ $("$1" -c 'import sys; print(sys.prefix)') == /usr ]]; }
python_has() { "$1" -c "import $2" 2>/dev/null; }
# compiles COMPILER SOURCE OPTION...
compiles() { "$1" -x c "${@:3}" -o /dev/null - <<<"$2"$'\nint main(void) { return 0; }' 2>/dev/null; }

# The Debian packages that this machine lacks. Each is looked for by what it brings, not by its name, so that a compiler
# or a Python from elsewhere counts.
missing_for_build() {
    local python
    python=$(find_python)
    if [[ -z $python ]]; then
        echo python3 python3-dev python3-venv
    else
        # "-m venv" needs ensurepip; a pip that is already there does as well (see make_venv).
        python_has "$python" "venv, ensurepip" || python_has "$python" "venv, pip" || echo python3-venv
        [[ -e $("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] || python_headers "$python"
    fi
    compiles gcc '#include <stdlib.h>' || echo gcc libc6-dev
    compiles gcc '#include <openssl/evp.h>' -lcrypto || echo libssl-dev
    has make || echo make
    # For the network tests and the demo, in namespaces of their own.
    has ip || echo iproute2
    has nft || echo nftables
    has ping || echo iputils-ping
}

# The aarch64 cipher under QEMU, the judgement of the systemd unit, the bus of systemd-resolved, the dissector of records,
# a terminal to type at, the model of a session, constant time as two compilers make it, manual pages, and completions in
# three shells.
missing_for_tests() {
    compiles aarch64-linux-gnu-gcc '#include <stdlib.h>' -static || echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    has qemu-aarch64 || has qemu-aarch64-static || echo qemu-user
    has systemd-analyze || echo systemd
    has dbus-daemon || echo dbus
    has tshark || echo tshark
    has tmux || echo tmux
    has spin || echo spin
    has valgrind || echo valgrind
    has clang || echo clang
    has groff || echo groff-base
    has mandoc || echo mandoc
    has zsh || echo zsh
    has fish || echo fish
    missing_for_docs
}

# What draws the diagrams of the documentation.
missing_for_docs() {
    has dot || echo graphviz
}

# libFuzzer and its sanitizers are a package of their own, of the compiler's version.
missing_for_fuzz() {
    local version
    compiles clang '#include <stddef.h>
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) { return data == NULL && size != 0; }
#define main unused' -fsanitize=fuzzer,address && return
    version=$(clang -dumpversion)
    echo "libclang-rt-${version%%.*}-dev"
}

missing_for_clang() {
    has clang || echo clang
}

missing_for_images() {
    has debootstrap || echo debootstrap
    [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || echo debian-archive-keyring
}

# /usr/bin/python3.12 is served by python3.12-dev, the distribution's default also by python3-dev.
python_headers() {
    is_debian_python "$1" || die "$1 comes without Python.h: install its development files, or set PYTHON"
    "$1" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])'
}

# install_missing build|tests|docs|clang|fuzz|images
install_missing() {
    local packages said options=(-qq -o DPkg::Lock::Timeout=300)
    packages=$("missing_for_$1" | xargs)
    [[ -n $packages ]] || return 0
    has apt-get || die "please install what these Debian packages bring: $packages"
    [[ $EUID -eq 0 ]] || die "not root: please run  sudo apt-get install $packages"
    say "installing $packages"
    # A third-party list that can't be read is no reason to stop; a package that can't be had is.
    apt-get "${options[@]}" update || say "apt-get update had errors; going on with the lists that are there"
    # shellcheck disable=SC2086  # a list of words
    said=$(DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" -y --no-install-recommends install $packages 2>&1) ||
        die "apt-get could not install $packages: $said"
}

# Debian packages that only some tests run, unpacked into the environment, not installed: that would start a server on
# this machine, or take over how it looks names up.
unpack_for_tests() {
    if ! { has promtool && has prometheus; }; then
        local found
        # From Debian 13 on promtool is a package of its own.
        found=$(apt-cache search --names-only '^promtool$' 2>/dev/null) || found=
        # shellcheck disable=SC2086  # none or one
        unpack prometheus prometheus ${found%% *}
    fi
    [[ -x /usr/lib/systemd/systemd-resolved ]] || unpack systemd-resolved systemd-resolved
    unpack openresolv openresolv
}

# unpack DIRECTORY PACKAGE...
unpack() {
    local directory=$VENV/$1
    shift
    [[ ! -e $directory/.unpacked ]] || return 0
    { has apt-get && has dpkg-deb; } || { say "no apt-get: install $1 yourself for its tests"; return; }
    say "unpacking Debian's $1 into $directory"
    mkdir -p "$directory"
    (
        cd "$directory"
        apt-get download -qq -o APT::Sandbox::User=root "$@" || exit
        for package in ./*.deb; do
            dpkg-deb -x "$package" . && rm -f "$package" || exit
        done
        : >.unpacked
    ) || say "could not download $1; its tests will say so"
}

make_venv() {
    local python
    python=$(find_python)
    [[ -n $python ]] || die "no Python >= 3.11 found; set PYTHON to one"
    if "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    say "creating $VENV with $("$python" --version)"
    if python_has "$python" ensurepip; then
        "$python" -m venv --clear "$VENV"
    else
        # Debian's Python without python3-venv: its pip can install one into the new environment.
        "$python" -m venv --clear --without-pip "$VENV"
        "$python" -m pip --python "$VENV/bin/python" install --quiet pip
    fi
}

install_package() {
    say "installing the package and its tools into $VENV (the first time takes a minute or two)"
    # Without build isolation the compiled extension is built once, by the Cython that rebuilds it later.
    "$VENV/bin/python" - <<'PYTHON' | "$VENV/bin/python" -m pip install --quiet --requirement /dev/stdin
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")
PYTHON
    "$VENV/bin/python" -m pip install --quiet --no-build-isolation --editable '.[dev]'
}

case ${1:-} in
    "")
        install_missing build
        make_venv
        install_package
        ;;
    --system) install_missing build ;;
    --tests)
        (install_missing tests) || say "going on without; tests that need it are skipped and say so"
        unpack_for_tests
        ;;
    --docs) install_missing docs ;;
    --fuzz)
        install_missing clang
        install_missing fuzz
        ;;
    --images) install_missing images ;;
    *) die "usage: $0 [--system | --tests | --docs | --fuzz | --images]" ;;
esac
