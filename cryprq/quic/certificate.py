"""The listener's TLS certificate: made at every start, and it names nobody.

TLS proves nothing about who the listener is, and cannot do without a certificate. P-256, because OpenSSL signs with it
faster than with anything else.
"""

import datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

# Fixed dates, that tell neither the clock nor the start of the node (9999-12-31: RFC 5280, 4.1.2.5, no expiration).
_NOT_BEFORE: Final = datetime.datetime(2020, 1, 1)
_NOT_AFTER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59)


class ListenerCertificate(NamedTuple):
    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey


def make_certificate() -> ListenerCertificate:
    """A fresh self-signed P-256 certificate without names, extensions or real dates."""
    key = ec.generate_private_key(ec.SECP256R1())
    nobody = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(nobody)
        .issuer_name(nobody)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .sign(key, hashes.SHA256())
    )
    return ListenerCertificate(certificate, key)
