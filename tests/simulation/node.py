"""One simulated node: the production custodian, step function, rows, feeds, keychain, fences, gates and reporter, on a
simulated arena, disk, bus and root. A crash forgets everything but the rows that were committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import random
from collections.abc import Iterator
from typing import Any
from unittest import mock

from openkcm.bus.errors import Unavailable
from openkcm.bus.messages import Stored
from openkcm.contract import envelope as env
from openkcm.contract import subjects
from openkcm.contract.decrees import RootReference
from openkcm.contract.seal import Signer
from openkcm.execution import digests, rows
from openkcm.execution import feeds as feeds_module
from openkcm.execution import gates as gates_module
from openkcm.execution import reporter as reporter_module
from openkcm.execution.arena import Gate
from openkcm.execution.custodian import Custodian
from openkcm.execution.feeds import Feeds
from openkcm.execution.gates import Gates
from openkcm.execution.inputs import RootObserved, StrangerMet
from openkcm.execution.keychain import Keychain
from openkcm.execution.keyring import KeyContext
from openkcm.execution.reporter import Reporter
from openkcm.execution.residence_state import CLOSED, State
from openkcm.execution.roots.base import RootError, Wrapped
from openkcm.execution.safe import Safe
from openkcm.execution.voice import Voice
from simulation.history import History
from simulation.network import Link, Region, VaultAt

ALIVE_S = 2.0
FOR_EVER = 1 << 62
NODE: contextvars.ContextVar[Node] = contextvars.ContextVar("node")


class Arena:
    """The region arena as numbers: what `Gates` and `Keychain` ask of it."""

    def __init__(self) -> None:
        self.keys: list[bytearray] = []
        self.gates: list[tuple[int, Gate]] = []
        self.leases: list[int] = []
        self.words: list[Gate] = []
        self.alive = 0
        self.free = 1000

    def allocate(self) -> int:
        self.keys.append(bytearray(32))
        self.gates.append((0, Gate.EMPTY))
        self.leases.append(0)
        return len(self.keys) - 1

    def slot_view(self, slot: int, _generation: int | None = None) -> memoryview:
        return memoryview(self.keys[slot])

    def generation(self, slot: int) -> int:
        return self.gates[slot][0]

    def gate(self, slot: int) -> Gate:
        return self.gates[slot][1]

    def set_gate(self, slot: int, state: Gate) -> None:
        self.gates[slot] = (self.gates[slot][0], state)

    def open_gate(self, slot: int, generation: int, state: Gate = Gate.OPEN) -> bool:
        if self.gates[slot][0] != generation:
            return False
        self.gates[slot] = (generation, state)
        return True

    def close_gates(self, slots: Any, state: Gate = Gate.REVOKED) -> None:
        for slot in slots:
            self.set_gate(slot, state)

    def zeroize(self, slot: int) -> None:
        self.keys[slot][:] = bytes(32)

    def raise_generation(self, slot: int) -> int:
        self.gates[slot] = (self.gates[slot][0] + 1, self.gates[slot][1])
        return self.gates[slot][0]

    def release(self, slot: int) -> None:
        self.zeroize(slot)

    def set_lease(self, slot: int, boottime_ns: int) -> None:
        self.leases[slot] = boottime_ns

    def set_alive(self, boottime_ns: int) -> None:
        self.alive = boottime_ns

    def allocate_workload(self) -> int:
        self.words.append(Gate.OPEN)
        return len(self.words) - 1

    def set_workload(self, index: int, state: Gate) -> None:
        self.words[index] = state

    def close_workloads(self, indexes: Any, state: Gate = Gate.REMOVED) -> None:
        for index in indexes:
            self.words[index] = state


class Cells:
    """The custodian's own arena."""

    def __init__(self) -> None:
        self.free = 1000
        self._cells: dict[int, bytearray] = {}
        self._next = 0

    def allocate(self) -> int:
        self._next += 1
        self._cells[self._next] = bytearray(32)
        return self._next

    def view(self, cell: int, _generation: int | None = None) -> memoryview:
        return memoryview(self._cells[cell])

    def zeroize(self, cell: int) -> None:
        self._cells[cell][:] = bytes(32)

    def release(self, cell: int) -> None:
        self._cells.pop(cell)[:] = bytes(32)


class Disk:
    """The node's SQLite: rows, written after a while, or not at all while it is full."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.full, self.slow_s = rng, False, 0.0
        self.node: tuple[int, int, bytes] | None = None
        self.residences: dict[str, bytes] = {}
        self.columns: dict[str, dict[str, Any]] = {}

    def delay(self) -> float:
        return self.slow_s + self.rng.random() * 0.01

    def commit(self, given: Any) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        for name, row in given:
            if name == "node":
                self.node = (row["cursor_routine"], row["cursor_critical"], row["body"])
            elif name == "residence":
                self.residences[row["tenant"]] = row["body"]
                self.columns[row["tenant"]] = row

    def rows(self, _query: str) -> list[tuple[Any, ...]]:
        """As `execution.digests` reads them."""
        if self.node is None:
            return []
        held = [{**self.columns[t], "body": body} for t, body in self.residences.items()] or [{}]
        return [(*self.node[:2], *(row.get(name) for name in digests.COLUMNS)) for row in held]


class Roots:
    """The customers' root keys, everywhere: whoever may unwrap gets the KEK back."""

    def __init__(self) -> None:
        self.refuse: dict[str, str] = {}
        self.keks: dict[bytes, tuple[bytes, bytes]] = {}


class Unsealer:
    """`execution.unseal.Unsealer` without processes. `cancel` kills what is under way."""

    def __init__(self, roots: Roots, rng: random.Random) -> None:
        self.roots, self.rng = roots, rng
        self.running: dict[str, list[asyncio.Future[None]]] = {}

    async def _ask(self, tenant: str) -> None:
        timer = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(
            0.01 + (0.05 if self.rng.random() < 0.8 else 2.0) * self.rng.random(),
            lambda: timer.done() or timer.set_result(None),
        )
        self.running.setdefault(tenant, []).append(timer)
        await timer
        if tenant in self.roots.refuse:
            raise RootError(self.roots.refuse[tenant], "the customer says no")

    async def wrap_new_kek(self, tenant: str, root: RootReference, context: KeyContext, into: memoryview) -> Wrapped:
        await self._ask(tenant)
        kek, name = self.rng.randbytes(32), self.rng.randbytes(16)
        into[:] = kek
        self.roots.keks[name] = kek, context.aad()
        return Wrapped(ciphertext=name, root_version=root.ref)

    async def unwrap(
        self, tenant: str, root: RootReference, wrapped: Wrapped, context: KeyContext, into: memoryview
    ) -> None:
        await self._ask(tenant)
        kek, aad = self.roots.keks[wrapped.ciphertext]
        if aad != context.aad():
            raise RootError("WrongContext", "another context")
        into[:] = kek

    def cancel(self, tenant: str) -> None:
        for timer in self.running.pop(tenant, []):
            if not timer.done():
                timer.set_exception(RootError("Overtaken", "killed"))


class Reader:
    """`bus.lanes.LaneReader` over a simulated mirror: in order behind the cursor, each once."""

    def __init__(self, at: Node, stream: str, consumer: str) -> None:
        self.at = at
        lane = "critical" if stream == "LEDGER-CRITICAL" else "routine"
        self.mirror = at.region.mirrors[lane] if stream != "VAULT" else None
        self.wanted = f".{lane}."
        self.cursor = self.acked = 0

    async def reset(self, sequence: int) -> None:
        await self.at.reachable()
        self.cursor = self.acked = sequence

    async def caught_up(self) -> bool:
        assert self.mirror is not None
        return not any(m.sequence > self.acked and self.wanted in m.subject for m in self.mirror.messages)

    async def fetch(self, batch: int, wait_s: float) -> list[Stored]:
        assert self.mirror is not None
        until = asyncio.get_running_loop().time() + wait_s
        while True:
            grown = self.mirror.grown
            await self.at.reachable()
            mine = (m for m in self.mirror.messages if m.sequence > self.cursor and self.wanted in m.subject)
            found = list(itertools.islice(mine, self.at.rng.randint(1, batch)))
            if found:
                self.cursor = found[-1].sequence
                return found
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return []
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(grown.wait(), left)

    async def ack(self, upto: Any) -> None:
        self.acked = upto[-1].sequence


async def _mirror_head(at: Node, stream: str) -> int:
    await at.reachable()
    return at.region.mirrors["critical" if stream == "LEDGER-CRITICAL" else "routine"].last


async def _held(at: Node, stream: str, subject: str, after: int) -> list[Stored]:
    await at.reachable()
    mirror = at.region.mirrors["critical" if stream == "LEDGER-CRITICAL" else "routine"]
    return [m for m in mirror.messages if m.subject == subject and m.sequence > after]


class Operation:
    """One KMIP operation in a worker, between its steps. `finish` is what the drain waits for."""

    def __init__(self, node: Node, tenant: str) -> None:
        self.node, self.tenant, self.began = node, tenant, node.now
        self.over, self.enrolment, self.word = False, "", 0
        self.read: tuple[tuple[int, Gate], bytes] | None = None
        self.passed = False

    def slot(self) -> int | None:
        slots = self.node.gates.slots(self.tenant)
        return max(((v, s) for (_, v), s in slots.items()), default=(0, None))[1]

    def allowed(self, slot: int) -> bool:
        arena, now = self.node.arena, self.node.boottime_ns()
        return (
            arena.gates[slot][1] is Gate.OPEN
            and arena.leases[slot] > now
            and arena.alive > now
            and arena.words[self.word] is Gate.OPEN
        )

    def begin(self) -> bool:
        workloads = self.node.custodian.state.residences[self.tenant].serving_workloads()  # as the desk answers
        slot = self.slot() if workloads else None
        if workloads:
            self.enrolment = workloads[0].enrolment
            self.word = self.node.gates.word(self.enrolment)
        if slot is None or not self.allowed(slot):
            self.end("refused")
            return False
        self.read = self.node.arena.gates[slot], bytes(self.node.arena.keys[slot])
        return True

    def compare(self) -> None:
        slot = self.slot()
        if slot is None or not self.allowed(slot) or self.read is None or self.node.arena.gates[slot] != self.read[0]:
            self.end("refused")
        self.passed = not self.over

    def finish(self) -> None:
        if not self.over and not self.passed:
            self.compare()
        if not self.over:
            assert self.read is not None
            self.end("served", wrong_key=self.read[1] == bytes(32))

    def end(self, result: str, **more: Any) -> None:
        self.over = True
        self.node.under_way.discard(self)
        if result == "refused" and self.node.rng.random() < 0.9:
            return  # they are many, and say little
        self.node.history.add(
            "op", node=self.node.name, region=self.node.region.name, tenant=self.tenant, start=round(self.began, 6),
            end=round(self.node.now, 6), sent=round(self.node.now, 6), result=result, enrolment=self.enrolment, **more,
        )  # fmt: skip


class Node:
    """A node over its lives."""

    def __init__(
        self, name: str, region: Region, roots: Roots, trust_root: bytes, signer: Signer, rng: random.Random,
        history: History,
    ) -> None:  # fmt: skip
        self.name, self.region, self.roots, self.rng, self.history = name, region, roots, rng, history
        self.trust_root, self.signer = trust_root, signer
        self.link = Link(rng, slow_s=0.002)  # towards its leaf
        self.health = Link(rng, slow_s=0.01)
        self.disk = Disk(rng)
        self.boot, self.boot_at = 1, -rng.random() * 50
        self.drift = 1.0 + rng.uniform(-4e-4, 4e-4)
        self.lives = 0
        self.up = self.listening = self.paused = False
        self.tasks: list[asyncio.Task[Any]] = []
        self.under_way: set[Operation] = set()
        self.running = asyncio.Event()
        self.running.set()
        self.deaths: list[str] = []
        self.hear_health: list[Any] = []

    # --- clocks -----------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def boottime_ns(self) -> int:
        return int((self.now - self.boot_at) * self.drift * 1e9)

    async def reachable(self) -> None:
        await self.running.wait()
        await asyncio.sleep(self.link.delay())
        await self.running.wait()
        if not (self.region.up and self.link.up):
            await asyncio.sleep(0.2)
            raise Unavailable("the leaf does not answer")

    # --- life and death ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        assert not self.up
        self.up, self.paused, self.lives = True, False, self.lives + 1
        self.running.set()
        self.context = contextvars.copy_context()
        self.context.run(NODE.set, self)
        self.context.run(self._build)
        self.history.add("start", node=self.name, boot=self.boot)

    def _build(self) -> None:
        fresh = State(node=self.name, region=self.region.name, boot_id=f"boot-{self.boot}", trust_root=self.trust_root)
        state = rows.load(fresh, self.disk.node, list(self.disk.residences.values()))
        self.arena, self.cells = Arena(), Cells()
        self.unsealer = Unsealer(self.roots, self.rng)
        self.gates = Gates(self.arena, self.cells, self._drain, self.unsealer.cancel, lambda _: None)  # type: ignore[arg-type]
        voice = Voice(self.name, self.region.name, self.signer)
        self.reporter = Reporter(voice, self.gates, self._send, self._send_health)
        vault = VaultAt(self.region.vault, self.link, lambda: self.region.up)
        safe = Safe(vault, voice, self.region.name)  # type: ignore[arg-type]
        safe.on_stranger = lambda: self.custodian.take(StrangerMet())
        self.keychain = Keychain(self.region.name, lambda: self.custodian.state, self.gates, safe, self.unsealer)  # type: ignore[arg-type]
        self.custodian = Custodian(
            state,
            self.gates,
            self.keychain,
            self.disk.commit,
            self.reporter.acknowledge,
            self.disk,  # type: ignore[arg-type]
        )
        self.reporter.custodian = self.custodian
        self.feeds = Feeds(self, self.custodian, self.name)  # type: ignore[arg-type]
        self.feeds.tell = self.reporter.tell_digests
        self.kept = digests.Kept(self.disk)  # type: ignore[arg-type]
        self.reporter.snapshot = self._snapshot
        self.listening = False
        self.arena.alive = FOR_EVER  # renewed all the time, until the custodian stands still
        self.tasks = [asyncio.ensure_future(w) for w in (self._live(),)]
        for task in self.tasks:
            task.add_done_callback(self._ended)

    async def _snapshot(self) -> digests.Snapshot | None:
        await self.running.wait()
        return self.kept.read(self.custodian.state.epoch)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.deaths.append(repr(task.exception()))
            self.history.add("failed", node=self.name, why=repr(task.exception()))
            raise task.exception()  # type: ignore[misc]

    async def _live(self) -> None:
        await self.feeds.start()
        self.region.lane0[self.name] = self._on_lane0
        self.region.beats[self.name] = self._on_beat
        await asyncio.gather(
            self.custodian.run(), self.feeds.lane("critical"), self.feeds.lane("routine"), self.reporter.health(),
            self._open(), self._watch(), self._work(),
        )  # fmt: skip

    async def _open(self) -> None:
        await self.feeds.at_head.wait()
        self.listening = True
        self.history.add("listening", node=self.name)
        self.opened()

    def opened(self) -> None:
        for tenant in self.custodian.state.residences:
            self.custodian.affirm(tenant)

    async def _watch(self) -> None:
        """`rootwatch`, in short: what the root says, and another try where a residence should serve and does not."""
        while True:
            await asyncio.sleep(1.0 + self.rng.random())
            await self.running.wait()
            for tenant, residence in list(self.custodian.state.residences.items()):
                refusal = self.roots.refuse.get(tenant)
                if refusal != residence.root_refusal:
                    self.custodian.take(RootObserved(tenant, refusal or "ok"))
                if self.custodian.serving(tenant) and not self.keychain.is_open(tenant):
                    self.custodian.settle(tenant)

    def kill(self) -> None:
        """kill -9: of custodian and workers. What a worker has handed to the kernel is out."""
        if not self.up:
            return
        self.up = self.listening = False
        for operation in list(self.under_way):
            if operation.passed and self.rng.random() < 0.5:
                operation.finish()
            else:
                operation.over = True
        self.under_way.clear()
        self.region.lane0.pop(self.name, None)
        self.region.beats.pop(self.name, None)
        again = self.feeds._doubted.values()
        for task in (*self.tasks, *self.custodian._tasks, *self.custodian._settling.values(), *again):
            task.cancel()
        self.history.add("kill", node=self.name)

    def reboot(self) -> None:
        self.kill()
        self.boot += 1
        self.boot_at = self.now - self.rng.random()

    def pause(self) -> None:
        """SIGSTOP of the custodian alone: workers go on, while its word is fresh."""
        self.arena.alive = self.boottime_ns() + int(ALIVE_S * 1e9)
        self.paused = True
        self.running.clear()

    def resume(self) -> None:
        self.paused = False
        self.arena.alive = FOR_EVER
        self.running.set()

    # --- bus --------------------------------------------------------------------------------------------------------

    async def _send(self, e: env.Envelope) -> None:
        await self.reachable()
        body = env.encode(e)
        await self.region.report(Stored(0, e.subject, body, e.id))
        if e.tag == "SyncAck.1":
            self._no_residue(e)
            self.history.add("ack", node=self.name, region=self.region.name, **_ack(e))

    def _no_residue(self, e: env.Envelope) -> None:
        """When a residence is closed, and says so, no key of it is left in the arena."""
        tenant = subjects.parse_report(e.subject).tenant
        slots = self.gates.slots(tenant).values()
        if self.gates.state(tenant) in CLOSED and any(self.arena.keys[s] != bytes(32) for s in slots):
            self.history.add("residue", node=self.name, region=self.region.name, tenant=tenant)

    async def _send_health(self, e: env.Envelope) -> None:
        await self.running.wait()
        if not self.region.up or not self.link.up:
            raise Unavailable("the leaf does not answer")
        stored = Stored(0, e.subject, env.encode(e), e.id)
        self.history.add("nonce", node=self.name, nonce=_nonce(e))
        for hear in self.hear_health:
            if self.region.back.up:
                self.health.send(lambda hear=hear: hear(stored))

    def _on_lane0(self, stored: Stored) -> None:
        if self.up and self.region.up and self.link.up:
            self.context.run(asyncio.ensure_future, self._when_running(lambda: self.feeds.on_lane0(stored), self.lives))

    def _on_beat(self, stored: Stored) -> None:
        if self.up and self.region.up and self.link.up:
            self.context.run(asyncio.ensure_future, self._when_running(lambda: self.feeds.on_beat(stored), self.lives))

    async def _when_running(self, give: Any, life: int) -> None:
        await self.running.wait()
        if self.up and self.lives == life:
            await give()

    # --- workers ----------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        for operation in list(self.under_way):
            operation.finish()

    async def _work(self) -> None:
        rng = self.rng
        while True:
            await asyncio.sleep(rng.random() * 0.7)
            if not self.listening:
                continue
            state = self.custodian.state
            if not state.residences:
                continue
            operation = Operation(self, rng.choice(sorted(state.residences)))
            if not operation.begin():
                continue
            self.under_way.add(operation)
            await asyncio.sleep(rng.random() * (0.001 if rng.random() < 0.9 else 0.3))
            if not operation.over:
                operation.compare()
            if not operation.over:  # the answer is not with the kernel yet: a worker may be preempted here, too
                await asyncio.sleep(rng.random() * (0.002 if rng.random() < 0.9 else 0.04))
                operation.finish()


def _ack(e: env.Envelope) -> dict[str, Any]:
    from openkcm.contract import reports

    ack = reports.read(e.tag, e.data)
    assert isinstance(ack, reports.SyncAck)
    return {
        "tenant": ack.tenant, "lane": ack.lane, "epoch": ack.ledger_epoch, "floor": ack.floor,
        "above": list(ack.above), "obeyed": list(ack.obeyed),
    }  # fmt: skip


def _nonce(e: env.Envelope) -> str:
    from openkcm.contract import reports

    check = reports.read(e.tag, e.data)
    assert isinstance(check, reports.HealthCheck)
    return check.nonce


def _boottime_ns() -> int:
    return NODE.get().boottime_ns()


@contextlib.contextmanager
def own_clocks() -> Iterator[None]:
    """Give each node its clock, its reader of mirrors and its mirrors' heads."""
    with contextlib.ExitStack() as stack:
        for module in (reporter_module, gates_module, feeds_module):
            stack.enter_context(mock.patch.object(module, "boottime_ns", _boottime_ns))
        stack.enter_context(mock.patch.object(feeds_module, "LaneReader", Reader))
        stack.enter_context(mock.patch.object(feeds_module, "mirror_head", _mirror_head))
        stack.enter_context(mock.patch.object(feeds_module, "held", _held))
        yield
