"""Locate: the objects of the caller's system whose attributes match. Sees no key. Source: KMIP 1.4, section 4.9.

Archived objects are found by whoever asks for that storage, destroyed ones by whoever asks for their State: in KMIP 1.x
no storage status stands for them.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final

from openkcm.execution import terms
from openkcm.execution.objects import PAGE_ROWS, Entry
from openkcm.execution.operations.attributing import attributes_at
from openkcm.execution.operations.call import GONE, PAUSE, Call, Step
from openkcm.kmip import Attribute, KmipError
from openkcm.kmip.enums import ObjectGroupMember
from openkcm.kmip.enums import StorageStatusMask as _Status
from openkcm.kmip.payloads.retrieval import LocateRequest, LocateResponse

__all__ = ["locate"]

#: Two values of one of these are a range, from and to.
DATES: Final = terms.DATED | {
    "Initial Date", "Destroy Date", "Compromise Occurrence Date", "Compromise Date", "Archive Date",
    "Last Change Date", "Original Creation Date",
}  # fmt: skip
USAGE: Final = "Cryptographic Usage Mask"  # all bits asked for must be there


def locate(call: Call, asked: LocateRequest) -> Generator[Step, int | None, Any]:
    """Find objects, newest first; a page of the catalogue at a time, others are served in between."""
    member = asked.object_group_member
    status = asked.storage_status_mask
    where = _Status.ON_LINE_STORAGE if status is None else status
    wanted: dict[str, list[Any]] = {}
    for attribute in asked.attribute:
        wanted.setdefault(attribute.attribute_name, []).append(attribute.attribute_value)
    who = call.caller
    try:
        term = terms.best_term(who.tenant, who.registration, asked.attribute)
    except KmipError:  # a value that no object can have
        return LocateResponse(located_items=0)
    pages = call.bench.objects.pages(
        who.tenant,
        who.registration,
        object_type=_only(wanted, "Object Type"),
        uid=_only(wanted, "Unique Identifier"),
        term=term,
        state=_only(wanted, "State"),
    )
    found: list[tuple[int, str]] = []
    for page in pages:
        for record in page:
            entry = Entry(0, record, b"", 0, 0)
            attributes = attributes_at(entry, call.now_s)
            if not where & (_Status.ARCHIVAL_STORAGE if entry.archived else _Status.ON_LINE_STORAGE):
                continue
            if record.state in GONE and "State" not in wanted:
                continue
            if member is not None and not _is_member(attributes, member):
                continue
            if all(_matches(attributes, n, values) for n, values in wanted.items()):
                found.append((-(entry.value("Initial Date") or 0), record.uid))
        if len(page) == PAGE_ROWS:
            yield PAUSE
    found.sort()
    uids = [uid for _, uid in found][max(0, asked.offset_items or 0) :]
    if asked.maximum_items is not None:
        uids = uids[: max(0, asked.maximum_items)]
    call.placeholder = uids[0] if len(uids) == 1 else None  # several: the placeholder is nobody (section 4.9)
    return LocateResponse(located_items=len(found), unique_identifier=tuple(uids))


def _is_member(attributes: Sequence[Attribute], member: ObjectGroupMember) -> bool:
    """Whether the object belongs to a group, and for a fresh member: has never been handed out (section 4.9)."""
    named = {a.attribute_name: a.attribute_value for a in attributes}
    return "Object Group" in named and (member != ObjectGroupMember.GROUP_MEMBER_FRESH or named.get("Fresh") is True)


def _only(wanted: dict[str, list[Any]], name: str) -> Any:
    values = wanted.get(name, ())
    return values[0] if values else None


def _matches(attributes: Sequence[Attribute], name: str, values: list[Any]) -> bool:
    has = [a.attribute_value for a in attributes if a.attribute_name == name]
    if name in DATES and len(values) == 2:
        low, high = values
        return any(low <= v <= high for v in has)
    if name == USAGE:
        return all(any(v & mask == mask for v in has) for mask in values)
    return all(value in has for value in values)
