"""Managed objects from the wire and back: material as bytes, and what stands around it. Wraps nothing, stores nothing.

What the catalogue keeps of an object: its material (key bytes, DER, certificate, opaque data; for a template its
attributes), its key format, and a `block` with what is no attribute:

    certificate, secret data, opaque object, PGP key    4 bytes: type, type, type, version
    split key                                           parts, part, threshold, method, length of prime; prime
    a key that the client wrapped                       and then the contents of its Key Wrapping Data

Material that a client wrapped is kept and given out as it came (Unwrap Mode: not processed) and used for nothing.
Source: KMIP 1.4, sections 2.1.3 to 2.1.8 and 2.2.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

from openkcm.execution.objects import BLOCK_HEADS, Entry
from openkcm.execution.operations import keyforms
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.execution.records import ObjectRecord
from openkcm.kmip import decode_attributes, encode_attributes
from openkcm.kmip.enums import (
    CertificateType,
    CryptographicAlgorithm,
    EncodingOption,
    KeyFormatType,
    ObjectType,
    ResultReason,
    SecretDataType,
    SplitKeyMethod,
)
from openkcm.kmip.generate import read_contents, write_contents
from openkcm.kmip.objects import (
    Certificate,
    KeyBlock,
    KeyValue,
    KeyWrappingData,
    OpaqueObject,
    PGPKey,
    PrivateKey,
    PublicKey,
    SecretData,
    SplitKey,
    SymmetricKey,
    Template,
    TransparentKey,
)
from openkcm.kmip.schema import NEWEST_MINOR

__all__ = ["FIELDS", "KEYS", "Shape", "Taken", "key_block", "shown", "taken", "wrapped_value", "wrapping_of"]

#: Field of a request or response that holds an object of this type.
FIELDS: Final[dict[ObjectType, str]] = {t: t.name.lower() for t in ObjectType}
#: Objects around a key block.
KEYS: Final = frozenset(
    {ObjectType.SYMMETRIC_KEY, ObjectType.PUBLIC_KEY, ObjectType.PRIVATE_KEY, ObjectType.SPLIT_KEY,
     ObjectType.SECRET_DATA, ObjectType.PGP_KEY}
)  # fmt: skip
_SPLIT: Final = struct.Struct(">IIIII")


class Shape(msgspec.Struct, frozen=True):
    """What the catalogue keeps of an object beside material and attributes."""

    key_format: int = 0
    block: bytes = b""
    algorithm: int | None = None
    length_bits: int | None = None


class Taken(msgspec.Struct, frozen=True):
    """An object as it came from a client. `wrapped`: by the client, so nothing is known of its material."""

    material: bytes
    shape: Shape
    wrapped: bool = False


def _invalid(message: str, reason: ResultReason = ResultReason.INVALID_FIELD) -> OperationFailed:
    return OperationFailed(reason, message)


def taken(object_type: ObjectType, asked: Any) -> Taken:
    """Return the object in the field of its type.

    Raises:
        OperationFailed: The field is missing, or holds a format, compression or wrapping that is not taken.
    """
    thing = getattr(asked, FIELDS[object_type])
    if thing is None:
        raise _invalid(f"the {FIELDS[object_type].replace('_', ' ')} is missing")
    match thing:
        case Certificate(certificate_type=kind, certificate_value=value):
            return Taken(value, Shape(block=_word(kind)))
        case OpaqueObject(opaque_data_type=kind, opaque_data_value=value):
            return Taken(value, Shape(block=_word(kind)))
        case Template(attribute=attributes):
            return Taken(encode_attributes(attributes), Shape())
        case SecretData(secret_data_type=kind, key_block=block):
            head = _word(kind)
        case PGPKey(pgp_key_version=version, key_block=block):
            head = _word(version)
        case SplitKey(key_block=block):
            head = _split_head(thing)
            if block.key_wrapping_data is not None:
                raise _invalid("wrapped split keys are not taken", ResultReason.FEATURE_NOT_SUPPORTED)
        case SymmetricKey(key_block=block) | PublicKey(key_block=block) | PrivateKey(key_block=block):
            head = b""
    return _taken_key(object_type, block, head)


def _word(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _split_head(split: SplitKey) -> bytes:
    prime = b""
    if split.prime_field_size is not None:
        prime = split.prime_field_size.to_bytes(split.prime_field_size.bit_length() // 8 + 1, "big")
    return (
        _SPLIT.pack(
            split.split_key_parts,
            split.key_part_identifier,
            split.split_key_threshold,
            split.split_key_method,
            len(prime),
        )
        + prime
    )


def _taken_key(object_type: ObjectType, block: KeyBlock, head: bytes) -> Taken:
    """Return the key of a key block, in the form in which it is kept."""
    if block.key_compression_type is not None:
        raise _invalid("compressed keys are not taken", ResultReason.KEY_COMPRESSION_TYPE_NOT_SUPPORTED)
    form, value = block.key_format_type, block.key_value
    shape = Shape(form, head, block.cryptographic_algorithm, block.cryptographic_length)
    if block.key_wrapping_data is not None:
        if isinstance(value, KeyValue) and isinstance(value.key_material, bytes):
            value = value.key_material
        if not isinstance(value, bytes):
            raise _invalid("the value of a wrapped key is a byte string")
        head += write_contents(block.key_wrapping_data, NEWEST_MINOR)
        return Taken(value, msgspec.structs.replace(shape, block=head), wrapped=True)
    if value is None:
        raise _invalid("the key block holds no key value", ResultReason.KEY_VALUE_NOT_PRESENT)
    if not isinstance(value, KeyValue):
        raise _invalid("the key value is a byte string, and nothing says how it is wrapped")
    kept = keyforms.kept(object_type, form, value.key_material)
    return Taken(
        kept.material,
        msgspec.structs.replace(
            shape, algorithm=shape.algorithm or kept.algorithm, length_bits=shape.length_bits or kept.bits
        ),
    )


def wrapping_of(record: ObjectRecord) -> KeyWrappingData | None:
    """Return how the client had wrapped the material; None when it came plain."""
    rest = record.block[BLOCK_HEADS.get(record.object_type, 0) :]
    if not rest or record.object_type == ObjectType.SPLIT_KEY:
        return None
    found: KeyWrappingData = read_contents(KeyWrappingData, rest, NEWEST_MINOR)
    return found


def wrapped_value(value: bytes, wrapping: KeyWrappingData) -> KeyValue | bytes:
    """Return what a wrapped key's block holds: unencoded, only the key material is wrapped (section 2.1.5)."""
    return KeyValue(key_material=value) if wrapping.encoding_option == EncodingOption.NO_ENCODING else value


def key_block(
    record: ObjectRecord, form: KeyFormatType, value: KeyValue | bytes, wrapping: KeyWrappingData | None
) -> KeyBlock:
    """Return the key block of a stored key."""
    return KeyBlock(
        key_format_type=form,
        key_value=value,
        cryptographic_algorithm=CryptographicAlgorithm(record.algorithm) if record.algorithm else None,
        cryptographic_length=record.length_bits or None,
        key_wrapping_data=wrapping,
    )


def shown(entry: Entry, block: KeyBlock | None, material: bytes) -> dict[str, Any]:
    """Return the response field that holds this object.

    Args:
        block: The key block, for what has one.
        material: The material, for what has none.
    """
    object_type, head = entry.object_type, entry.record.block
    word = int.from_bytes(head[:4], "big")
    value: Any
    if block is None:
        match object_type:
            case ObjectType.CERTIFICATE:
                value = Certificate(certificate_type=CertificateType(word), certificate_value=material)
            case ObjectType.TEMPLATE:
                value = Template(attribute=decode_attributes(material))
            case _:
                value = OpaqueObject(opaque_data_type=word, opaque_data_value=material)
    elif object_type == ObjectType.SECRET_DATA:
        value = SecretData(secret_data_type=SecretDataType(word), key_block=block)
    elif object_type == ObjectType.PGP_KEY:
        value = PGPKey(pgp_key_version=word, key_block=block)
    elif object_type == ObjectType.SPLIT_KEY:
        parts, part, threshold, method, size = _SPLIT.unpack_from(head)
        value = SplitKey(
            split_key_parts=parts,
            key_part_identifier=part,
            split_key_threshold=threshold,
            split_key_method=SplitKeyMethod(method),
            prime_field_size=int.from_bytes(head[_SPLIT.size :], "big") if size else None,
            key_block=block,
        )
    else:
        value = _PLAIN_KEYS[object_type](key_block=block)
    return {FIELDS[object_type]: value}


_PLAIN_KEYS: Final[dict[ObjectType, Any]] = {
    ObjectType.SYMMETRIC_KEY: SymmetricKey,
    ObjectType.PUBLIC_KEY: PublicKey,
    ObjectType.PRIVATE_KEY: PrivateKey,
}


def key_value(entry: Entry, form: KeyFormatType, material: bytes) -> KeyValue:
    """Return a stored key's material in the format asked for.

    Raises:
        OperationFailed: It is not given out in that format.
    """
    shown_as: bytes | TransparentKey = keyforms.given(
        entry.object_type, KeyFormatType(entry.record.key_format), form, material
    )
    return KeyValue(key_material=shown_as)
