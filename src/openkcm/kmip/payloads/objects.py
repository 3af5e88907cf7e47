"""Create and Register: payloads that make objects. Declarations only. Source: KMIP 1.4, sections 4.1 and 4.3."""

from __future__ import annotations

from openkcm.kmip.enums import ObjectType
from openkcm.kmip.objects import (
    Certificate,
    OpaqueObject,
    PGPKey,
    PrivateKey,
    PublicKey,
    SecretData,
    SplitKey,
    SymmetricKey,
    Template,
    TemplateAttribute,
)
from openkcm.kmip.schema import Since12, Structure

__all__ = ["CreateRequest", "CreateResponse", "RegisterRequest", "RegisterResponse"]


class CreateRequest(Structure, frozen=True, kw_only=True):
    """Make a symmetric key."""

    object_type: ObjectType
    template_attribute: TemplateAttribute


class CreateResponse(Structure, frozen=True, kw_only=True):
    """The key's identifier, and what the server chose."""

    object_type: ObjectType
    unique_identifier: str
    template_attribute: TemplateAttribute | None = None


class RegisterRequest(Structure, frozen=True, kw_only=True):
    """Store an object that the client has. Exactly the field of the object type is set."""

    object_type: ObjectType
    template_attribute: TemplateAttribute
    certificate: Certificate | None = None
    symmetric_key: SymmetricKey | None = None
    public_key: PublicKey | None = None
    private_key: PrivateKey | None = None
    split_key: SplitKey | None = None
    template: Template | None = None
    secret_data: SecretData | None = None
    opaque_object: OpaqueObject | None = None
    pgp_key: Since12[PGPKey | None] = None


class RegisterResponse(Structure, frozen=True, kw_only=True):
    """The object's identifier, and what the server chose."""

    unique_identifier: str
    template_attribute: TemplateAttribute | None = None
