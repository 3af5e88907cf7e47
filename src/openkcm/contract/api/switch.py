"""Answers about the kill switch, the end, and what takes two people. Pure values."""

from __future__ import annotations

from typing import Any, Literal

from openkcm.contract import decrees as d
from openkcm.contract.api.base import Shape, State
from openkcm.contract.api.regions import Revocation
from openkcm.contract.ids import EventId

__all__ = [
    "Approval", "BlastRadius", "HandedOut", "Pulled", "Revocations", "TenantRevocation", "Termination",
    "TerminationRegion", "Words",
]  # fmt: skip


class HandedOut(Shape, frozen=True, kw_only=True):
    """How far a system's keys are with its workloads: the policy in force, and what nodes reported so far."""

    system: str
    hand_out: d.HandOut
    times: int


class BlastRadius(Shape, frozen=True, kw_only=True):
    """What a revocation would cut in one region, and what it cannot: keys that were handed out."""

    region: str
    state: State | None
    systems: int
    workloads: int
    nodes: list[str]
    keys_handed_out: int
    handed_out: list[HandedOut]
    lease_s: int | None = None


class Pulled(Shape, frozen=True, kw_only=True):
    """One region's revocation. `spool`: on the disk, and brought into the ledger for certain."""

    region: str
    event: EventId
    fence: int | None
    recorded: Literal["ledger", "spool"]
    sync: str


class Revocations(Shape, frozen=True, kw_only=True, omit_defaults=True):
    """Dry run (200): `regions`. Pulled (202): `revocations`."""

    resource: str | None = None
    dryRun: bool = False  # noqa: N815 -- the API's spelling
    regions: list[BlastRadius] | None = None
    revocations: list[Pulled] | None = None


class TenantRevocation(Revocation, frozen=True, kw_only=True):
    """One pull of the kill switch, and where."""

    region: str


class Removed(Shape, frozen=True, kw_only=True):
    """What one node says, in a report that it sealed, that it has removed of a destroyed tenant region.

    Attributes:
        vault: Kind of record -> revisions overwritten in the region's vault. What another node removed is that one's.
        rows_removed: Rows of the node's own database, their pages overwritten.
        log_truncated: The database's write-ahead log was emptied after it.
    """

    node: str
    vault: dict[str, int]
    rows_removed: int
    log_truncated: bool
    at_ms: int


class TerminationRegion(Shape, frozen=True, kw_only=True):
    """How far one region's end is. `waiting_for`: nodes without an acknowledgement whose lease may still run."""

    region: str
    state: State
    approval: str | None
    acked: list[str]
    waiting_for: list[str]
    certain_by: int | None
    removed: list[Removed]


class Termination(Shape, frozen=True, kw_only=True):
    """The end of a tenant: over when every region is destroyed and every node obeys or its lease is over."""

    tenant: str
    reason: str
    requested_ms: int
    terminated_ms: int | None
    status: Literal["AwaitingApproval", "Destroying", "Terminated"]
    regions: list[TerminationRegion]


class Words(Shape, frozen=True, kw_only=True):
    """The very words to sign: `signed_bytes` by Ed25519, or `challenge` by the passkey `credential`."""

    approval: str
    statement: Any
    signed_bytes: bytes
    challenge: bytes
    rp_id: str | None
    credential: bytes | None
    may_sign: bool
    fence_seen: int


class Approval(Shape, frozen=True, kw_only=True):
    """A command that waits for other people's signatures, or did."""

    tenant: str
    approval: str
    command: str
    region: str | None
    arguments: list[list[str]]
    statement: str
    proposer: str
    fence_seen: int
    expires_at_ms: int
    state: Literal["Requested", "Granted", "Rejected", "Withdrawn", "Expired", "Executed"]
    reason: str | None
    event: str | None
    at_ms: int
    granted_by: list[str]
