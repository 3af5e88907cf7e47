"""Import: an object with identifier and attributes as another server had them. Source: KMIP 1.4, section 4.42."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from openkcm.execution.objects import Entry
from openkcm.execution.operations import material
from openkcm.execution.operations.call import Call, Put
from openkcm.execution.operations.making import Making, registered
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.execution.operations.template import accepted, changed
from openkcm.kmip import ATTRIBUTES, Attribute, AttributeValue, decode_attributes
from openkcm.kmip.enums import KeyWrapType, ResultReason, State
from openkcm.kmip.payloads.transfer import ImportRequest, ImportResponse

__all__ = ["import_"]

#: What the other server set and this one believes: history that it could not know itself.
BELIEVED: Final = frozenset(
    {"Initial Date", "Original Creation Date", "Compromise Date", "Compromise Occurrence Date", "Deactivation Date",
     "Always Sensitive", "Never Extractable", "Revocation Reason", "Random Number Generator", "State"}
)  # fmt: skip
_STATES: Final = frozenset({State.PRE_ACTIVE, State.ACTIVE, State.DEACTIVATED, State.COMPROMISED})


def import_(call: Call, asked: ImportRequest) -> Making:
    """Store an object under the identifier that the client names; nothing may be there, unless it is to be replaced."""
    uid = asked.unique_identifier
    there = _there(call, uid)
    if there is not None and not asked.replace_existing:
        raise OperationFailed(ResultReason.OBJECT_ALREADY_EXISTS, "there is an object of this identifier")
    it = material.taken(asked.object_type, asked)
    if it.wrapped and asked.key_wrap_type == KeyWrapType.NOT_WRAPPED:
        raise OperationFailed(ResultReason.FEATURE_NOT_SUPPORTED, "keys are not unwrapped here")
    believed: dict[str, AttributeValue] = {
        a.attribute_name: a.attribute_value for a in asked.attribute if a.attribute_name in BELIEVED
    }
    own: list[Attribute] = [a for a in asked.attribute if a.attribute_name not in BELIEVED and _settable(a)]
    record = registered(call, asked.object_type, it, accepted(own), uid)
    state = believed.get("State", record.state)
    if state not in _STATES:
        raise OperationFailed(ResultReason.INVALID_FIELD, "a destroyed object is not imported")
    attributes = changed(decode_attributes(record.attributes), believed)
    record = replace(record, attributes=attributes, state=int(state))
    if there is None:
        yield Put(record, 0, named=True)
    else:
        yield Put(record, there.sequence)
    call.placeholder = uid
    return ImportResponse(unique_identifier=uid)


def _settable(attribute: Attribute) -> bool:
    """Whether this server does not set it anew for itself (as Unique Identifier, Digest, Last Change Date)."""
    rule = ATTRIBUTES.get(attribute.attribute_name)
    return rule is None or rule.client_sets


def _there(call: Call, uid: str) -> Entry | None:
    """Return what lies under the identifier.

    Raises:
        OperationFailed: Another system's object does, or the identifier is of a form that is not kept here.
        ObjectWanted: The vault must be asked.
    """
    if not call.may_name(uid):
        raise OperationFailed(ResultReason.INVALID_FIELD, "identifiers have 1 to 63 of a-z, 0-9 and -")
    try:
        return call.peek(uid)
    except OperationFailed as none:
        if none.reason != ResultReason.ITEM_NOT_FOUND:
            raise
    if call.bench.objects.exists(call.caller.tenant, uid):
        raise OperationFailed(ResultReason.PERMISSION_DENIED, "the identifier cannot be used")
    return None
