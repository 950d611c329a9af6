#!/usr/bin/env bash
# liboqs-python 0.16.0.1: KeyEncapsulation and Signature fill keys and ciphertexts that are too short up with zero
# bytes; only what is too long is an error. If a program hands on what it received from a peer,
# - encap_secret(b"") succeeds, for the key that is all zero. Its holder is everybody: the secret can be computed from
#   the ciphertext alone, as this script does;
# - decap_secret() of a ciphertext that was cut off returns a secret, and no error;
# - verify() accepts a public key that lacks its last bytes where these are zero: one key, several encodings.
#
# Expected: ValueError for every size but the algorithm's (FIPS 203, 7.2 and 7.3: "type checks" on both inputs).
#
#   OQS_INSTALL_PATH=PREFIX findings/liboqs-python-sizes.sh
#       exit status 0: behaves as described; 1: no longer; 2: could not be tried
#
# Needs python3 (3.11 or later) with venv, and under PREFIX a liboqs 0.14 or later, as a shared library, with ML-KEM-768
# and ML-DSA-65.
set -euo pipefail

package=liboqs-python==0.16.0.1

unable() { printf 'could not try: %s\n' "$*" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Without a library the import would try to download one.
[[ -e ${OQS_INSTALL_PATH:-}/lib/liboqs.so || -e ${OQS_INSTALL_PATH:-}/lib64/liboqs.so ]] ||
    unable "no liboqs.so in lib or lib64 of OQS_INSTALL_PATH"
python3 -m venv "$work/venv" >/dev/null || unable "no virtual environment"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "$package" || unable "no $package"

cat >"$work/sizes.py" <<'EOF'
import hashlib
import sys

import oqs

HOLDS = []


def show(what, holds):
    print(f"{'yes' if holds else 'NO '}  {what}")
    HOLDS.append(holds)


def secret_without_key(ciphertext):
    """ML-KEM-768 under the key of zeros: v = e2 + message * (q + 1) / 2, for the product with t is zero."""
    nibbles = [nibble for byte in ciphertext[960:] for nibble in (byte & 15, byte >> 4)]
    bits = [4 <= nibble < 12 for nibble in nibbles]
    message = bytes(sum(bits[8 * i + j] << j for j in range(8)) for i in range(32))
    return hashlib.sha3_512(message + hashlib.sha3_256(bytes(1184)).digest()).digest()[:32]


print(f"liboqs-python {oqs.oqs_python_version()}, liboqs {oqs.oqs_version()}")
kem = oqs.KeyEncapsulation("ML-KEM-768")
ciphertext, secret = kem.encap_secret(b"")
show("encap_secret(b'') returns a ciphertext and a secret", (len(ciphertext), len(secret)) == (1088, 32))
show("the secret follows from the ciphertext alone", secret_without_key(ciphertext) == secret)

key = kem.generate_keypair()
ciphertext, secret = kem.encap_secret(key)
show("decap_secret() of a whole ciphertext is right", kem.decap_secret(ciphertext) == secret)
show("decap_secret() of 1087 of 1088 bytes returns a secret", len(kem.decap_secret(ciphertext[:-1])) == 32)

signer = oqs.Signature("ML-DSA-65")
while not (key := signer.generate_keypair()).endswith(b"\0"):
    pass
signature = signer.sign(b"message")
show("verify() accepts the whole public key", signer.verify(b"message", signature, key))
show("verify() accepts 1951 of its 1952 bytes", signer.verify(b"message", signature, key[:-1]))

sys.exit(0 if all(HOLDS) else 1)
EOF

status=0
"$work/venv/bin/python" -W "ignore:liboqs version" "$work/sizes.py" || status=$?
[[ $status -eq 0 ]] || { printf 'CHANGED, or failed\n'; exit 1; }
printf 'as described\n'
