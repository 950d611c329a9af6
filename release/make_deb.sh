#!/usr/bin/env bash
# Builds the Debian packages: one for each architecture, which serves the Python of Debian 12 and that of 13. It carries
# our wheel, and the wheels that it needs (debian/requirements.txt, held to their hashes), in /usr/lib/cryprq. debhelper
# and dpkg-buildpackage do the rest. Two runs with the same wheels and the same tools give the same bytes.
#
#   release/make_deb.sh [ARCHITECTURE...]      amd64, arm64 (default: both); into wheelhouse/
#
# Environment: WHEELHOUSE (wheelhouse: where our wheels are, see build_wheels.sh), OUT (wheelhouse), PYTHON (python3; one
# with pip), SOURCE_DATE_EPOCH (that of the commit). debhelper is installed where it is missing, as root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
WHEELHOUSE=${WHEELHOUSE:-wheelhouse}
OUT=${OUT:-wheelhouse}
PYTHON=${PYTHON:-python3}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH LC_ALL=C
umask 022
# Of Debian 12 and 13. uvloop and cffi have an extension for each Python, everything else one for all of them.
pythons=(3.11 3.13)
work=$PWD/build/deb

die() { printf 'make_deb: %s\n' "$*" >&2; exit 2; }

for architecture; do
    [[ $architecture =~ ^(amd64|arm64)$ ]] || die "usage: $0 [amd64 | arm64]..."
done
(($# > 0)) || set -- amd64 arm64
"$PYTHON" -m pip --version >/dev/null 2>&1 || die "$PYTHON has no pip"
scripts/bootstrap.sh --deb || exit 2
of_package=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
# 0.2.0rc1 comes before 0.2.0.
version=$(sed -E 's/(a|b|rc|\.dev)([0-9]+)$/~\1\2/' <<<"$of_package")-1

machine_of() { case $1 in amd64) echo x86_64 ;; arm64) echo aarch64 ;; esac; }

# requirements ARCHITECTURE FOLDER
requirements() {
    local machine options=() python glibc
    machine=$(machine_of "$1")
    for glibc in 2_36 2_35 2_34 2_28 2_17; do # 2.36 is that of Debian 12
        options+=(--platform "manylinux_${glibc}_$machine")
    done
    for python in "${pythons[@]}"; do
        "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
            --python-version "$python" "${options[@]}" --dest "$2" --requirement release/debian/requirements.txt
    done
}

changelog() {
    printf 'cryprq (%s) unstable; urgency=medium\n\n  * CrypRQ %s. What is new is in changelog.gz.\n\n' "$version" "$of_package"
    printf ' -- %s  %s\n' "$(sed -n 's/^Maintainer: //p' release/debian/control)" "$(date -uRd "@$SOURCE_DATE_EPOCH")"
}

# build ARCHITECTURE
build() {
    local architecture=$1 source=$work/$1/cryprq wheels=$work/$1/wheels own
    own=$(compgen -G "$WHEELHOUSE/cryprq-$of_package-*manylinux*_$(machine_of "$1").whl" | head -n 1) ||
        die "no wheel of $of_package for $1 in $WHEELHOUSE: release/build_wheels.sh makes one"
    rm -rf "${work:?}/$architecture"
    mkdir -p "$source" "$wheels" "$OUT"
    requirements "$architecture" "$wheels"
    cp -R release/debian "$source/debian"
    rm "$source/debian/requirements.txt"
    cp CHANGELOG.md "$source/"
    sed 's|/opt/cryprq/current/bin/|/usr/bin/|' deploy/notify-reload.conf >"$source/notify-reload.conf"
    changelog >"$source/debian/changelog"
    "$PYTHON" release/deb_tree.py "$source/tree" "$own" "$wheels"/*.whl >"$source/substvars"
    (
        cd "$source"
        # -d: nothing is compiled, so that no compiler for the architecture is asked for.
        dpkg-buildpackage --build=binary --host-arch "$architecture" -d --no-sign >../build.log 2>&1 ||
            { tail -n 40 ../build.log >&2; exit 1; }
    )
    cp "$work/$architecture/cryprq_${version}_$architecture.deb" "$OUT/"
    rm -rf "$source" "$wheels"
}

for architecture; do
    build "$architecture"
    (cd "$OUT" && sha256sum "cryprq_${version}_$architecture.deb")
done
