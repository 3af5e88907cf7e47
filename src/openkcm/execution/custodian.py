"""The custodian: takes every input through `desired.step` and does what comes out, in that order. Holds no socket.

On a critical decree (DESIGN section 5), alone and without a worker's help:

1. store the closed gate word, then membarrier;
2. zeroize L2 and L3 and raise the slot's generation, so that an unseal still under way is discarded;
3. drain the workers, kill what does not move, kill the residence's unseal children;
4. commit the mark (SQLite, FULL) and the fence record in the vault;
5. acknowledge. An ack is a promise: if (4) fails, (5) does not happen.

(1) to (3) run inside `take`, before it returns; (4) and (5) follow in `run`, commits of many inputs in one transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Final, Protocol

import msgspec

from openkcm.contract.ids import Lane
from openkcm.contract.reports import Verdict
from openkcm.execution.desired import BroughtAbout, Input, step
from openkcm.execution.residence_state import CLOSED, Effect, Row, Rows, State, Value, verdict

__all__ = ["Custodian", "Gatekeeper", "Keys", "Rows"]

_log: Final = logging.getLogger("openkcm.custodian")
RETRY_S: Final = 0.5


class Gatekeeper(Protocol):
    """Steps (1) to (3), and the lease words. Synchronous: nothing of it awaits."""

    def close(self, tenant: str, state: Verdict) -> None:
        """Close the residence's gates, zeroize its keys, drain the workers."""

    def cut(self, tenant: str, enrolments: tuple[str, ...]) -> None:
        """Close these workloads' gates, drain the workers, end the sessions."""

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
        acknowledge: Callable[[str, Lane], Awaitable[None]],
        disk: Executor,
    ) -> None:
        self.state, self._gates, self._keys = state, gates, keys
        self._commit, self._acknowledge, self._disk = commit, acknowledge, disk
        self._queue: list[tuple[list[Effect], asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._settling: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.alarms: dict[str, int] = {}

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
                case "alarm":
                    self._alarm(effect)
                case "defer":
                    pass
                case _:
                    later.append(effect)
        if later:
            self._queue.append((later, done))
            self._wake.set()
        else:
            done.set_result(None)
        return Taken(tuple(effects), done)

    async def run(self) -> None:
        """Commit and follow up, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._queue = self._queue, []
            await self._on_disk([e for effects, _ in batch for e in effects])  # (4)
            for _, done in batch:
                if not done.done():
                    done.set_result(None)
            self._follow_up([e for effects, _ in batch for e in effects])

    async def committed(self) -> None:
        """Wait until everything taken so far is on disk."""
        done = asyncio.get_running_loop().create_future()
        self._queue.append(([], done))
        self._wake.set()
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
                self._spawn(self._obeyed(tenant, fence="fence" in what))
            if "provision" in what:
                self.settle(tenant)
            elif "ack-routine" in what:
                self._spawn(self._say(tenant, "routine"))

    def renew_leases(self) -> None:
        """Write every residence's lease deadline into the arena."""
        for tenant in self.state.residences:
            self._renew(tenant)

    def _renew(self, tenant: str) -> None:
        self._gates.set_lease(tenant, self.state.lease_until(self.state.residences[tenant]))

    async def _obeyed(self, tenant: str, *, fence: bool) -> None:
        while fence:
            try:
                await self._keys.write_fence(tenant)  # (4), second half
            except Exception:  # the vault away, whatever the reason: no ack before the record is in
                _log.exception("the fence record of %s is not in the vault; its revocation is not acknowledged", tenant)
                await asyncio.sleep(RETRY_S)
            else:
                fence = False
        await self._say(tenant, "critical")  # (5)

    async def _say(self, tenant: str, lane: Lane) -> None:
        try:
            await self._acknowledge(tenant, lane)
        except Exception:  # an ack is cumulative: the next one, at the latest the periodic one, says it too
            _log.exception("no SyncAck for %s", tenant)

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
        await self._say(tenant, "routine")

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
        key = f"{effect.tenant}:{effect.detail}" if effect.tenant else effect.detail
        self.alarms[key] = self.alarms.get(key, 0) + 1
        _log.warning("alarm %s", key)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
