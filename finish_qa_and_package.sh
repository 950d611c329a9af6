#!/usr/bin/env bash
# From a commit to a release: wheels, images, QA on what was built, evidence, bill of materials, vulnerability scan,
# notes and checksums, in release-VERSION/. Nothing is packaged when a QA scenario fails.
#
#   VERSION=0.1.0 ./finish_qa_and_package.sh
#
# Environment:
#   VERSION              the version that is meant; has to be the one in pyproject.toml (default: that one)
#   QA_RUNTIME           netns (default) or docker, which runs the image that is shipped
#   QA_SCENARIOS         names of scenarios of scripts/sweep.sh (default: all)
#   REGISTER_QEMU=1      build the image of the other architecture although this kernel runs none of its programs: qemu
#                        is registered in binfmt_misc as long as that takes (release/with_emulator.sh)
#   BASE                 an image to build on, of both architectures (default: made of Debian's packages)
#   SYFT_IMAGE           an image of Syft, where it is not installed
#   GRYPE_IMAGE          an image of Grype, where it is not installed
#   GRYPE_FAIL_LEVEL     the severity from which on this script ends with 1 (default: critical)
#   ALLOW_UNSCANNED=1    end with 0 although there was no vulnerability data
#   ALLOW_DIRTY=1        package the commit although the checkout has changes, which are not in it
#   PYTHON               the Python that builds (default: python3)
#   and the settings of the scenarios, see docs/operations.md
#
# It takes no arguments. Exit status: 0 a complete release, 1 none, or one that should not be published (the last line
# says why).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
umask 022
PYTHON=${PYTHON:-python3}
GRYPE_FAIL_LEVEL=${GRYPE_FAIL_LEVEL:-critical}
QA_RUNTIME=${QA_RUNTIME:-netns}
tools=$PWD/build/release-tools
. scripts/steps.sh

die() { printf 'finish_qa_and_package: %s\n' "$*" >&2; exit 1; }

# ---- what can be known before anything is built: first of the call, then of the machine, then of the checkout ----

(($# == 0)) || die "takes no arguments; its head says which variables it reads"
of_package=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
VERSION=${VERSION:-$of_package}
[[ $VERSION == "$of_package" ]] || die "VERSION is $VERSION, but pyproject.toml says $of_package"
[[ $GRYPE_FAIL_LEVEL =~ ^(negligible|low|medium|high|critical)$ ]] ||
    die "GRYPE_FAIL_LEVEL=$GRYPE_FAIL_LEVEL is no severity: negligible, low, medium, high or critical"
[[ $QA_RUNTIME =~ ^(netns|docker)$ ]] || die "QA_RUNTIME=$QA_RUNTIME is neither netns nor docker"
for scenario in ${QA_SCENARIOS:-}; do
    grep -qF "    \"$scenario\": Scenario(" qa/scenarios.py || die "QA_SCENARIOS: there is no scenario $scenario"
done
for name in ROTATION_INTERVAL PARALLEL_COUNT SOAK_DURATION SOAK_DIALERS ROTATE_SOAK; do
    [[ ${!name:-1} =~ ^0*[1-9][0-9]*$ ]] || die "$name=${!name} is no whole number from 1 on"
done

missing=()
for program in "$PYTHON" git make cargo perl; do
    command -v "$program" >/dev/null || missing+=("$program")
done
[[ $(uname -m) != x86_64 ]] || command -v qemu-aarch64 >/dev/null || missing+=("qemu-aarch64 (Debian: qemu-user)")
[[ ${#missing[@]} -eq 0 ]] || die "this machine lacks $(printf '%s, ' "${missing[@]}" | sed 's/, $//')"
if [[ -n $(git status --porcelain --untracked-files=no) && ${ALLOW_DIRTY:-} != 1 ]]; then
    die "the checkout has changes that would not be in the release: commit them, or set ALLOW_DIRTY=1"
fi
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

# Why no image can be built here; nothing if it can.
image_obstacle() {
    if ! docker info >/dev/null 2>&1; then
        echo "no Docker engine answered"
    elif [[ $EUID -ne 0 ]]; then
        echo "this was not run as root"
    elif [[ -z ${BASE:-} ]] && ! scripts/bootstrap.sh --images >&2; then
        echo "there was no debootstrap"
    fi
}
no_image=$(image_obstacle)
[[ $QA_RUNTIME == netns || -z $no_image ]] || die "QA_RUNTIME=docker, but no image can be built: $no_image"

case $(uname -m) in
    x86_64) native=amd64 other=arm64 qemu=qemu-aarch64 ;;
    aarch64) native=arm64 other=amd64 qemu=qemu-x86_64 ;;
    *) die "no wheels for $(uname -m)" ;;
esac

release=release-$VERSION
# Built beside its final name, so that a folder of that name is always whole.
staging=$PWD/build/$release
rm -rf "$staging"
mkdir -p "$staging"/{wheels,sdist,images,qa,security}
"$PYTHON" release/notes.py "$VERSION" CHANGELOG.md >"$staging/RELEASE_NOTES.md" ||
    die "no release without release notes"
[[ ! -e $release ]] || echo "$release is there already; it is replaced when the new one is whole"

# ---- what is shipped ----

build_packages() {
    step "wheels and source distribution"
    # For QA, and for the aarch64 node's tunnel with one of this machine.
    make --no-print-directory build
    OUT=$staging/wheels release/build_wheels.sh
    # From a clean copy, with the modes and times of the commit.
    local source=build/sdist-source revision
    revision=$(git rev-parse --short=12 HEAD)
    rm -rf "$source"
    mkdir -p "$source"
    git archive HEAD | tar -x -C "$source"
    (
        cd "$source"
        CRYPRQ_GIT_SHA=$revision "$tools/bin/python" -m build --sdist --no-isolation --outdir dist . >build.log 2>&1
    ) || { tail -n 30 "$source/build.log" >&2; die "the source distribution was not built"; }
    "$tools/bin/python" release/repack_sdist.py "$source"/dist/*.tar.gz "$staging/sdist"
    rm -rf "$source"
}

# The wheel for this machine in an environment of its own: what QA runs and what the scan looks at.
install_wheel() {
    rm -rf build/release-venv
    "$PYTHON" -m venv build/release-venv 2>/dev/null || "$PYTHON" -m venv --without-pip build/release-venv
    "$PYTHON" -m pip --python build/release-venv/bin/python install --quiet --only-binary :all: \
        "$staging"/wheels/cryprq-*-manylinux*"_$(uname -m).whl"
}

# build_image ARCHITECTURE: one archive under images/, and what is in it in the engine.
build_image() {
    local architecture=$1 tag=cryprq:$VERSION-$1 base=${BASE:-cryprq-base:release-$1} archive made
    local emulator=(release/with_emulator.sh "$1")
    archive=$staging/images/cryprq-$VERSION-linux-$1.tar.gz
    made_images+=("$tag")
    # Always a new base, with the security updates of today.
    if [[ -z ${BASE:-} ]]; then
        made_images+=("$base")
        ARCH=$architecture "${emulator[@]}" release/make_base_image.sh "$base"
    fi
    PYTHON=$PWD/.venv/bin/python PLATFORM=linux/$architecture BASE=$base WHEELHOUSE=$staging/wheels \
        "${emulator[@]}" release/build_image.sh "$tag"
    made=$(docker image inspect --format '{{.Architecture}}' "$tag")
    [[ $made == "$architecture" ]] || die "the image for $architecture is one for $made"
    docker save "$tag" | "$tools/bin/python" release/repack_image.py "$archive"
    # From here on it is the archive that is looked at.
    docker image rm "$tag" >/dev/null
    docker load --quiet --input "$archive" >/dev/null
}

made_images=()
remove_images() {
    local image
    for image in "${made_images[@]}"; do
        docker image rm "$image" >/dev/null 2>&1 || true # not there yet, or in use by now
    done
}
trap remove_images EXIT

build_images() {
    local no=$staging/images/NOT-BUILT.txt
    step "container images"
    if [[ -n $no_image ]]; then
        echo "Not built: $no_image where this release was made." | tee "$no"
        return
    fi
    build_image "$native"
    # F: the kernel keeps qemu open, so that it is found inside a container, too.
    if [[ ${REGISTER_QEMU:-} == 1 ]] || grep -qs '^flags:.*F' "/proc/sys/fs/binfmt_misc/$qemu"; then
        build_image "$other"
        release/with_emulator.sh "$other" \
            release/test_image.sh "$VERSION" "cryprq:$VERSION-$native" "cryprq:$VERSION-$other"
        return
    fi
    release/test_image.sh "$VERSION" "cryprq:$VERSION-$native"
    echo "linux/$other was not built: the kernel where this release was made had no $qemu registered in" \
        "binfmt_misc, so no program of such an image could run in a build step. REGISTER_QEMU=1 registers it for" \
        "that time." | tee "$no"
}

# sweep RUNTIME ARGUMENT...: evidence under qa/.
sweep() {
    local runtime=$1 status=0
    shift
    PYTHON=$PWD/.venv/bin/python CRYPRQ_PROGRAMS=$PWD/build/release-venv/bin IMAGE=cryprq:$VERSION-$native \
        scripts/sweep.sh --runtime "$runtime" --output "$staging/qa/$runtime" "$@" 2>&1 |
        tee -a "$staging/qa/sweep.log" || status=$?
    if [[ $status -ne 0 ]]; then
        rm -rf build/failed-qa
        mv "$staging/qa" build/failed-qa
        rm -rf "$staging"
        die "QA failed (status $status), nothing is packaged; the evidence is in build/failed-qa"
    fi
}

run_qa() {
    step "QA scenarios ($QA_RUNTIME)"
    local arguments=() scenario
    for scenario in ${QA_SCENARIOS:-}; do
        arguments+=(--scenario "$scenario")
    done
    [[ -n ${QA_SCENARIOS:-} ]] || arguments+=(--all)
    sweep "$QA_RUNTIME" "${arguments[@]}"
    if [[ $QA_RUNTIME == netns && -z $no_image ]]; then
        sweep docker --scenario baseline-docker-handshake
    fi
}

# ---- what is said about it ----

write_bill() {
    step "bill of materials"
    "$tools/bin/python" -m release.sbom "$staging" "$VERSION" >"$staging/security/sbom-$VERSION.spdx.json"
}

scanned=0
scan() {
    step "vulnerability scan"
    PYTHON=$tools/bin/python release/scan.sh "$staging" "$VERSION" build/release-venv || scanned=$?
}

steps_in_all 6
build_packages
install_wheel
build_images
run_qa
write_bill
scan
release/checksums.sh "$staging" >"$staging/checksums.txt"
step "verification"
scripts/verify_release.sh "$staging"
rm -rf "$release"
mv "$staging" "$release"
steps_end "$release: $(find "$release" -type f | wc -l) files, $(du -sh "$release" | cut -f1)"
(cd "$release" && du -ah --apparent-size wheels/* sdist/* images/* security/*)
case $scanned in
    0) ;;
    3)
        [[ ${ALLOW_UNSCANNED:-} == 1 ]] ||
            die "$release is whole, but not all of it was scanned for vulnerabilities (ALLOW_UNSCANNED=1 accepts that)"
        ;;
    1) die "$release is whole, but should not be published: security/grype-$VERSION.txt has what the scan found" ;;
    *) die "$release is whole, but a tool that looks for vulnerabilities failed" ;;
esac
