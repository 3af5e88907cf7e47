"""The account of a verified ledger: who ordered what, who approved, which node obeyed and how late. Pure.

Times are the authors' own clocks, a record for people; an order's place in the ledger is its sequence.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from openkcm.audit.authority import Finding, Obedience, obedience
from openkcm.audit.verify import Event
from openkcm.contract import decrees as d

__all__ = ["Obeyed", "Order", "account"]

#: What the account lists: what a person ordered and a node carries out.
ORDERS = (
    d.AccessRevoked, d.AccessRestored, d.AccessSuspended, d.AccessResumed, d.RootKeyLinked, d.WorkloadRemoved,
    d.SystemDecommissioned, d.EmergencyRotationOrdered, d.RotationOrdered, d.ContextDestroyed, d.ApproversSet,
)  # fmt: skip


class Obeyed(msgspec.Struct, frozen=True, kw_only=True):
    """A node's obedience: how many ms after the order, by the two authors' clocks."""

    node: str
    after_ms: int
    state: str


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One order.

    Attributes:
        by: Opaque subject of who asked; names are in the directory, not here.
        approved_by: People whose signatures it carries.
        outcome: `acked`, `lease`, `refused` (without authority: nodes refuse it), or `open` (no confirmation needed or
            none yet).
    """

    epoch: int
    sequence: int
    event: str
    tag: str
    tenant: str
    region: str
    at_ms: int
    by: str
    approved_by: tuple[str, ...]
    outcome: str
    obeyed: tuple[Obeyed, ...]


def account(events: Iterable[Event], findings: Iterable[Finding] = ()) -> list[Order]:
    """Return the orders of a verified ledger in its order."""
    refused = {finding.event for finding in findings}
    kept: list[Event] = []
    confirmed: dict[str, tuple[str, list[Obedience]]] = {}
    for event in events:
        if isinstance(event.decree, ORDERS):
            kept.append(event)
        elif isinstance(event.decree, d.RevocationConfirmed) and event.envelope.id not in refused:
            confirmed[event.decree.revocation] = (event.decree.outcome, obedience(event.decree))
    return [_order(event, event.envelope.id in refused, confirmed.get(event.envelope.id)) for event in kept]


def _order(event: Event, refused: bool, confirmation: tuple[str, list[Obedience]] | None) -> Order:
    outcome, words = confirmation or ("open", [])
    sealed = event.envelope
    return Order(
        epoch=sealed.epoch,
        sequence=event.sequence,
        event=sealed.id,
        tag=sealed.tag,
        tenant=event.subject.tenant,
        region=event.subject.region,
        at_ms=sealed.at_ms,
        by=sealed.actor.subject,
        approved_by=tuple(signature.person for signature in getattr(event.decree, "signatures", ())),
        outcome="refused" if refused else outcome,
        obeyed=tuple(Obeyed(node=w.node, after_ms=w.at_ms - sealed.at_ms, state=w.state) for w in words),
    )
