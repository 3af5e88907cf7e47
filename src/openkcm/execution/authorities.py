"""Whose CA stands behind a client's certificate: the region's own, or one that a tenant registered for itself. Pure.

A tenant's CA vouches for that tenant's workloads and for nobody else's. (1) It is a root that signed itself, with a key
of today's strength. (2) No other tenant's CA in the region, now or ever, has its name, and the region's own has not:
OpenSSL finds issuers by name, so no chain can end in the wrong one, and nobody can break another's handshakes. (3) What
counts is the certificate in which the verified chain ends, compared whole. (4) An enrolment names the authority it was
made under, and is found under that one alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from openkcm.execution.residence_state import State

__all__ = ["Trust", "check_root_ca", "claimed", "in_force"]

LEAST_RSA_BITS: Final = 2048
LEAST_EC_BITS: Final = 256


def check_root_ca(der: bytes) -> None:
    """Check that these bytes are the certificate of a root CA (1). Its dates are TLS's matter, at each handshake.

    Raises:
        ValueError: It is not; the message says why.
    """
    certificate = x509.load_der_x509_certificate(der)
    key = certificate.public_key()
    strong = (
        (isinstance(key, rsa.RSAPublicKey) and key.key_size >= LEAST_RSA_BITS)
        or (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size >= LEAST_EC_BITS)
        or isinstance(key, ed25519.Ed25519PublicKey)
    )
    if not strong:
        raise ValueError("the CA's key is weak, or of a kind that is not taken")
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, TypeError) as bad:
        raise ValueError("the CA did not sign its own certificate: a root is asked for") from bad
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as bad:
        raise ValueError("not a CA's certificate: basicConstraints is missing") from bad
    if not basic.ca:
        raise ValueError("not a CA's certificate: basicConstraints says no")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.key_cert_sign:
        raise ValueError("this CA's key may not sign certificates (keyUsage)")


def name_of(der: bytes) -> str:
    """Return a CA's name as OpenSSL compares names: case and runs of spaces do not matter."""
    return " ".join(x509.load_der_x509_certificate(der).subject.rfc4514_string().lower().split())


def claimed(state: State, tenant: str, der: bytes) -> bool:
    """Whether another tenant's CA has, or had, this name in the region (2)."""
    name = name_of(der)
    others = (r for r in state.residences.values() if r.tenant != tenant)
    return any(name_of(other) == name for r in others for other in r.authorities.values())


def in_force(state: State, region: Trust) -> tuple[bytes, ...]:
    """Return the tenants' CAs that chains may end in, apart from the region's own."""
    return tuple(
        der
        for _, r in sorted(state.residences.items())
        if not r.destroyed
        for _, der in sorted(r.serving_authorities().items())
        if name_of(der) not in region.names
    )


class Trust:
    """The region's own client CAs. `anchors`: SHA-256 (hex) of each certificate; `names`: what no tenant's may have."""

    def __init__(self, ders: Iterable[bytes]) -> None:
        known = list(ders)
        self.anchors = frozenset(hashlib.sha256(der).hexdigest() for der in known)
        self.names = frozenset(name_of(der) for der in known)

    @classmethod
    def read(cls, path: str) -> Trust:
        """Return what a PEM file holds.

        Raises:
            OSError, ValueError: It cannot be read.
        """
        found = x509.load_pem_x509_certificates(Path(path).read_bytes())
        return cls(certificate.public_bytes(Encoding.DER) for certificate in found)

    def vouches(self, anchor: str, authority: bytes | None) -> bool:
        """Whether a chain that ends in `anchor` speaks for what was enrolled under `authority` (None: the region's)."""
        if authority is None:
            return anchor in self.anchors
        return anchor not in self.anchors and anchor == hashlib.sha256(authority).hexdigest()
