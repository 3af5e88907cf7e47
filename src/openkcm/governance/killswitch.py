"""The kill switch's side of governance: a revocation, once answered, is never forgotten. Decides nothing about lifting.

1. one plain publish per region, each for itself, expecting only its own critical subject;
2. before anything is answered it is on a disk: the ledger's, or, where that takes more than a moment, the spool's;
3. in the ledger: taken out of the spool. No answer: "recorded, not yet in the ledger", and resent until it is in;
4. before a resend its id is looked for in the whole critical subject: the server forgets ids after an hour.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final, Literal

import msgspec

from openkcm.bus.errors import BusError
from openkcm.bus.spool import Spool, Spooled
from openkcm.contract import trace
from openkcm.contract.decrees import ReasonCode
from openkcm.contract.subjects import parse_decree, residence_aggregate
from openkcm.governance.aggregate import Order
from openkcm.governance.errors import GovernanceError, KeyReused, LedgerUnavailable
from openkcm.governance.registry import Recorded, Registry
from openkcm.governance.residence import Residence

__all__ = ["KillSwitch", "Pulled"]

log = logging.getLogger(__name__)
RESEND_S: Final = 0.25
SPOOL_AFTER_S: Final = 0.1  # the ledger's word usually comes sooner, and saves the spool's three syncs
ANSWER_S: Final = 2.0  # a hub that hangs must not hold the answer back: what is in the spool is promised


class Pulled(msgspec.Struct, frozen=True):
    """One region's revocation. `fence` is None while it is only in the spool."""

    region: str
    event: str
    fence: int | None
    recorded: Literal["ledger", "spool"]
    sequence: int | None = None


class _Intent(msgspec.Struct, frozen=True, kw_only=True):
    """What the spool keeps: the order itself, since counter and seal are only known when it goes in."""

    region: str
    reason: ReasonCode
    order: Order
    trace: str = ""


class KillSwitch:
    """Orders revocations for one CMK.

    Args:
        connected: Whether the ledger's server is there right now, as far as is known.
        on_recorded: Told of each revocation the moment its PubAck is here: from then on T is counted.
    """

    def __init__(
        self, registry: Registry, spool: Spool, *, connected: Callable[[], bool],
        on_recorded: Callable[[Recorded], None], monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._registry = registry
        self._spool = spool
        self._connected = connected
        self._on_recorded = on_recorded
        self._monotonic = monotonic
        self._born = monotonic()
        self._since: dict[str, float] = {}
        self._busy: set[str] = set()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        """How many revocations are not yet in the ledger."""
        return len(self._spool)

    def withheld(self, region: str) -> tuple[str, ...]:
        """Return the tenants of a region whose revocation waits here: no beat of ours may lengthen their leases."""
        waiting = (parse_decree(entry.subject) for entry in self._spool.entries())
        return tuple(sorted({where.tenant for where in waiting if where.region == region}))

    def spooled_for_s(self, tenant: str, region: str) -> float | None:
        """Return since how many seconds a revocation of a tenant region waits here (at most our age), or None."""
        where = str(residence_aggregate(region, tenant, "critical"))
        since = [self._since.get(e.id, self._born) for e in self._spool.entries() if e.subject == where]
        return self._monotonic() - min(since) if since else None

    async def pull(self, tenant: str, regions: Iterable[str], reason: str, order: Order) -> list[Pulled]:
        """Revoke in each region.

        Raises:
            KeyReused: The idempotency key came with something else.
            OSError: The spool cannot be written: nothing was promised.
        """
        names = sorted(set(regions))
        intents = [
            _Intent(region=region, reason=reason, order=order, trace=str(trace.current() or "")) for region in names
        ]
        for intent in intents:
            self._check_unused(tenant, intent)
        sending = {
            self._id(tenant, intent): asyncio.ensure_future(self._send(tenant, intent))
            for intent in intents  # (1)
        }
        self._under_way += 1
        self._idle.clear()
        try:
            await asyncio.wait(sending.values(), timeout=SPOOL_AFTER_S)
            late = [intent for intent in intents if not _settled(sending[self._id(tenant, intent)])]
            if late:
                await asyncio.to_thread(self._spool.put, *(self._spooled(tenant, intent) for intent in late))  # (2)
                self._since |= {self._id(tenant, intent): self._monotonic() for intent in late}
                await asyncio.wait(sending.values(), timeout=ANSWER_S)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
        return [
            task.result() if task.done() else Pulled(intent.region, id_, None, "spool")
            for intent, (id_, task) in zip(intents, sending.items(), strict=True)
        ]

    async def give_way(self, at_most_s: float) -> None:
        """Return when no revocation is under way, or after so long: routine work waits here."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), at_most_s)

    async def resend(self) -> None:
        """Bring what the spool holds into the ledger, for ever."""
        while True:
            for entry in self._spool.entries():
                if entry.id in self._busy or not self._connected():
                    continue
                try:
                    intent = msgspec.json.decode(entry.body, type=_Intent)
                    with trace.under(trace.parse(intent.trace)):
                        pulled = await self._send(intent.order.tenant, intent)
                    if pulled.recorded == "ledger":
                        log.warning("revocation %s went from the spool into the ledger", entry.id)
                except Exception:  # an entry that fails must not keep the others back; it stays in the spool
                    log.exception("revocation %s stays in the spool", entry.id)
            await asyncio.sleep(RESEND_S)

    def _check_unused(self, tenant: str, intent: _Intent) -> None:
        spooled = self._spool.get(self._id(tenant, intent))
        if spooled is not None:
            waiting = msgspec.json.decode(spooled.body, type=_Intent)
            if waiting.order.correlation != intent.order.correlation:
                raise KeyReused("this idempotency key came with another request: use a new one")

    def _id(self, tenant: str, intent: _Intent) -> str:
        return intent.order.event_id(residence_aggregate(intent.region, tenant, "critical"))

    def _spooled(self, tenant: str, intent: _Intent) -> Spooled:
        where = residence_aggregate(intent.region, tenant, "critical")
        id_ = self._id(tenant, intent)
        kept = self._spool.get(id_)  # the same order once more keeps its first time
        return kept or Spooled(
            id=id_,
            subject=str(where),
            tag="AccessRevoked.1",
            body=msgspec.json.encode(intent),
            at_ms=intent.order.at_ms,
        )

    async def _forget(self, id_: str) -> None:
        await asyncio.to_thread(self._spool.remove, id_)
        self._since.pop(id_, None)

    async def _send(self, tenant: str, intent: _Intent) -> Pulled:
        where = residence_aggregate(intent.region, tenant, "critical")
        id_ = self._id(tenant, intent)
        self._busy.add(id_)
        try:
            if not self._connected():
                return Pulled(intent.region, id_, None, "spool")
            recorded = (  # (4) execute reads the whole critical subject and finds the id if it is there
                await self._registry.execute(where, Residence, intent.order, lambda r: r.revoke(intent.reason))
            )[0]
            await self._forget(id_)  # (3)
            self._on_recorded(recorded)
            return Pulled(intent.region, recorded.event, recorded.counter, "ledger", recorded.sequence)
        except KeyReused:
            await self._forget(id_)
            raise
        except LedgerUnavailable:
            return Pulled(intent.region, id_, None, "spool")
        except (GovernanceError, BusError) as bad:  # it is promised by then: say so, keep it, try on
            log.error("revocation %s is not in the ledger yet: %s", id_, bad)  # noqa: TRY400 -- no stack of ours to show
            return Pulled(intent.region, id_, None, "spool")
        finally:
            self._busy.discard(id_)


def _settled(sent: asyncio.Future[Pulled]) -> bool:
    """Whether the ledger has it, or it is refused: no spool is needed."""
    return sent.done() and (sent.exception() is not None or sent.result().recorded == "ledger")
