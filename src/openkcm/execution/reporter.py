"""What a node tells governance: SyncAcks, HealthChecks, root states, rotations. Builds and seals; decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from openkcm import telemetry
from openkcm.bus.errors import BusError
from openkcm.contract import decrees, reports, trace
from openkcm.contract.envelope import Envelope
from openkcm.contract.ids import Lane
from openkcm.contract.reports import Verdict
from openkcm.execution.clock import boottime_ns
from openkcm.execution.custodian import Custodian
from openkcm.execution.digests import Snapshot
from openkcm.execution.gates import Gates
from openkcm.execution.inputs import NonceSent
from openkcm.execution.passages import Passage, Passages
from openkcm.execution.residence_state import CLOSED, Mark, Residence, State, verdict
from openkcm.execution.voice import Voice

__all__ = ["Reporter", "shown"]

_log: Final = logging.getLogger("openkcm.reporter")
HEALTH_INTERVAL_S: Final = 2.0
MARKS: Final = 128  # residences a HealthCheck tells of: about 12 KiB, however many the node has
UNHEARD_INTERVAL_S: Final = 0.25  # while no beat answers: a node that starts serves nobody until one does
RETRY_S: Final = 0.5
#: Acks of one lane that are on their way at once. Thousands would time out at the server, come again, and go on so.
AT_ONCE: Final = 32
PAGE: Final = 200  # residences' digests in a message: about 25 KiB
#: What this node can read: decrees, and what governance says beside them.
KNOWN_TAGS: Final = (*decrees.KNOWN_TAGS, reports.BEAT_TAG, reports.WITHHOLDING_TAG, reports.RECHECK_TAG)
Send = Callable[[Envelope], Awaitable[None]]


def shown(state: State, residence: Residence, now_ns: int) -> Verdict:
    """Return what the node does with a residence now: its verdict, or `expired` past the lease."""
    said = verdict(residence)
    return "expired" if said not in CLOSED and state.lease_until(residence) <= now_ns else said


class Reporter:
    """The node's mouth. `custodian` is set once it exists: the two know each other."""

    custodian: Custodian

    def __init__(self, voice: Voice, gates: Gates, send: Send, send_health: Send) -> None:
        self._voice, self._gates, self._send, self._send_health = voice, gates, send, send_health
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: dict[str, Residence] = {}  # each residence as it was when a HealthCheck last told of it
        self._turn = 0
        self._ways: dict[Lane, asyncio.Semaphore] = {x: asyncio.Semaphore(AT_ONCE) for x in ("critical", "routine")}
        self.passages = Passages()
        self.workers: Callable[[], int] = lambda: 0
        self.before_ack: Callable[[str], Awaitable[None]] | None = None  # hand-outs so far: an ack says that it is over
        self.memory: tuple[str, bool] = ("mlock", False)
        self.snapshot: Callable[[], Awaitable[Snapshot | None]] = _nothing_kept
        self.expires: Callable[[], dict[str, int]] = dict
        self.vault: Callable[[], reports.VaultMark | None] = lambda: None

    async def acknowledge(self, tenant: str, lane: Lane, state: State) -> None:
        """Send the cumulative SyncAcks of one lane, one an epoch, until the region's own server has them."""
        residence = state.residences[tenant]
        marks = residence.critical if lane == "critical" else residence.routine
        waiting = sorted(marks.keys() | {state.epoch})
        with self._traced(self.passages.answered(tenant, lane, residence), tenant, lane):
            while waiting:
                try:
                    if lane == "critical" and self.before_ack is not None:
                        await self.before_ack(tenant)
                    async with self._ways[lane]:
                        ack = self.sync_ack(tenant, lane, state, waiting[0])
                        await self._send(self._voice.report(tenant, ack, epoch=state.epoch))
                except BusError as away:
                    _log.warning("SyncAck of %s waits: %s", tenant, away)
                    await asyncio.sleep(RETRY_S)
                else:
                    del waiting[0]

    @contextlib.contextmanager
    def _traced(self, answered: list[Passage], tenant: str, lane: Lane) -> Iterator[None]:
        """Run the block as a span of each decree that it answers, from its arrival on; the newest one names the ack."""
        with contextlib.ExitStack() as spans:
            for one in answered:
                spans.enter_context(
                    telemetry.span(f"obey {lane}", "CONSUMER", one.trace, one.attributes, start_ns=one.came_ns)
                )
            yield
            if lane == "critical":
                for one in answered:
                    with trace.under(one.trace):
                        _log.info("%s of %s is obeyed and acknowledged", one.event, tenant)

    @property
    def _state(self) -> State:
        return self.custodian.state

    def sync_ack(self, tenant: str, lane: Lane, state: State, epoch: int) -> reports.SyncAck:
        """Return what `state`, which is committed, has of one lane in an epoch."""
        r = state.residences[tenant]
        mark = (r.critical if lane == "critical" else r.routine).get(epoch, Mark())
        return reports.SyncAck(
            tenant=tenant,
            lane=lane,
            ledger_epoch=epoch,
            floor=mark.floor,
            above=tuple(sorted(mark.above)),
            head=(r.head_critical[-1:] or (None,))[0] if lane == "critical" else r.head_routine,
            obeyed=r.head_critical if lane == "critical" else (),
            state=shown(state, r, boottime_ns()),
            boot_id=state.boot_id,
            closed_boottime_ns=self._gates.closed_boottime_ns.get(tenant),
            lease_s=r.lease_s,
            failure=(r.refusal or r.failure) if lane == "routine" else None,
        )

    async def rotated(self, tenant: str, rotation: reports.RotationComplete) -> None:
        """Report a finished rotation."""
        await self._send(self._voice.report(tenant, rotation, epoch=self._state.epoch))

    async def report(self, tenant: str, report: reports.Report) -> None:
        """Report anything else about a residence."""
        await self._send(self._voice.report(tenant, report, epoch=self._state.epoch))

    def on_rotation(self, tenant: str, level: str, registration: str | None, rotation: str, version: int) -> None:
        """Report an ordered rotation that this node has carried out, as soon as the bus takes it."""
        done = reports.RotationComplete(
            tenant=tenant,
            level="L2" if level == "L2" else "L3",
            registration=registration,
            rotation=rotation or None,
            version=version,
        )
        task = asyncio.ensure_future(self.rotated(tenant, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def root_state(self, tenant: str, observed: reports.RootStateObserved) -> None:
        """Report what the customer's root answers."""
        await self._send(self._voice.report(tenant, observed, epoch=self._state.epoch))

    async def health(self) -> None:
        """Every 2 s (more often while unheard), for ever: a nonce and what an operator needs to know."""
        while True:
            now = await self._say_health(await self.snapshot())
            await asyncio.sleep(HEALTH_INTERVAL_S if self._heard_of_late(now) else UNHEARD_INTERVAL_S)

    async def tell_digests(self) -> None:
        """Tell each residence's digest, in as many HealthChecks as it takes: governance asked."""
        kept = await self.snapshot()
        if kept is None:
            return
        for first in range(0, max(1, len(kept.residences)), PAGE):
            page = kept.residences[first : first + PAGE]
            await self._say_health(kept, reports.Told(first=first, of=len(kept.residences), residences=page))

    async def _say_health(self, kept: Snapshot | None, told: reports.Told | None = None) -> int:
        nonce, now = secrets.token_hex(16), boottime_ns()
        self.custodian.take(NonceSent(nonce, now))  # (1) before it leaves: the lease counts from here
        try:
            check = self.health_check(nonce, now, kept, told)
            await self._send_health(self._voice.report(None, check, epoch=self._state.epoch))
        except BusError as away:
            _log.info("no HealthCheck: %s", away)
        return now

    def _heard_of_late(self, now_ns: int) -> bool:
        beat = self._state.beat
        return beat is not None and beat[0] == self._state.boot_id and now_ns - beat[1] < 2 * HEALTH_INTERVAL_S * 1e9

    def health_check(
        self, nonce: str, now_ns: int, kept: Snapshot | None = None, told: reports.Told | None = None
    ) -> reports.HealthCheck:
        """Return the node's condition."""
        state = self._state
        memory, sealed = self.memory
        return reports.HealthCheck(
            node=state.node,
            region=state.region,
            nonce=nonce,
            boot_id=state.boot_id,
            sent_boottime_ns=now_ns,
            ledger_epoch=state.epoch,
            cursor=(state.cursor_routine, state.cursor_critical) if kept is None else kept.cursor,
            known_tags=KNOWN_TAGS,
            workers=self.workers(),
            memory="memfd_secret" if memory == "memfd_secret" else "mlock",
            sealed_mappings=sealed,
            dropped=sum(state.dropped.values()),
            alarms=tuple(sorted(self.custodian.alarms)),
            residences=self._marks(now_ns),
            digest=None if kept is None else kept.digest,
            told=told,
            expires=self.expires(),
            vault=self.vault(),
        )

    def _marks(self, now_ns: int) -> tuple[reports.Mark, ...]:
        """Return a page of the residences: those that changed since they were told, and the next ones in turn."""
        state = self._state
        held = state.residences
        changed = [t for t, r in held.items() if self._told.get(t) is not r][:MARKS]
        names = list(held)
        start = self._turn % max(1, len(names))
        page = dict.fromkeys([*changed, *(names[start:] + names[:start])[: MARKS - len(changed)]])
        self._turn = start + len(page)
        self._told |= {t: held[t] for t in page}
        return tuple(
            reports.Mark(
                tenant=t,
                generation=held[t].routine.get(state.epoch, Mark()).floor,
                fence=held[t].critical.get(state.epoch, Mark()).floor,
                state=shown(state, held[t], now_ns),
                lease_left_s=max(0, state.lease_until(held[t]) - now_ns) // 1_000_000_000,
            )
            for t in page
        )


async def _nothing_kept() -> Snapshot | None:
    return None
