"""Import and Export. Declarations only. Source: KMIP 1.4, sections 4.42 and 4.43. Both came with 1.4."""

from __future__ import annotations

from openkcm.kmip.attributes import Attribute
from openkcm.kmip.enums import KeyCompressionType, KeyFormatType, KeyWrapType, ObjectType
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
from openkcm.kmip.schema import Structure

__all__ = ["ExportRequest", "ExportResponse", "ImportRequest", "ImportResponse"]


class ImportRequest(Structure, frozen=True, kw_only=True):
    """Store an object with its identifier and attributes as another server had them."""

    unique_identifier: str
    object_type: ObjectType
    replace_existing: bool | None = None
    key_wrap_type: KeyWrapType | None = None
    attribute: tuple[Attribute, ...] = ()
    certificate: Certificate | None = None
    symmetric_key: SymmetricKey | None = None
    public_key: PublicKey | None = None
    private_key: PrivateKey | None = None
    split_key: SplitKey | None = None
    template: Template | None = None
    secret_data: SecretData | None = None
    opaque_object: OpaqueObject | None = None
    pgp_key: PGPKey | None = None


class ImportResponse(Structure, frozen=True, kw_only=True):
    """The object stored."""

    unique_identifier: str


class ExportRequest(Structure, frozen=True, kw_only=True):
    """Hand an object out with all its attributes."""

    unique_identifier: str | None = None
    key_format_type: KeyFormatType | None = None
    key_wrap_type: KeyWrapType | None = None
    key_compression_type: KeyCompressionType | None = None
    key_wrapping_specification: KeyWrappingSpecification | None = None


class ExportResponse(Structure, frozen=True, kw_only=True):
    """The object; exactly the field of the object type is set."""

    object_type: ObjectType
    unique_identifier: str
    attribute: tuple[Attribute, ...] = ()
    certificate: Certificate | None = None
    symmetric_key: SymmetricKey | None = None
    public_key: PublicKey | None = None
    private_key: PrivateKey | None = None
    split_key: SplitKey | None = None
    template: Template | None = None
    secret_data: SecretData | None = None
    opaque_object: OpaqueObject | None = None
    pgp_key: PGPKey | None = None
