"""Check and Get Usage Allocation. Declarations only. Source: KMIP 1.4, sections 4.10 and 4.18."""

from __future__ import annotations

from openkcm.kmip.schema import Interval, LongInteger, Structure

__all__ = ["CheckRequest", "CheckResponse", "GetUsageAllocationRequest", "GetUsageAllocationResponse"]


class CheckRequest(Structure, frozen=True, kw_only=True):
    """Ask whether an object could be used so. Nothing is counted."""

    unique_identifier: str | None = None
    usage_limits_count: LongInteger | None = None
    cryptographic_usage_mask: int | None = None
    lease_time: Interval | None = None


class CheckResponse(Structure, frozen=True, kw_only=True):
    """The object, and of what was asked the fields that it does not allow, as they stand."""

    unique_identifier: str
    usage_limits_count: LongInteger | None = None
    cryptographic_usage_mask: int | None = None
    lease_time: Interval | None = None


class GetUsageAllocationRequest(Structure, frozen=True, kw_only=True):
    """Reserve a part of an object's usage limit for uses outside the server."""

    unique_identifier: str | None = None
    usage_limits_count: LongInteger


class GetUsageAllocationResponse(Structure, frozen=True, kw_only=True):
    """The object whose limit was charged."""

    unique_identifier: str
