"""The structures that objects, attributes and payloads are made of. Declarations only: no behaviour, no bytes.

Source: KMIP 1.4 specification, sections 2 (objects) and 3 (attributes); the fields' versions from the 1.0 to 1.3 texts.
"""

from __future__ import annotations

from typing import ClassVar

from openkcm.kmip import enums
from openkcm.kmip.profile_names import ProfileName
from openkcm.kmip.schema import (
    AnyStructure,
    LongInteger,
    Since11,
    Since12,
    Since14,
    Structure,
)

__all__ = [
    "AlternativeName",
    "ApplicationSpecificInformation",
    "Authentication",
    "CapabilityInformation",
    "CertificateIdentifier",
    "CertificateIssuer",
    "CertificateSubject",
    "Credential",
    "CredentialValue",
    "CryptographicDomainParameters",
    "CryptographicParameters",
    "Digest",
    "ExtensionInformation",
    "KeyValueLocation",
    "Link",
    "MessageExtension",
    "Name",
    "Nonce",
    "ProfileInformation",
    "ProtocolVersion",
    "RNGParameters",
    "RevocationReason",
    "UsageLimits",
    "ValidationInformation",
    "X509CertificateIdentifier",
    "X509CertificateIssuer",
    "X509CertificateSubject",
]


class ProtocolVersion(Structure, frozen=True, kw_only=True):
    """A version of the protocol; the codec speaks 1.0 to 1.4."""

    memoised: ClassVar[bool] = True
    protocol_version_major: int
    protocol_version_minor: int


class CryptographicParameters(Structure, frozen=True, kw_only=True):
    """How a key is used (section 3.6)."""

    memoised: ClassVar[bool] = True
    block_cipher_mode: enums.BlockCipherMode | None = None
    padding_method: enums.PaddingMethod | None = None
    hashing_algorithm: enums.HashingAlgorithm | None = None
    key_role_type: enums.KeyRoleType | None = None
    digital_signature_algorithm: Since12[enums.DigitalSignatureAlgorithm | None] = None
    cryptographic_algorithm: Since12[enums.CryptographicAlgorithm | None] = None
    random_iv: Since12[bool | None] = None
    iv_length: Since12[int | None] = None
    tag_length: Since12[int | None] = None
    fixed_field_length: Since12[int | None] = None
    invocation_field_length: Since12[int | None] = None
    counter_length: Since12[int | None] = None
    initial_counter_value: Since12[int | None] = None
    salt_length: Since14[int | None] = None
    mask_generator: Since14[enums.MaskGenerator | None] = None
    mask_generator_hashing_algorithm: Since14[enums.HashingAlgorithm | None] = None
    p_source: Since14[bytes | None] = None
    trailer_field: Since14[int | None] = None


class CryptographicDomainParameters(Structure, frozen=True, kw_only=True):
    """Parameters for making asymmetric keys (section 3.7)."""

    qlength: int | None = None
    recommended_curve: enums.RecommendedCurve | None = None


class RNGParameters(Structure, frozen=True, kw_only=True):
    """A random number generator (section 2.1.20)."""

    rng_algorithm: enums.RNGAlgorithm
    cryptographic_algorithm: enums.CryptographicAlgorithm | None = None
    cryptographic_length: int | None = None
    hashing_algorithm: enums.HashingAlgorithm | None = None
    drbg_algorithm: enums.DRBGAlgorithm | None = None
    recommended_curve: enums.RecommendedCurve | None = None
    fips186_variation: enums.FIPS186Variation | None = None
    prediction_resistance: bool | None = None


class Name(Structure, frozen=True, kw_only=True):
    """A client's name for an object (section 3.2)."""

    name_value: str
    name_type: enums.NameType


class AlternativeName(Structure, frozen=True, kw_only=True):
    """A name that need not be unique (section 3.40)."""

    alternative_name_value: str
    alternative_name_type: enums.AlternativeNameType


class X509CertificateIdentifier(Structure, frozen=True, kw_only=True):
    """Issuer and serial number, DER (section 3.10)."""

    issuer_distinguished_name: bytes
    certificate_serial_number: bytes


class X509CertificateSubject(Structure, frozen=True, kw_only=True):
    """Subject names, DER (section 3.11)."""

    subject_distinguished_name: bytes
    subject_alternative_name: tuple[bytes, ...] = ()


class X509CertificateIssuer(Structure, frozen=True, kw_only=True):
    """Issuer names, DER (section 3.12)."""

    issuer_distinguished_name: bytes
    issuer_alternative_name: tuple[bytes, ...] = ()


class CertificateIdentifier(Structure, frozen=True, kw_only=True):
    """The textual form of KMIP 1.0, deprecated since 1.1 (section 3.13)."""

    issuer: str
    serial_number: str | None = None


class CertificateSubject(Structure, frozen=True, kw_only=True):
    """The textual form of KMIP 1.0, deprecated since 1.1 (section 3.14)."""

    certificate_subject_distinguished_name: str
    certificate_subject_alternative_name: tuple[str, ...] = ()


class CertificateIssuer(Structure, frozen=True, kw_only=True):
    """The textual form of KMIP 1.0, deprecated since 1.1 (section 3.15)."""

    certificate_issuer_distinguished_name: str
    certificate_issuer_alternative_name: tuple[str, ...] = ()


class Digest(Structure, frozen=True, kw_only=True):
    """A digest of the key material (section 3.17)."""

    hashing_algorithm: enums.HashingAlgorithm
    digest_value: bytes | None = None
    key_format_type: Since11[enums.KeyFormatType | None] = None


class UsageLimits(Structure, frozen=True, kw_only=True):
    """How much a key may still protect (section 3.21)."""

    usage_limits_total: LongInteger
    usage_limits_count: LongInteger | None = None
    usage_limits_unit: enums.UsageLimitsUnit


class RevocationReason(Structure, frozen=True, kw_only=True):
    """Why an object was revoked (section 3.31)."""

    revocation_reason_code: enums.RevocationReasonCode
    revocation_message: str | None = None


class Link(Structure, frozen=True, kw_only=True):
    """A link to a related object (section 3.35)."""

    link_type: enums.LinkType
    linked_object_identifier: str


class ApplicationSpecificInformation(Structure, frozen=True, kw_only=True):
    """Data of an application, opaque to the server (section 3.36)."""

    application_namespace: str
    application_data: str | None = None


class KeyValueLocation(Structure, frozen=True, kw_only=True):
    """Where a key value that is not stored here lies (section 3.42)."""

    key_value_location_value: str
    key_value_location_type: enums.KeyValueLocationType


class Nonce(Structure, frozen=True, kw_only=True):
    """A server's nonce for attestation (section 2.1.14)."""

    nonce_id: bytes
    nonce_value: bytes


class CredentialValue(Structure, frozen=True, kw_only=True):
    """The three credentials of section 2.1.2 in one: which fields count is said by the credential type."""

    hidden: ClassVar[frozenset[str]] = frozenset({"password"})
    username: str | None = None
    device_serial_number: Since11[str | None] = None
    password: str | None = None
    device_identifier: Since11[str | None] = None
    network_identifier: Since11[str | None] = None
    machine_identifier: Since11[str | None] = None
    media_identifier: Since11[str | None] = None
    nonce: Since12[Nonce | None] = None
    attestation_type: Since12[enums.AttestationType | None] = None
    attestation_measurement: Since12[bytes | None] = None
    attestation_assertion: Since12[bytes | None] = None


class Credential(Structure, frozen=True, kw_only=True):
    """What a client says about itself beside its certificate (section 2.1.2)."""

    credential_type: enums.CredentialType
    credential_value: CredentialValue


class Authentication(Structure, frozen=True, kw_only=True):
    """The credentials of a request header (section 6.6)."""

    credential: tuple[Credential, ...] = ()


class MessageExtension(Structure, frozen=True, kw_only=True):
    """A vendor's addition to a batch item (section 6.16)."""

    vendor_identification: str
    criticality_indicator: bool
    vendor_extension: AnyStructure


class ExtensionInformation(Structure, frozen=True, kw_only=True):
    """A vendor's tag (section 2.1.9)."""

    extension_name: str
    extension_tag: int | None = None
    extension_type: int | None = None


class ProfileInformation(Structure, frozen=True, kw_only=True):
    """A profile that the server conforms to (section 2.1.21)."""

    profile_name: ProfileName
    server_uri: str | None = None
    server_port: int | None = None


class ValidationInformation(Structure, frozen=True, kw_only=True):
    """A validation of the server's cryptography (section 2.1.22)."""

    validation_authority_type: enums.ValidationAuthorityType
    validation_authority_country: str | None = None
    validation_authority_uri: str | None = None
    validation_version_major: int
    validation_version_minor: int | None = None
    validation_type: enums.ValidationType
    validation_level: int
    validation_certificate_identifier: str | None = None
    validation_certificate_uri: str | None = None
    validation_vendor_uri: str | None = None
    validation_profile: tuple[str, ...] = ()


class CapabilityInformation(Structure, frozen=True, kw_only=True):
    """What the server can do (section 2.1.23)."""

    streaming_capability: bool | None = None
    asynchronous_capability: bool | None = None
    attestation_capability: bool | None = None
    batch_undo_capability: Since14[bool | None] = None
    batch_continue_capability: Since14[bool | None] = None
    unwrap_mode: enums.UnwrapMode | None = None
    destroy_action: enums.DestroyAction | None = None
    shredding_algorithm: enums.ShreddingAlgorithm | None = None
    rng_mode: enums.RNGMode | None = None
