"""What a node does not import, and that others get it all the same."""

import subprocess
import sys

SPARED = (
    "OpenSSL",
    "certifi",
    "importlib.metadata",
    "pygments",
    "rich",
    "service_identity",
    "structlog",
)


def python(program: str) -> str:
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    return run.stdout


def test_a_node_does_not_import_what_it_never_uses() -> None:
    loaded = python("import cryprq.cli.node, cryprq.node.daemon, sys; print(*sys.modules)").split()
    assert "aioquic.tls" in loaded
    assert sorted(set(SPARED) & set(loaded)) == []


def test_a_program_with_a_node_in_it_checks_certificate_chains() -> None:
    """aioquic's own check, by way of all the modules that it had stand-ins for."""
    program = """
import cryprq.quic.endpoint, sys
assert "OpenSSL" not in sys.modules
from aioquic import tls
from cryprq.quic.certificate import make_certificate
for name in (None, "example.org"):
    try:
        tls.verify_certificate(make_certificate().certificate, server_name=name)
    except tls.AlertBadCertificate as error:
        print(error)
import OpenSSL.crypto, certifi, service_identity
assert OpenSSL.crypto.X509Store and certifi.where() and service_identity.CertificateError
"""
    assert "self-signed certificate" in python(program)


def test_what_was_imported_before_stays() -> None:
    program = """
import service_identity
import cryprq.quic.endpoint
from aioquic import tls
print(tls.service_identity is service_identity)
"""
    assert python(program).strip() == "True"
