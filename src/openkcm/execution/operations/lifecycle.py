"""Activate, Revoke and Destroy: an object's state moves on. Archive and Recover: out of use, and back into it.

What is archived stays where it is, sealed in the vault; no handler gives it out or uses it until it is recovered.
Source: KMIP 1.4, sections 3.22, 3.32 and 4.19 to 4.23.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Final

from msgspec.structs import replace

from openkcm.execution.objects import Entry
from openkcm.execution.operations.call import Call, Put, Step
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.execution.operations.template import STATELESS, changed
from openkcm.execution.records import ObjectRecord
from openkcm.kmip import Attribute, AttributeValue
from openkcm.kmip.enums import ResultReason, RevocationReasonCode, State
from openkcm.kmip.payloads.lifecycle import (
    ActivateRequest,
    ActivateResponse,
    ArchiveRequest,
    ArchiveResponse,
    DestroyRequest,
    DestroyResponse,
    RecoverRequest,
    RecoverResponse,
    RevokeRequest,
    RevokeResponse,
)

__all__ = ["activate", "archive", "destroy", "erased", "recover", "revoke"]

Moving = Generator[Step, Any, Any]

COMPROMISES: Final = frozenset({RevocationReasonCode.KEY_COMPROMISE, RevocationReasonCode.CA_COMPROMISE})

#: State after Revoke, by the state before: (for a compromise, for another reason). None: not possible.
REVOKED: Final[dict[State, tuple[State | None, State | None]]] = {
    State.PRE_ACTIVE: (State.COMPROMISED, None),
    State.ACTIVE: (State.COMPROMISED, State.DEACTIVATED),
    State.DEACTIVATED: (State.COMPROMISED, None),
    State.COMPROMISED: (None, None),
    State.DESTROYED: (State.DESTROYED_COMPROMISED, None),
    State.DESTROYED_COMPROMISED: (None, None),
}


def _moved(
    call: Call, entry: Entry, state: State, values: Mapping[str, AttributeValue], *, erase: bool = False
) -> ObjectRecord:
    stamped: dict[str, AttributeValue] = {**values, "Last Change Date": call.now_s}
    if entry.record.object_type not in STATELESS:
        stamped["State"] = state
    if erase:
        attributes = changed(_on_line(entry), stamped)
        return replace(entry.record, state=state, attributes=attributes, wrapped=None, l3_version=0)
    return replace(entry.record, state=state, attributes=changed(entry.attributes, stamped))


def _on_line(entry: Entry) -> list[Attribute]:
    """Return the attributes of the object when nothing of it is archived."""
    return [a for a in entry.attributes if a.attribute_name != "Archive Date"]


def _stateless(entry: Entry) -> None:
    if entry.record.object_type in STATELESS:
        raise OperationFailed(ResultReason.ILLEGAL_OPERATION, "an object of this type has no such state")


def activate(call: Call, asked: ActivateRequest) -> Moving:
    """From Pre-Active to Active."""
    entry = call.object(asked.unique_identifier)
    _stateless(entry)
    yield Put(_moved(call, entry, State.ACTIVE, {"Activation Date": call.now_s}), entry.sequence)
    call.placeholder = entry.uid
    return ActivateResponse(unique_identifier=entry.uid)


def revoke(call: Call, asked: RevokeRequest) -> Moving:
    """To Deactivated, or to Compromised when the reason says so."""
    entry = call.object(asked.unique_identifier)
    _stateless(entry)
    compromise = asked.revocation_reason.revocation_reason_code in COMPROMISES
    state = REVOKED[State(entry.state_at(call.now_s))][0 if compromise else 1]
    if state is None:
        raise OperationFailed(ResultReason.PERMISSION_DENIED, "the object's state does not allow this revocation")
    values: dict[str, AttributeValue] = {"Revocation Reason": asked.revocation_reason}
    if compromise:
        occurred = asked.compromise_occurrence_date
        values["Compromise Date"] = call.now_s
        values["Compromise Occurrence Date"] = call.now_s if occurred is None else occurred
    else:
        values["Deactivation Date"] = call.now_s
    yield Put(_moved(call, entry, state, values), entry.sequence)
    call.placeholder = entry.uid
    return RevokeResponse(unique_identifier=entry.uid)


def erased(call: Call, entry: Entry) -> ObjectRecord:
    """Return the object's record without its material; the attributes stay to be asked for."""
    compromised = entry.state_at(call.now_s) == State.COMPROMISED
    state = State.DESTROYED_COMPROMISED if compromised else State.DESTROYED
    return _moved(call, entry, state, {"Destroy Date": call.now_s}, erase=True)


def destroy(call: Call, asked: DestroyRequest) -> Moving:
    """Forget the material."""
    entry = call.object(asked.unique_identifier)
    yield Put(erased(call, entry), entry.sequence)
    call.placeholder = entry.uid
    return DestroyResponse(unique_identifier=entry.uid)


def archive(call: Call, asked: ArchiveRequest) -> Moving:
    """Put the object out of use; its attributes stay to be asked for."""
    entry = call.object(asked.unique_identifier)
    stamped = changed(entry.attributes, {"Archive Date": call.now_s, "Last Change Date": call.now_s})
    yield Put(replace(entry.record, attributes=stamped), entry.sequence)
    call.placeholder = entry.uid
    return ArchiveResponse(unique_identifier=entry.uid)


def recover(call: Call, asked: RecoverRequest) -> Moving:
    """Bring it back, as it was; what is not archived is there already."""
    entry = call.object(asked.unique_identifier)
    if entry.archived:
        stamped = changed(_on_line(entry), {"Last Change Date": call.now_s})
        yield Put(replace(entry.record, attributes=stamped), entry.sequence)
    call.placeholder = entry.uid
    return RecoverResponse(unique_identifier=entry.uid)
