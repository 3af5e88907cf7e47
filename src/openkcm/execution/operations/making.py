"""Create and Register: objects come into being, wrapped under their system's L3. Stores nothing itself.

A created key is generated straight into the scratch page and wrapped from there; it never is a Python object. What is
registered came over the wire as bytes, by definition.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Sequence
from typing import Any, Final

import msgspec

from openkcm.execution import x931
from openkcm.execution.objects import Entry
from openkcm.execution.operations import certificates, material
from openkcm.execution.operations.call import Call, Put, Step
from openkcm.execution.operations.outcome import OperationFailed, not_found
from openkcm.execution.operations.template import (
    accepted,
    generators,
    merged,
    names_of,
    new_attributes,
    value_of,
)
from openkcm.execution.records import ObjectRecord
from openkcm.execution.terms import name_term
from openkcm.kmip import Attribute, AttributeValue, decode_attributes, encode_attributes
from openkcm.kmip.enums import CryptographicAlgorithm, KeyFormatType, ObjectType, ResultReason
from openkcm.kmip.objects import TemplateAttribute
from openkcm.kmip.payloads.objects import CreateRequest, CreateResponse, RegisterRequest, RegisterResponse
from openkcm.kmip.structures import RNGParameters

__all__ = ["Making", "create", "generate", "key_bytes", "new_record", "register", "template_attributes"]

_Algorithm = CryptographicAlgorithm
_HMAC_BITS: Final = frozenset(range(64, 4097, 8))
_HMACS: Final = frozenset(a for a in CryptographicAlgorithm if a.name.startswith("HMAC_"))
#: Symmetric keys that are created: algorithm -> lengths in bits. Some have no cipher here: clients fetch them.
LENGTHS: Final[dict[CryptographicAlgorithm, frozenset[int]]] = {
    _Algorithm.AES: frozenset({128, 192, 256}),
    _Algorithm.TRIPLE_DES: frozenset({168}),
    _Algorithm.CAMELLIA: frozenset({128, 192, 256}),
    _Algorithm.CHACHA20: frozenset({256}),
    _Algorithm.CHACHA20POLY1305: frozenset({256}),
    **dict.fromkeys((_Algorithm.BLOWFISH, _Algorithm.CAST5, _Algorithm.IDEA), frozenset({128})),
    **dict.fromkeys(_HMACS, _HMAC_BITS),
}
#: What a key of a length has in bytes, where it is not an eighth: DES keys carry a parity bit in each byte.
_BYTES: Final = {(_Algorithm.TRIPLE_DES, 168): 24, (_Algorithm.TRIPLE_DES, 112): 16, (_Algorithm.DES, 56): 8}
#: Objects that are of use without a mask (the profiles register secret data without one).
_MASKLESS: Final = frozenset(
    {ObjectType.OPAQUE_OBJECT, ObjectType.TEMPLATE, ObjectType.SECRET_DATA, ObjectType.CERTIFICATE}
)
Making = Generator[Step, Any, Any]


def _invalid(message: str, reason: ResultReason = ResultReason.INVALID_FIELD) -> OperationFailed:
    return OperationFailed(reason, message)


def key_bytes(algorithm: int, bits: int) -> int:
    """Return how many bytes a key of this length has."""
    return _BYTES.get((_Algorithm(algorithm), bits), bits // 8)


def template_attributes(call: Call, *templates: TemplateAttribute | None) -> list[Attribute]:
    """Return what the templates of a request come to: named template objects first, then what the request says itself.

    Raises:
        OperationFailed: An attribute that clients may not set, or no template of that name.
    """
    layers: list[Sequence[Attribute]] = []
    for template in templates:
        if template is not None:
            layers += (_template_object(call, name.name_value) for name in template.name)
            layers.append(template.attribute)
    return accepted(merged(*layers))


def _template_object(call: Call, name: str) -> Sequence[Attribute]:
    """Return the attributes in the template object of this name."""
    who = call.caller
    term = name_term(who.tenant, who.registration, name)
    pages = call.bench.objects.pages(
        who.tenant, who.registration, object_type=ObjectType.TEMPLATE, uid=None, term=term, state=None
    )
    for record in next(pages):
        entry = Entry(0, record, b"", 0, 0)
        if name in names_of(entry.attributes) and record.wrapped is not None:
            return decode_attributes(bytes(call.material_of(call.peek(record.uid))))
    raise not_found()


def _mask(attributes: list[Attribute], object_type: ObjectType) -> int:
    mask = value_of(attributes, "Cryptographic Usage Mask")
    if mask is None:
        if object_type not in _MASKLESS:
            raise _invalid("Cryptographic Usage Mask is missing")
        return 0
    return int(mask)


def new_record(
    call: Call,
    object_type: ObjectType,
    attributes: list[Attribute],
    digest: bytes | None,
    shape: material.Shape,
    *,
    rng: RNGParameters | None = None,
    uid: str | None = None,
) -> ObjectRecord:
    """Return the record of a new object, nothing wrapped in it yet.

    Args:
        digest: SHA-256 of the material; None for what may be guessed.
        rng: What made the material, when it was made here.
        uid: Chosen by the client (Import).
    """
    uid = uid or str(uuid.uuid4())
    mask = _mask(attributes, object_type)
    state, complete = new_attributes(uid, object_type, attributes, call.now_s, digest, shape.key_format, rng)
    return ObjectRecord(
        uid=uid,
        registration=call.caller.registration,
        object_type=object_type,
        state=state,
        l3_version=0,
        wrapped=None,
        attributes=encode_attributes(complete),
        names=names_of(complete),
        algorithm=shape.algorithm or 0,
        length_bits=shape.length_bits or 0,
        usage_mask=mask,
        key_format=shape.key_format,
        block=shape.block,
    )


def create(call: Call, asked: CreateRequest) -> Making:
    """Make a symmetric key (section 4.1)."""
    if asked.object_type != ObjectType.SYMMETRIC_KEY:
        raise _invalid("only symmetric keys are created")
    record = generate(call, template_attributes(call, asked.template_attribute))
    yield Put(record, 0)
    call.placeholder = record.uid
    return CreateResponse(object_type=ObjectType.SYMMETRIC_KEY, unique_identifier=record.uid)


def generate(call: Call, attributes: list[Attribute]) -> ObjectRecord:
    """Return the record of a new symmetric key of these attributes.

    Raises:
        OperationFailed: An algorithm or a length that is not created here, or no usage mask.
    """
    algorithm = value_of(attributes, "Cryptographic Algorithm")
    bits = value_of(attributes, "Cryptographic Length")
    if algorithm is None or bits is None:
        raise _invalid("Cryptographic Algorithm and Cryptographic Length are needed")
    if bits not in LENGTHS.get(algorithm, ()):
        raise _invalid("keys of this algorithm and length are not created")
    shape = material.Shape(KeyFormatType.RAW, b"", algorithm, bits)
    size = key_bytes(algorithm, bits)
    room = call.bench.room(size + x931.WORK_BYTES)
    assert room is not None
    key = room[:size]
    try:
        _randomize(call.bench.rng, key, room[size:])
        if algorithm == _Algorithm.TRIPLE_DES:
            for i, byte in enumerate(key):
                key[i] = byte ^ (byte.bit_count() + 1 & 1)  # odd parity (FIPS 46-3)
        digest = call.digest(key)
        record = new_record(
            call, ObjectType.SYMMETRIC_KEY, attributes, digest, shape, rng=generators(call.bench.rng)[0]
        )
        return call.wrap(record, key)
    finally:
        call.bench.wipe()


def _randomize(rng: str, into: memoryview, work: memoryview) -> None:
    try:
        if rng == "ansi-x9.31":
            x931.fill(into, work)
        else:
            x931.kernel(into)
    except OSError as bad:
        raise _invalid(str(bad), ResultReason.GENERAL_FAILURE) from bad


def register(call: Call, asked: RegisterRequest) -> Making:
    """Store an object that the client has (section 4.3)."""
    attributes = template_attributes(call, asked.template_attribute)
    record = registered(call, asked.object_type, material.taken(asked.object_type, asked), attributes)
    yield Put(record, 0)
    call.placeholder = record.uid
    return RegisterResponse(unique_identifier=record.uid)


def registered(
    call: Call,
    object_type: ObjectType,
    it: material.Taken,
    attributes: list[Attribute],
    uid: str | None = None,
) -> ObjectRecord:
    """Return the record of an object that came from outside, wrapped.

    Raises:
        OperationFailed: Material and attributes do not agree, or the object is no such thing.
    """
    shape = it.shape
    if object_type in material.KEYS:
        shape = _agreed(object_type, it, attributes)
    elif object_type == ObjectType.CERTIFICATE:
        found = certificates.attributes_of(it.material, int.from_bytes(shape.block, "big"))
        attributes += [a for a in found if value_of(attributes, a.attribute_name) is None]
        shape = msgspec.structs.replace(shape, length_bits=8 * len(it.material))
    guessable = it.wrapped or object_type in {ObjectType.SECRET_DATA, ObjectType.OPAQUE_OBJECT, ObjectType.TEMPLATE}
    digest = None if guessable else call.digest(it.material)
    return call.wrap(new_record(call, object_type, attributes, digest, shape, uid=uid), it.material)


def _agreed(object_type: ObjectType, it: material.Taken, attributes: list[Attribute]) -> material.Shape:
    """Return the shape with what key block and attributes say together; they must not contradict each other."""
    algorithm = _one(attributes, "Cryptographic Algorithm", it.shape.algorithm)
    bits = _one(attributes, "Cryptographic Length", it.shape.length_bits)
    if object_type == ObjectType.SYMMETRIC_KEY and not it.wrapped:
        if algorithm is None:
            raise _invalid("Cryptographic Algorithm is missing")
        if bits is None:
            bits = _one(attributes, "Cryptographic Length", 8 * len(it.material))
        if key_bytes(algorithm, bits) != len(it.material) and 8 * len(it.material) != bits:
            raise _invalid("the key material does not have the stated length")
    return msgspec.structs.replace(it.shape, algorithm=algorithm, length_bits=bits)


def _one(attributes: list[Attribute], name: str, value: AttributeValue | None) -> Any:
    """Return what key block and attribute say; both, when both are there, the same."""
    stated = value_of(attributes, name)
    if value is None:
        return stated
    if stated is None:
        attributes.append(Attribute(attribute_name=name, attribute_value=value))
    elif stated != value:
        raise _invalid(f"{name} differs between key block and attributes")
    return value
