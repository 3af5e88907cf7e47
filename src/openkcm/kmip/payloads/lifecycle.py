"""Activate, Revoke and Destroy. Declarations only. Source: KMIP 1.4, sections 4.19 to 4.21."""

from __future__ import annotations

from openkcm.kmip.schema import DateTime, Structure
from openkcm.kmip.structures import RevocationReason

__all__ = [
    "ActivateRequest",
    "ActivateResponse",
    "DestroyRequest",
    "DestroyResponse",
    "RevokeRequest",
    "RevokeResponse",
]


class ActivateRequest(Structure, frozen=True, kw_only=True):
    """Bring an object from Pre-Active to Active."""

    unique_identifier: str | None = None


class ActivateResponse(Structure, frozen=True, kw_only=True):
    """The object activated."""

    unique_identifier: str


class RevokeRequest(Structure, frozen=True, kw_only=True):
    """Deactivate an object or call it compromised."""

    unique_identifier: str | None = None
    revocation_reason: RevocationReason
    compromise_occurrence_date: DateTime | None = None


class RevokeResponse(Structure, frozen=True, kw_only=True):
    """The object revoked."""

    unique_identifier: str


class DestroyRequest(Structure, frozen=True, kw_only=True):
    """Erase the key material."""

    unique_identifier: str | None = None


class DestroyResponse(Structure, frozen=True, kw_only=True):
    """The object destroyed."""

    unique_identifier: str
