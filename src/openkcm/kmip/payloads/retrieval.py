"""Locate, Get and the reading of attributes. Declarations only. Source: KMIP 1.4, sections 4.9 and 4.11 to 4.13."""

from __future__ import annotations

from openkcm.kmip.attributes import Attribute
from openkcm.kmip.enums import KeyCompressionType, KeyFormatType, KeyWrapType, ObjectGroupMember, ObjectType
from openkcm.kmip.objects import (
    Certificate,
    KeyWrappingSpecification,
    OpaqueObject,
    PGPKey,
    PrivateKey,
    PublicKey,
    SecretData,
    SplitKey,
    SymmetricKey,
    Template,
)
from openkcm.kmip.schema import AttributeNameText, Many, Since11, Since12, Since13, Since14, Structure

__all__ = [
    "GetAttributeListRequest",
    "GetAttributeListResponse",
    "GetAttributesRequest",
    "GetAttributesResponse",
    "GetRequest",
    "GetResponse",
    "LocateRequest",
    "LocateResponse",
]


class LocateRequest(Structure, frozen=True, kw_only=True):
    """Find objects by attributes. The offset came with 1.3; clients (PyKMIP) send it in older versions too."""

    maximum_items: int | None = None
    offset_items: int | None = None
    storage_status_mask: int | None = None
    object_group_member: Since11[ObjectGroupMember | None] = None
    attribute: tuple[Attribute, ...] = ()


class LocateResponse(Structure, frozen=True, kw_only=True):
    """The identifiers found."""

    located_items: Since13[int | None] = None
    unique_identifier: Many[str] = ()


class GetRequest(Structure, frozen=True, kw_only=True):
    """Hand an object out."""

    unique_identifier: str | None = None
    key_format_type: KeyFormatType | None = None
    key_wrap_type: Since14[KeyWrapType | None] = None
    key_compression_type: KeyCompressionType | None = None
    key_wrapping_specification: KeyWrappingSpecification | None = None


class GetResponse(Structure, frozen=True, kw_only=True):
    """The object; exactly the field of the object type is set."""

    object_type: ObjectType
    unique_identifier: str
    certificate: Certificate | None = None
    symmetric_key: SymmetricKey | None = None
    public_key: PublicKey | None = None
    private_key: PrivateKey | None = None
    split_key: SplitKey | None = None
    template: Template | None = None
    secret_data: SecretData | None = None
    opaque_object: OpaqueObject | None = None
    pgp_key: Since12[PGPKey | None] = None


class GetAttributesRequest(Structure, frozen=True, kw_only=True):
    """Read attributes; no name means all."""

    unique_identifier: str | None = None
    attribute_name: tuple[str, ...] = ()


class GetAttributesResponse(Structure, frozen=True, kw_only=True):
    """The attributes read."""

    unique_identifier: str
    attribute: tuple[Attribute, ...] = ()


class GetAttributeListRequest(Structure, frozen=True, kw_only=True):
    """Ask which attributes an object has."""

    unique_identifier: str | None = None


class GetAttributeListResponse(Structure, frozen=True, kw_only=True):
    """The names; those that the asker's version does not have are left out when written."""

    unique_identifier: str
    attribute_name: tuple[AttributeNameText, ...] = ()
