#!/usr/bin/env bash
# Upgrade and rollback in network namespaces: version N runs with traffic, N+1 is installed beside it and both ends are
# restarted in turn, a smoke test passes after each step; then back to N the same way. One TCP connection lives through it.
#
#   qa/upgrade_test.sh                                  this checkout, and the same under the next number
#   qa/upgrade_test.sh --from N.whl --to N+1.whl        two real versions
#
# Exit status: 0 passed, 1 failed, 2 not run.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
if [[ ! -x $PYTHON ]]; then
    echo "upgrade_test: no $PYTHON: run  make build  first" >&2
    exit 2
fi
PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m qa.upgrade "$@"
