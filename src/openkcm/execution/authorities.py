"""Whose CA stands behind a client's certificate: the region's own, or one that a tenant registered for itself. Pure.

A tenant's CA vouches for that tenant's workloads and for nobody else's. (1) It is a root that signed itself
(`contract.authority`). (2) No other tenant's CA in the region, now or ever, has its name, and the region's own has not:
OpenSSL finds issuers by name, so no chain can end in the wrong one, and nobody can break another's handshakes. (3) What
counts is the certificate in which the verified chain ends, compared whole. (4) An enrolment names the authority it was
made under, and is found under that one alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from openkcm.contract.authority import name_of
from openkcm.execution.residence_state import State

__all__ = ["Trust", "claimed", "in_force"]


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
