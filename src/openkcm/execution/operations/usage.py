"""Check, Obtain Lease, Get Usage Allocation, and the counting of Usage Limits. Sees no key.

A limit is charged in the vault, by compare-and-set, before the operation is done: two nodes that use the same key never
spend the same unit twice. It costs one durable write an operation, and only keys with a limit pay it.
Source: KMIP 1.4, sections 3.21, 4.10, 4.17 and 4.18.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import msgspec
from msgspec.structs import replace

from openkcm.execution.objects import Entry
from openkcm.execution.operations.call import Call, Put, Step
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.execution.operations.template import LEASE_TIME_S, changed
from openkcm.kmip.enums import ResultReason, UsageLimitsUnit
from openkcm.kmip.payloads.attributes import ObtainLeaseRequest, ObtainLeaseResponse
from openkcm.kmip.payloads.usage import (
    CheckRequest,
    CheckResponse,
    GetUsageAllocationRequest,
    GetUsageAllocationResponse,
)
from openkcm.kmip.structures import UsageLimits

__all__ = ["check", "get_usage_allocation", "limited", "obtain_lease"]

Charging = Generator[Step, Any, Any]


def _limits(entry: Entry) -> UsageLimits | None:
    found = entry.value("Usage Limits")
    return found if isinstance(found, UsageLimits) else None


def check(call: Call, asked: CheckRequest) -> CheckResponse:
    """Say what of the use asked about the object does not allow; nothing is reserved (section 4.10)."""
    entry = call.object(asked.unique_identifier)
    limits, count, mask = _limits(entry), asked.usage_limits_count, asked.cryptographic_usage_mask
    left = None if limits is None else limits.usage_limits_count
    lease = asked.lease_time
    call.placeholder = entry.uid
    return CheckResponse(
        unique_identifier=entry.uid,
        usage_limits_count=left if count is not None and left is not None and count > left else None,
        cryptographic_usage_mask=entry.usage if mask is not None and mask & ~entry.usage else None,
        lease_time=LEASE_TIME_S if lease is not None and lease > LEASE_TIME_S else None,
    )


def obtain_lease(call: Call, asked: ObtainLeaseRequest) -> ObtainLeaseResponse:
    """Say for how long an object that was handed out may be kept before asking again (section 4.17)."""
    entry = call.object(asked.unique_identifier)
    call.placeholder = entry.uid
    return ObtainLeaseResponse(
        unique_identifier=entry.uid,
        lease_time=LEASE_TIME_S,
        last_change_date=entry.value("Last Change Date") or 0,
    )


def _charged(call: Call, entry: Entry, units: int) -> Put:
    """Return the wish to store the object with so many units less.

    Raises:
        OperationFailed: Not that many are left.
    """
    limits = _limits(entry)
    assert limits is not None
    left = limits.usage_limits_count or 0
    if units > left:
        raise OperationFailed(ResultReason.PERMISSION_DENIED, "the object's usage limit is reached")
    spent = replace(limits, usage_limits_count=left - units)
    values = changed(entry.attributes, {"Usage Limits": spent, "Last Change Date": call.now_s})
    return Put(msgspec.structs.replace(entry.record, attributes=values), entry.sequence)


def get_usage_allocation(call: Call, asked: GetUsageAllocationRequest) -> Charging:
    """Charge the object's limit for uses outside the server (section 4.18)."""
    entry = call.object(asked.unique_identifier)
    if _limits(entry) is None:
        raise OperationFailed(ResultReason.ILLEGAL_OPERATION, "the object has no usage limit")
    if asked.usage_limits_count < 0:
        raise OperationFailed(ResultReason.INVALID_FIELD, "the count is negative")
    yield _charged(call, entry, asked.usage_limits_count)
    call.placeholder = entry.uid
    return GetUsageAllocationResponse(unique_identifier=entry.uid)


def limited(call: Call, entry: Entry, size: int, do: Callable[[Call, Entry], Any]) -> Charging:
    """Charge the object's limit for protecting `size` bytes, then do it.

    Args:
        do: What is done; it is tried first, so that what fails anyway costs nothing.
    """
    limits = _limits(entry)
    assert limits is not None
    call.reserve(size + 512)
    units = size if limits.usage_limits_unit == UsageLimitsUnit.BYTE else 1
    wish = _charged(call, entry, units)
    answer = do(call, entry)
    yield wish
    return answer
