#!/usr/bin/env bash
# Prints the SHA-256 of every file of a folder but its checksums.txt, sorted by name, in the format of sha256sum.
#
#   release/checksums.sh FOLDER
set -euo pipefail
export LC_ALL=C
[[ $# -eq 1 && -d $1 ]] || { echo "usage: $0 FOLDER" >&2; exit 2; }
cd "$1"
find . -type f ! -path ./checksums.txt -printf '%P\0' | sort -z | xargs -0 -r sha256sum --
