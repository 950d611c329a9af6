#!/usr/bin/env bash
# The wheels of cryptography 47.0.0 have the modules for ML-KEM and ML-DSA, and an OpenSSL that has both, and refuse
# them: "is not supported by this backend". Those of 48.0.0 bring the same OpenSSL, and do them.
#
#   Neither way in which a program usually finds out helps: the import succeeds, and openssl_version_text() says 4.0.0,
#   where 3.5 is the first with ML-KEM (FIPS 203) and ML-DSA (FIPS 204). What decides is what the package itself was
#   compiled to offer. So a requirement has to name the version of the package, and a program that must run with others
#   has to try: generate a key, and catch UnsupportedAlgorithm.
#
# Seen with Python 3.11 on x86-64:
#   cryptography 47.0.0, OpenSSL 4.0.0: mlkem.MLKEM768PrivateKey UnsupportedAlgorithm
#   cryptography 47.0.0, OpenSSL 4.0.0: mldsa.MLDSA65PrivateKey UnsupportedAlgorithm
#   cryptography 48.0.0, OpenSSL 4.0.0: mlkem.MLKEM768PrivateKey generated
#   cryptography 48.0.0, OpenSSL 4.0.0: mldsa.MLDSA65PrivateKey generated
#
# Needs python3 (3.9 or later) with venv, and pip's usual index. Exit status: 0 it is so, 1 it has changed, 2 it cannot
# run.
set -euo pipefail

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/venv" || exit 2

changed=0
for expected in '47.0.0 UnsupportedAlgorithm' '48.0.0 generated'; do
    read -r version outcome <<<"$expected"
    "$directory/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "cryptography==$version" \
        || exit 2
    "$directory/venv/bin/python" - "$outcome" <<'PYTHON' || changed=1
import importlib
import sys

import cryptography
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.backends.openssl import backend

openssl = backend.openssl_version_text().split()[1]
outcomes = []
for name, kind in (("mlkem", "MLKEM768PrivateKey"), ("mldsa", "MLDSA65PrivateKey")):
    module = importlib.import_module(f"cryptography.hazmat.primitives.asymmetric.{name}")
    try:
        getattr(module, kind).generate()
        outcomes.append("generated")
    except UnsupportedAlgorithm:
        outcomes.append("UnsupportedAlgorithm")
    print(f"cryptography {cryptography.__version__}, OpenSSL {openssl}: {name}.{kind} {outcomes[-1]}")
sys.exit(openssl != "4.0.0" or outcomes != [sys.argv[1]] * 2)
PYTHON
done
exit "$changed"
