#!/usr/bin/env bash
# Runs QA scenarios: real nodes in network namespaces or containers, real traffic, checks on both. See --help, --list.
#
#   scripts/sweep.sh --all --runtime netns
#   scripts/sweep.sh --scenario rotation-60s --scenario peer-denied --output DIR
#
# Exit status: 0 all passed, 1 one failed, 2 nothing was run (wrong call, or the machine lacks the runtime).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
if [[ ! -x $PYTHON ]]; then
    echo "sweep: no $PYTHON: run  make build  first" >&2
    exit 2
fi
PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m qa "$@"
