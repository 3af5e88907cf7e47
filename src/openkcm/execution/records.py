"""The object record: a KMIP managed object as the vault keeps it. Sees wrapped keys only; opens nothing."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

__all__ = ["MAX_RECORD_BYTES", "ObjectRecord"]

MAX_RECORD_BYTES: Final = 1 << 19  # base64 and the envelope around it stay below the vault's 1 MiB


class ObjectRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One managed object.

    Attributes:
        registration: The system it belongs to; another one's object does not exist.
        object_type, state: KMIP enumerations.
        l3_version: The L3 that wraps it; 0 when nothing is wrapped (destroyed).
        wrapped: 12-byte nonce, ciphertext, 16-byte tag under L3; None once destroyed.
        attributes: Every attribute, in the KMIP codec's own bytes.
        names: Values of Name, for Locate.
        algorithm, length_bits, usage_mask: Repeated from the attributes for the hot path; 0 where there is none.
        key_format, block: How the material is presented by Get: format type, and the wire structure of what is no key.
    """

    uid: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    registration: str
    object_type: int
    state: int
    l3_version: Annotated[int, Meta(ge=0)]
    wrapped: Annotated[bytes, Meta(max_length=MAX_RECORD_BYTES)] | None
    attributes: bytes
    names: tuple[str, ...] = ()
    algorithm: int = 0
    length_bits: int = 0
    usage_mask: int = 0
    key_format: int = 0
    block: bytes = b""
