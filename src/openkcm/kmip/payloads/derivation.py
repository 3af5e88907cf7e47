"""Re-key and Derive Key. Declarations only. Source: KMIP 1.4, sections 4.4 and 4.6."""

from __future__ import annotations

from openkcm.kmip.enums import DerivationMethod, ObjectType
from openkcm.kmip.objects import TemplateAttribute
from openkcm.kmip.schema import Interval, Structure
from openkcm.kmip.structures import CryptographicParameters

__all__ = ["DerivationParameters", "DeriveKeyRequest", "DeriveKeyResponse", "ReKeyRequest", "ReKeyResponse"]


class ReKeyRequest(Structure, frozen=True, kw_only=True):
    """Replace a symmetric key. `offset`: seconds from the new key's making to its activation."""

    unique_identifier: str | None = None
    offset: Interval | None = None
    template_attribute: TemplateAttribute | None = None


class ReKeyResponse(Structure, frozen=True, kw_only=True):
    """The new key's identifier, and what the server chose."""

    unique_identifier: str
    template_attribute: TemplateAttribute | None = None


class DerivationParameters(Structure, frozen=True, kw_only=True):
    """What a method of derivation needs; which fields count is said by the method (section 4.6)."""

    cryptographic_parameters: CryptographicParameters | None = None
    initialization_vector: bytes | None = None
    derivation_data: bytes | None = None
    salt: bytes | None = None
    iteration_count: int | None = None


class DeriveKeyRequest(Structure, frozen=True, kw_only=True):
    """Make a key or secret from another, or from two."""

    object_type: ObjectType
    unique_identifier: tuple[str, ...] = ()
    derivation_method: DerivationMethod
    derivation_parameters: DerivationParameters
    template_attribute: TemplateAttribute


class DeriveKeyResponse(Structure, frozen=True, kw_only=True):
    """The new object's identifier, and what the server chose."""

    unique_identifier: str
    template_attribute: TemplateAttribute | None = None
