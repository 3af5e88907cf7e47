"""Create Key Pair: RSA in a child process, EC here. Both keys are stored, or none. Source: KMIP 1.4, section 4.2."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from openkcm.execution.keygen import RSA_BITS
from openkcm.execution.operations import keyforms, material
from openkcm.execution.operations.call import Call, Put, Spawn, Step
from openkcm.execution.operations.making import new_record, template_attributes
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.execution.operations.template import generators, value_of
from openkcm.execution.records import ObjectRecord
from openkcm.kmip import Attribute, AttributeValue, decode_attributes, encode_attributes
from openkcm.kmip.enums import (
    CryptographicAlgorithm,
    KeyFormatType,
    LinkType,
    ObjectType,
    RecommendedCurve,
    ResultReason,
    State,
)
from openkcm.kmip.payloads.keypairs import CreateKeyPairRequest, CreateKeyPairResponse
from openkcm.kmip.structures import CryptographicDomainParameters, Link

__all__ = ["Pair", "create_key_pair", "make_pair", "store_pair"]

_EC: Final = frozenset({CryptographicAlgorithm.EC, CryptographicAlgorithm.ECDSA, CryptographicAlgorithm.ECDH})
#: The curve of an EC key of which only the length is given.
_BY_LENGTH: Final = {256: RecommendedCurve.P_256, 384: RecommendedCurve.P_384, 521: RecommendedCurve.P_521}
Pair = tuple[ObjectRecord, ObjectRecord]
Pairing = Generator[Step, Any, Any]


def _invalid(message: str) -> OperationFailed:
    return OperationFailed(ResultReason.INVALID_FIELD, message)


def create_key_pair(call: Call, asked: CreateKeyPairRequest) -> Pairing:
    """Make a private and a public key that link to each other."""
    common = asked.common_template_attribute
    private, public = yield from make_pair(
        call,
        template_attributes(call, common, asked.private_key_template_attribute),
        template_attributes(call, common, asked.public_key_template_attribute),
    )
    yield from store_pair(private, public)
    call.placeholder = private.uid
    return CreateKeyPairResponse(private_key_unique_identifier=private.uid, public_key_unique_identifier=public.uid)


def make_pair(
    call: Call, private_attributes: list[Attribute], public_attributes: list[Attribute]
) -> Generator[Step, Any, Pair]:
    """Return the records of a new pair, wrapped and linked, not stored.

    Raises:
        OperationFailed: The two do not agree on what is to be made, or it is not made here.
    """
    algorithm, size = _agreed(private_attributes, public_attributes)
    if algorithm == CryptographicAlgorithm.RSA:
        if size not in RSA_BITS:
            raise _invalid("RSA keys of 2048, 3072 and 4096 bits are made")
        public_content, private_content = yield Spawn(size)
        bits, forms = size, (KeyFormatType.PKCS_1, KeyFormatType.PKCS_1)
    else:
        public_content, private_content, bits = _ec_pair(RecommendedCurve(size))
        forms = (KeyFormatType.EC_PRIVATE_KEY, KeyFormatType.X_509)
    records: list[ObjectRecord] = []
    for kind, form, attributes, content in (
        (ObjectType.PRIVATE_KEY, forms[0], private_attributes, private_content),
        (ObjectType.PUBLIC_KEY, forms[1], public_attributes, public_content),
    ):
        if value_of(attributes, "Cryptographic Length") is None:
            attributes.append(Attribute(attribute_name="Cryptographic Length", attribute_value=bits))
        shape = material.Shape(form, b"", algorithm, bits)
        record = new_record(call, kind, attributes, call.digest(content), shape, rng=generators(call.bench.rng)[1])
        records.append(call.wrap(record, content))
    private, public = records
    return (
        linked(private, LinkType.PUBLIC_KEY, public.uid),
        linked(public, LinkType.PRIVATE_KEY, private.uid),
    )


def _ec_pair(curve: RecommendedCurve) -> tuple[bytes, bytes, int]:
    key = ec.generate_private_key(keyforms.CURVES[curve])
    public = keyforms.public_der(key.public_key(), KeyFormatType.X_509)
    return public, keyforms.private_der(key, KeyFormatType.EC_PRIVATE_KEY), key.key_size


def _agreed(*sides: list[Attribute]) -> tuple[CryptographicAlgorithm, int]:
    """Return the algorithm, and the modulus' length or the curve."""
    names = ("Cryptographic Algorithm", "Cryptographic Length", "Cryptographic Domain Parameters")
    values = {tuple(value_of(attributes, name) for name in names) for attributes in sides}
    if len(values) != 1:
        raise _invalid("both keys have the same algorithm, length and domain parameters")
    algorithm, bits, domain = values.pop()
    if algorithm == CryptographicAlgorithm.RSA:
        if bits is None:
            raise _invalid("Cryptographic Length is missing")
        return algorithm, bits
    if algorithm not in _EC:
        raise _invalid("key pairs are RSA or EC")
    curve = domain.recommended_curve if isinstance(domain, CryptographicDomainParameters) else _BY_LENGTH.get(bits)
    if curve not in keyforms.CURVES:
        raise _invalid("EC keys are made on P-256, P-384, P-521 and secp256k1")
    return algorithm, curve


def linked(record: ObjectRecord, kind: LinkType, uid: str) -> ObjectRecord:
    """Return the record with a link to another object; one of the same kind is replaced."""
    kept = [a for a in decode_attributes(record.attributes) if not _is_link(a.attribute_value, kind)]
    taken = [a.attribute_index or 0 for a in kept if a.attribute_name == "Link"]
    link = Attribute(
        attribute_name="Link",
        attribute_index=max(taken) + 1 if taken else None,
        attribute_value=Link(link_type=kind, linked_object_identifier=uid),
    )
    return replace(record, attributes=encode_attributes([*kept, link]))


def _is_link(value: AttributeValue, kind: LinkType) -> bool:
    return isinstance(value, Link) and value.link_type == kind


def store_pair(private: ObjectRecord, public: ObjectRecord) -> Pairing:
    """Store both keys; when the second one cannot be, the first is destroyed again."""
    sequence = yield Put(public, 0)
    try:
        yield Put(private, 0)
    except OperationFailed:
        yield Put(replace(public, state=State.DESTROYED, wrapped=None, l3_version=0), sequence)
        raise
