"""How the bus reaches the custodian: two lanes, lane0, the beat, the vault. Moves messages; `desired` judges them.

The place of a lane is the node's own cursor (S4): at each start the readers are reset to what our SQLite has committed,
whatever the server believes we have acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from openkcm.bus.connection import Connection
from openkcm.bus.errors import BusError, Unavailable
from openkcm.bus.lanes import LaneReader, held, mirror_head
from openkcm.bus.messages import Stored
from openkcm.contract import trace
from openkcm.contract.ids import Lane
from openkcm.contract.subjects import residence_aggregate
from openkcm.execution.clock import boottime_ns
from openkcm.execution.custodian import Custodian, Taken
from openkcm.execution.inputs import Arrived, BeatArrived, Held, MirrorMeasured, ReadAgain, Reread
from openkcm.execution.passages import Passages
from openkcm.execution.reread import folded
from openkcm.execution.residence_state import Residence

__all__ = ["STREAM_OF", "Feeds"]

_log: Final = logging.getLogger("openkcm.feeds")
STREAM_OF: Final[dict[Lane, str]] = {"critical": "LEDGER-CRITICAL", "routine": "LEDGER"}
BATCH: Final = 256
#: A backlog takes half of a core at most: after so many decrees we rest as long as they took. On a machine that is busy
#: with routine work a revocation would wait for the processor at each of its steps, here and at the servers before us.
TURN: Final = 8
REST_S: Final = 0.05
WAIT_S: Final = 5.0
#: Every object that somebody makes comes back by the vault's feed. Its acknowledgement is a hint: our cursor is the
#: truth. So one will do for so many, or for so long: within ack_wait and max_ack_pending of the reader's declaration.
ACK_AT: Final = 1024
ACK_S: Final = 1.0
RETRY_S: Final = 0.2
#: How long a routine decree waits for the announcement of its key on the critical lane: tries x RETRY_S.
KEY_TRIES: Final = 25
IMPATIENT_S: Final = 60.0
#: Before a lane is read again because something is missing: at first, and at most, doubling.
AGAIN_S: Final = 2.0
AGAIN_MAX_S: Final = 300.0
#: A residence that governance doubts: how often its mirrors are read while they hold less than our marks, and how many
#: residences at once.
REREAD_TRIES: Final = 4
REREADS: Final = 4


class Feeds:
    """The node's ears."""

    def __init__(self, connection: Connection, custodian: Custodian, node: str) -> None:
        self._connection, self._custodian = connection, custodian
        self.passages = Passages()
        self._readers = {lane: LaneReader(connection, stream, f"{node}-{lane}") for lane, stream in STREAM_OF.items()}
        self._vault = LaneReader(connection, "VAULT", f"{node}-vault")
        self._without_memory = False
        self._patient_from = 0.0
        self.at_head = asyncio.Event()
        self.tell: Callable[[], Awaitable[None]] = _tell_nobody
        self._doubted: dict[str, asyncio.Task[None]] = {}
        self._rereads = asyncio.Semaphore(REREADS)

    async def start(self) -> None:
        """Measure the mirrors against our mark and put the readers at our own cursor, as soon as the server answers."""
        while True:
            try:
                await self.measure()
                await self._readers["critical"].reset(self._custodian.state.cursor_critical)
                await self._again("routine")
                break
            except Unavailable as away:
                _log.warning("the lanes are not there yet: %s", away)
                await asyncio.sleep(RETRY_S)
        # Nothing kept: what is in force (a shorter lease) is still to be read.
        self._without_memory = self._custodian.state.seen_routine == 0

    async def _again(self, lane: Lane) -> None:
        """Read a lane again from where it must be: a frozen residence's gap, or the start of a forked critical lane."""
        self._custodian.take(ReadAgain(lane))
        state = self._custodian.state
        await self._readers[lane].reset(state.cursor_routine if lane == "routine" else state.cursor_critical)

    def _must_read_again(self, lane: Lane) -> bool:
        state = self._custodian.state
        if lane == "critical":
            return state.forked
        return state.again_from is not None or any(r.frozen_at is not None for r in state.residences.values())

    async def measure(self) -> None:
        """Compare the mirrors with our cursors (S8)."""
        routine = await mirror_head(self._connection, STREAM_OF["routine"])
        critical = await mirror_head(self._connection, STREAM_OF["critical"])
        self._custodian.take(MirrorMeasured(routine, critical))

    async def lane(self, lane: Lane) -> None:
        """Feed one lane, for ever."""
        reader = self._readers[lane]
        pause, again_at = AGAIN_S, 0.0
        while True:
            try:
                if not self._must_read_again(lane):
                    again_at = 0.0
                elif not again_at:
                    again_at = self._now() + pause
                elif self._now() >= again_at:
                    await self._again(lane)
                    pause, again_at = min(2 * pause, AGAIN_MAX_S), 0.0
                if lane == "critical" and not self.at_head.is_set():
                    await self._check_head()
                halted = self._custodian.state.halted
                batch = await reader.fetch(BATCH, WAIT_S if self.at_head.is_set() else RETRY_S)
                began = self._now()
                for count, stored in enumerate(batch, 1):
                    await self._give(lane, stored)
                    if lane == "routine" and count % TURN:
                        await asyncio.sleep(0)  # whatever lane0 brought meanwhile goes first
                    elif lane == "routine":
                        await asyncio.sleep(min(self._now() - began, REST_S))
                        began = self._now()
                if batch:
                    await self._custodian.committed()
                    await reader.ack(batch)
                if lane == "routine" and halted is not None and self._custodian.state.halted is None:
                    await self._again("routine")  # an epoch was opened, or the mirror mended: it is judged now
            except BusError as away:
                _log.warning("%s lane: %s", lane, away)
                pause, again_at = AGAIN_S, 0.0  # it may be another mirror that comes back
                await asyncio.sleep(RETRY_S)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _give(self, lane: Lane, stored: Stored) -> None:
        # Whoever waited in vain of late does not wait again: strangers' messages must not hold the lane up. A decree
        # that is dropped so leaves a gap, and is read again.
        tries = KEY_TRIES if self._now() >= self._patient_from else 0
        for attempt in range(tries + 1):
            if not self._take(lane, stored, final=attempt == tries).deferred:
                if attempt and attempt == tries:
                    self._patient_from = self._now() + IMPATIENT_S
                return
            await asyncio.sleep(RETRY_S)

    async def _check_head(self) -> None:
        """The listener opens only at the critical mirror's head, judged by our own cursor.

        A node without any memory also reads the routine lane to its end: else it would hold a lease that was shortened
        long ago.
        """
        await self.measure()
        head = await mirror_head(self._connection, STREAM_OF["critical"])
        state = self._custodian.state
        if state.cursor_critical < head or state.behind_mark:
            return
        if not self._without_memory or await self._readers["routine"].caught_up():
            await self._custodian.committed()
            self.at_head.set()

    async def on_lane0(self, stored: Stored) -> None:
        """Take a critical decree from the fast lane."""
        self._take("lane0", stored)

    def _take(self, source: Literal["lane0", "critical", "routine"], stored: Stored, *, final: bool = False) -> Taken:
        came_ns, now_ns = time.time_ns(), boottime_ns()
        with trace.under(trace.parse(stored.trace)):
            taken = self._custodian.take(Arrived(source, stored.sequence, stored.subject, stored.body, now_ns, final))
        self._read_doubted(taken)
        self.passages.took(stored, taken.effects, came_ns, (boottime_ns() - now_ns) // 1000)
        return taken

    async def on_beat(self, stored: Stored) -> None:
        """Take governance's sign of life, or its question about what lies here."""
        taken = self._custodian.take(BeatArrived(stored.subject, stored.body))
        self._read_doubted(taken)
        if any(effect.kind == "tell" for effect in taken.effects):
            await self.tell()

    def _read_doubted(self, taken: Taken) -> None:
        for effect in taken.effects:
            if effect.kind == "reread" and effect.tenant not in self._doubted:
                self._doubted[effect.tenant] = asyncio.ensure_future(self._reread(effect.tenant))

    async def _reread(self, tenant: str) -> None:
        try:
            async with self._rereads:
                await self._judge_anew(tenant)
        finally:
            del self._doubted[tenant]

    async def _judge_anew(self, tenant: str) -> None:
        """Read all that the mirrors hold of a residence, and have it judged."""
        for attempt in range(REREAD_TRIES + 1):
            try:
                given = await self._read_anew(tenant, final=attempt == REREAD_TRIES)
            except BusError as away:
                _log.warning("%s is not read again: %s", tenant, away)
                return
            if not self._custodian.take(given).deferred:
                return
            await asyncio.sleep(RETRY_S)

    async def _read_anew(self, tenant: str, *, final: bool) -> Reread:
        """Fold all but the last of what the mirrors hold, a turn at a time: a revocation of anybody goes first."""
        told, ends = Residence(tenant=tenant), dict.fromkeys(STREAM_OF, 0)
        while True:
            found = {lane: await self._held(tenant, lane, end) for lane, end in ends.items()}
            if sum(map(len, found.values())) <= TURN:
                return Reread(tenant, found["routine"], found["critical"], boottime_ns(), final, told)
            for lane, messages in found.items():
                for at in range(0, len(messages), TURN):
                    began = self._now()
                    told = folded(self._custodian.state, told, lane, messages[at : at + TURN], boottime_ns())
                    await asyncio.sleep(min(self._now() - began, REST_S))
                    ends[lane] = messages[-1].sequence

    async def _held(self, tenant: str, lane: Lane, after: int) -> tuple[Held, ...]:
        subject = str(residence_aggregate(self._custodian.state.region, tenant, lane))
        found = await held(self._connection, STREAM_OF[lane], subject, after)
        return tuple(Held(stored.sequence, stored.subject, stored.body) for stored in found)

    async def vault(self, cursor: int, take: Callable[[list[Stored]], Awaitable[None]]) -> None:
        """Feed the vault's changes into the catalogue, for ever."""
        while True:
            try:
                if await mirror_head(self._connection, "VAULT") < cursor:
                    _log.warning("the vault ends before what was read of it: another one, read from its start")
                    cursor = 0
                await self._vault.reset(cursor)
                acked, acked_s = cursor, self._now()
                while True:
                    batch = await self._vault.fetch(BATCH, WAIT_S)
                    if batch:
                        await take(batch)
                        last = batch[-1:]
                        cursor = last[0].sequence
                    if cursor > acked and (cursor - acked >= ACK_AT or self._now() - acked_s >= ACK_S):
                        await self._vault.ack(last)
                        acked, acked_s = cursor, self._now()
            except BusError as away:
                _log.warning("vault: %s", away)
                await asyncio.sleep(RETRY_S)


async def _tell_nobody() -> None:
    """Before anybody listens."""
