#!/usr/bin/env bash
# Makes a fresh Debian or Ubuntu machine able to build, test and run CrypRQ from this checkout:
# installs the Debian packages that are missing (only as root), creates .venv, installs the package and its tools into it.
#
#   scripts/bootstrap.sh            everything
#   scripts/bootstrap.sh --system   only the Debian packages
#
# Environment: PYTHON (default: the first Python >= 3.11 found), VENV (default: .venv).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}

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

is_debian_python() { [[ $("$1" -c 'import sys; print(sys.prefix)') == /usr ]]; }
python_has() { "$1" -c "import $2" 2>/dev/null; }
compiles() { printf '%s\nint main(void) { return 0; }\n' "$1" | gcc -x c "${@:2}" -o /dev/null - 2>/dev/null; }

# Prints the Debian packages that this machine lacks. Each is looked for by what it brings, not by its name, so that
# a compiler or a Python from elsewhere counts.
missing_packages() {
    local python
    python=$(find_python)
    if [[ -z $python ]]; then
        echo python3 python3-dev python3-venv
    else
        # "-m venv" needs ensurepip; a pip that is already there does as well (see make_venv).
        python_has "$python" "venv, ensurepip" || python_has "$python" "venv, pip" || echo python3-venv
        [[ -e $("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] || python_headers "$python"
    fi
    compiles '#include <stdlib.h>' || echo gcc libc6-dev
    compiles '#include <openssl/evp.h>' -lcrypto || echo libssl-dev
    command -v make >/dev/null || echo make
    # For the network tests and the demo, in namespaces of their own.
    PATH=$PATH:/usr/sbin:/sbin
    command -v ip >/dev/null || echo iproute2
    command -v nft >/dev/null || echo nftables
    command -v ping >/dev/null || echo iputils-ping
}

# /usr/bin/python3.12 is served by python3.12-dev, the distribution's default also by python3-dev.
python_headers() {
    is_debian_python "$1" || die "$1 comes without Python.h: install its development files, or set PYTHON"
    "$1" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])'
}

install_packages() {
    local packages
    packages=$(missing_packages | xargs)
    [[ -n $packages ]] || return 0
    command -v apt-get >/dev/null || die "please install what these Debian packages bring: $packages"
    [[ $EUID -eq 0 ]] || die "not root: please run  sudo apt-get install $packages"
    say "installing $packages"
    # A third-party list that can't be read is no reason to stop; a package that can't be had is.
    apt-get update -qq || say "apt-get update had errors; going on with the lists that are there"
    # shellcheck disable=SC2086  # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
}

# Debian's Prometheus, for the tests of alert rules and dashboard: unpacked into the environment, not installed, since
# installing it would start a server on this machine.
unpack_prometheus() {
    local directory=$VENV/prometheus
    if command -v promtool prometheus >/dev/null || [[ -x $directory/usr/bin/promtool ]]; then
        return
    fi
    command -v apt-get dpkg-deb >/dev/null || { say "no apt-get: install prometheus yourself for its tests"; return; }
    say "unpacking Debian's prometheus into $directory"
    mkdir -p "$directory"
    (cd "$directory" && apt-get download -qq -o APT::Sandbox::User=root prometheus && dpkg-deb -x prometheus_*.deb . \
        && rm -f prometheus_*.deb) || say "could not download prometheus; its tests will say so"
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

install_packages
[[ ${1:-} == --system ]] && exit 0
make_venv
install_package
unpack_prometheus
