"""One crypto node: builds the custodian and its rooms, and runs them until SIGTERM. Decides nothing.

Start, in this order: harden the process; exec the unsealers before there is any key or credential; read the own
database; connect; measure the mirrors; go to the critical head; only then open the listener.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from openkcm import telemetry
from openkcm.bus import beat, declare, lanes, reports
from openkcm.bus.checkpoints import subscribe_checkpoints
from openkcm.bus.connection import Connection, connect
from openkcm.bus.errors import BusError
from openkcm.bus.expiry import Expiry
from openkcm.bus.vault import Vault
from openkcm.contract import logs, resources
from openkcm.contract.envelope import Envelope, encode
from openkcm.contract.fleet import RegionConfiguration
from openkcm.contract.reports import CheckpointCosigned, VaultMark
from openkcm.contract.seal import Signer
from openkcm.contract.tasks import end_tasks
from openkcm.execution import configuration, control, digests, metrics, rows, secretmem
from openkcm.execution.admin import Admin, socket_of
from openkcm.execution.arena import RegionArena
from openkcm.execution.authorities import Trust, in_force
from openkcm.execution.catalogue import Catalogue
from openkcm.execution.cells import KeyArena
from openkcm.execution.clock import BOOT_ID, boottime_ns
from openkcm.execution.counting import Counting
from openkcm.execution.crew import Crew
from openkcm.execution.custodian import Custodian, Rows
from openkcm.execution.desk import Desk
from openkcm.execution.eraser import Eraser
from openkcm.execution.feeds import Feeds
from openkcm.execution.figures import figures
from openkcm.execution.gates import Gates
from openkcm.execution.handouts import HandOuts
from openkcm.execution.hold import MAKE_WAY, Hold
from openkcm.execution.inputs import StrangerMet
from openkcm.execution.keychain import Keychain
from openkcm.execution.known import Known
from openkcm.execution.lines import Lines
from openkcm.execution.mirrored import Kept
from openkcm.execution.outbox import Outbox
from openkcm.execution.reporter import Reporter
from openkcm.execution.residence_state import CLOSED, State, verdict
from openkcm.execution.roots.base import RootSettings
from openkcm.execution.rootwatch import RootWatch
from openkcm.execution.rotation import Rotation
from openkcm.execution.safe import Safe
from openkcm.execution.shredder import Shredder
from openkcm.execution.treewatch import STREAM, TreeWatch
from openkcm.execution.unseal import Unsealer
from openkcm.execution.unseal_probe import Prober
from openkcm.execution.vaultcheck import lost_keys
from openkcm.execution.voice import Voice
from openkcm.projector import ProjectorError, Reader, Writer, migrated, open_reader, open_writer

__all__ = ["run"]

_log: Final = logging.getLogger("openkcm.node")
ALIVE_S: Final = 2.0
ALIVE_EVERY_S: Final = 0.5
FIRST_UNSEALS_S: Final = 5.0
SWITCH_S: Final = 0.0005  # the disk's thread gives the loop its turn so soon; Python's own 5 ms were the kill switch's
WORKLOADS: Final = 8  # words for enrolments, a key slot: residences without keys here have workloads all the same
SPARE_CELLS: Final = 64  # beside one L2 a slot: what is lent while keys are made, unsealed, rewrapped
DIGEST_S: Final = 0.5
MAKE_WAY_S: Final = 20.0  # for an earlier process to end
READY_S: Final = 30.0
VAULT_CHECK_S: Final = float(os.environ.get("OPENKCM_VAULT_CHECK_S", "60"))


def run(config_path: Path, ready_path: Path | None = None, *, take_over: bool = False) -> None:
    """Run the node until SIGTERM or SIGINT, or until the next process takes over.

    Args:
        take_over: Get everything ready beside the process that has the node now, then have it make way.

    Raises:
        ContractError: The configuration does not fit.
        SecretMemoryError: The kernel or its limits do not let keys be kept as required.
    """
    secretmem.bind_now()
    secretmem.harden_process()
    node, region, trust_root = configuration.load(config_path)
    logs.start(node.node)
    sys.setswitchinterval(SWITCH_S)
    import uvloop

    uvloop.run(Node(node, region, trust_root, ready_path).run(take_over=take_over))


class Node:
    """The rooms of one node, wired."""

    def __init__(
        self,
        node: configuration.NodeConfiguration,
        region: RegionConfiguration,
        trust_root: bytes,
        ready_path: Path | None,
    ) -> None:
        self._node, self._region, self._ready_path = node, region, ready_path
        self._trust_root = trust_root
        self._metrics_port = node.metrics.port
        self._stop = asyncio.Event()

    async def run(self, *, take_over: bool = False) -> None:
        """Start everything, serve, stop everything.

        To take over, (1) the keys are unsealed and the workers listen while the earlier process serves; (2) it is
        asked to make way: its workers answer what they were asked, and its custodian obeys to its end; (3) what it
        committed last is read once its lock is ours, and what that closes is closed; (4) then all as at any start.
        """
        node, region = self._node, self._region
        loop = asyncio.get_running_loop()
        hold = Hold(node.database)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        settings = RootSettings(policy=region.roots, regions=region.root_regions)
        unsealer, prober = Unsealer(settings), Prober(settings, lambda seen: watch.observe(seen))  # noqa: PLW0108 -- `watch` is made further down
        unsealer.start()  # before any key or credential is here
        prober.start()
        telemetry.start("openkcm-node", {"service.instance.id": node.node, "openkcm.region": node.region})
        voice = self._own_voice()
        fresh = State(node=node.node, region=node.region, boot_id=BOOT_ID, trust_root=self._trust_root)
        tables = resources.ROOT / "projections" / "node"
        main = await connect(node.nats, name=node.node)
        fast = await connect(node.nats, name=f"{node.node}-lane0")  # no backlog is ever ahead of the signal
        await declare.check(main, declare.declared("region", [region], node=node.node))

        # nobody was asked to end so far: what cannot be is found while the earlier process serves
        if take_over and not migrated(Path(node.database), tables):
            _log.warning("this version changes the node's tables: the earlier process ends before anything is unsealed")
            hold.ask_holder()
            take_over = False
        if not take_over:
            await asyncio.to_thread(hold.take, MAKE_WAY_S)
            database = open_writer(Path(node.database), tables)
        reader = open_reader(Path(node.database))
        known, state = Known(reader), _kept_state(fresh, reader)

        slots = region.limits.key_slots
        arena = RegionArena(slots=slots, workloads=WORKLOADS * slots, require_secretmem=region.require_secretmem)
        cells = KeyArena(cells=slots + SPARE_CELLS, require_secretmem=region.require_secretmem)
        count = node.workers or region.workers or max(1, (os.cpu_count() or 2) - 1)
        crew = Crew(count, arena, node.kmip, region.limits, node.database, require_secretmem=region.require_secretmem)
        gates = Gates(
            arena, cells, crew.drain, unsealer.cancel, lambda enrolment: crew.tell(control.Cut(enrolment)), crew.drained
        )
        disk = ThreadPoolExecutor(1, "disk")

        async def send(e: Envelope) -> None:
            await reports.send(main, e.subject, encode(e), id=e.id, tag=e.tag)

        async def send_health(e: Envelope) -> None:
            await beat.say(main, e.subject, encode(e), id=e.id, tag=e.tag)

        def commit(changed: Rows) -> None:
            database.apply(changed)  # which is open by then

        reporter = Reporter(voice, gates, send, send_health)
        safe = Safe(Vault(main, node.region), voice, node.region, known)
        keychain = Keychain(node.region, lambda: custodian.state, gates, safe, unsealer)
        custodian = Custodian(state, gates, keychain, commit, reporter.acknowledge, disk)
        safe.on_stranger = lambda: custodian.take(StrangerMet())
        if take_over:
            await self._get_ready(custodian, keychain, crew, arena)  # (1)
            hold.ask_holder()  # (2)
            await asyncio.to_thread(hold.take, MAKE_WAY_S)
            database = open_writer(Path(node.database), tables)
            custodian.state = custodian.durable = _kept_state(fresh, database)  # (3)
            for tenant, residence in custodian.state.residences.items():
                if verdict(residence) in CLOSED:
                    gates.close(tenant, verdict(residence))
                gates.withdraw(tenant, residence.floors)
            for log in crew.hand_out_logs():
                log.look_again()
        reporter.custodian = custodian
        reporter.memory = (arena.mode, False)
        catalogue = Catalogue(safe, lambda: custodian.state, database.apply, arena.bump_epoch, disk, known)
        outbox = Outbox(database, disk, lambda tenant, r: voice.report(tenant, r, epoch=custodian.state.epoch), send)

        def knows(tenant: str, registration: str) -> bool:
            residence = custodian.state.residences.get(tenant)
            return residence is not None and registration in residence.systems

        handouts = HandOuts(database, outbox, crew.hand_out_logs, knows, custodian.raise_alarm)
        reporter.before_ack = handouts.flush
        counting = Counting(outbox)
        trust = Trust.read(node.kmip.client_ca)
        desk = Desk(custodian, gates, keychain, catalogue, handouts, counting.add, trust)
        custodian.on_trust = lambda: crew.trust(in_force(custodian.state, trust))
        crew.handler = desk.answer

        def announce_keys(tenant: str) -> None:
            for registration in {r for r, _ in gates.slots(tenant)}:
                crew.tell(desk.keys(tenant, registration))

        keychain.on_keys = announce_keys
        keychain.on_rotation = reporter.on_rotation
        feeds = Feeds(main, custodian, node.node)
        reporter.passages = feeds.passages
        reporter.snapshot = kept_of(reader, custodian)
        expiry = Expiry(node.nats, {"kmip": node.kmip.cert, "kmip-ca": node.kmip.client_ca})
        reporter.expires = expiry.left
        feeds.tell = reporter.tell_digests
        rotation = Rotation(node.region, custodian, gates, keychain, catalogue, reader, reporter.report)
        eraser = Eraser(safe, lambda: custodian.state)
        catalogue.erase_later = eraser.later
        shredder = Shredder(safe, lambda: custodian.state, database, disk, reporter.report)
        tree = self._tree(main, voice, database, disk, custodian, send)
        watch = RootWatch(custodian, keychain, prober, reporter)

        leaving: list[asyncio.Future[None]] = []

        def changed() -> None:
            reporter.workers = lambda: len(crew.pids)
            reporter.memory = (arena.mode, crew.sealed)
            self._write_ready(crew, serving=feeds.at_head.is_set() and crew.ready)

        crew.on_change = changed
        arena.set_alive(boottime_ns() + int(ALIVE_S * 1e9))
        custodian.on_trust()
        if not take_over:
            crew.start()
        loop.add_signal_handler(MAKE_WAY, lambda: leaving.append(asyncio.ensure_future(self._make_way(crew))))
        gc.collect()
        gc.freeze()  # a collection that looked at all the code again would hold a closing gate for 0.1 s
        await feeds.start()
        await lanes.subscribe_lane0(fast, node.region, feeds.on_lane0)
        await beat.subscribe_beats(main, node.region, feeds.on_beat)
        await subscribe_checkpoints(main, node.region, tree.hear)
        server, self._metrics_port = await metrics.serve(
            node.metrics,
            lambda: feeds.at_head.is_set() and crew.serving,
            lambda: figures(custodian, crew, catalogue, arena, keychain.warmth, expiry.left(), eraser.superseded),
        )

        admin = Admin(socket_of(node.database), custodian, gates, keychain, crew, feeds.at_head.is_set, expiry.left)
        await admin.start()

        async def open_at_head() -> None:
            await feeds.at_head.wait()
            for tenant in custodian.state.residences:
                custodian.affirm(tenant)
            unsealing = [custodian.settled(t) for t in custodian.state.residences if custodian.serving(t)]
            with contextlib.suppress(TimeoutError):  # clients are let in when the keys are there, or soon anyway
                await asyncio.wait_for(asyncio.gather(*unsealing), FIRST_UNSEALS_S)
            crew.serve()
            changed()

        def key_record(tenant: str, kind: str) -> None:
            if kind in ("ring", "fence") and tenant in custodian.state.residences:
                custodian.settle(tenant)

        def refused(subject: str) -> None:
            tenant = subject.split(".")[3] if subject.count(".") > 3 else ""
            named = f"{tenant}:" if tenant in custodian.state.residences else ""
            custodian.raise_alarm(f"{named}vault-record-refused")

        catalogue.on_key_record, catalogue.on_refused = key_record, refused
        reporter.vault = lambda: VaultMark(cursor=known.cursor, digest=known.digest)
        await self._until_stopped(
            custodian.run(),
            self._alive(arena),
            feeds.lane("critical"),
            feeds.lane("routine"),
            feeds.vault(known.cursor, catalogue.take),
            reporter.health(),
            watch.run(),
            tree.run(),
            rotation.run(),
            shredder.run(),
            eraser.run(),
            crew.watch(),
            self._look_after_vault(safe, custodian),
            counting.run(),
            handouts.run(),
            expiry.watch(),
            open_at_head(),
        )
        await tree.close()
        for tenant in custodian.state.residences:
            gates.close(tenant, "expired")
        await crew.stop()
        await counting.flush()
        await handouts.flush()
        server.close()
        admin.close()
        prober.close()
        unsealer.close()
        for connection in (fast, main):
            await connection.close()
        disk.shutdown()
        reader.close()
        database.close()
        hold.close()
        telemetry.stop()

    @staticmethod
    async def _get_ready(custodian: Custodian, keychain: Keychain, crew: Crew, arena: RegionArena) -> None:
        """Have workers, keys and listeners ready; nothing is served, nothing is committed, nobody is told."""
        arena.set_alive(boottime_ns() + int(READY_S * 1e9))
        crew.start()
        serving = [t for t in custodian.state.residences if custodian.serving(t)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                found = await asyncio.gather(*(keychain.provision(t) for t in serving), return_exceptions=True)
                bad = {t: f for t, f in zip(serving, found, strict=True) if isinstance(f, BaseException) or f[0]}
                if bad:
                    _log.warning("not unsealed before the take-over: %s", bad)
        async with asyncio.timeout(READY_S):
            await crew.listen()

    async def _make_way(self, crew: Crew) -> None:
        """Let the workers finish; the custodian obeys and renews until they have, and ends after them."""
        _log.info("making way: no connection is accepted any more")
        await crew.leave()
        self._stop.set()

    def _tree(
        self,
        connection: Connection,
        voice: Voice,
        database: Writer,
        disk: Executor,
        custodian: Custodian,
        send: Callable[[Envelope], Awaitable[None]],
    ) -> TreeWatch:
        kept = [msgspec.json.decode(body, type=Kept) for (body,) in database.rows("SELECT body FROM mirror_tree")]

        async def keep(what: list[rows.Named]) -> None:
            await asyncio.get_running_loop().run_in_executor(disk, database.apply, what)

        async def cosigned(report: CheckpointCosigned) -> None:
            await send(voice.report(None, report, epoch=custodian.state.epoch))

        return TreeWatch(
            lanes.LaneReader(connection, STREAM, f"{self._node.node}-tree"), voice.signer, kept[0] if kept else Kept(),
            state=lambda: custodian.state, take=custodian.take, keep=keep, send=cosigned,
        )  # fmt: skip

    @staticmethod
    async def _look_after_vault(safe: Safe, custodian: Custodian) -> None:
        """Raise an alarm for each key record that is named and not there, twice in a row: rotations move them."""
        before: set[str] = set()
        tidied: set[str] = set()
        losses = Lines(_log, logging.ERROR)
        while True:
            await asyncio.sleep(VAULT_CHECK_S)
            try:
                lost = set(await lost_keys(safe, custodian.state, tidied))
            except BusError as away:
                _log.info("the vault is not checked: %s", away)
                continue
            for one in sorted(lost & before):
                custodian.raise_alarm(f"{one.partition(':')[0]}:vault-record-lost")
                losses.say("the vault has lost a record; restore it while this node still has the key", one)
            before = lost

    def _own_voice(self) -> Voice:
        return Voice(self._node.node, self._node.region, Signer(Path(self._node.seal_seed).read_bytes()))

    async def _until_stopped(self, *work: Coroutine[Any, Any, None]) -> None:
        """Run until told to stop; a task that fails takes the node down (its keys with it), never half of it."""
        tasks = [asyncio.ensure_future(w) for w in work]
        stop = asyncio.ensure_future(self._stop.wait())
        failed = asyncio.ensure_future(asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION))
        await asyncio.wait([stop, failed], return_when=asyncio.FIRST_COMPLETED)
        broken = [t for t in tasks if t.done() and not t.cancelled() and t.exception() is not None]
        await end_tasks((*tasks, stop, failed))
        if broken:
            raise RuntimeError("a part of the node failed; it stops as a whole") from broken[0].exception()

    @staticmethod
    async def _alive(arena: RegionArena) -> None:
        while True:
            arena.set_alive(boottime_ns() + int(ALIVE_S * 1e9))
            await asyncio.sleep(ALIVE_EVERY_S)

    def _write_ready(self, crew: Crew, *, serving: bool) -> None:
        if self._ready_path is None or not serving:
            return
        node = self._node
        facts = {
            "pid": os.getpid(),
            "custodian_pid": os.getpid(),
            "worker_pids": crew.pids,
            "kmip": {"host": node.kmip.host, "port": node.kmip.port},
            "metrics": f"http://{node.metrics.host}:{self._metrics_port}/metrics",
        }
        temporary = self._ready_path.with_suffix(".tmp")
        temporary.write_text(json.dumps(facts))
        temporary.replace(self._ready_path)


def _kept_state(fresh: State, database: Reader) -> State:
    """Return the state that a node's database holds."""
    kept = database.rows("SELECT cursor_routine, cursor_critical, body FROM node")
    return rows.load(fresh, kept[0] if kept else None, [b for (b,) in database.rows("SELECT body FROM residence")])


def kept_of(reader: Reader, custodian: Custodian) -> Callable[[], Awaitable[digests.Snapshot | None]]:
    """Return what reads the digests of our database, off the loop; None when it takes long: a sign of life must not."""
    kept = digests.Kept(reader)
    reading: asyncio.Future[digests.Snapshot | None] | None = None

    async def read() -> digests.Snapshot | None:
        nonlocal reading
        if reading is None or reading.done():
            reading = asyncio.ensure_future(asyncio.to_thread(kept.read, custodian.state.epoch))
        try:
            return await asyncio.wait_for(asyncio.shield(reading), DIGEST_S)
        except (TimeoutError, ProjectorError) as bad:
            _log.warning("no digest of the own database: %s", str(bad) or f"it takes over {DIGEST_S} s")
            return None

    return read
