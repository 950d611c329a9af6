#!/usr/bin/env bash
# From a commit to a release: wheels, QA on what was built, evidence, images, bill of materials, vulnerability scan,
# notes and checksums, in release-VERSION/. Nothing is packaged when a QA scenario fails.
#
#   VERSION=0.1.0 ./finish_qa_and_package.sh
#
# Environment:
#   VERSION              the version that is meant; has to be the one in pyproject.toml (default: that one)
#   QA_RUNTIME           netns (default) or docker
#   QA_SCENARIOS         names of scenarios of scripts/sweep.sh (default: all)
#   SYFT_IMAGE           an image of Syft, where it is not installed
#   GRYPE_IMAGE          an image of Grype, where it is not installed
#   GRYPE_FAIL_LEVEL     the severity that ends this script with 1 (default: critical)
#   ALLOW_UNSCANNED=1    end with 0 although there was no vulnerability data
#   ALLOW_DIRTY=1        package the commit although the checkout has changes, which are not in it
#   PYTHON               the Python that builds (default: python3)
#
# Exit status: 0 a complete release, 1 none, or one that should not be published (the last line says why).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
umask 022
PYTHON=${PYTHON:-python3}
GRYPE_FAIL_LEVEL=${GRYPE_FAIL_LEVEL:-critical}
QA_RUNTIME=${QA_RUNTIME:-netns}
tools=$PWD/build/release-tools

say() { printf '\n== %s\n' "$*"; }
die() { printf 'finish_qa_and_package: %s\n' "$*" >&2; exit 1; }
has_docker() { command -v docker >/dev/null && docker info >/dev/null 2>&1; }

of_package=$("$PYTHON" -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
VERSION=${VERSION:-$of_package}
[[ $VERSION == "$of_package" ]] || die "VERSION is $VERSION, but pyproject.toml says $of_package"
if [[ -n $(git status --porcelain --untracked-files=no) && ${ALLOW_DIRTY:-} != 1 ]]; then
    die "the checkout has changes that would not be in the release: commit them, or set ALLOW_DIRTY=1"
fi
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

release=release-$VERSION
# Built beside its final name, so that a folder of that name is always whole.
staging=$PWD/build/$release
rm -rf "$staging"
mkdir -p "$staging"/{wheels,sdist,images,qa,security}

# ---- what is shipped ----

build_packages() {
    say "wheels and source distribution"
    # For the aarch64 node's tunnel with one of this machine.
    make --no-print-directory build
    OUT=$staging/wheels scripts/build_wheels.sh
    # From a clean copy, with the modes and times of the commit.
    local source=build/sdist-source revision
    revision=$(git rev-parse --short=12 HEAD)
    rm -rf "$source"
    mkdir -p "$source"
    git archive HEAD | tar -x -C "$source"
    (cd "$source" && CRYPRQ_GIT_SHA=$revision "$tools/bin/python" -m build --sdist --no-isolation --outdir dist . >build.log 2>&1) ||
        { tail -n 30 "$source/build.log" >&2; exit 1; }
    "$tools/bin/python" scripts/repack_sdist.py "$source"/dist/*.tar.gz "$staging/sdist"
    rm -rf "$source"
}

# The wheel for this machine in an environment of its own: what QA runs and what the scan looks at.
install_wheel() {
    rm -rf build/release-venv
    "$PYTHON" -m venv build/release-venv 2>/dev/null || "$PYTHON" -m venv --without-pip build/release-venv
    "$PYTHON" -m pip --python build/release-venv/bin/python install --quiet --only-binary :all: \
        "$staging"/wheels/cryprq-*-manylinux*"_$(uname -m).whl"
}

run_qa() {
    say "QA scenarios ($QA_RUNTIME)"
    local arguments=(--runtime "$QA_RUNTIME" --output "$staging/qa/$QA_RUNTIME") scenario status=0
    for scenario in ${QA_SCENARIOS:-}; do
        arguments+=(--scenario "$scenario")
    done
    [[ -n ${QA_SCENARIOS:-} ]] || arguments+=(--all)
    PYTHON=$PWD/.venv/bin/python CRYPRQ_PROGRAMS=$PWD/build/release-venv/bin WHEELHOUSE=$staging/wheels scripts/sweep.sh "${arguments[@]}" \
        2>&1 | tee "$staging/qa/sweep.log" || status=$?
    if [[ $status -ne 0 ]]; then
        rm -rf build/failed-qa
        mv "$staging/qa" build/failed-qa
        rm -rf "$staging"
        die "QA failed (status $status), nothing is packaged; the evidence is in build/failed-qa"
    fi
}

# build_image ARCHITECTURE [PLATFORM]: one archive under images/. Without PLATFORM the image is this machine's.
build_image() {
    local tag=cryprq:$VERSION-$1 made
    PYTHON=$PWD/.venv/bin/python PLATFORM=${2:-} WHEELHOUSE=$staging/wheels scripts/build_image.sh "$tag"
    made=$(docker image inspect --format '{{.Architecture}}' "$tag")
    [[ $made == "$1" ]] || die "the image for $1 is one for $made"
    docker save "$tag" | gzip -9 -n >"$staging/images/cryprq-$VERSION-linux-$1.tar.gz"
}

build_images() {
    say "container images"
    if ! has_docker; then
        echo "Not built: no Docker engine answered where this release was made." | tee "$staging/images/NOT-BUILT.txt"
        return
    fi
    local native other qemu
    case $(uname -m) in
        x86_64) native=amd64 other=arm64 qemu=qemu-aarch64 ;;
        aarch64) native=arm64 other=amd64 qemu=qemu-x86_64 ;;
    esac
    build_image "$native"
    # F: the kernel keeps qemu open, so that it is found inside a container, too.
    if grep -qs '^flags:.*F' "/proc/sys/fs/binfmt_misc/$qemu"; then
        build_image "$other" "linux/$other"
    else
        echo "linux/$other was not built: the kernel where this release was made has no $qemu registered in binfmt_misc" \
            "(Debian: qemu-user-static), so no program of such an image could run in a build step." |
            tee "$staging/images/NOT-BUILT.txt"
    fi
}

# ---- what is said about it ----

write_notes() {
    "$tools/bin/python" scripts/release_notes.py "$VERSION" CHANGELOG.md >"$staging/RELEASE_NOTES.md"
}

write_bill() {
    say "bill of materials"
    "$tools/bin/python" scripts/sbom.py "$staging" "$VERSION" >"$staging/security/sbom-$VERSION.spdx.json"
    # Syft's view beside ours: it knows neither what is linked into an extension nor the files inside a wheel.
    local syft="$staging/security/syft-$VERSION.spdx.json"
    if command -v syft >/dev/null; then
        syft scan "dir:$staging" --quiet --output spdx-json >"$syft"
    elif [[ -n ${SYFT_IMAGE:-} ]]; then
        docker run --rm --volume "$staging:/release:ro" "$SYFT_IMAGE" scan dir:/release --quiet --output spdx-json >"$syft"
    fi
}

unscanned=0
vulnerable=0
scan() {
    say "vulnerability scan"
    local report=$staging/security/grype-$VERSION.txt bill=sbom-$VERSION.spdx.json status=0
    if command -v grype >/dev/null; then
        grype "sbom:$staging/security/$bill" --fail-on "$GRYPE_FAIL_LEVEL" >"$report" 2>&1 || status=$?
    elif [[ -n ${GRYPE_IMAGE:-} ]]; then
        docker run --rm --volume "$staging/security:/security:ro" "$GRYPE_IMAGE" "sbom:/security/$bill" \
            --fail-on "$GRYPE_FAIL_LEVEL" >"$report" 2>&1 || status=$?
    else
        "$tools/bin/python" scripts/scan_fallback.py "$staging" build/release-venv >"$report" 2>&1 || status=$?
    fi
    case $status in
        0) ;;
        3) unscanned=1 ;; # scan_fallback.py: there was no data
        *) vulnerable=1 ;;
    esac
    cat "$report"
}

build_packages
install_wheel
run_qa
build_images
write_notes
write_bill
scan
scripts/release_checksums.sh "$staging" >"$staging/checksums.txt"
say "verification"
scripts/verify_release.sh "$staging"
rm -rf "$release"
mv "$staging" "$release"
say "$release: $(find "$release" -type f | wc -l) files, $(du -sh "$release" | cut -f1)"
[[ $vulnerable -eq 0 ]] || die "$release is whole, but the scan found what should not be published, or failed: see security/"
if [[ $unscanned -eq 1 && ${ALLOW_UNSCANNED:-} != 1 ]]; then
    die "$release is whole, but was not scanned for vulnerabilities (ALLOW_UNSCANNED=1 accepts that)"
fi
