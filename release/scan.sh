#!/usr/bin/env bash
# Looks for known vulnerabilities in what a release folder's bill of materials names, with Grype, or without it by
# pip-audit (scan_fallback.py), and lets Syft, where it is at hand, write its own bill beside ours.
#
#   release/scan.sh FOLDER VERSION [VENV]
#
# Writes FOLDER/security/grype-VERSION.txt and syft-VERSION.spdx.json. VENV is an environment with the wheel installed,
# for pip-audit.
#
# Environment: GRYPE_IMAGE, SYFT_IMAGE (images of the tools, where they are not installed), GRYPE_FAIL_LEVEL (critical),
# PYTHON (python3; one with pip-audit).
#
# Exit status: 0 scanned, and nothing at GRYPE_FAIL_LEVEL or above; 1 something; 2 a tool failed; 3 there was no data
# about some or all of it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3}
GRYPE_FAIL_LEVEL=${GRYPE_FAIL_LEVEL:-critical}

die() { printf 'scan: %s\n' "$*" >&2; exit 2; }
[[ $# -ge 2 && $# -le 3 && -d $1/security ]] || die "usage: $0 FOLDER VERSION [VENV]"
[[ $GRYPE_FAIL_LEVEL =~ ^(negligible|low|medium|high|critical)$ ]] ||
    die "GRYPE_FAIL_LEVEL: $GRYPE_FAIL_LEVEL is none of negligible, low, medium, high, critical"
folder=$(cd "$1" && pwd)
security=$folder/security
bill=sbom-$2.spdx.json
report=$security/grype-$2.txt
[[ -s $security/$bill ]] || die "there is no security/$bill"

# Syft knows neither what is linked into an extension nor the files inside a wheel, so its bill is an addition.
syft=(scan --quiet --output spdx-json --source-name cryprq --source-version "$2")
if command -v syft >/dev/null; then
    (cd "$folder" && syft "${syft[@]}" dir:.) >"$security/syft-$2.spdx.json" || die "Syft failed"
elif [[ -n ${SYFT_IMAGE:-} ]]; then
    docker run --rm --volume "$folder:/release:ro" --workdir /release "$SYFT_IMAGE" "${syft[@]}" dir:. \
        >"$security/syft-$2.spdx.json" || die "Syft failed"
fi
if [[ -e $security/syft-$2.spdx.json ]]; then
    "$PYTHON" -c 'import json, sys; sys.exit(not json.load(open(sys.argv[1]))["spdxVersion"].startswith("SPDX-"))' \
        "$security/syft-$2.spdx.json" 2>/dev/null || die "Syft's answer is no SPDX document"
fi

status=0
if command -v grype >/dev/null; then
    "$PYTHON" "$here/scan_grype.py" "$GRYPE_FAIL_LEVEL" grype "sbom:$security/$bill" >"$report" || status=$?
elif [[ -n ${GRYPE_IMAGE:-} ]]; then
    "$PYTHON" "$here/scan_grype.py" "$GRYPE_FAIL_LEVEL" docker run --rm --volume "$security:/security:ro" \
        "$GRYPE_IMAGE" "sbom:/security/$bill" >"$report" || status=$?
else
    "$PYTHON" "$here/scan_fallback.py" "$folder" "${3:-none}" >"$report" || status=$?
fi
head -n 1 "$report"
exit "$status"
