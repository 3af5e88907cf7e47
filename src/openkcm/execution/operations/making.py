"""Create and Register: objects come into being, wrapped under their system's L3. Stores nothing itself.

A created key is generated straight into the scratch page and wrapped from there; it never is a Python object. What is
registered came over the wire as bytes, by definition.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator
from typing import Any, Final

from openkcm.execution.operations.call import Call, Put, Step
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.execution.operations.template import given, names_of, new_attributes, value_of
from openkcm.execution.records import ObjectRecord
from openkcm.kmip import Attribute, AttributeValue, encode_attributes
from openkcm.kmip.enums import (
    CryptographicAlgorithm,
    KeyFormatType,
    ObjectType,
    ResultReason,
    SecretDataType,
)
from openkcm.kmip.objects import KeyBlock, KeyValue, TransparentKey
from openkcm.kmip.payloads.objects import CreateRequest, CreateResponse, RegisterRequest, RegisterResponse

__all__ = ["create", "register"]

AES_BITS: Final = frozenset({128, 192, 256})
_RANDOM: Final = "/dev/urandom"
Making = Generator[Step, int | None, Any]


def _invalid(message: str, reason: ResultReason = ResultReason.INVALID_FIELD) -> OperationFailed:
    return OperationFailed(reason, message)


def _usage(attributes: list[Attribute]) -> int:
    mask = value_of(attributes, "Cryptographic Usage Mask")
    if mask is None:
        raise _invalid("Cryptographic Usage Mask is missing")
    return int(mask)


def _record(
    call: Call,
    object_type: ObjectType,
    attributes: list[Attribute],
    digest: bytes | None,
    *,
    algorithm: int = 0,
    length_bits: int = 0,
    key_format: int = 0,
    block: bytes = b"",
) -> ObjectRecord:
    uid = str(uuid.uuid4())
    state, complete = new_attributes(uid, object_type, attributes, call.now_s, digest, key_format)
    return ObjectRecord(
        uid=uid,
        registration=call.caller.registration,
        object_type=object_type,
        state=state,
        l3_version=0,
        wrapped=None,
        attributes=encode_attributes(complete),
        names=names_of(complete),
        algorithm=algorithm,
        length_bits=length_bits,
        usage_mask=value_of(complete, "Cryptographic Usage Mask") or 0,
        key_format=key_format,
        block=block,
    )


def create(call: Call, asked: CreateRequest) -> Making:
    """Make a symmetric key (section 4.1)."""
    if asked.object_type != ObjectType.SYMMETRIC_KEY:
        raise _invalid("only symmetric keys are created")
    attributes = given(asked.template_attribute)
    algorithm = value_of(attributes, "Cryptographic Algorithm")
    bits = value_of(attributes, "Cryptographic Length")
    if algorithm is None or bits is None:
        raise _invalid("Cryptographic Algorithm and Cryptographic Length are needed")
    if algorithm != CryptographicAlgorithm.AES or bits not in AES_BITS:
        raise _invalid("AES keys of 128, 192 and 256 bits are created")
    _usage(attributes)
    key = call.bench.keys[bits // 8]
    try:
        _generate(key)
        record = _record(
            call,
            ObjectType.SYMMETRIC_KEY,
            attributes,
            call.digest(key),
            algorithm=algorithm,
            length_bits=bits,
            key_format=KeyFormatType.RAW,
        )
        record = call.wrap(record, key)
    finally:
        call.bench.wipe()
    yield Put(record, 0)
    call.placeholder = record.uid
    return CreateResponse(object_type=ObjectType.SYMMETRIC_KEY, unique_identifier=record.uid)


def _generate(into: memoryview) -> None:
    source = os.open(_RANDOM, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.readv(source, [into]) != into.nbytes:
            raise _invalid("the kernel gave too little randomness", ResultReason.GENERAL_FAILURE)
    finally:
        os.close(source)


def register(call: Call, asked: RegisterRequest) -> Making:
    """Store an object that the client has (section 4.3)."""
    take = _REGISTERS.get(asked.object_type)
    if take is None:
        raise _invalid("symmetric keys, secret data and opaque objects are registered")
    attributes = given(asked.template_attribute)
    record, material = take(call, asked, attributes)
    record = call.wrap(record, material)
    yield Put(record, 0)
    call.placeholder = record.uid
    return RegisterResponse(unique_identifier=record.uid)


def _material(block: KeyBlock) -> tuple[bytes, int]:
    """Return the key's bytes and its format."""
    if block.key_wrapping_data is not None:
        raise _invalid("wrapped keys are not taken", ResultReason.FEATURE_NOT_SUPPORTED)
    if block.key_compression_type is not None:
        raise _invalid("compressed keys are not taken", ResultReason.KEY_COMPRESSION_TYPE_NOT_SUPPORTED)
    if not isinstance(block.key_value, KeyValue):
        raise _invalid("the key block holds no key value")
    material = block.key_value.key_material
    form = block.key_format_type
    if form == KeyFormatType.TRANSPARENT_SYMMETRIC_KEY:
        if not isinstance(material, TransparentKey) or material.key is None:
            raise _invalid("a transparent symmetric key has the field Key")
        return material.key, KeyFormatType.TRANSPARENT_SYMMETRIC_KEY
    if form not in {KeyFormatType.RAW, KeyFormatType.OPAQUE} or not isinstance(material, bytes):
        raise _invalid("the key format is not taken", ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED)
    return material, form


def _agree(attributes: list[Attribute], name: str, value: AttributeValue | None) -> Any:
    """Return what key block and attribute say; both, when both are there, the same."""
    stated = value_of(attributes, name)
    if value is None:
        return stated
    if stated is None:
        attributes.append(Attribute(attribute_name=name, attribute_value=value))
    elif stated != value:
        raise _invalid(f"{name} differs between key block and attributes")
    return value


def _symmetric_key(call: Call, asked: RegisterRequest, attributes: list[Attribute]) -> tuple[ObjectRecord, bytes]:
    if asked.symmetric_key is None:
        raise _invalid("the symmetric key is missing")
    block = asked.symmetric_key.key_block
    material, form = _material(block)
    algorithm = _agree(attributes, "Cryptographic Algorithm", block.cryptographic_algorithm)
    bits = _agree(attributes, "Cryptographic Length", block.cryptographic_length)
    if algorithm is None:
        raise _invalid("Cryptographic Algorithm is missing")
    if bits is None:
        bits = 8 * len(material)
        attributes.append(Attribute(attribute_name="Cryptographic Length", attribute_value=bits))
    if bits != 8 * len(material) or (algorithm == CryptographicAlgorithm.AES and bits not in AES_BITS):
        raise _invalid("the key material does not have the stated length")
    _usage(attributes)
    record = _record(
        call,
        ObjectType.SYMMETRIC_KEY,
        attributes,
        call.digest(material),
        algorithm=algorithm,
        length_bits=bits,
        key_format=form,
    )
    return record, material


def _secret_data(call: Call, asked: RegisterRequest, attributes: list[Attribute]) -> tuple[ObjectRecord, bytes]:
    if asked.secret_data is None:
        raise _invalid("the secret data is missing")
    kind: SecretDataType = asked.secret_data.secret_data_type
    material, form = _material(asked.secret_data.key_block)
    if form == KeyFormatType.TRANSPARENT_SYMMETRIC_KEY:
        raise _invalid("secret data is no symmetric key", ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED)
    _usage(attributes)
    record = _record(
        call, ObjectType.SECRET_DATA, attributes, None, key_format=form, block=int(kind).to_bytes(4, "big")
    )
    return record, material


def _opaque(call: Call, asked: RegisterRequest, attributes: list[Attribute]) -> tuple[ObjectRecord, bytes]:
    if asked.opaque_object is None:
        raise _invalid("the opaque object is missing")
    kind = asked.opaque_object.opaque_data_type.to_bytes(4, "big")
    return _record(call, ObjectType.OPAQUE_OBJECT, attributes, None, block=kind), asked.opaque_object.opaque_data_value


_REGISTERS: Final = {
    ObjectType.SYMMETRIC_KEY: _symmetric_key,
    ObjectType.SECRET_DATA: _secret_data,
    ObjectType.OPAQUE_OBJECT: _opaque,
}
