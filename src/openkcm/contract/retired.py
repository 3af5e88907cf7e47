"""Shapes that are written no more and read for ever, and how each becomes its successor. Imports no living shape.

A tag here keeps its golden file. Its shape is spelled out anew: a later change of a living class must not reach it.
What an upcast cannot know it leaves out: the successor's field is optional, and its default says "not recorded".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

__all__ = ["RETIRED", "RETIRED_REPORTS", "Retired"]


_TOKEN: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_ID: Final = r"^[a-z0-9][a-z0-9-]{7,62}$"


class _AccessDenied1(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Did not say of which tenant: only the operator could read who tried the tenant's door."""

    person: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:@-]{1,128}$")]
    action: Annotated[str, Meta(min_length=1, max_length=512)]
    reason: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,62}$")]


class _SystemRegistered1(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Had no policy of its own: keys were handed out as the residence said."""

    system: Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    registration: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{7,62}$")]


class _HandedOut1(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A report for each Get: did not say whether the key left wrapped, and was not numbered."""

    tenant: str
    registration: str
    workload: str
    object_id: str


def _handed_once(old: _HandedOut1) -> dict[str, Any]:
    one = {"registration": old.registration, "workload": old.workload, "object_id": old.object_id, "times": 1}
    return {"tenant": old.tenant, "handed": [one]}


class _TenantRegionsAssigned1(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Could not carry signatures: a tenant had the regions it came with."""

    regions: Annotated[tuple[Annotated[str, Meta(pattern=_TOKEN)], ...], Meta(min_length=1, max_length=256)]


class _Approver1(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    person: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:@-]{1,128}$")]
    public_key: Annotated[bytes, Meta(min_length=32, max_length=1024)]


class _Signature1(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    person: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:@-]{1,128}$")]
    signature: Annotated[bytes, Meta(min_length=64, max_length=4096)]


class _ApproversSet1(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Said nothing of how many sign: two did."""

    version: Annotated[int, Meta(ge=1)]
    approvers: Annotated[tuple[_Approver1, ...], Meta(min_length=2, max_length=64)]
    previous: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")] | None = None
    signatures: tuple[_Signature1, ...] = ()


class _WorkloadEnrolled1(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Knew one CA: the region's."""

    workload: Annotated[str, Meta(pattern=_TOKEN)]
    system: Annotated[str, Meta(pattern=_TOKEN)]
    registration: Annotated[str, Meta(pattern=_ID)]
    enrolment: Annotated[str, Meta(pattern=_ID)]
    fingerprint: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")] | None = None
    spiffe: Annotated[str, Meta(pattern=r"^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$", max_length=2048)] | None = None


class _Mark1(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tenant: str
    generation: int
    fence: int
    state: str
    lease_left_s: int


class _HealthCheck1(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Said nothing of what lies in the node's database, nor when its certificates end."""

    node: str
    region: str
    nonce: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
    boot_id: str
    sent_boottime_ns: int
    ledger_epoch: int
    cursor: tuple[int, int]
    known_tags: tuple[str, ...]
    workers: int
    memory: str
    sealed_mappings: bool
    dropped: int
    alarms: tuple[str, ...] = ()
    residences: tuple[_Mark1, ...] = ()


class _KeyUsage1(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A report for each key, without an end, and not numbered."""

    tenant: str
    registration: str
    workload: str
    object_id: str
    encrypted: int
    decrypted: int
    since_ms: int


def _used_one(old: _KeyUsage1) -> dict[str, Any]:
    one = msgspec.structs.asdict(old)
    return {"tenant": one.pop("tenant"), "since_ms": one.pop("since_ms"), "used": [one]}


class Retired(NamedTuple):
    """One retired tag: its shape, the tag that follows it, and the successor's fields."""

    shape: type[msgspec.Struct]
    successor: str
    fields: Callable[[Any], dict[str, Any]]


RETIRED: Final[dict[str, Retired]] = {
    "AccessDenied.1": Retired(_AccessDenied1, "AccessDenied.2", msgspec.structs.asdict),
    "ApproversSet.1": Retired(_ApproversSet1, "ApproversSet.2", msgspec.to_builtins),
    "SystemRegistered.1": Retired(_SystemRegistered1, "SystemRegistered.2", msgspec.structs.asdict),
    "TenantRegionsAssigned.1": Retired(_TenantRegionsAssigned1, "TenantRegionsAssigned.2", msgspec.structs.asdict),
    "WorkloadEnrolled.1": Retired(_WorkloadEnrolled1, "WorkloadEnrolled.2", msgspec.structs.asdict),
}

RETIRED_REPORTS: Final[dict[str, Retired]] = {
    "KeyUsage.1": Retired(_KeyUsage1, "KeyUsage.2", _used_one),
    "HandedOut.1": Retired(_HandedOut1, "HandedOut.2", _handed_once),
    "HealthCheck.1": Retired(_HealthCheck1, "HealthCheck.2", msgspec.to_builtins),
}
