"""The account of a verified ledger: who ordered what, who approved, which node obeyed and how late, who was refused.

Pure. Times are the authors' own clocks, a record for people; an order's place in the ledger is its sequence.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from openkcm.audit.authority import Finding, Obedience, obedience
from openkcm.audit.verify import Event
from openkcm.contract import decrees as d

__all__ = ["Account", "Denied", "Obeyed", "Order", "account"]

#: What the account lists: what a person ordered and a node carries out.
ORDERS = (
    d.AccessRevoked, d.AccessRestored, d.AccessSuspended, d.AccessResumed, d.RootKeyLinked, d.WorkloadRemoved,
    d.SystemDecommissioned, d.EmergencyRotationOrdered, d.RotationOrdered, d.ContextDestroyed, d.ApproversSet,
    d.WorkloadAuthorityTrusted, d.WorkloadAuthoritiesRemoved,
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
        outcome: `acked`, `lease`, `refused` (without authority: nodes refuse it), `open` (a revocation not confirmed
            yet), or `recorded` (an order whose obedience the ledger does not hold).
        silent: For a revocation, the nodes enrolled then whose own word is not in the ledger.
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
    silent: tuple[str, ...] = ()


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that governance refused. One entry may stand for many: the API writes one a minute and kind."""

    epoch: int
    sequence: int
    at_ms: int
    by: str
    action: str
    reason: str
    tenant: str | None
    region: str | None


class Account:
    """Grows by verified events, in order."""

    def __init__(self) -> None:
        self._kept: list[tuple[Event, frozenset[str]]] = []
        self._confirmed: dict[str, tuple[Event, d.RevocationConfirmed]] = {}
        self._nodes: dict[str, str] = {}
        self.denied: list[Denied] = []

    def take(self, event: Event, _body: bytes = b"") -> None:
        """Take the next event in."""
        decree = event.decree
        if isinstance(decree, ORDERS):
            region = event.subject.region
            self._kept.append((event, frozenset(n for n, home in self._nodes.items() if home == region)))
        elif isinstance(decree, d.RevocationConfirmed):
            self._confirmed.setdefault(decree.revocation, (event, decree))
        elif isinstance(decree, d.NodeEnrolled):
            self._nodes[decree.node] = decree.region
        elif isinstance(decree, d.NodeRemoved):
            self._nodes.pop(decree.node, None)
        elif isinstance(decree, d.AccessDenied):
            self.denied.append(
                Denied(
                    epoch=event.envelope.epoch, sequence=event.sequence, at_ms=event.envelope.at_ms, by=decree.person,
                    action=decree.action, reason=decree.reason, tenant=decree.tenant, region=decree.region,
                )
            )  # fmt: skip

    def orders(self, findings: Iterable[Finding] = ()) -> list[Order]:
        """Return the orders, in the ledger's order, given what `Authority` found."""
        refused = {finding.event for finding in findings}
        return [self._order(event, nodes, refused) for event, nodes in self._kept]

    def _order(self, event: Event, nodes: frozenset[str], refused: set[str]) -> Order:
        sealed = event.envelope
        outcome, words = "open" if isinstance(event.decree, d.AccessRevoked) else "recorded", list[Obedience]()
        confirmation = self._confirmed.get(sealed.id)
        if confirmation is not None and confirmation[0].envelope.id not in refused:
            outcome, words = confirmation[1].outcome, obedience(confirmation[1])
        silent = nodes - {word.node for word in words} if isinstance(event.decree, d.AccessRevoked) else ()
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
            outcome="refused" if sealed.id in refused else outcome,
            obeyed=tuple(Obeyed(node=w.node, after_ms=w.at_ms - sealed.at_ms, state=w.state) for w in words),
            silent=tuple(sorted(silent)),
        )


def account(events: Iterable[Event], findings: Iterable[Finding] = ()) -> list[Order]:
    """Return the orders of a verified ledger in its order."""
    kept = Account()
    for event in events:
        kept.take(event)
    return kept.orders(findings)
