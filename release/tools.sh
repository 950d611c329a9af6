#!/usr/bin/env bash
# Makes the environment of the tools that a release is built and checked with (requirements.txt).
#
#   release/tools.sh FOLDER [PYTHON]
set -euo pipefail
folder=$1
python=${2:-python3}
requirements=$(dirname "${BASH_SOURCE[0]}")/requirements.txt

if ! cmp -s "$requirements" "$folder/installed.txt"; then
    # Debian's Python without python3-venv: its pip can install into an environment that has none.
    "$python" -m venv --clear "$folder" 2>/dev/null || "$python" -m venv --clear --without-pip "$folder"
    "$python" -m pip --python "$folder/bin/python" install --quiet --require-hashes --requirement "$requirements"
    cp "$requirements" "$folder/installed.txt"
fi
