#!/usr/bin/env bash
# Makes the environment of the tools that a release is built and checked with (requirements.txt).
#
#   release/tools.sh FOLDER [PYTHON]
set -euo pipefail
[[ $# -eq 1 || $# -eq 2 ]] || { echo "usage: $0 FOLDER [PYTHON]" >&2; exit 2; }
folder=$1
python=${2:-python3}
requirements=$(dirname "${BASH_SOURCE[0]}")/requirements.txt

command -v "$python" >/dev/null || { echo "release_tools: no $python" >&2; exit 1; }
if ! cmp -s "$requirements" "$folder/installed.txt"; then
    # Debian's Python without python3-venv: its pip can install into an environment that has none.
    "$python" -m venv --clear "$folder" 2>/dev/null || "$python" -m venv --clear --without-pip "$folder"
    "$python" -m pip --python "$folder/bin/python" install --quiet --require-hashes --requirement "$requirements"
    cp "$requirements" "$folder/installed.txt"
fi
