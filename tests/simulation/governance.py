"""One simulated CMK: the production registry, aggregates, kill switch, beats, watch and pending rules over a simulated
hub. Its read model is a fold in memory that answers what `governance.views` answers from SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import types
from collections.abc import Callable, Coroutine
from typing import Any

from openkcm.bus.errors import BusError, Unavailable
from openkcm.bus.messages import Stored
from openkcm.bus.spool import Spooled
from openkcm.contract import decrees as d
from openkcm.contract import digest as canon
from openkcm.contract import envelope as env
from openkcm.contract import reports, seal, subjects
from openkcm.contract.errors import ContractError
from openkcm.contract.reports import HealthCheck, ResidenceDigest
from openkcm.governance import inbox
from openkcm.governance.aggregate import Order
from openkcm.governance.beat import Beats
from openkcm.governance.drift import Drift, Told
from openkcm.governance.errors import GovernanceError
from openkcm.governance.killswitch import KillSwitch
from openkcm.governance.node_views import Decreed
from openkcm.governance.pending import Ack
from openkcm.governance.registry import Recorded, Registry
from openkcm.governance.residence import Residence
from openkcm.governance.residence_facts import RULES, ResidenceFacts
from openkcm.governance.watch import Watch
from openkcm.projector.ledger import Applied
from simulation.history import History
from simulation.network import Hub, Ledger, Link, Region

SETTLED = ("Revoked", "RevokedByLease")


class Spool:
    """`bus.spool.Spool` in memory that outlives the CMK's process."""

    def __init__(self) -> None:
        self.kept: dict[str, Spooled] = {}

    def __len__(self) -> int:
        return len(self.kept)

    def get(self, id_: str) -> Spooled | None:
        return self.kept.get(id_)

    def entries(self) -> list[Spooled]:
        return list(self.kept.values())

    def put(self, *messages: Spooled) -> None:
        for message in messages:
            self.kept.setdefault(message.id, message)

    def remove(self, id_: str) -> None:
        self.kept.pop(id_, None)


class Fold:
    """What of the ledger a CMK has read: `projector.Projection` and `governance.Views` in one, as far as asked here."""

    def __init__(self, trust_root: bytes) -> None:
        self.trust = {seal.key_id(trust_root): trust_root}
        self.cursor, self.epoch = 0, 0
        self.keys: dict[str, tuple[bytes, int | None]] = {}
        self.node_rows: list[tuple[str, str, str, bytes, int]] = []
        self.removed: list[tuple[str, int]] = []
        self.marks: dict[tuple[str, int], int] = {}
        self.ordered: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        self.facts: dict[tuple[str, str], ResidenceFacts] = {}
        self.routines: list[tuple[Stored, env.Envelope]] = []
        self.last: dict[tuple[str, str], int] = {}
        self.confirmed: dict[str, str] = {}
        self.criticals: list[tuple[Stored, env.Envelope]] = []
        self.said: dict[tuple[str, str, str], dict[tuple[str, int], tuple[reports.SyncAck, bytes]]] = {}

    @property
    def signing_keys(self) -> dict[str, bytes]:
        return self.keys_at(1 << 62)

    def keys_at(self, sequence: int) -> dict[str, bytes]:
        return {k: p for k, (p, at) in self.keys.items() if at is None or sequence < at}

    def apply(self, m: Stored) -> Applied | None:
        self.cursor = m.sequence
        try:
            e = env.decode(m.body)
            where = subjects.parse_decree(m.subject)
            kind = d.DECREES[e.tag]
            by_root = kind.decree in d.TRUST_ROOT_DECREES
            env.verify(e, m.subject, self.trust if by_root else self.keys_at(m.sequence))
            decree = d.read(e.tag, e.data)
        except (ContractError, KeyError):
            return None
        mark = self.marks.get((m.subject, e.epoch), 0)
        if e.counter <= mark or (where.lane == "routine" and e.counter != mark + 1):
            return None
        self.marks[m.subject, e.epoch] = e.counter
        self.last[where.region, where.lane] = m.sequence
        self._take(m, e, decree, (where.tenant, where.region))
        return Applied(m.sequence, m.subject, where, e, decree)

    def _take(self, m: Stored, e: env.Envelope, decree: d.Decree, residence: tuple[str, str]) -> None:
        if type(decree) in RULES and residence[1] in m.subject and ".residence." in m.subject:
            facts = self.facts.setdefault(residence, ResidenceFacts(*residence))
            at = types.SimpleNamespace(epoch=e.epoch, counter=e.counter, event=e.id)
            self.facts[residence] = RULES[type(decree)](facts, decree, at)  # type: ignore[arg-type]
        if ".residence." in m.subject:
            (self.criticals if ".critical." in m.subject else self.routines).append((m, e))
        match decree:
            case d.LedgerOpened():
                self.epoch = max(self.epoch, decree.epoch)
            case d.SigningKeyRotated():
                self.keys.setdefault(decree.key, (decree.public_key, None))
                for key in decree.retires:
                    if key in self.keys:
                        self.keys[key] = (self.keys[key][0], m.sequence)
            case d.NodeEnrolled():
                self.node_rows.append((decree.node, decree.region, decree.key, decree.public_key, m.sequence))
            case d.NodeRemoved():
                self.removed.append((decree.node, m.sequence))
            case d.TenantConfigurationUpdated() if self.facts[residence].configuration is decree:
                self.ordered.setdefault(residence, []).append((e.epoch, e.counter, decree.lease_s))
            case d.RevocationConfirmed():
                self.confirmed[decree.revocation] = decree.outcome

    # --- as `Views` -------------------------------------------------------------------------------------------------

    def nodes(self, region: str | None = None) -> list[tuple[str, str, int | None]]:
        return [
            (n, r, min((s for who, s in self.removed if who == n and s > at), default=None))
            for n, r, _, _, at in self.node_rows if region in (None, r)
        ]  # fmt: skip

    def enrolled(self, region: str) -> list[str]:
        return sorted({n for n, _, removed in self.nodes(region) if removed is None})

    def node_keys(self) -> dict[str, tuple[str, str, bytes]]:
        gone = {(n, r) for n, r, removed in self.nodes() if removed is not None}
        return {k: (n, r, p) for n, r, k, p, _ in self.node_rows if (n, r) not in gone}

    def acks(self, tenant: str, region: str, lane: str) -> dict[str, Ack]:
        said = self.said.get((tenant, region, lane), {})
        acks: dict[str, Ack] = {}
        for (n, epoch), (a, _) in sorted(said.items(), key=lambda x: x[0][1]):
            before = acks.get(n)
            older = {} if before is None else {**before.older, before.epoch: (before.floor, before.above)}
            acks[n] = Ack(n, epoch, a.floor, a.above, a.lease_s, a.failure, older)
        return acks

    def ack_bodies(self, tenant: str, region: str, epoch: int) -> dict[str, bytes]:
        said = self.said.get((tenant, region, "critical"), {})
        return {n: body for (n, e), (_, body) in said.items() if e == epoch}

    def leases(self, tenant: str, region: str) -> list[tuple[int, int, int]]:
        return sorted(self.ordered.get((tenant, region), []))

    def state(self, tenant: str, region: str) -> dict[str, Any] | None:
        out = {}
        for lane, name in (("routine", "generation"), ("critical", "fence")):
            subject = str(subjects.residence_aggregate(region, tenant, lane))  # type: ignore[arg-type]
            newest = max(((e, c) for (s, e), c in self.marks.items() if s == subject), default=(0, 0))
            out[f"{lane}_epoch"], out[name] = newest
        return out

    def open_revocations(self, tenant: str | None = None, region: str | None = None) -> list[dict[str, Any]]:
        return [
            {
                "tenant": t, "region": r, "epoch": x.epoch, "fence": x.fence, "event": x.event,
                "outcome": self.confirmed.get(x.event),
            }
            for (t, r), facts in sorted(self.facts.items()) for x in facts.open_revocations
            if tenant in (None, t) and region in (None, r)
        ]  # fmt: skip

    def digests(self, region: str) -> dict[str, ResidenceDigest]:
        """As `governance.ledger_facts` reads them from SQL."""
        return {t: _digest(f, self) for (t, r), f in self.facts.items() if r == region}

    def behind(self, region: str, cursor: tuple[int, int]) -> bool:
        return any(
            self.last.get((where, lane), 0) > at
            for where in (region, "global") for lane, at in zip(("routine", "critical"), cursor, strict=True)
        )  # fmt: skip

    def critical_waiting(self) -> list[tuple[str, str, int, int]]:
        newest: dict[tuple[str, str], tuple[int, int]] = {}
        for _, e in self.criticals:
            where = subjects.parse_decree(e.subject)
            key = (where.tenant, where.region)
            newest[key] = max(newest.get(key, (0, 0)), (e.epoch, e.counter))
        return [(t, r, e, c) for (t, r), (e, c) in newest.items()]

    def lately(self) -> dict[tuple[str, str], tuple[int, int, Decreed]]:
        found: dict[tuple[str, str], tuple[int, int, Decreed]] = {}
        for m, e in self.routines[-64:]:
            where = subjects.parse_decree(e.subject)
            if where.kind == "residence":
                found[where.tenant, where.region] = (e.epoch, e.counter, (m.sequence, e.id, m.subject, e.tag, m.body))
        return found

    def above(
        self, tenant: str, region: str, lane: Any, epoch: int, counter: int
    ) -> list[tuple[int, str, str, str, bytes]]:
        subject = str(subjects.residence_aggregate(region, tenant, lane))
        events = {"critical": self.criticals, "routine": self.routines}[lane]
        found = [(m, e) for m, e in events if (e.subject, e.epoch) == (subject, epoch) and e.counter > counter]
        share = found[-16:] if lane == "critical" else found[:64]
        return [(m.sequence, e.id, m.subject, e.tag, m.body) for m, e in share]


def _digest(f: ResidenceFacts, fold: Fold) -> ResidenceDigest:
    def counter(lane: Any) -> int:
        return fold.marks.get((str(subjects.residence_aggregate(f.region, f.tenant, lane)), fold.epoch), 0)

    x, root = f.configuration, f.root
    told = canon.Facts(
        tenant=f.tenant, generation=counter("routine"), fence=counter("critical"),
        configuration=None if x is None else (x.lease_s, x.hand_out, x.max_objects),
        approvers=None if f.approvers_hash is None else (f.approvers_version, f.approvers_hash),
        root=None if root is None else (root.provider, root.ref, root.credential),
        systems=tuple((known, f.systems[known], None) for known in sorted(f.systems)),  # none orders a policy here
        workloads=tuple(sorted(
            (w.enrolment, w.workload, w.system, w.registration, w.fingerprint, w.spiffe, w.authority) for w in f.workloads.values()
        )),
        suspended=f.suspended, removed=tuple(sorted(f.removed)),
        revocations=tuple(sorted((e, fence, event) for e, (fence, event) in f.revocations.items())),
        lifted=tuple(sorted(f.lifted)), destroyed=f.destroyed,
    )  # fmt: skip
    return ResidenceDigest(tenant=f.tenant, generation=told.generation, fence=told.fence, digest=canon.digest(told))


class Cmk:
    """A CMK over its lives."""

    def __init__(
        self, name: str, hub: Hub, regions: dict[str, Region], signer: seal.Signer, trust_root: bytes,
        rng: random.Random, history: History,
    ) -> None:  # fmt: skip
        self.name, self.hub, self.regions, self.signer, self.trust_root = name, hub, regions, signer, trust_root
        self.rng, self.history = rng, history
        self.link = Link(rng)
        self.spool = Spool()
        self.drift = 1.0 + rng.uniform(-4e-4, 4e-4)
        self.up = self.serving = False
        self.health = False
        self.tasks: list[asyncio.Task[Any]] = []
        self.shown: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.refused_to_start = ""
        self.alone = True

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() * self.drift

    def start(self) -> None:
        assert not self.up
        self.up, self.serving = True, False
        self.fold = Fold(self.trust_root)
        self.ledger = Ledger(self.hub, self.link)
        self.watch = Watch(self.fold, monotonic=self.monotonic)  # type: ignore[arg-type]
        self.registry = Registry(
            self.ledger, self.signer, self.trust_root, projection=self.fold, ignorant=self.watch.ignorant,  # type: ignore[arg-type]
            now_ms=lambda: int(asyncio.get_running_loop().time() * 1000),
        )  # fmt: skip
        self.switch = KillSwitch(
            self.registry,
            self.spool,
            connected=lambda: self.hub.up and self.link.up,
            on_recorded=self._recorded,  # type: ignore[arg-type]
            monotonic=self.monotonic,
        )
        self.watch.alone, self.watch.spooled_for_s = self.alone, self.switch.spooled_for_s
        self.beats = Beats(
            self.ledger, self.signer, node_keys=self.fold.node_keys,  # type: ignore[arg-type]
            epoch=lambda: self.fold.epoch, heard=self._heard, send=self._send_beat,
            withheld=self.switch.withheld,
        )  # fmt: skip
        self.comparison = Drift(
            self.fold, epoch=lambda: self.fold.epoch, read_to=lambda: self.fold.cursor, behind=self.fold.behind,
            monotonic=self.monotonic,
        )  # fmt: skip
        for region in self.regions:
            self.beats.join(region)
        self.report_cursor = 0
        self.shown = {}
        self.tasks = []
        self._spawn(self._follow())

    def _spawn(self, *works: Coroutine[Any, Any, None]) -> None:
        for work in works:
            task = asyncio.ensure_future(work)
            task.add_done_callback(self._ended)
            self.tasks.append(task)

    def _serve(self) -> None:
        """As the real one: not before the ledger is read to where it ended at the start."""
        self.serving = True
        self._spawn(
            self._follow_reports(), self.switch.resend(), self._repeat(), self._tend(),
            *(self.beats.follow(r) for r in self.regions), *(self.beats.answer(r) for r in self.regions),
        )  # fmt: skip

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.history.add("failed", node=self.name, why=repr(task.exception()))

    def kill(self) -> None:
        if self.up:
            self.up = self.serving = False
            for task in self.tasks:
                task.cancel()
            self.history.add("kill", node=self.name)

    # --- the production service's loops, in short -------------------------------------------------------------------

    async def _follow(self) -> None:
        end = self.hub.last
        async for m in self.ledger.follow(after=0):
            applied = self.fold.apply(m)
            if applied is not None:
                self.watch.saw([applied])
            if not self.serving and m.sequence >= end:
                self._serve()

    async def _follow_reports(self) -> None:
        while True:
            grown = self.hub.grown
            if not (self.hub.up and self.link.up):
                await asyncio.sleep(0.3)
                continue
            new = self.hub.reports[self.report_cursor :]
            for m in new:
                self.report_cursor += 1
                await asyncio.sleep(self.link.delay() / 4)
                with contextlib.suppress(ContractError, inbox.UnknownNode):
                    self._take(inbox.hear(m, self.fold.node_keys()))
            if not new:
                await grown.wait()

    def _take(self, heard: inbox.Heard) -> None:
        if isinstance(heard.report, reports.SyncAck):
            said = self.fold.said.setdefault((heard.tenant, heard.region, heard.report.lane), {})
            key = heard.node, heard.report.ledger_epoch
            if key not in said or said[key][0].floor <= heard.report.floor:
                said[key] = (heard.report, heard.body)

    def on_health(self, m: Stored) -> None:
        if self.serving and self.hub.up and self.link.up:
            self.beats.on_health(m.subject, m.body)

    def _heard(self, check: HealthCheck) -> None:
        self.watch.heard(check, 0)
        told = self.comparison.heard(check)
        if told is not None:
            self.tasks.append(asyncio.ensure_future(self._tell_again(told)))

    async def _tell_again(self, told: Told) -> None:
        where = told.question.region
        with contextlib.suppress(BusError):
            await self.beats.ask(told.question)
            for tenant, generation, _ in told.again:
                for lane, above in (("critical", 0), ("routine", generation)):
                    for decree in self.fold.above(tenant, where, lane, told.question.ledger_epoch, above):
                        self.regions[where].again(Stored(decree[0], decree[2], decree[4], decree[1]))

    async def _send_beat(self, region: str, body: bytes, id_: str, tag: str) -> None:
        if not (self.hub.up and self.link.up):
            raise Unavailable("no hub")
        self.regions[region].beat(Stored(0, subjects.beat(region), body, id_))
        if tag == reports.RECHECK_TAG:
            return
        beat = reports.read_beat(tag, env.decode(body).data)
        self.history.add("beat", cmk=self.name, region=region, nonces=list(beat.nonces), head=beat.head.sequence,
                         withheld=list(getattr(beat, "withheld", ())))  # fmt: skip

    def _recorded(self, recorded: Recorded) -> None:
        self.watch.recorded(recorded.event)
        self.beats.recorded(subjects.parse_decree(recorded.subject).region, recorded.sequence)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if not (self.hub.up and self.link.up):
                continue
            for sequence, id_, subject, _, body in self.watch.unacknowledged() + self.watch.unacknowledged_lately():
                for region in self.regions.values():
                    region.republish(Stored(sequence, subject, body, id_))

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.look()
            for tenant, region, decree in self.watch.confirmations_due():
                where = subjects.residence_aggregate(region, tenant)
                with contextlib.suppress(GovernanceError, BusError):
                    await self.registry.execute(
                        where, Residence, self.order(tenant, "ConfirmRevocation", decree.revocation),
                        lambda r, x=decree: r.confirm(x),  # type: ignore[misc]
                    )  # fmt: skip

    def _spooled(self, tenant: str, region: str) -> list[str]:
        """Revocations that wait here and are promised a T: another CMK's beats know nothing of them (ADR 0054)."""
        where = str(subjects.residence_aggregate(region, tenant, "critical"))
        return sorted(s.id for s in self.spool.entries() if s.subject == where)

    def look(self) -> None:
        """What the portal shows now, written down when it changes."""
        spooled = {k: events for k in self.fold.facts if (events := self._spooled(*k))}
        for tenant, region in sorted({k for k, f in self.fold.facts.items() if f.revocations} | spooled.keys()):
            status = self.watch.critical(tenant, region)
            mine = [r for r in self.fold.open_revocations() if (r["tenant"], r["region"]) == (tenant, region)]
            events = sorted(r["event"] for r in mine) or spooled.get((tenant, region), [])
            certain = None if status.certain_in_s is None else asyncio.get_running_loop().time() + status.certain_in_s
            said = (status.status, tuple(events), tuple(status.waiting_for))
            if self.shown.get((tenant, region)) != said:
                self.shown[tenant, region] = said
                self.history.add(
                    "portal", cmk=self.name, tenant=tenant, region=region, status=status.status, events=events,
                    waiting=list(status.waiting_for), certain_by=None if certain is None else round(certain, 3),
                )  # fmt: skip

    # --- people -----------------------------------------------------------------------------------------------------

    def order(self, tenant: str, command: str, key: str) -> Order:
        import uuid

        actor = env.Actor(issuer="sim", subject="p-admin")
        correlation = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{tenant}/{command}/{key}"))
        return Order(tenant=tenant, actor=actor, command=command, key=key, correlation=correlation, at_ms=1)

    async def do(self, tenant: str, region: str, key: str, decide: Callable[[Residence], Any]) -> list[Recorded]:
        where = subjects.residence_aggregate(region, tenant)
        return await self.registry.execute(where, Residence, self.order(tenant, key, key), decide)
