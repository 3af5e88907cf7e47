"""What may be a tenant's own CA: judged alike by governance, its read model, the auditor and every node. Pure.

A root that signed itself, with a key of today's strength, by a name that is nobody else's in the region. Its dates are
TLS's matter, at each handshake: no decision here asks a clock.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from openkcm.contract.errors import ContractError

__all__ = ["NotARootCa", "check_root_ca", "described", "name_of"]

LEAST_RSA_BITS: Final = 2048
LEAST_EC_BITS: Final = 256


class NotARootCa(ContractError):
    """A certificate that cannot be a tenant's own CA. The message says why."""


def check_root_ca(der: bytes) -> None:
    """Check that these bytes are the certificate of a root CA.

    Raises:
        NotARootCa: They are not.
    """
    certificate = _read(der)
    try:
        key = certificate.public_key()
        certificate.verify_directly_issued_by(certificate)
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usages = [e.value for e in certificate.extensions if isinstance(e.value, x509.KeyUsage)]
    except x509.ExtensionNotFound as bad:
        raise NotARootCa("not a CA's certificate: basicConstraints is missing") from bad
    except (InvalidSignature, ValueError, TypeError) as bad:
        raise NotARootCa("the CA did not sign its own certificate: a root is asked for") from bad
    strong = (
        (isinstance(key, rsa.RSAPublicKey) and key.key_size >= LEAST_RSA_BITS)
        or (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size >= LEAST_EC_BITS)
        or isinstance(key, ed25519.Ed25519PublicKey)
    )
    if not strong:
        raise NotARootCa("the CA's key is weak, or of a kind that is not taken")
    if not basic.ca:
        raise NotARootCa("not a CA's certificate: basicConstraints says no")
    if not all(usage.key_cert_sign for usage in usages):
        raise NotARootCa("this CA's key may not sign certificates (keyUsage)")


def name_of(der: bytes) -> str:
    """Return a CA's name as OpenSSL compares names: case and runs of spaces do not matter.

    Raises:
        NotARootCa: It is no certificate.
    """
    return " ".join(_read(der).subject.rfc4514_string().lower().split())


def described(der: bytes) -> tuple[str, int]:
    """Return a CA's name as people read it, and until when it is valid (UTC, ms).

    Raises:
        NotARootCa: It is no certificate.
    """
    certificate = _read(der)
    return certificate.subject.rfc4514_string(), int(certificate.not_valid_after_utc.timestamp() * 1000)


def _read(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as bad:
        raise NotARootCa("not one whole certificate") from bad
