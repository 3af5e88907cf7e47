"""Get and Export hand an object out by definition, under the system's hand-out policy; each time is reported.

Policy `allowed`: plain and wrapped. `wrapped-only`: only wrapped under a key of this server. `never`: not at all. It
concerns what is secret: certificates, public keys and templates are given to every workload of the system.
Source: KMIP 1.4, sections 4.11, 4.43 and 3.46 to 3.49.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, cast

import msgspec

from openkcm.execution import control, handoutlog
from openkcm.execution.arena import STATE_MASK, Gate
from openkcm.execution.objects import Entry
from openkcm.execution.operations import material, wrapping
from openkcm.execution.operations.attributing import attributes_at
from openkcm.execution.operations.call import Call, Put, Step
from openkcm.execution.operations.outcome import OperationFailed, RoomWanted
from openkcm.execution.operations.template import changed
from openkcm.kmip.enums import CryptographicUsageMask, KeyFormatType, KeyWrapType, ObjectType, ResultReason
from openkcm.kmip.objects import KeyBlock, KeyValue
from openkcm.kmip.payloads.retrieval import GetRequest, GetResponse
from openkcm.kmip.payloads.transfer import ExportRequest, ExportResponse

__all__ = ["export", "get"]

HAND_OUT_ALLOWED, HAND_OUT_WRAPPED_ONLY = "allowed", "wrapped-only"
PUBLIC: Final = frozenset({ObjectType.CERTIFICATE, ObjectType.PUBLIC_KEY, ObjectType.TEMPLATE})
_EXPORT: Final = int(CryptographicUsageMask.EXPORT)
Handing = Generator[Step, Any, Any]


def get(call: Call, asked: GetRequest) -> Handing:
    """Hand an object out (section 4.11).

    Raises:
        OperationFailed: The policy, Sensitive or Extractable forbids it; a wrapping or format that is not offered.
    """
    entry = call.object(asked.unique_identifier)
    _find_room(call, entry)
    shown = _hand_out(call, entry, asked)
    yield from _no_longer_fresh(call, entry)
    _report(call, entry, wrapped=asked.key_wrapping_specification is not None)
    return GetResponse(object_type=entry.object_type, unique_identifier=entry.uid, **shown)


def export(call: Call, asked: ExportRequest) -> Handing:
    """Hand an object out with its attributes (section 4.43); a key needs the usage Export."""
    entry = call.object(asked.unique_identifier)
    if entry.record.object_type in material.KEYS and not entry.usage & _EXPORT:
        raise OperationFailed(ResultReason.PERMISSION_DENIED, "the object's usage mask does not allow it")
    _find_room(call, entry)
    shown = _hand_out(call, entry, asked)
    attributes = attributes_at(entry, call.now_s)
    yield from _no_longer_fresh(call, entry)
    _report(call, entry, wrapped=asked.key_wrapping_specification is not None)
    return ExportResponse(object_type=entry.object_type, unique_identifier=entry.uid, attribute=attributes, **shown)


def _find_room(call: Call, entry: Entry) -> None:
    """Wait, once, while the log of hand-outs is full: more Gets came than the node's disk took."""
    if not call.asked_room and call.bench.handed.full and entry.record.object_type not in PUBLIC:
        raise RoomWanted


def _report(call: Call, entry: Entry, *, wrapped: bool) -> None:
    """Record the hand-out before it happens: nothing leaves that is not recorded.

    Raises:
        OperationFailed: It cannot be.
    """
    call.placeholder = entry.uid
    if entry.record.object_type in PUBLIC:
        return
    bench, who = call.bench, call.caller
    at_ms = int(bench.wall_s() * 1000)
    one = handoutlog.Entry(who.tenant, who.registration, who.workload, entry.uid, wrapped, at_ms)
    try:
        half_full = bench.handed.write(one)
    except handoutlog.LogFull:
        raise OperationFailed(ResultReason.GENERAL_FAILURE, "hand-outs cannot be recorded now; ask again") from None
    if half_full:
        bench.link.tell(control.HandOutsWait())
    bench.count("handed_out")


def _no_longer_fresh(call: Call, entry: Entry) -> Handing:
    """Fresh ends with the first hand-out (section 3.34); in a suspended residence nothing is written."""
    if entry.value("Fresh") and call.word & STATE_MASK == Gate.OPEN:
        stamped = changed(entry.attributes, {"Fresh": False, "Last Change Date": call.now_s})
        yield Put(msgspec.structs.replace(entry.record, attributes=stamped), entry.sequence)


def _permit(call: Call, entry: Entry, *, wrapped: bool) -> None:
    """Refuse what the policy or the object's own attributes forbid."""
    if entry.record.object_type in PUBLIC:
        return
    ring = call.caller.system.ring  # the custodian's newest word: a policy made stricter holds for old connections too
    policy = "never" if ring is None else ring.hand_out
    if policy != HAND_OUT_ALLOWED and not (wrapped and policy == HAND_OUT_WRAPPED_ONLY):
        raise OperationFailed(ResultReason.PERMISSION_DENIED, "the hand-out policy forbids this Get")
    if entry.value("Extractable") is False:
        raise OperationFailed(ResultReason.NOT_EXTRACTABLE, "the object is not extractable")
    if entry.value("Sensitive") and not wrapped:
        raise OperationFailed(ResultReason.SENSITIVE, "a sensitive object leaves only wrapped")


def _hand_out(call: Call, entry: Entry, asked: GetRequest | ExportRequest) -> dict[str, Any]:
    """Return the response field with the object."""
    specification = asked.key_wrapping_specification
    _permit(call, entry, wrapped=specification is not None)
    if asked.key_compression_type is not None:
        raise OperationFailed(ResultReason.KEY_COMPRESSION_TYPE_NOT_SUPPORTED, "keys are not compressed")
    record = entry.record
    if record.object_type not in material.KEYS:
        if asked.key_format_type is not None or specification is not None:
            raise OperationFailed(ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED, "the object is no key")
        return material.shown(entry, None, bytes(call.material_of(entry)))
    return material.shown(entry, _block(call, entry, asked), b"")


def _block(call: Call, entry: Entry, asked: GetRequest | ExportRequest) -> KeyBlock:
    record, specification = entry.record, asked.key_wrapping_specification
    stored = KeyFormatType(record.key_format)
    registered = material.wrapping_of(record)
    if registered is not None:
        if specification is not None or asked.key_wrap_type == KeyWrapType.NOT_WRAPPED:
            raise OperationFailed(ResultReason.FEATURE_NOT_SUPPORTED, "a key that came wrapped is given as it came")
        if asked.key_format_type not in {None, stored}:
            raise OperationFailed(ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED, "the key is wrapped in its own format")
        value = material.wrapped_value(bytes(call.material_of(entry)), registered)
        return material.key_block(record, stored, value, registered)
    form = asked.key_format_type or stored
    if specification is None:
        return material.key_block(record, form, material.key_value(entry, form, bytes(call.material_of(entry))), None)
    kek = wrapping.wrapping_key(call, specification)
    names = specification.attribute_name
    attributes = tuple(a for a in attributes_at(entry, call.now_s) if a.attribute_name in names)
    plain = call.material_of(entry)
    if form == stored and form in {KeyFormatType.RAW, KeyFormatType.OPAQUE}:
        inner = KeyValue(key_material=cast("bytes", plain))  # a view: it is wrapped where it lies
    else:
        inner = material.key_value(entry, form, bytes(plain))
    wrapped, data = wrapping.wrap(call, kek, specification, inner, attributes)
    return material.key_block(record, form, material.wrapped_value(wrapped, data), data)
