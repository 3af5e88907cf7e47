"""Activate, Revoke, Destroy, Archive and Recover. Declarations only. Source: KMIP 1.4, sections 4.19 to 4.23."""

from __future__ import annotations

from openkcm.kmip.schema import DateTime, Structure
from openkcm.kmip.structures import RevocationReason

__all__ = [
    "ActivateRequest",
    "ActivateResponse",
    "ArchiveRequest",
    "ArchiveResponse",
    "DestroyRequest",
    "DestroyResponse",
    "RecoverRequest",
    "RecoverResponse",
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


class ArchiveRequest(Structure, frozen=True, kw_only=True):
    """Put an object out of use until it is recovered."""

    unique_identifier: str | None = None


class ArchiveResponse(Structure, frozen=True, kw_only=True):
    """The object archived."""

    unique_identifier: str


class RecoverRequest(Structure, frozen=True, kw_only=True):
    """Bring an archived object back into use."""

    unique_identifier: str | None = None


class RecoverResponse(Structure, frozen=True, kw_only=True):
    """The object recovered."""

    unique_identifier: str
