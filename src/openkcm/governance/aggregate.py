"""What the three aggregates share: a history of decrees, and orders that become the next ones. Pure.

An aggregate is born empty, before its first decree; the ledger holds decrees only. Ids, time and counters come with the
order, so that the same order on the same history is the same event.
"""

from __future__ import annotations

import copy
import hashlib
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec
from eventsourcing.domain import Aggregate

from openkcm.contract import decrees as d
from openkcm.contract.envelope import Actor
from openkcm.contract.ids import Lane, event_id
from openkcm.contract.subjects import DecreeSubject

__all__ = ["Decreed", "LedgerAggregate", "Order"]

Rule = Callable[[Any, Any, "Decreed"], Any]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Who orders what under which idempotency key; from it the ids of the events follow.

    Attributes:
        tenant: On whose behalf.
        command: The order's name.
        key: The idempotency key: the caller's, or a random one.
        correlation: UUID of the request, made of its content: the same key with another content shows.
        at_ms: For the record.
    """

    tenant: str
    actor: Actor
    command: str
    key: str
    correlation: str
    causation: str | None = None
    at_ms: int = 0

    def event_id(self, subject: DecreeSubject) -> str:
        """Return the id of the decree this order makes on a subject: one order, one decree."""
        return event_id(self.tenant, self._actor, self.command, self.key, str(subject))

    def name(self, subject: DecreeSubject, what: str) -> str:
        """Return a fresh name (32 hex digits) that a repeated order gives again."""
        made = event_id(self.tenant, self._actor, f"{self.command}/{what}", self.key, str(subject))
        return hashlib.sha256(made.encode()).hexdigest()[:32]

    @property
    def _actor(self) -> str:
        return f"{self.actor.issuer}|{self.actor.subject}"


class Decreed(Aggregate.Event):
    """A decree at its place in the aggregate's lane."""

    decree: d.Decree
    event: str
    epoch: int
    counter: int
    lane: Lane

    def apply(self, aggregate: Any) -> None:
        """Change the aggregate's facts by the decree's rule; a decree without a rule changes none."""
        mark = (self.lane, self.epoch)
        aggregate.counters = {**aggregate.counters, mark: max(aggregate.counters.get(mark, 0), self.counter)}
        rule = aggregate.RULES.get(type(self.decree))
        if rule is not None:
            aggregate.facts = rule(aggregate.facts, self.decree, self)


class LedgerAggregate(Aggregate):
    """Base of tenant, residence and approval."""

    if TYPE_CHECKING:  # an annotation would have `eventsourcing` make dataclasses of our aggregates
        RULES: ClassVar[dict[type[d.Decree], Rule]]
    RULES = {}

    def __init__(self, where: DecreeSubject) -> None:
        self.where = where
        self.epoch = 0
        self.counters: dict[tuple[Lane, int], int] = {}
        self.facts: Any = self.nothing(where)
        self.order: Order | None = None

    @staticmethod
    def create_id(where: DecreeSubject) -> uuid.UUID:
        """Return the aggregate's id: made of its subject."""
        return uuid.uuid5(uuid.NAMESPACE_URL, str(where.on("routine")))

    @staticmethod
    def nothing(where: DecreeSubject) -> Any:
        """Return the facts before the first decree."""
        raise NotImplementedError

    @classmethod
    def empty(cls, where: DecreeSubject) -> Self:
        """Return the aggregate before its first decree."""
        aggregate = cls(where)
        aggregate.collect_events()
        return aggregate

    def happened(self, decree: d.Decree, *, event: str, epoch: int, counter: int) -> None:
        """Take in a decree that is in the ledger."""
        self._trigger(decree, event, epoch, counter, 0)
        self.collect_events()

    def under(self, order: Order, epoch: int) -> Self:
        """Return a copy on which commands may be tried: this one stays as it is."""
        fork = copy.copy(self)
        fork._pending_events = []  # noqa: SLF001 -- of our own class: a copy must not share the list
        fork.epoch = epoch
        fork.order = order
        return fork

    def ordered(self) -> list[Decreed]:
        """Return the decrees that commands have made, in order."""
        return [event for event in self.pending_events if isinstance(event, Decreed)]

    def decree(self, decree: d.Decree) -> None:
        """Make the one decree of the present order: with two, a broken-off order could not be completed by its id."""
        assert self.order is not None
        assert not self.ordered()
        lane = d.lane_of(decree)
        counter = self.counters.get((lane, self.epoch), 0) + 1
        event = self.order.event_id(self.where.on(lane))
        self._trigger(decree, event, self.epoch, counter, self.order.at_ms)

    def fresh(self, what: str) -> str:
        """Return a name never used before, the same for the same order."""
        assert self.order is not None
        return self.order.name(self.where, what)

    def _trigger(self, decree: d.Decree, event: str, epoch: int, counter: int, at_ms: int) -> None:
        self.trigger_event(
            Decreed, decree=decree, event=event, epoch=epoch, counter=counter, lane=d.lane_of(decree),
            timestamp=datetime.fromtimestamp(at_ms / 1000, UTC),
        )  # fmt: skip
