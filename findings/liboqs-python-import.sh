#!/usr/bin/env bash
# liboqs-python 0.16.0.1: "import oqs" where there is no liboqs
# - prints to standard output, which is the importing program's;
# - waits five seconds, and then clones, builds and installs liboqs into the home directory. The package's README says
#   that it is installed "automatically"; nothing asks, and no setting turns it off;
# - ends the process if that fails, with SystemExit: "except ImportError" and "except Exception" don't see it, so a
#   program for which oqs is optional cannot try.
#
# Expected of a module that misses a library: ImportError.
#
# Shown with a git that only notes how it was called: nothing is downloaded but the package.
#
#   findings/liboqs-python-import.sh      exit status 0: behaves as described; 1: no longer; 2: could not be tried
#
# Needs python3 (3.11 or later) with venv, and no liboqs on this machine.
set -euo pipefail

package=liboqs-python==0.16.0.1

unable() { printf 'could not try: %s\n' "$*" >&2; exit 2; }
changed() { printf 'CHANGED: %s\n' "$*"; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset OQS_INSTALL_PATH PYOQS_VERSION LD_LIBRARY_PATH

python3 -c 'import ctypes.util, sys; sys.exit(ctypes.util.find_library("oqs") is not None)' ||
    unable "this machine has a liboqs (or no python3)"
python3 -m venv "$work/venv" >/dev/null || unable "no virtual environment"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "$package" || unable "no $package"

mkdir "$work/bin" "$work/home"
cat >"$work/bin/git" <<EOF
#!/bin/sh
echo "git \$*" >>"$work/calls"
exit 1
EOF
chmod +x "$work/bin/git"

cat >"$work/program.py" <<'EOF'
try:
    import oqs
except Exception:
    oqs = None
print("the program goes on")
EOF

status=0
HOME=$work/home PATH=$work/bin:$PATH \
    "$work/venv/bin/python" "$work/program.py" >"$work/stdout" 2>"$work/stderr" || status=$?

printf '%s, no liboqs, "try: import oqs / except Exception: oqs = None"\n' "$package"
printf 'standard output:\n'
sed "s|$work|TEMP|g; s/^/    /" "$work/stdout"
printf 'programs that were started:\n'
sed "s|$work|TEMP|g; s/^/    /" "$work/calls" 2>/dev/null || true
printf 'exit status: %s\n' "$status"

grep -q 'liboqs not found, installing it in' "$work/stdout" || changed "standard output says nothing of an installation"
grep -q 'git clone .*liboqs' "$work/calls" 2>/dev/null || changed "nothing was to be downloaded"
! grep -q 'the program goes on' "$work/stdout" || changed "the program went on"
[[ $status -eq 1 ]] || changed "the exit status was 1"
printf 'as described\n'
