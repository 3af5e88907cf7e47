"""One CMK at work: reads the ledger and the reports, answers beats, resends, repeats, confirms. Serves no HTTP.

At the start: the streams are as declared; the ledger is not shorter than what this CMK has read of it, and not another
one; everything in it is read before anything is answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, Final

from openkcm.bus import declare
from openkcm.bus.beat import say, subscribe_health
from openkcm.bus.checkpoints import Checkpoints
from openkcm.bus.connection import Connection, connect
from openkcm.bus.errors import BusError
from openkcm.bus.expiry import Expiry
from openkcm.bus.lanes import repeat
from openkcm.bus.ledger import Ledger
from openkcm.bus.messages import Stored
from openkcm.bus.reports import Reports, subscribe_acks
from openkcm.bus.spool import Spool
from openkcm.contract import decrees, resources, seal, subjects
from openkcm.contract.envelope import Actor
from openkcm.contract.errors import ContractError
from openkcm.contract.reports import HealthCheck
from openkcm.contract.tasks import batches, end_tasks
from openkcm.governance import ending, inbox, restored, sealing, snapshot
from openkcm.governance.aggregate import Order
from openkcm.governance.approval import Approval
from openkcm.governance.beat import Beats
from openkcm.governance.configuration import Configuration, ConfigurationError, read_regions
from openkcm.governance.early import Early
from openkcm.governance.errors import GovernanceError
from openkcm.governance.killswitch import KillSwitch
from openkcm.governance.news import Item, News
from openkcm.governance.registry import Recorded, Registry
from openkcm.governance.residence import Residence
from openkcm.governance.telling import Telling
from openkcm.governance.trees import Trees
from openkcm.governance.views import Views
from openkcm.governance.watch import Watch
from openkcm.projector import open_reader, open_writer
from openkcm.projector.heads import head_of
from openkcm.projector.ledger import Applied, Projection

__all__ = ["ITSELF", "Cmk", "open_cmk"]

log = logging.getLogger(__name__)
BATCH: Final = 500
TURN: Final = 100  # events taken in at one go while orders come in beside: some 15 ms
BEHIND_S: Final = 1.0  # after a full turn more is likely to come
GIVE_WAY_S: Final = 0.25  # what a revocation under way keeps such a turn waiting at most
REPEAT_S: Final = 1.0
SOON_S: Final = 0.25
DRY_S: Final = 7.0  # so long after its restart the hub may source no reports
TEND_S: Final = 0.5
PROJECTED_TIMEOUT_S: Final = 2.0
#: What governance does of itself: confirmations, expiries.
ITSELF: Final = Actor(issuer="cmk", subject="governance")


class Cmk:
    """Everything the portal needs, made by `open_cmk`."""

    def __init__(self, configuration: Configuration, connection: Connection) -> None:
        self.configuration = configuration
        self.connection = connection
        self.regions = read_regions(Path(configuration.regions))
        self.ledger = Ledger(connection)
        path = Path(configuration.registry)
        self.writer = open_writer(path, resources.ROOT / "projections" / "cmk")
        self.projection = Projection(self.writer, configuration.trust_root)
        signer = sealing.signer_of(Path(configuration.signing_seed), self.projection.signing_keys)
        self.views = Views(open_reader(path))
        self.trees = Trees(Checkpoints(connection), self.views.reader, configuration.trust_root)
        self.watch = Watch(self.views)
        self.telling = Telling(connection, self.views, self.watch, self.projection, lambda: self.beats)
        self.registry = Registry(
            self.ledger, signer, configuration.trust_root, projection=self.projection,
            verified=self.views.verified, ignorant=self.watch.ignorant,
        )  # fmt: skip
        self.switch = KillSwitch(
            self.registry, Spool(Path(configuration.spool)), connected=lambda: connection.is_connected,
            on_recorded=self._on_recorded,
        )  # fmt: skip
        self.watch.alone, self.watch.spooled_for_s = configuration.alone, self.switch.spooled_for_s
        self.news = News()
        portal = configuration.tls
        self.expiry = Expiry(configuration.nats, {"portal": portal.cert} if portal else {})
        self.beats = Beats(
            self.ledger, signer, node_keys=self.node_keys,
            epoch=lambda: self.projection.epoch, heard=self._on_health, send=self._send_beat,
            withheld=self.switch.withheld,
        )  # fmt: skip
        self.keys_changed = asyncio.Event()
        self.settled_key: str | None = None
        self.early = Early()
        self.dropped_reports = 0
        self._node_keys: dict[str, tuple[str, str, bytes]] | None = None
        self._grown = asyncio.Event()
        self._behind_until = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._end_hearing: list[Any] = []
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # --- start and end ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Check, catch up, and go to work.

        Raises:
            ConfigurationError: The ledger is not the one this CMK knows.
            BusError: Streams differ from the declared ones, or the bus does not answer.
        """
        if self.configuration.check_streams:
            wanted = declare.declared("ledger", list(self.regions.values()))
            await declare.check(self.connection, wanted, skip_refused=True)
        state = await self.ledger.info()
        await self._check_mark(state.last)
        if state.deleted or (state.messages and state.last - state.first + 1 != state.messages):
            raise ConfigurationError("the ledger has gaps in its sequences: it must be restored before it is served")
        batch: list[Stored] = []
        async for stored in self.ledger.read_all(after=self.projection.cursor, until=state.last):
            batch.append(stored)
            if len(batch) >= BATCH:
                await self._project(batch)
                batch = []
        await self._project(batch)
        self.seal_with(sealing.signer_of(Path(self.configuration.signing_seed), self.projection.signing_keys))
        self.keys_changed.set()
        if self.signer.key_id not in self.projection.signing_keys:
            log.error("the ledger does not (yet) know this CMK's signing key %s", self.signer.key_id)
        self._end_hearing.append(await subscribe_health(self.connection, self._hear_health))
        self._end_hearing.append(await subscribe_acks(self.connection, self.early.hear))
        for work in (
            self._follow_ledger(), self._follow_reports(), self._take_in_early(), self.switch.resend(), self._repeat(),
            self._tend(), self.expiry.watch(),
            sealing.follow(self),
        ):  # fmt: skip
            self._spawn(work)
        self._serve_regions(self.regions)

    def _serve_regions(self, regions: Iterable[str]) -> None:
        for region in regions:
            self.beats.join(region, head_of(self.views.reader, region))
            self._spawn(self.beats.follow(region))
            self._spawn(self.beats.answer(region))

    def reload_regions(self) -> None:
        """Read the regions' configuration again: new ones are served from now on, the others as they now say.

        A configuration that cannot be read changes nothing and is logged. What is gone gets no beats after a restart.
        """
        try:
            found = read_regions(Path(self.configuration.regions))
        except ConfigurationError as bad:
            log.error("the regions stay as they are: %s", bad)  # noqa: TRY400 -- its own words say enough
            return
        new = found.keys() - self.regions.keys()
        self.regions.clear()
        self.regions.update(found)
        self._serve_regions(sorted(new - self.beats.chains.keys()))
        log.info("regions: %s", ", ".join(found))

    async def close(self) -> None:
        """Stop work, close the files and the connection."""
        self.news.close()
        await end_tasks(self._tasks)
        await self.telling.close()
        for end in self._end_hearing:
            await end()
        await self.connection.close()
        self.views.reader.close()
        self.writer.close()
        if not self.failed.done():
            self.failed.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.append(task)

        def ended(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and done.exception() is not None and not self.failed.done():
                self.failed.set_exception(done.exception())  # type: ignore[arg-type]  # not None, see above

        task.add_done_callback(ended)

    async def _check_mark(self, last: int) -> None:
        if last < self.projection.cursor:
            raise ConfigurationError(
                f"the ledger ends at {last}, but this CMK has read it up to {self.projection.cursor}: "
                "it lost its tail or is another one. Restore the ledger; nothing is served from a shorter one"
            )
        known = self.views.reader.rows("SELECT sequence, subject, id FROM event ORDER BY sequence DESC LIMIT 1")
        for sequence, subject, id_ in known:
            found = await self.ledger.read(subject, after=sequence - 1, limit=1)
            if not found or (found[0].sequence, found[0].id) != (sequence, id_):
                raise ConfigurationError(f"the ledger holds at {sequence} another event than this CMK has read there")

    @property
    def signer(self) -> seal.Signer:
        """The key that this CMK seals with now."""
        return self.registry.signer

    def seal_with(self, signer: seal.Signer) -> None:
        """Seal with this key from now on."""
        self.registry.signer = self.beats.signer = signer

    # --- reading ----------------------------------------------------------------------------------------------------

    async def projected(self, sequence: int) -> None:
        """Return when the read model has come to a sequence, or after a short while without it."""
        deadline = time.monotonic() + PROJECTED_TIMEOUT_S
        while self.projection.cursor < sequence and (left := deadline - time.monotonic()) > 0:
            self._grown.clear()
            try:
                await asyncio.wait_for(self._grown.wait(), left)
            except TimeoutError:
                return

    def node_keys(self) -> dict[str, tuple[str, str, bytes]]:
        """Return (node, region, public key) of each enrolled node by its key's name."""
        if self._node_keys is None:
            self._node_keys = self.views.node_keys()
        return self._node_keys

    async def _follow_ledger(self) -> None:
        async for batch in batches(self.ledger.follow(after=self.projection.cursor), TURN):
            began = time.monotonic()
            await self._project(batch)
            if len(batch) == TURN:  # leave the processor to orders for as long as that took
                self._behind_until = time.monotonic() + BEHIND_S
                await asyncio.sleep(time.monotonic() - began)
                await self.switch.give_way(GIVE_WAY_S)

    async def _project(self, batch: list[Stored]) -> None:
        if not batch:
            return
        restored.check_epoch(self.projection.cursor, batch[0].sequence)
        applied = await asyncio.to_thread(self.projection.apply, batch)
        self.watch.saw(applied)
        self.telling.facts.touched(applied)
        self._node_keys = None
        self._grown.set()
        for one in applied:
            self._tell(one)
        if any(isinstance(one.decree, decrees.SigningKeyRotated) for one in applied):
            self.keys_changed.set()

    def _tell(self, one: Applied) -> None:
        if one.fault is not None:
            log.warning("event at %d not taken in: %s on %s", one.sequence, one.fault, one.subject)
        if one.where is None or one.envelope is None:
            return
        self.news.tell(
            Item(
                kind="event", tenant=one.where.tenant, region=one.where.region, event=one.envelope.name,
                priority=one.envelope.priority, sequence=one.sequence, at_ms=one.envelope.at_ms,
            )
        )  # fmt: skip

    async def _follow_reports(self) -> None:
        async for batch in batches(Reports(self.connection).follow(after=self.views.report_cursor()), BATCH):
            for message in batch:
                self.early.brought(message)
            await self._take_in(batch, ("report_cursor", {"sequence": batch[-1].sequence}))

    async def _take_in_early(self) -> None:
        async for overdue in self.early.overdue():
            await self._take_in(overdue)

    async def _take_in(self, batch: list[Stored], *more: inbox.Row) -> None:
        rows: list[Any] = []
        told: list[inbox.Heard] = []
        for message in batch:
            heard = await self._hear(message)
            await asyncio.sleep(0)  # each is a seal to verify; an order goes first
            if heard is not None:
                inbox.note(heard, message.trace)
                rows += inbox.rows_of(heard)
                told.append(heard)
        await asyncio.to_thread(self.writer.apply, [*rows, *more], synced=False)  # with the cursor: the stream has them
        for heard in told:
            self.news.tell(Item(kind="sync", tenant=heard.tenant, region=heard.region, node=heard.node))
        if any(inbox.may_confirm(heard) for heard in told):
            await self._confirm()

    async def _hear(self, message: Stored) -> inbox.Heard | None:
        try:
            try:
                return inbox.hear(message, self.node_keys())
            except inbox.UnknownNode:  # its enrolment may be in what we have not read yet
                await self.projected((await self.ledger.info()).last)
                return inbox.hear(message, self.node_keys())
        except (ContractError, inbox.UnknownNode, BusError) as bad:
            self.dropped_reports += 1
            log.warning("dropped a report on %s: %s", message.subject, bad)
            return None

    # --- nodes ------------------------------------------------------------------------------------------------------

    async def _hear_health(self, stored: Stored) -> None:
        self.beats.on_health(stored.subject, stored.body)

    def _on_health(self, check: HealthCheck) -> None:
        self.telling.heard(check)
        if self.watch.heard(check, self.registry.now_ms):
            self.news.tell(Item(kind="health", tenant="_", region=check.region, node=check.node))

    async def _send_beat(self, region: str, body: bytes, id_: str, tag: str) -> None:
        await say(self.connection, subjects.beat(region), body, id=id_, tag=tag)

    def _on_recorded(self, recorded: Recorded) -> None:
        self.watch.recorded(recorded.event)
        self.beats.recorded(subjects.parse_decree(recorded.subject).region, recorded.sequence)

    async def _repeat(self) -> None:
        """Repeat unacknowledged critical decrees on lane0, every second.

        After the hub was away more often, and the newest routine ones with them: a node that has obeyed says so again,
        past a stream that is not sourced yet (ADR 0060).
        """
        times, until = -1, 0.0
        while True:
            if times != self.connection.reconnects:
                times, until = self.connection.reconnects, time.monotonic() + DRY_S
            dry = time.monotonic() < until
            await asyncio.sleep(SOON_S if dry else REPEAT_S)
            if not self.connection.is_connected:
                continue
            again = self.watch.unacknowledged()
            for sequence, id_, subject, tag, body in [*again, *self.watch.unacknowledged_lately()] if dry else again:
                try:
                    await repeat(self.connection, Stored(sequence, subject, body, id_), tag=tag)
                except BusError as away:
                    log.info("could not repeat %s: %s", id_, away)

    # --- of itself --------------------------------------------------------------------------------------------------

    def own_order(self, tenant: str, command: str, key: str) -> Order:
        """Return an order of governance itself; the same key is the same event, whichever CMK gives it."""
        correlation = str(uuid.uuid5(uuid.NAMESPACE_URL, f"openkcm:{tenant}/{command}/{key}"))
        return Order(
            tenant=tenant, actor=ITSELF, command=command, key=key, correlation=correlation, at_ms=self.registry.now_ms
        )

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(TEND_S)
            await self._confirm()
            await self._expire()
            await ending.conclude(self)

    async def _confirm(self) -> None:
        if time.monotonic() < self._behind_until:  # it would be read, and shown, after all that is still to be read
            return
        for tenant, region, decree in self.watch.confirmations_due():
            where = subjects.residence_aggregate(region, tenant)
            order = self.own_order(tenant, "ConfirmRevocation", decree.revocation)
            try:
                done = await self.registry.execute(where, Residence, order, lambda r, x=decree: r.confirm(x))  # type: ignore[misc]
                for one in done:
                    await self.projected(one.sequence)
            except GovernanceError as bad:
                log.info("a revocation of %s in %s is not confirmed yet: %s", tenant, region, bad)

    async def _expire(self) -> None:
        for tenant, approval in self.views.overdue_approvals(self.registry.now_ms):
            order = self.own_order(tenant, "ExpireApproval", approval)
            try:
                await self.registry.execute(
                    subjects.approval_aggregate(tenant, approval), Approval, order, lambda a: a.expire()
                )
            except GovernanceError as bad:
                log.info("approval %s is not closed yet: %s", approval, bad)


async def open_cmk(configuration: Configuration) -> Cmk:
    """Connect and start a CMK.

    Raises:
        ConfigurationError, BusError, OSError: It cannot start; nothing is left running.
    """
    connection = await connect(configuration.nats, name="cmk")
    registry, ledger, checkpoints = Path(configuration.registry), Ledger(connection), Checkpoints(connection)
    try:
        await restored.make_way(registry, ledger, checkpoints, configuration.trust_root)
        from_snapshot = await snapshot.install(registry, ledger, checkpoints, configuration.trust_root)
        cmk = Cmk(configuration, connection)
    except BaseException:
        await connection.close()
        raise
    why: object = None
    try:
        await cmk.start()
        if from_snapshot:  # its trees have grown to what was signed last: what was signed must be in them
            why = await restored.contradictions(registry, checkpoints, configuration.trust_root)
    except ConfigurationError as bad:
        if not from_snapshot:
            await cmk.close()
            raise
        why = bad
    except BaseException:
        await cmk.close()
        raise
    if not why:
        return cmk
    await cmk.close()
    snapshot.refuse(registry, str(why))
    restored.put_aside(registry, "refused")
    return await open_cmk(configuration)
