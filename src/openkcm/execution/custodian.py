"""The custodian: takes every input through `desired.step` and does what comes out, in that order. Holds no socket.

On a critical decree (DESIGN section 5), alone and without a worker's help:

1. store the closed gate word, then membarrier;
2. zeroize L2 and L3 and raise the slot's generation, so that an unseal still under way is discarded;
3. drain the workers, kill what does not move, kill the residence's unseal children;
4. commit the mark (SQLite, FULL) and the fence record in the vault;
5. acknowledge. An ack is a promise: if (4) fails, (5) does not happen.

(1) to (3) run inside `take`, before it returns; (4) and (5) follow in `run`, commits of many inputs in one transaction.
An ack says what is on the disk and in the fence record (`promised`), never what is only in memory (`state`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Final, Protocol

import msgspec

from openkcm.contract.ids import Lane
from openkcm.contract.reports import Verdict
from openkcm.execution.desired import step
from openkcm.execution.inputs import Arrived, BroughtAbout, Input
from openkcm.execution.lines import Lines
from openkcm.execution.residence_state import CLOSED, Effect, Row, Rows, State, Value, verdict

__all__ = ["Custodian", "Gatekeeper", "Keys", "Rows", "Taken"]

_log: Final = logging.getLogger("openkcm.custodian")
RETRY_S: Final = 0.5
FENCES: Final = 32  # fence records that are written at once: all residences may be revoked together
#: Behind a backlog the disks are what everybody waits for, a revocation too. So one sync serves many routine decrees,
#: for at most so long; the pauses between a residence's routine acks, each of which is synced twice on its way, grow
#: from the first to the second figure while there is always another one to say. The first of them waits for nothing.
GATHER_S: Final = 0.05
ROUTINE_ACK_S: Final = (0.03, 0.5)


class Gatekeeper(Protocol):
    """Steps (1) to (3), and the lease words. Synchronous: nothing of it awaits."""

    def close(self, tenant: str, state: Verdict) -> None:
        """Close the residence's gates, zeroize its keys, drain the workers."""

    def cut(self, tenant: str, enrolments: tuple[str, ...]) -> None:
        """Close these workloads' gates, drain the workers, end the sessions."""

    def withdraw(self, tenant: str, floors: dict[str, int]) -> None:
        """Close and zeroize the key versions below an emergency's floors, drain the workers."""

    def set_lease(self, tenant: str, until_boottime_ns: int) -> None:
        """Write the lease's deadline beside the residence's keys."""


class Keys(Protocol):
    """The residence's keys: brought to the desired state through the customer's root; the fence record in the vault."""

    async def provision(self, tenant: str) -> tuple[str | None, tuple[str, ...]]:
        """Bring the keys to the desired state; return why not, and the rotations that are done."""

    async def write_fence(self, tenant: str) -> None:
        """Have the residence's revocations in the vault's fence record."""


class Taken(msgspec.Struct, frozen=True):
    """What became of one input. `committed` is done when its rows are on disk."""

    effects: tuple[Effect, ...]
    committed: asyncio.Future[None]

    @property
    def deferred(self) -> bool:
        """Whether the input must be given again later."""
        return any(e.kind == "defer" for e in self.effects)


class Custodian:
    """One node's mind and hands. All methods belong to the event loop's thread."""

    def __init__(
        self,
        state: State,
        gates: Gatekeeper,
        keys: Keys,
        commit: Callable[[Rows], None],
        acknowledge: Callable[[str, Lane, State], Awaitable[None]],
        disk: Executor,
    ) -> None:
        self.state = self.durable = state
        self._gates, self._keys = gates, keys
        self._commit, self._acknowledge, self._disk = commit, acknowledge, disk
        self._queue: list[tuple[list[Effect], asyncio.Future[None]]] = []
        self._wake, self._hurry = asyncio.Event(), asyncio.Event()
        self._settling: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._promised: dict[tuple[str, Lane], State] = {}
        self._saying: set[tuple[str, Lane]] = set()
        self._obeying: set[str] = set()
        self._obeyable: set[str] = set()
        self._fencing = asyncio.Semaphore(FENCES)
        self._tasks: set[asyncio.Task[None]] = set()
        self.alarms: dict[str, int] = {}
        self._alarming = Lines(_log, logging.WARNING)
        self.on_trust: Callable[[], None] = lambda: None

    def take(self, given: Input) -> Taken:
        """Decide, close what must be closed, and queue the rest."""
        self.state, effects = step(self.state, given)
        done = asyncio.get_running_loop().create_future()
        later = []
        for effect in effects:
            match effect.kind:
                case "close":
                    self._gates.close(effect.tenant, verdict(self.state.residences[effect.tenant]))  # (1) (2) (3)
                case "cut":
                    self._gates.cut(effect.tenant, effect.names)
                case "withdraw":
                    self._gates.withdraw(effect.tenant, self.state.residences[effect.tenant].floors)
                case "trust":
                    self.on_trust()
                case "alarm":
                    self._alarm(effect)
                case "defer" | "reread" | "tell":
                    pass  # whoever gave the input sees to it
                case _:
                    later.append(effect)
        if later:
            self._queue.append((later, done))
            self._wake.set()
            if not (isinstance(given, Arrived) and given.source == "routine"):
                self._hurry.set()
        else:
            done.set_result(None)
        return Taken(tuple(effects), done)

    async def run(self) -> None:
        """Commit and follow up, for ever."""
        while True:
            await self._wake.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), GATHER_S)
            self._wake.clear()
            self._hurry.clear()
            batch, self._queue = self._queue, []
            state = self.state  # all that is in it is on the disk already or in this batch
            await self._on_disk([e for effects, _ in batch for e in effects])  # (4)
            self.durable = state
            for _, done in batch:
                if not done.done():
                    done.set_result(None)
            self._follow_up([e for effects, _ in batch for e in effects])

    async def committed(self) -> None:
        """Wait until everything taken so far is on disk."""
        done = asyncio.get_running_loop().create_future()
        self._queue.append(([], done))
        self._wake.set()
        self._hurry.set()
        await done

    async def _on_disk(self, effects: list[Effect]) -> None:
        rows: dict[tuple[str, Value], Row] = {}
        for effect in effects:
            for name, row in effect.rows:
                rows[name, row.get("tenant")] = row  # later rows of the same thing replace earlier ones
        while rows:
            try:
                await asyncio.get_running_loop().run_in_executor(
                    self._disk, self._commit, [(name, row) for (name, _), row in rows.items()]
                )
            except Exception:  # whatever the disk says: nothing is acknowledged until it is written
                _log.exception("the mark is not on disk; nothing is acknowledged")
                self.alarms["commit-failed"] = self.alarms.get("commit-failed", 0) + 1
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _follow_up(self, effects: list[Effect]) -> None:
        wanted: dict[str, set[str]] = {}
        for effect in effects:
            name = f"ack-{effect.detail}" if effect.kind == "ack" else effect.kind
            wanted.setdefault(effect.tenant, set()).add(name)
        if "lease" in wanted.pop("", set()):
            self.renew_leases()
        for tenant, what in wanted.items():
            if "lease" in what:
                self._renew(tenant)
            if what & {"fence", "ack-critical"}:
                self._obey(tenant)
            if "provision" in what:
                self.settle(tenant)
            elif "ack-routine" in what:
                self._promise(tenant, "routine", self.durable)

    def renew_leases(self) -> None:
        """Write every residence's lease deadline into the arena."""
        for tenant in self.state.residences:
            self._renew(tenant)

    def _renew(self, tenant: str) -> None:
        self._gates.set_lease(tenant, self.state.lease_until(self.state.residences[tenant]))

    def affirm(self, tenant: str) -> None:
        """Settle the residence and say anew what we have of it: acks may have died with an earlier process."""
        self.settle(tenant)
        self._obey(tenant)

    def _obey(self, tenant: str) -> None:
        """Have the fence record written and the ack sent. One writer a residence: many at once would race for ever."""
        self._obeyable.add(tenant)
        if tenant not in self._obeying:
            self._obeying.add(tenant)
            self._spawn(self._obeyed(tenant))

    async def _obeyed(self, tenant: str) -> None:
        try:
            while tenant in self._obeyable:
                self._obeyable.discard(tenant)
                await self._fenced(tenant)
        finally:
            self._obeying.discard(tenant)

    async def _fenced(self, tenant: str) -> None:
        state = self.durable
        residence = state.residences[tenant]
        while residence.revocations or residence.destroyed:
            try:
                async with self._fencing:
                    await self._keys.write_fence(tenant)  # (4), second half: all that `state` holds, and maybe more
            except Exception:  # the vault away, whatever the reason: no ack before the record is in
                _log.exception("the fence record of %s is not in the vault; its revocation is not acknowledged", tenant)
                await asyncio.sleep(RETRY_S)
            else:
                break
        self._promise(tenant, "critical", state)  # (5)

    def _promise(self, tenant: str, lane: Lane, state: State) -> None:
        """Have it said that we keep what `state` holds. One voice a lane: no older ack overtakes a newer one."""
        self._promised[tenant, lane] = state
        if (tenant, lane) not in self._saying:
            self._saying.add((tenant, lane))
            self._spawn(self._say(tenant, lane))

    async def _say(self, tenant: str, lane: Lane) -> None:
        pause_s, longest_s = ROUTINE_ACK_S
        try:
            while (state := self._promised.pop((tenant, lane), None)) is not None:
                await self._acknowledge(tenant, lane, state)
                if lane == "routine":
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, longest_s)
        except (
            Exception
        ):  # an ack is cumulative: the next one says it too, and governance repeats what it has no ack of
            _log.exception("no SyncAck for %s", tenant)
        finally:
            self._saying.discard((tenant, lane))

    def settle(self, tenant: str) -> None:
        """Bring the residence to its desired state, one attempt at a time, again when it changed meanwhile."""
        task = self._settling.get(tenant)
        if task is not None and not task.done():
            self._again.add(tenant)
            return
        self._settling[tenant] = self._spawn(self._settle(tenant))

    async def _settle(self, tenant: str) -> None:
        again = True
        while again:
            self._again.discard(tenant)
            failure: str | None = None
            rotated: tuple[str, ...] = ()
            try:
                failure, rotated = await self._keys.provision(tenant)
            except Exception as bad:  # any failure to bring it about is reported in the ack, never hidden
                _log.exception("%s could not be brought about", tenant)
                failure = type(bad).__name__
            again = tenant in self._again
            residence = self.state.residences[tenant]
            if failure != residence.failure or rotated:
                await self.take(BroughtAbout(tenant, failure, rotated)).committed
            self._renew(tenant)
        self._promise(tenant, "routine", self.durable)

    async def settled(self, tenant: str) -> None:
        """Wait until no attempt to bring the residence about is under way."""
        task = self._settling.get(tenant)
        if task is not None and not task.done():
            await asyncio.shield(task)

    def serving(self, tenant: str) -> bool:
        """Whether ledger and root let the residence be served (its lease apart)."""
        residence = self.state.residences.get(tenant)
        return residence is not None and verdict(residence) not in CLOSED and not self.state.behind_mark

    def _alarm(self, effect: Effect) -> None:
        self.raise_alarm(f"{effect.tenant}:{effect.detail}" if effect.tenant else effect.detail)

    def raise_alarm(self, key: str) -> None:
        """Count an alarm: `<tenant>:<what>`, or `<what>` where it is the node's."""
        self.alarms[key] = self.alarms.get(key, 0) + 1
        self._alarming.say(f"alarm {key}", f"{self.alarms[key]} in all")

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
