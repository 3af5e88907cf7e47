"""Answers about the ledger and the fleet. Pure values."""

from __future__ import annotations

from typing import Any

from openkcm.contract.api.base import Shape

__all__ = ["FirstBad", "Fleet", "FleetLedger", "FleetRegion", "LedgerEvent", "Receipt", "Verification"]


class LedgerEvent(Shape, frozen=True, kw_only=True):
    """An event as it stands in the ledger. `body`: the sealed bytes."""

    sequence: int
    subject: str
    body: str
    id: str
    tag: str
    counter: int
    epoch: int
    actor: Any
    priority: str
    correlation: str
    causation: str | None
    at_ms: int
    data: Any


class Receipt(Shape, frozen=True, kw_only=True):
    """One revocation to file: the order, and the confirmation with each node's own sealed word; both as sealed."""

    revocation: LedgerEvent
    confirmation: LedgerEvent | None


class FirstBad(Shape, frozen=True, kw_only=True):
    """The first event that does not hold, and why."""

    sequence: int
    why: str


class Verification(Shape, frozen=True, kw_only=True):
    """What a check of a tenant's events found."""

    events: int
    good: bool
    first_bad: FirstBad | None


class FleetRegion(Shape, frozen=True, kw_only=True):
    """A region and its nodes, each with its last health check."""

    region: str
    residency: Any
    nodes: list[dict[str, Any]]


class FleetLedger(Shape, frozen=True, kw_only=True):
    """How far this process has read, and what it seals with.

    `sealing_key_settled`: nothing that it sealed under an earlier key can still come into the ledger.
    """

    read_to: int
    epoch: int
    sealing_key: str
    sealing_key_settled: bool


class Fleet(Shape, frozen=True, kw_only=True):
    """All regions."""

    value: list[FleetRegion]
    count: int
    spooled_revocations: int
    ledger: FleetLedger
