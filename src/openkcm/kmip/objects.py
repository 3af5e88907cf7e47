"""The managed objects as they travel: key blocks and what holds them. Declarations only: no behaviour, no bytes.

Source: KMIP 1.4 specification, sections 2.1.3 to 2.1.8 (key blocks, wrapping, templates) and 2.2 (objects).
"""

from __future__ import annotations

from typing import ClassVar

from openkcm.kmip import enums
from openkcm.kmip.attributes import Attribute
from openkcm.kmip.schema import BigInteger, Enumeration, Since11, Structure
from openkcm.kmip.structures import CryptographicParameters, Name

__all__ = [
    "Certificate",
    "EncryptionKeyInformation",
    "KeyBlock",
    "KeyValue",
    "KeyWrappingData",
    "KeyWrappingSpecification",
    "MACSignatureKeyInformation",
    "OpaqueObject",
    "PGPKey",
    "PrivateKey",
    "PublicKey",
    "SecretData",
    "SplitKey",
    "SymmetricKey",
    "Template",
    "TemplateAttribute",
    "TransparentKey",
]


class TransparentKey(Structure, frozen=True, kw_only=True):
    """Key material as numbers: every transparent format of section 2.1.7, whose orders agree, in one.

    Which fields count is said by the key format type; the catalogue checks them when an object is registered.
    """

    hidden: ClassVar[frozenset[str]] = frozenset(
        {"private_exponent", "p", "q", "prime_exponent_p", "prime_exponent_q", "crt_coefficient", "x", "d"}
    )
    key: bytes | None = None
    modulus: BigInteger | None = None
    private_exponent: BigInteger | None = None
    public_exponent: BigInteger | None = None
    p: BigInteger | None = None
    q: BigInteger | None = None
    prime_exponent_p: BigInteger | None = None
    prime_exponent_q: BigInteger | None = None
    crt_coefficient: BigInteger | None = None
    g: BigInteger | None = None
    j: BigInteger | None = None
    x: BigInteger | None = None
    y: BigInteger | None = None
    recommended_curve: enums.RecommendedCurve | None = None
    d: BigInteger | None = None
    q_string: bytes | None = None


class KeyValue(Structure, frozen=True, kw_only=True):
    """Key material and the attributes that travel with it (section 2.1.4)."""

    key_material: bytes | TransparentKey
    attribute: tuple[Attribute, ...] = ()


class EncryptionKeyInformation(Structure, frozen=True, kw_only=True):
    """The key that encrypts another (section 2.1.5)."""

    unique_identifier: str
    cryptographic_parameters: CryptographicParameters | None = None


class MACSignatureKeyInformation(Structure, frozen=True, kw_only=True):
    """The key that authenticates another (section 2.1.5)."""

    unique_identifier: str
    cryptographic_parameters: CryptographicParameters | None = None


class KeyWrappingData(Structure, frozen=True, kw_only=True):
    """How the key value is wrapped (section 2.1.5)."""

    wrapping_method: enums.WrappingMethod
    encryption_key_information: EncryptionKeyInformation | None = None
    mac_signature_key_information: MACSignatureKeyInformation | None = None
    mac_signature: bytes | None = None
    iv_counter_nonce: bytes | None = None
    encoding_option: Since11[enums.EncodingOption | None] = None


class KeyWrappingSpecification(Structure, frozen=True, kw_only=True):
    """How a client wants a key wrapped (section 2.1.6)."""

    wrapping_method: enums.WrappingMethod
    encryption_key_information: EncryptionKeyInformation | None = None
    mac_signature_key_information: MACSignatureKeyInformation | None = None
    attribute_name: tuple[str, ...] = ()
    encoding_option: Since11[enums.EncodingOption | None] = None


class KeyBlock(Structure, frozen=True, kw_only=True):
    """A key with what is needed to use it (section 2.1.3). A wrapped key value is bytes."""

    key_format_type: enums.KeyFormatType
    key_compression_type: enums.KeyCompressionType | None = None
    key_value: KeyValue | bytes | None = None
    cryptographic_algorithm: enums.CryptographicAlgorithm | None = None
    cryptographic_length: int | None = None
    key_wrapping_data: KeyWrappingData | None = None


class TemplateAttribute(Structure, frozen=True, kw_only=True):
    """Attributes for an object to be made, and the names of templates (section 2.1.8)."""

    name: tuple[Name, ...] = ()
    attribute: tuple[Attribute, ...] = ()


class Certificate(Structure, frozen=True, kw_only=True):
    """Section 2.2.1."""

    certificate_type: enums.CertificateType
    certificate_value: bytes


class SymmetricKey(Structure, frozen=True, kw_only=True):
    """Section 2.2.2."""

    key_block: KeyBlock


class PublicKey(Structure, frozen=True, kw_only=True):
    """Section 2.2.3."""

    key_block: KeyBlock


class PrivateKey(Structure, frozen=True, kw_only=True):
    """Section 2.2.4."""

    key_block: KeyBlock


class SplitKey(Structure, frozen=True, kw_only=True):
    """Section 2.2.5."""

    split_key_parts: int
    key_part_identifier: int
    split_key_threshold: int
    split_key_method: enums.SplitKeyMethod
    prime_field_size: BigInteger | None = None
    key_block: KeyBlock


class Template(Structure, frozen=True, kw_only=True):
    """Section 2.2.6, deprecated since 1.3."""

    attribute: tuple[Attribute, ...] = ()


class SecretData(Structure, frozen=True, kw_only=True):
    """Section 2.2.7."""

    secret_data_type: enums.SecretDataType
    key_block: KeyBlock


class OpaqueObject(Structure, frozen=True, kw_only=True):
    """Section 2.2.8. The standard names no opaque data type; all are vendors'."""

    opaque_data_type: Enumeration
    opaque_data_value: bytes


class PGPKey(Structure, frozen=True, kw_only=True):
    """Section 2.2.9."""

    pgp_key_version: int
    key_block: KeyBlock
