#!/usr/bin/env bash
# Builds the container image from wheels: those in wheelhouse/ if there are any for this Python and machine, else made
# here; the wheels that CrypRQ needs are downloaded by pip. The build itself has no network.
#
#   release/build_image.sh [TAG]            default: cryprq:VERSION
#
# Environment: PLATFORM (this machine's; linux/arm64 wants a wheel for it in WHEELHOUSE, and with_emulator.sh where the
# kernel runs no such programs), BASE (cryprq-base:bookworm, or -ARCH behind it, made by make_base_image.sh if it is
# missing), BASE_PYTHON (3.11: the base image's Python), WHEELHOUSE (wheelhouse), PYTHON (.venv/bin/python).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PLATFORM=${PLATFORM:-}
BASE=${BASE:-cryprq-base:bookworm${PLATFORM:+-${PLATFORM##*/}}}
BASE_PYTHON=${BASE_PYTHON:-3.11}
WHEELHOUSE=${WHEELHOUSE:-wheelhouse}
PYTHON=${PYTHON:-$PWD/.venv/bin/python}

die() { printf 'build_image: %s\n' "$*" >&2; exit 2; }
(($# <= 1)) || die "usage: $0 [TAG]"
case ${PLATFORM##*/} in
    arm64) machine=aarch64 ;;
    amd64) machine=x86_64 ;;
    "") machine="" ;;
    *) die "PLATFORM=$PLATFORM is neither linux/amd64 nor linux/arm64" ;;
esac
docker info >/dev/null 2>&1 || die "no Docker engine answers: see docker info"
[[ -x $PYTHON ]] || die "no $PYTHON: run  make build  first"
VERSION=$("$PYTHON" -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
TAG=${1:-cryprq:$VERSION}

if [[ $BASE == cryprq-base:* ]] && ! docker image inspect "$BASE" >/dev/null 2>&1; then
    ${PLATFORM:+env ARCH="${PLATFORM##*/}"} release/make_base_image.sh "$BASE"
fi

context=build/image
rm -rf "$context"
mkdir -p "$context/wheelhouse"
install -m 0644 deploy/Dockerfile deploy/healthcheck.py "$context"
install -m 0755 deploy/entrypoint.sh "$context"
# pip picks the best of the wheels that fit: it knows tags better than a pattern would.
options=(--quiet --disable-pip-version-check --only-binary :all: --python-version "$BASE_PYTHON"
    --dest "$context/wheelhouse")
if [[ -n $machine ]]; then
    for glibc in 2_36 2_34 2_28 2_17; do
        options+=(--platform "manylinux_${glibc}_$machine")
    done
fi
if ! "$PYTHON" -m pip download "${options[@]}" --no-deps --no-index --find-links "$WHEELHOUSE" \
        "cryprq==$VERSION" 2>/dev/null; then
    [[ -z $machine || $machine == "$(uname -m)" ]] || die "no wheel of $VERSION for $machine in $WHEELHOUSE"
    echo "build_image: no wheel of $VERSION for Python $BASE_PYTHON in $WHEELHOUSE, building one"
    "$PYTHON" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$context/wheelhouse" .
fi
"$PYTHON" -m pip download "${options[@]}" --find-links "$context/wheelhouse" "cryprq==$VERSION"
# A wheel of the same version may be of an older checkout.
built=$("$PYTHON" - "$context"/wheelhouse/cryprq-*.whl <<'END'
import re, sys, zipfile
print(re.search(r'GIT_SHA = "(.*)"', zipfile.ZipFile(sys.argv[1]).read("cryprq/_build.py").decode())[1])
END
)
here=$(git rev-parse --short=12 HEAD 2>/dev/null || true)
[[ -z $here || ${built%-dirty} == "$here" ]] ||
    echo "build_image: note: the wheel in $WHEELHOUSE is of revision $built, this checkout of $here"
# Where all files get a date (repack_image.py), older ones of the builder's cache would keep theirs.
# What the builder says, and that the classic one is deprecated, matters only where it fails.
DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0} docker build --network none ${PLATFORM:+--platform "$PLATFORM"} \
    ${SOURCE_DATE_EPOCH:+--no-cache} --build-arg "BASE=$BASE" --build-arg "VERSION=$VERSION" --tag "$TAG" \
    "$context" >build/image.log 2>&1 ||
    { tail -n 30 build/image.log >&2; die "docker build failed"; }
docker image prune --force --filter label=cryprq.stage=build >/dev/null # the classic builder leaves it
docker image inspect --format "built {{index .RepoTags 0}}, {{.Size}} bytes, {{.Architecture}}" "$TAG"
