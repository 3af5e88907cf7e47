"""Operations on an object's attributes: read, list, add, modify, delete. Source: KMIP 1.4, sections 4.12 to 4.16."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from msgspec.structs import replace

from openkcm.execution.objects import Entry
from openkcm.execution.operations import attribute_rules
from openkcm.execution.operations.attribute_rules import Attributes
from openkcm.execution.operations.call import Call, Put, Step
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.execution.operations.template import names_of
from openkcm.kmip import ATTRIBUTES, Attribute, encode_attributes
from openkcm.kmip.enums import ResultReason, State
from openkcm.kmip.payloads.attributes import (
    AddAttributeRequest,
    AddAttributeResponse,
    DeleteAttributeRequest,
    DeleteAttributeResponse,
    ModifyAttributeRequest,
    ModifyAttributeResponse,
)
from openkcm.kmip.payloads.retrieval import (
    GetAttributeListRequest,
    GetAttributeListResponse,
    GetAttributesRequest,
    GetAttributesResponse,
)

__all__ = [
    "add_attribute",
    "attributes_at",
    "delete_attribute",
    "get_attribute_list",
    "get_attributes",
    "modify_attribute",
]

Changing = Generator[Step, Any, Any]
#: Asked for by name, an instance of these says its index even when it is 0: clients (PyKMIP) read it from there.
#: Everywhere else index 0 is left out, as in the profiles' vectors; the specification allows both (section 2.1.1).
SAYS_INDEX: Final = frozenset({"Name"})


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
        attributes = tuple(
            _indexed(a) if name in SAYS_INDEX else a
            for name in dict.fromkeys(asked.attribute_name)
            for a in attributes
            if a.attribute_name == name
        )
    call.placeholder = entry.uid
    return GetAttributesResponse(unique_identifier=entry.uid, attribute=attributes)


def _indexed(attribute: Attribute) -> Attribute:
    return replace(attribute, attribute_index=attribute.attribute_index or 0)


def get_attribute_list(call: Call, asked: GetAttributeListRequest) -> GetAttributeListResponse:
    """Return the names of the object's attributes, each once."""
    entry = call.object(asked.unique_identifier)
    names = tuple(dict.fromkeys(a.attribute_name for a in entry.attributes))
    call.placeholder = entry.uid
    return GetAttributeListResponse(unique_identifier=entry.uid, attribute_name=names)


def _put(call: Call, entry: Entry, attributes: Attributes) -> Put:
    """Return the wish to store the object with these attributes.

    Raises:
        OperationFailed: The record would be too large.
    """
    stamped = [
        replace(a, attribute_value=call.now_s) if a.attribute_name == "Last Change Date" else a for a in attributes
    ]
    record = replace(entry.record, attributes=encode_attributes(stamped), names=names_of(stamped))
    call.check_size(record)
    return Put(record, entry.sequence)


def _known(call: Call, attribute: str) -> None:
    """Refuse a name that is newer than the client's version: its answer could not be written."""
    rule = ATTRIBUTES.get(attribute)
    if rule is not None and rule.since > call.version.protocol_version_minor:
        raise OperationFailed(ResultReason.ITEM_NOT_FOUND, "this version of the protocol has no such attribute")


def add_attribute(call: Call, asked: AddAttributeRequest) -> Changing:
    """Add an instance."""
    entry = call.object(asked.unique_identifier)
    attributes, kept = attribute_rules.added(
        list(entry.attributes), asked.attribute, State(entry.state_at(call.now_s)), entry.record.object_type, call.now_s
    )
    yield _put(call, entry, attributes)
    call.placeholder = entry.uid
    return AddAttributeResponse(unique_identifier=entry.uid, attribute=kept)


def modify_attribute(call: Call, asked: ModifyAttributeRequest) -> Changing:
    """Replace the value of an instance."""
    entry = call.object(asked.unique_identifier)
    new = asked.attribute
    state = State(entry.state_at(call.now_s))
    attributes, kept = attribute_rules.modified(list(entry.attributes), new, state, call.now_s)
    yield _put(call, entry, attributes)
    call.placeholder = entry.uid
    said = kept if new.attribute_index is None else _indexed(kept)
    return ModifyAttributeResponse(unique_identifier=entry.uid, attribute=said)


def delete_attribute(call: Call, asked: DeleteAttributeRequest) -> Changing:
    """Delete an instance."""
    _known(call, asked.attribute_name)
    entry = call.object(asked.unique_identifier)
    state = State(entry.state_at(call.now_s))
    attributes, gone = attribute_rules.deleted(
        list(entry.attributes), asked.attribute_name, asked.attribute_index, state, call.now_s
    )
    yield _put(call, entry, attributes)
    call.placeholder = entry.uid
    said = gone if asked.attribute_index is None else _indexed(gone)
    return DeleteAttributeResponse(unique_identifier=entry.uid, attribute=said)
