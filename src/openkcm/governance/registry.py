"""The registry: aggregates out of the ledger, and decrees into it. The one file of governance that awaits the ledger.

An aggregate is read by two exact subjects, one a lane, and only what is new behind the cached cursor. `execute`:

0. on the critical lane what was read last stands at first: (3) fails if there is more, and critical facts only grow;
1. the same order again (same id) is answered from the ledger; the same key for something else is refused;
2. commands run on a copy; a refused one leaves nothing behind;
3. each decree is sealed with its counter and appended expecting the last sequence of its own lane;
4. somebody was faster: read again, decide again, a bounded number of times; the id stays the same;
5. no answer: nothing is assumed. A retry with the same id finds what did arrive.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from openkcm.bus.errors import BusError, Conflict, SameIdOtherMessage, Unavailable
from openkcm.bus.ledger import Ledger, Stored
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import seal
from openkcm.contract.errors import ContractError, EnvelopeError, SealError
from openkcm.contract.ids import Lane
from openkcm.contract.subjects import DecreeSubject
from openkcm.governance.aggregate import Decreed, LedgerAggregate, Order
from openkcm.governance.approval import Approval
from openkcm.governance.errors import Conflicting, IllegalNow, Inconsistent, KeyReused, LedgerUnavailable, Stale
from openkcm.governance.ledger_events import LedgerEvents
from openkcm.governance.residence import Residence
from openkcm.governance.tenant import Tenant
from openkcm.projector.ledger import Projection

__all__ = ["Recorded", "Registry"]

log = logging.getLogger(__name__)
_A = TypeVar("_A", bound=LedgerAggregate)
MAX_ATTEMPTS: Final = 8
PAGE: Final = 32  # events verified in one go: some 4 ms
APPEND_TIMEOUT_S: Final = 2.0
TIME_SOURCE: Final = "cmk-clock"
KINDS: Final[dict[str, type[LedgerAggregate]]] = {
    "tenant": Tenant,
    "residence": Residence,
    "approval": Approval,
    "ledger": LedgerEvents,
}
LANES: Final[dict[str, tuple[Lane, ...]]] = {
    "tenant": ("routine",),
    "approval": ("routine",),
    "residence": ("routine", "critical"),
    "ledger": ("routine", "critical"),
}


class Recorded(msgspec.Struct, frozen=True):
    """A decree that is in the ledger."""

    subject: str
    event: str
    epoch: int
    counter: int
    sequence: int
    correlation: str
    repeated: bool = False


class _Cached(msgspec.Struct):
    aggregate: LedgerAggregate
    lanes: tuple[Lane, ...]
    cursors: dict[Lane, int]
    events: dict[str, Recorded]
    marks: dict[tuple[Lane, int], int]
    lock: asyncio.Lock


class Registry:
    """Reads and writes the ledger for one CMK.

    Args:
        projection: What of the ledger is read already: governance's keys, by sequence, and the epoch.
        verified: What of one aggregate's lane the read model holds behind a sequence, so many at most.
        ignorant: The nodes of a region that do not know a tag.
    """

    def __init__(
        self, ledger: Ledger, signer: seal.Signer, trust_root: bytes, *,
        projection: Projection, verified: Callable[[DecreeSubject, int, int], list[Stored]] = lambda *_: [],
        ignorant: Callable[[str, str], tuple[str, ...]] = lambda _region, _tag: (),
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self.signer = signer
        self._trust = {seal.key_id(trust_root): trust_root}
        self._projection = projection
        self._verified = verified
        self._ignorant = ignorant
        self._now_ms = now_ms
        self._cache: dict[DecreeSubject, _Cached] = {}
        self._sealed: list[str] = []

    @property
    def now_ms(self) -> int:
        """UTC in ms: for the record only."""
        return self._now_ms()

    @property
    def under_way(self) -> set[str]:
        """The keys under which something is sealed that the ledger has not answered yet."""
        return set(self._sealed)

    async def load(self, where: DecreeSubject, kind: type[_A]) -> _A:
        """Return the aggregate as the ledger has it now. Do not change it.

        Raises:
            LedgerUnavailable: No answer.
            Inconsistent: It holds a decree this version cannot read.
        """
        cached = self._cached(where)
        async with cached.lock:
            await self._refresh(where, cached)
        assert isinstance(cached.aggregate, kind)
        return cached.aggregate

    def known(self, where: DecreeSubject, kind: type[_A]) -> _A:
        """Return the aggregate as far as this process has read it: nothing is asked."""
        aggregate = self._cached(where).aggregate
        assert isinstance(aggregate, kind)
        return aggregate

    async def execute(
        self, where: DecreeSubject, kind: type[_A], order: Order, decide: Callable[[_A], Any], *,
        if_match: int | None = None,
    ) -> list[Recorded]:  # fmt: skip
        """Load, decide, append.

        Args:
            where: The aggregate. Given on the critical lane, only that lane is read and waited for: a revocation never
                queues behind routine work.
            kind: The aggregate's class.
            order: Who orders it; makes the ids.
            decide: Gives commands to a copy of the aggregate.
            if_match: The generation the caller has seen; None does not ask.

        Returns:
            What is in the ledger now, in order; nothing when the commands made no decree.

        Raises:
            GovernanceError: As the commands say; and Stale, KeyReused, Conflicting, LedgerUnavailable, Inconsistent.
        """
        cached = self._cached(where)
        async with cached.lock:
            for attempt in range(MAX_ATTEMPTS):
                cached.aggregate.epoch = self._projection.epoch
                if attempt or where.lane != "critical" or not cached.cursors["critical"]:  # (0)
                    await self._refresh(where, cached)
                earlier = self._earlier(where, cached, order)  # (1)
                if earlier:
                    return earlier
                fork: Any = cached.aggregate.under(order, self._projection.epoch)  # (2)
                if if_match is not None and if_match != fork.counters.get(("routine", fork.epoch), 0):
                    raise Stale(f"If-Match names generation {if_match}, which is not the present one: read it again")
                assert isinstance(fork, kind)
                decide(fork)
                try:
                    return [await self._append(where, cached, order, event) for event in fork.ordered()]  # (3)
                except Conflict:  # (4)
                    continue
        raise Conflicting(f"others wrote to {where} at the same time, {MAX_ATTEMPTS} times over: try again")

    # --- reading ----------------------------------------------------------------------------------------------------

    def _cached(self, where: DecreeSubject) -> _Cached:
        if where not in self._cache:
            lanes: tuple[Lane, ...] = ("critical",) if where.lane == "critical" else LANES[where.kind]
            self._cache[where] = _Cached(
                aggregate=KINDS[where.kind].empty(where),
                lanes=lanes,
                cursors=dict.fromkeys(lanes, 0),
                events={},
                marks={},
                lock=asyncio.Lock(),
            )
        return self._cache[where]

    async def _refresh(self, where: DecreeSubject, cached: _Cached) -> None:
        try:
            for lane in cached.lanes:
                await self._follow(where.on(lane), cached)
        except BusError as away:
            raise LedgerUnavailable("the ledger does not answer: try again") from away

    async def _follow(self, where: DecreeSubject, cached: _Cached) -> None:
        """Take in what is new on one lane. Where that is much, what the read model has verified comes from there."""
        while page := await self._ledger.read(str(where), after=cached.cursors[where.lane], limit=PAGE):
            for message in page:
                self._take(where, cached, message)
            if len(page) < PAGE:
                return
            while known := self._verified(where, cached.cursors[where.lane], PAGE):
                for message in known:
                    self._take(where, cached, message, checked=True)
                await asyncio.sleep(0)  # a revocation waits for no other residence's history

    def _take(self, where: DecreeSubject, cached: _Cached, message: Stored, *, checked: bool = False) -> None:
        """Take a stored message in, by the rules nodes follow: what they drop, we drop."""
        before = cached.cursors[where.lane]
        cached.cursors[where.lane] = max(before, message.sequence)
        try:
            e = env.decode(message.body)
            kind = d.kind_of(e.tag)
            by_root = kind is not None and kind.decree in d.TRUST_ROOT_DECREES
            keys = self._trust if by_root else self._projection.keys_at(message.sequence)
            env.verify(e, str(where), keys, checked=checked)
        except SealError as bad:
            if message.sequence > self._projection.cursor and e.key not in keys:
                cached.cursors[where.lane] = before  # its key may be announced in what is still to be read
                raise LedgerUnavailable("the ledger is still being read: try again") from bad
            return
        except ContractError:
            return
        if kind is not None and (kind.aggregate, kind.lane) != (where.kind, where.lane):
            return
        mark = cached.marks.get((where.lane, e.epoch), 0)
        if e.counter <= mark or (where.lane == "routine" and e.counter != mark + 1):
            return
        try:
            decree = d.read(e.tag, e.data)
        except EnvelopeError as bad:
            cached.cursors[where.lane] = before
            raise Inconsistent(f"{where} holds at {message.sequence} what this version cannot read: {e.tag}") from bad
        cached.marks[where.lane, e.epoch] = e.counter
        cached.aggregate.happened(decree, event=e.id, epoch=e.epoch, counter=e.counter)
        cached.events[e.id] = Recorded(str(where), e.id, e.epoch, e.counter, message.sequence, e.correlation)

    def _earlier(self, where: DecreeSubject, cached: _Cached, order: Order) -> list[Recorded]:
        found: list[Recorded] = []
        for lane in cached.lanes:
            recorded = cached.events.get(order.event_id(where.on(lane)))
            if recorded is None:
                continue
            if recorded.correlation != order.correlation:
                raise KeyReused("this idempotency key came with another request: use a new one")
            found.append(msgspec.structs.replace(recorded, repeated=True))
        return found

    # --- writing ----------------------------------------------------------------------------------------------------

    def seal(self, where: DecreeSubject, order: Order, event: Decreed) -> env.Envelope:
        """Return the decree's envelope, sealed."""
        lane = d.lane_of(event.decree)
        unsealed = env.Envelope(
            id=event.event,
            tag=d.tag_of(event.decree),
            subject=str(where.on(lane)),
            counter=event.counter,
            epoch=event.epoch,
            actor=order.actor,
            correlation=order.correlation,
            causation=order.causation,
            priority=env.PRIORITY_CRITICAL if lane == "critical" else env.PRIORITY_ROUTINE,
            at_ms=order.at_ms or self._now_ms(),
            time_source=TIME_SOURCE,
            key=self.signer.key_id,
            data=msgspec.Raw(msgspec.json.encode(event.decree)),
        )
        return env.seal_envelope(unsealed, self.signer)

    async def _append(self, where: DecreeSubject, cached: _Cached, order: Order, event: Decreed) -> Recorded:
        e = self.seal(where, order, event)
        self._sealed.append(e.key)
        try:
            return await self._sent(where, cached, e, d.lane_of(event.decree))
        finally:
            self._sealed.remove(e.key)

    async def _sent(self, where: DecreeSubject, cached: _Cached, e: env.Envelope, lane: Lane) -> Recorded:
        if e.epoch < 1:
            raise LedgerUnavailable("the ledger has not been opened yet")
        if e.key not in self._projection.signing_keys:
            # It was lost with the ledger's tail, or is announced further on: we would not believe ourselves what we
            # wrote, and give its counter twice.
            raise LedgerUnavailable("the ledger does not announce this CMK's sealing key yet")
        body = env.encode(e)
        without = self._ignorant(where.region, e.tag) if lane == "routine" else ()  # a revocation is never held back
        if without:
            raise IllegalNow(f"{', '.join(without)} cannot read {e.tag} yet: bring the nodes up to date first")
        try:
            appended = await self._ledger.append(
                e.subject, body, id=e.id, tag=e.tag, expected_last=cached.cursors[lane], timeout_s=APPEND_TIMEOUT_S
            )
        except SameIdOtherMessage as taken:
            # Our own earlier try of this order, sealed with another time or counter: the next round finds it.
            if taken.stored is None or taken.stored.subject != e.subject:
                raise KeyReused("this idempotency key came with another request: use a new one") from taken
            raise Conflict("it is there") from taken
        except Unavailable as away:  # (5)
            raise LedgerUnavailable("the ledger does not answer: repeat with the same idempotency key") from away
        self._take(where.on(lane), cached, Stored(appended.sequence, e.subject, body, e.id), checked=True)
        if lane == "critical":
            log.info(
                "%s %s of %s in %s is in the ledger at %d", e.tag, e.id, where.tenant, where.region, appended.sequence
            )
        return Recorded(e.subject, e.id, e.epoch, e.counter, appended.sequence, e.correlation)
