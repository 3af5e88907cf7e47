"""Get, GetAttributes and GetAttributeList. Get hands a key out by definition, under the system's hand-out policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace

from openkcm.execution import control
from openkcm.execution.objects import Entry
from openkcm.execution.operations.call import Call
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.kmip import Attribute
from openkcm.kmip.enums import (
    CryptographicAlgorithm,
    KeyFormatType,
    KeyWrapType,
    ObjectType,
    ResultReason,
    SecretDataType,
    State,
)
from openkcm.kmip.objects import KeyBlock, KeyValue, OpaqueObject, SecretData, SymmetricKey, TransparentKey
from openkcm.kmip.payloads.retrieval import (
    GetAttributeListRequest,
    GetAttributeListResponse,
    GetAttributesRequest,
    GetAttributesResponse,
    GetRequest,
    GetResponse,
)

__all__ = ["attributes_at", "get", "get_attribute_list", "get_attributes"]

GONE: Final = frozenset({State.DESTROYED, State.DESTROYED_COMPROMISED})
HAND_OUT_ALLOWED: Final = "allowed"
#: What one stored format can be given out as.
FORMATS: Final[dict[int, frozenset[int]]] = {
    KeyFormatType.RAW: frozenset({KeyFormatType.RAW, KeyFormatType.TRANSPARENT_SYMMETRIC_KEY}),
    KeyFormatType.TRANSPARENT_SYMMETRIC_KEY: frozenset({KeyFormatType.RAW, KeyFormatType.TRANSPARENT_SYMMETRIC_KEY}),
    KeyFormatType.OPAQUE: frozenset({KeyFormatType.OPAQUE}),
}


def get(call: Call, asked: GetRequest) -> GetResponse:
    """Hand an object out (section 4.11).

    Raises:
        OperationFailed: The policy, Sensitive or Extractable forbids it; a wrapping or format that is not offered.
    """
    entry = call.object(asked.unique_identifier)
    if asked.key_wrapping_specification is not None:
        raise OperationFailed(ResultReason.FEATURE_NOT_SUPPORTED, "keys are not wrapped for Get yet")
    if asked.key_compression_type is not None:
        raise OperationFailed(ResultReason.KEY_COMPRESSION_TYPE_NOT_SUPPORTED, "keys are not compressed")
    if asked.key_wrap_type == KeyWrapType.AS_REGISTERED:
        raise OperationFailed(ResultReason.FEATURE_NOT_SUPPORTED, "nothing is kept as it was wrapped by the client")
    if call.caller.hand_out != HAND_OUT_ALLOWED:
        raise OperationFailed(ResultReason.PERMISSION_DENIED, "the hand-out policy forbids a plain Get")
    if entry.value("Sensitive"):
        raise OperationFailed(ResultReason.SENSITIVE, "a sensitive object leaves only wrapped")
    if entry.value("Extractable") is False:
        raise OperationFailed(ResultReason.NOT_EXTRACTABLE, "the object is not extractable")
    shown = _SHOWN[ObjectType(entry.record.object_type)](entry, asked, lambda: call.material_of(entry))
    who = call.caller
    call.bench.link.tell(control.HandedOut(who.tenant, who.registration, who.workload, entry.uid))
    call.bench.count("handed_out")
    call.placeholder = entry.uid
    return GetResponse(object_type=ObjectType(entry.record.object_type), unique_identifier=entry.uid, **shown)


Material = Callable[[], bytes]


def _form(entry: Entry, asked: GetRequest) -> KeyFormatType:
    stored = entry.record.key_format
    form = asked.key_format_type or KeyFormatType(stored)
    if form not in FORMATS[stored] or (
        form == KeyFormatType.TRANSPARENT_SYMMETRIC_KEY and entry.record.object_type != ObjectType.SYMMETRIC_KEY
    ):
        raise OperationFailed(ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED, "the object is not given out in this format")
    return form


def _symmetric_key(entry: Entry, asked: GetRequest, material: Material) -> dict[str, Any]:
    form = _form(entry, asked)
    transparent = form == KeyFormatType.TRANSPARENT_SYMMETRIC_KEY
    value: bytes | TransparentKey = TransparentKey(key=material()) if transparent else material()
    block = KeyBlock(
        key_format_type=form,
        key_value=KeyValue(key_material=value),
        cryptographic_algorithm=CryptographicAlgorithm(entry.record.algorithm),
        cryptographic_length=entry.record.length_bits,
    )
    return {"symmetric_key": SymmetricKey(key_block=block)}


def _secret_data(entry: Entry, asked: GetRequest, material: Material) -> dict[str, Any]:
    block = KeyBlock(key_format_type=_form(entry, asked), key_value=KeyValue(key_material=material()))
    kind = SecretDataType(int.from_bytes(entry.record.block, "big"))
    return {"secret_data": SecretData(secret_data_type=kind, key_block=block)}


def _opaque(entry: Entry, asked: GetRequest, material: Material) -> dict[str, Any]:
    if asked.key_format_type is not None:
        raise OperationFailed(ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED, "an opaque object has no key format")
    kind = int.from_bytes(entry.record.block, "big")
    return {"opaque_object": OpaqueObject(opaque_data_type=kind, opaque_data_value=material())}


_SHOWN: Final = {
    ObjectType.SYMMETRIC_KEY: _symmetric_key,
    ObjectType.SECRET_DATA: _secret_data,
    ObjectType.OPAQUE_OBJECT: _opaque,
}


def attributes_at(entry: Entry, now_s: int) -> tuple[Attribute, ...]:
    """Return the object's attributes, State as the dates make it now."""
    state = entry.state_at(now_s)
    if state == entry.state:
        return entry.attributes
    return tuple(
        replace(a, attribute_value=State(state)) if a.attribute_name == "State" else a for a in entry.attributes
    )


def get_attributes(call: Call, asked: GetAttributesRequest) -> GetAttributesResponse:
    """Return the named attributes in the order asked, or all; names that the object lacks are left out."""
    entry = call.object(asked.unique_identifier)
    attributes = attributes_at(entry, call.now_s)
    if asked.attribute_name:
        attributes = tuple(a for name in asked.attribute_name for a in attributes if a.attribute_name == name)
    call.placeholder = entry.uid
    return GetAttributesResponse(unique_identifier=entry.uid, attribute=attributes)


def get_attribute_list(call: Call, asked: GetAttributeListRequest) -> GetAttributeListResponse:
    """Return the names of the object's attributes, each once."""
    entry = call.object(asked.unique_identifier)
    names = tuple(dict.fromkeys(a.attribute_name for a in entry.attributes))
    call.placeholder = entry.uid
    return GetAttributeListResponse(unique_identifier=entry.uid, attribute_name=names)
