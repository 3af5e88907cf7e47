"""Ed25519 seals and passkeys' P-256 over canonical bytes, and these bytes. No I/O; the treaty's only cipher code.

Canonical bytes are length-prefixed fields behind a domain: 4 bytes big-endian length, then the UTF-8 bytes;
`None` is the length 0xFFFFFFFF. Two different tuples can therefore never be the same bytes. Source: RFC 8032.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from openkcm.contract.errors import SealError

__all__ = ["PUBLIC_KEY_BYTES", "SEAL_BYTES", "Signer", "canonical", "key_id", "verify", "verify_p256"]

PUBLIC_KEY_BYTES: Final = 32
SEAL_BYTES: Final = 64
_NONE: Final = b"\xff\xff\xff\xff"
_LENGTHS: Final = tuple(length.to_bytes(4, "big") for length in range(1024))


def canonical(domain: str, *fields: str | bytes | int | None) -> bytes:
    """Return `fields` as one unambiguous byte string under `domain`."""
    out = []
    for field in (domain, *fields):
        if field is None:
            out.append(_NONE)
            continue
        raw = field if isinstance(field, bytes) else str(field).encode()
        length = len(raw)
        out.append(_LENGTHS[length] if length < len(_LENGTHS) else length.to_bytes(4, "big"))
        out.append(raw)
    return b"".join(out)


def key_id(public_key: bytes) -> str:
    """Return the name of a public key: the first 32 hex digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:32]


class Signer:
    """An Ed25519 private key that seals. Sizes: seed 32 bytes, public key 32, seal 64."""

    __slots__ = ("_private", "key_id", "public_key")

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._private.public_key().public_bytes_raw()
        self.key_id = key_id(self.public_key)

    def __repr__(self) -> str:
        return f"<Ed25519 signer {self.key_id}>"

    def sign(self, message: bytes) -> bytes:
        """Return the seal over `message`: 64 bytes."""
        return self._private.sign(message)


def verify(public_key: bytes, seal: bytes, message: bytes) -> None:
    """Check a seal.

    Raises:
        SealError: The key is no Ed25519 key, or the seal is not its over this message.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(seal, message)
    except (InvalidSignature, ValueError) as bad:
        raise SealError(f"not sealed by key {key_id(public_key)}") from bad


def verify_p256(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Check an ECDSA signature (DER) with SHA-256 over P-256 (RFC 9053 ES256, as authenticators write it).

    Raises:
        SealError: The key is no point of the curve, or the signature is not its over this message.
    """
    try:
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
        point.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError) as bad:
        raise SealError(f"not signed by key {key_id(public_key)}") from bad
