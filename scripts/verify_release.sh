#!/usr/bin/env bash
# Checks a release folder against itself: every file against checksums.txt, and the bill of materials against the files
# and against what is inside the wheels. One changed byte anywhere, one file too many or too few, and it fails.
#
#   scripts/verify_release.sh release-VERSION
#
# That the checksums are ours is for a signature or an attestation to say (see docs/operations.md). Needs sha256sum and
# python3, nothing of the project.
set -euo pipefail
export LC_ALL=C

die() { printf 'verify_release: %s\n' "$*" >&2; exit 1; }

[[ $# -eq 1 ]] || die "usage: $0 FOLDER"
[[ -d $1 ]] || die "there is no folder $1"
for program in sha256sum python3; do
    command -v "$program" >/dev/null || die "this machine lacks $program"
done
release=$(cd "$(dirname "${BASH_SOURCE[0]}")/../release" && pwd)
cd "$1"
[[ -f checksums.txt ]] || die "there is no checksums.txt"
[[ -z $(find . ! -type f ! -type d) ]] || die "there is something that is neither a file nor a folder"
# Written anew and compared byte by byte: sha256sum --check would forgive a different spelling.
diff <("$release/checksums.sh" .) checksums.txt >&2 || die "checksums.txt (>) and the files (<) differ"
python3 -I "$release/contents.py" .
printf 'verify_release: %s files, all as they should be\n' "$(wc -l <checksums.txt)"
