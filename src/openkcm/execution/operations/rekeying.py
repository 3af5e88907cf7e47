"""Re-key and Re-key Key Pair: a new key takes another's place. Source: KMIP 1.4, sections 4.4 and 4.5.

What decides between two who re-key the same object at once is the update of the replaced one, by compare-and-set in the
vault: it names its replacement, once. The loser's new key is destroyed and its answer says who won.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, Final

from msgspec.structs import replace

from openkcm.execution.objects import Entry
from openkcm.execution.operations.call import Call, Put, Step
from openkcm.execution.operations.keypairs import linked, make_pair
from openkcm.execution.operations.making import generate, template_attributes
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.execution.operations.template import changed, merged, names_of
from openkcm.execution.records import ObjectRecord
from openkcm.kmip import ATTRIBUTES, Attribute, decode_attributes
from openkcm.kmip.enums import LinkType, ObjectType, ResultReason, State
from openkcm.kmip.payloads.derivation import ReKeyRequest, ReKeyResponse
from openkcm.kmip.payloads.keypairs import ReKeyKeyPairRequest, ReKeyKeyPairResponse
from openkcm.kmip.structures import Link, UsageLimits

__all__ = ["re_key", "re_key_key_pair"]

Replacing = Generator[Step, Any, Any]
#: Attributes that a replacement does not take over (section 4.4): dates begin anew, links are its own.
NOT_KEPT: Final = frozenset({"Activation Date", "Process Start Date", "Protect Stop Date", "Deactivation Date", "Link"})
#: Dates that keep their distance from Activation Date when an offset is given.
MOVED: Final = ("Process Start Date", "Protect Stop Date", "Deactivation Date")


def _conflict(message: str) -> OperationFailed:
    return OperationFailed(ResultReason.GENERAL_FAILURE, message)


def _inherited(call: Call, entry: Entry, offset: int | None) -> list[Attribute]:
    """Return the attributes that the replacement takes over from what it replaces.

    Raises:
        OperationFailed: It has been replaced already.
    """
    for attribute in entry.attributes:
        value = attribute.attribute_value
        if isinstance(value, Link) and value.link_type == LinkType.REPLACEMENT_OBJECT:
            raise OperationFailed(
                ResultReason.ILLEGAL_OPERATION, f"replaced already, by {value.linked_object_identifier}"
            )
    kept = [a for a in entry.attributes if a.attribute_name not in NOT_KEPT and _settable(a)]
    kept = [
        replace(a, attribute_value=_unspent(a.attribute_value)) if isinstance(a.attribute_value, UsageLimits) else a
        for a in kept
    ]
    return kept + [
        Attribute(attribute_name=name, attribute_value=when) for name, when in _dates(call, entry, offset).items()
    ]


def _unspent(limits: UsageLimits) -> UsageLimits:
    return replace(limits, usage_limits_count=limits.usage_limits_total)


def _settable(attribute: Attribute) -> bool:
    rule = ATTRIBUTES.get(attribute.attribute_name)
    if rule is None:
        return attribute.attribute_name.startswith("x-")
    return rule.client_sets


def _dates(call: Call, entry: Entry, offset: int | None) -> dict[str, int]:
    """Return the replacement's dates: without an offset it is as active as what it replaces (section 4.4)."""
    before = entry.value("Activation Date")
    if offset is None:
        return {} if entry.state_at(call.now_s) == State.PRE_ACTIVE else {"Activation Date": call.now_s}
    if before is None:
        raise OperationFailed(ResultReason.ILLEGAL_OPERATION, "an offset needs an object with an Activation Date")
    after = call.now_s + offset
    shift = after - before
    moved = {name: entry.value(name) for name in MOVED}
    return {"Activation Date": after, **{name: when + shift for name, when in moved.items() if when is not None}}


def _replaced(call: Call, entry: Entry, by: str) -> ObjectRecord:
    """Return the old object's record: it names its replacement and gives its names up."""
    kept = [a for a in entry.attributes if a.attribute_name != "Name"]
    record = replace(entry.record, attributes=changed(kept, {"Last Change Date": call.now_s}), names=names_of(kept))
    return linked(record, LinkType.REPLACEMENT_OBJECT, by)


def _gone(record: ObjectRecord) -> ObjectRecord:
    return replace(
        record,
        state=State.DESTROYED,
        wrapped=None,
        l3_version=0,
        attributes=changed(decode_attributes(record.attributes), {"State": State.DESTROYED}),
    )


def _swap(call: Call, pairs: Iterable[tuple[Entry, ObjectRecord]]) -> Replacing:
    """Store each new object, then the old one that names it; whoever is too late destroys what it has stored."""
    stored: list[tuple[ObjectRecord, int]] = []
    try:
        for entry, new in pairs:
            record = linked(new, LinkType.REPLACED_OBJECT, entry.uid)
            sequence = yield Put(record, 0)
            stored.append((record, sequence))
        for entry, new in pairs:
            yield Put(_replaced(call, entry, new.uid), entry.sequence)
    except OperationFailed as lost:
        for record, sequence in stored:
            yield Put(_gone(record), sequence)
        raise _conflict(f"the object was changed by somebody else meanwhile: {lost.message}") from lost


def re_key(call: Call, asked: ReKeyRequest) -> Replacing:
    """Replace a symmetric key by a new one of its attributes; its names move over."""
    entry = call.object(asked.unique_identifier)
    if entry.record.object_type != ObjectType.SYMMETRIC_KEY or entry.foreign:
        raise OperationFailed(ResultReason.INVALID_FIELD, "only symmetric keys are re-keyed so")
    own = template_attributes(call, asked.template_attribute)
    new = generate(call, merged(_inherited(call, entry, asked.offset), own))
    yield from _swap(call, [(entry, new)])
    call.placeholder = new.uid
    return ReKeyResponse(unique_identifier=new.uid)


def re_key_key_pair(call: Call, asked: ReKeyKeyPairRequest) -> Replacing:
    """Replace a key pair by a new one of its attributes; names move over."""
    private = call.object(asked.private_key_unique_identifier)
    if private.record.object_type != ObjectType.PRIVATE_KEY or private.foreign:
        raise OperationFailed(ResultReason.INVALID_FIELD, "a key pair is named by its private key")
    public = call.object(_public_of(private))
    common = asked.common_template_attribute
    new_private, new_public = yield from make_pair(
        call,
        merged(
            _inherited(call, private, asked.offset),
            template_attributes(call, common, asked.private_key_template_attribute),
        ),
        merged(
            _inherited(call, public, asked.offset),
            template_attributes(call, common, asked.public_key_template_attribute),
        ),
    )
    yield from _swap(call, [(public, new_public), (private, new_private)])
    call.placeholder = new_private.uid
    return ReKeyKeyPairResponse(
        private_key_unique_identifier=new_private.uid, public_key_unique_identifier=new_public.uid
    )


def _public_of(private: Entry) -> str:
    for attribute in private.attributes:
        value = attribute.attribute_value
        if isinstance(value, Link) and value.link_type == LinkType.PUBLIC_KEY:
            return value.linked_object_identifier
    raise OperationFailed(ResultReason.ILLEGAL_OPERATION, "the private key has no link to its public key")
