"""One simulated world: hub, regions, nodes, CMKs, people, and a plan of faults, all from one seed.

`run(seed)` returns what was broken and the history. At the end everything is healed, and it must converge: every node
has what the ledger has, every revocation is acknowledged and shown, and what may be served is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from history_checker import check
from openkcm.bus.errors import BusError, Unavailable
from openkcm.bus.messages import Stored
from openkcm.contract import decrees as d
from openkcm.contract import digest as canon
from openkcm.contract import envelope as env
from openkcm.contract import reports, seal, statements, subjects
from openkcm.execution import digests, rows
from openkcm.execution.residence_state import Mark, verdict
from openkcm.execution.residence_state import Residence as Held
from openkcm.execution.voice import Voice
from openkcm.governance.errors import GovernanceError
from openkcm.governance.residence import Approved, Residence
from simulation.clockwork import cheap_seals, seeded
from simulation.clockwork import run as run_loop
from simulation.governance import SETTLED, Cmk
from simulation.history import History
from simulation.network import Hub, Region
from simulation.node import Node, Roots, own_clocks

EU, US = "eu-frankfurt", "us-virginia"
FEATURES = (
    "kills", "reboots", "pauses", "partitions", "weather", "disk", "vault", "cmk", "hub", "loss", "lying", "forgery",
    "membership", "keys", "leases", "mirrors", "roots", "approvers", "disks", "corruption", "full",
)  # fmt: skip
PLAY_S, HEAL_S = (40.0, 90.0), 75.0
LEASES_S = (30, 40, 60)
WALL_NS = 1_800_000_000_000_000_000  # it stands still: nothing may decide by it (S7)
Act = Callable[[], Awaitable[None]]


class Broken(Exception):
    """The run broke a promise; `args` say which."""


class World:
    """Everything there is."""

    def __init__(self, seed: int, features: Iterable[str] | None = None, play_s: float | None = None) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        rng = self.rng
        self.play_s = rng.choice(PLAY_S) if play_s is None else play_s
        self.features = (
            frozenset(f for f in FEATURES if rng.random() < 0.35) if features is None else frozenset(features)
        )
        self.loop = asyncio.get_running_loop()
        self.history = History(self.loop.time)
        self.root = seal.Signer(b"trust root".ljust(32))
        self.hub = Hub(rng)
        names = (EU, US) if rng.random() < 0.4 else (EU,)
        self.regions = {name: Region(name, self.hub, rng) for name in names}
        self.roots = Roots()
        self.nodes: dict[str, Node] = {}
        for region, count in ((EU, 2), (US, 1)):
            for i in range(count if region in self.regions else 0):
                self.add_node(f"{region}-{i + 1}", region)
        signers = [seal.Signer(f"cmk {i}".encode().ljust(32)) for i in range(2 if rng.random() < 0.5 else 1)]
        self.cmks = [
            Cmk(f"cmk-{i}", self.hub, self.regions, s, self.root.public_key, rng, self.history)
            for i, s in enumerate(signers)
        ]
        for cmk in self.cmks:
            cmk.alone = len(self.cmks) == 1
        for node in self.nodes.values():
            node.hear_health = [c.on_health for c in self.cmks]
        self.tenants = ("acme", "bolt")[: 1 + (rng.random() < 0.6)]
        self.people = {
            t: {f"p-{t}-{n}": seal.Signer(f"{t}{n}".encode().ljust(32)) for n in "abc"} for t in self.tenants
        }
        self.evil = {f"p-evil-{n}": seal.Signer(f"evil{n}".encode().ljust(32)) for n in "ab"}
        self.signed: dict[str, list[str]] = {}
        self.governance = {s.key_id: s.public_key for s in signers}  # every key it ever sealed with
        self.stolen: list[seal.Signer] = []  # retired, and in somebody's hand
        self.void: set[str] = set()  # what they seal: it must never count
        self.count = itertools.count(1)
        self.healed = False
        self.enrolled: dict[str, str] = {}
        self.lost: set[str] = set()
        self.under_way: dict[asyncio.Task[None], None] = {}
        self.problems: list[str] = []
        self.marks: dict[tuple[str, str, str, int], Mark] = {}
        self.hub.on_append.append(self.note)

    def add_node(self, name: str, region: str) -> Node:
        node = Node(
            name, self.regions[region], self.roots, self.root.public_key, seal.Signer(name.encode().ljust(32)), self.rng,
            self.history,
        )  # fmt: skip
        self.nodes[name] = node
        return node

    # --- the record -------------------------------------------------------------------------------------------------

    def note(self, m: Stored) -> None:
        try:
            e = env.decode(m.body)
            where = subjects.parse_decree(m.subject)
            decree = d.read(e.tag, e.data)
            root = type(decree) in d.TRUST_ROOT_DECREES
            env.verify(e, m.subject, {self.root.key_id: self.root.public_key} if root else self.governance)
        except Exception:
            return
        if where.kind == "residence" and not self._counts(e, decree):
            return
        more: dict[str, Any] = {}
        if isinstance(decree, d.AccessRestored):
            more = {"lifts": [x.event for x in decree.lifts], "people": self.signed.get(decree.approval, [])}
        elif isinstance(decree, d.TenantConfigurationUpdated):
            more = {"lease_s": decree.lease_s, "people": self.signed.get(decree.approval or "", [])}
        elif isinstance(decree, d.WorkloadRemoved):
            more = {"ids": list(decree.enrolments)}
        self.history.add(
            "decree", tag=e.name, event=e.id, tenant=where.tenant, region=where.region, lane=where.lane, epoch=e.epoch,
            counter=e.counter, sequence=m.sequence, **more,
        )  # fmt: skip

    # --- authors ----------------------------------------------------------------------------------------------------

    def forge(
        self, decree: d.Decree | None, subject: str, signer: seal.Signer, *, counter: int | None = None,
        epoch: int | None = None, event: str | None = None, tag: str | None = None, raw: bytes | None = None,
    ) -> env.Envelope:  # fmt: skip
        """Seal anything as anybody."""
        epoch = self.hub.epoch if epoch is None else epoch
        if counter is None:
            counter = 1 + max((e.counter for e in self._of(subject) if e.epoch == epoch), default=0)
        lane = subject.split(".")[4]
        e = env.Envelope(
            id=event or str(uuid.uuid4()), tag=tag or d.tag_of(decree), subject=subject, counter=counter, epoch=epoch,  # type: ignore[arg-type]
            actor=env.Actor(issuer="sim", subject="p"), correlation=str(uuid.uuid4()),
            priority="PRIORITY_CRITICAL" if lane == "critical" else "PRIORITY_ROUTINE", at_ms=0, time_source="sim",
            key="0" * 32, data=msgspec.Raw(raw if raw is not None else msgspec.json.encode(decree)),
        )  # fmt: skip
        return env.seal_envelope(e, signer)

    def _of(self, subject: str) -> list[env.Envelope]:
        return [env.decode(m.body) for m in self.hub.ledger if m.subject == subject and m.body.startswith(b"{")]

    def by_root(self, decree: d.Decree) -> None:
        e = self.forge(decree, str(subjects.ledger_aggregate(d.lane_of(decree))), self.root)
        self.hub.store(e.subject, env.encode(e), e.id)

    def enrol(self, node: Node) -> None:
        s = node.signer
        self.by_root(d.NodeEnrolled(node=node.name, region=node.region.name, key=s.key_id, public_key=s.public_key))

    def sign(self, people: dict[str, seal.Signer], words: statements.Statement) -> tuple[statements.Signature, ...]:
        return tuple(
            statements.Signature(person=p, signature=s.sign(words.signed_bytes())) for p, s in sorted(people.items())
        )

    # --- the run ----------------------------------------------------------------------------------------------------

    async def play(self) -> None:
        self.hub.epoch = 1
        self.by_root(d.LedgerOpened(epoch=1, first_sequence=1))
        for cmk in self.cmks:
            self.by_root(d.SigningKeyRotated(key=cmk.signer.key_id, public_key=cmk.signer.public_key))
        for node in list(self.nodes.values()):
            self.enrol(node)
        background = [asyncio.ensure_future(w) for w in self._infrastructure()]
        for background_task in background:
            background_task.add_done_callback(self._ended)
        for cmk in self.cmks:
            cmk.start()
        for node in self.nodes.values():
            node.start()
        await asyncio.sleep(0.5)
        for tenant in self.tenants:
            for region in self.regions:
                await self.onboard(tenant, region)
        await asyncio.sleep(5)
        acts = [asyncio.ensure_future(self._people()), asyncio.ensure_future(self._faults())]
        await asyncio.sleep(self.play_s)
        for act in acts:
            act.cancel()
        await asyncio.gather(*acts, return_exceptions=True)
        await self.heal()
        await self.converged()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.problems.append(f"the simulator itself failed: {task.exception()!r}")

    def _infrastructure(self) -> Iterable[Awaitable[None]]:
        for region in self.regions.values():
            yield from (region.mirrors["routine"].run(), region.mirrors["critical"].run(), region.forward())
        yield self._watch_marks()

    async def _watch_marks(self) -> None:
        """S2: a mark on the disk never shrinks, over crashes and restarts."""
        while True:
            await asyncio.sleep(1.0)
            for node in self.nodes.values():
                if not node.up:
                    continue
                for tenant, r in node.custodian.state.residences.items():
                    if self.void & {r.head_routine, *r.head_critical}:
                        self.problems.append(f"{node.name} obeys in {tenant} what a retired key sealed")
                    for lane, marks in (("routine", r.routine), ("critical", r.critical)):
                        for epoch, mark in marks.items():
                            key = (node.name, tenant, lane, epoch)
                            before = self.marks.get(key, Mark())
                            durable = node.lives
                            if (durable, before) and (
                                before.floor > mark.floor or any(n not in mark for n in before.above)
                            ) and self.lives.get(key) == durable:  # fmt: skip
                                self.problems.append(f"S2: the mark of {key} went from {before} to {mark}")
                            self.marks[key], self.lives[key] = mark, durable

    lives: dict[tuple[str, str, str, int], int] = {}

    def cmk(self) -> Cmk:
        """Whom an order goes to.

        Raises:
            Unavailable: No CMK serves.
        """
        serving = [c for c in self.cmks if c.serving]
        if not serving:
            raise Unavailable("no CMK serves")
        return self.rng.choice(serving)

    async def onboard(self, tenant: str, region: str) -> None:
        approvers = tuple(d.Approver(person=p, public_key=s.public_key) for p, s in sorted(self.people[tenant].items()))
        for decide in (
            lambda r: r.appoint(approvers),
            lambda r: r.decree(d.TenantConfigurationUpdated(lease_s=self.rng.choice(LEASES_S))),
            lambda r: r.decree(d.RootKeyLinked(root=d.RootReference(provider="file", ref=f"/keys/{tenant}"))),
            lambda r: r.register_system("payments"),
            lambda r: r.enrol_workload("app", "payments", fingerprint="0" * 64, spiffe=None),
        ):  # fmt: skip
            key = f"onboard-{next(self.count)}"
            for _ in range(20):
                try:
                    await self.cmk().do(tenant, region, key, decide)
                    break
                except (GovernanceError, BusError):
                    await asyncio.sleep(0.3)

    # --- what people do ---------------------------------------------------------------------------------------------

    async def _people(self) -> None:
        rng = self.rng
        menu: list[tuple[float, Callable[[str, str], Awaitable[None]]]] = [
            (3, self.revoke), (3, self.restore), (1, self.labels), (0.7, self.suspend), (0.7, self.replace_workload),
        ]  # fmt: skip
        optional = {
            "leases": [(2, self.lease)], "forgery": [(2, self.forged_restore), (1, self.forged_anything)],
            "membership": [(1, self.membership)], "keys": [(1, self.rotate_key), (1, self.stolen_key)],
            "approvers": [(1, self.approvers)],
        }  # fmt: skip
        for feature, acts in optional.items():
            if feature in self.features:
                menu += acts  # type: ignore[arg-type]
        while True:
            await asyncio.sleep(rng.expovariate(1 / 3.0))
            tenant, region = rng.choice(self.tenants), rng.choice(list(self.regions))
            act = rng.choices([a for _, a in menu], [w for w, _ in menu])[0]
            with contextlib.suppress(GovernanceError, BusError):
                await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(self._quietly(act(tenant, region)))), 6.0)

    async def _quietly(self, work: Awaitable[None]) -> None:
        with contextlib.suppress(GovernanceError, BusError, TimeoutError):
            await work

    async def revoke(self, tenant: str, region: str) -> None:
        cmk, key = self.cmk(), f"revoke-{next(self.count)}"
        regions = list(self.regions) if self.rng.random() < 0.3 else [region]
        for pulled in await cmk.switch.pull(tenant, regions, "test", cmk.order(tenant, "Revoke", key)):
            self.history.add(
                "answer", tenant=tenant, region=pulled.region, event=pulled.event, recorded=pulled.recorded
            )

    async def restore(self, tenant: str, region: str) -> None:
        cmk = self.cmk()
        r = await cmk.registry.load(subjects.residence_aggregate(region, tenant), Residence)
        if not r.facts.open_revocations:
            return
        approval = f"approval-{next(self.count):08d}"
        people = dict(self.rng.sample([(p, s) for p, s in self.people[tenant].items() if p in r.facts.approvers], 2))
        words = statements.restore_statement(
            tenant, region, approval, r.facts.highest_revocations, r.facts.approvers_version
        )
        self.signed[approval] = sorted(people)
        approved = Approved(approval, self.sign(people, words))
        await cmk.do(tenant, region, approval, lambda r: r.restore(approved))

    async def forged_restore(self, tenant: str, region: str) -> None:
        """The provider tries: one signature, strangers', another region's, for ids in advance, without any."""
        rng, cmk = self.rng, self.rng.choice(self.cmks)
        subject = str(subjects.residence_aggregate(region, tenant))
        known = [
            statements.Lift(epoch=e.epoch, fence=e.counter, event=e.id)
            for e in self._of(subject.replace("routine", "critical")) if e.tag == "AccessRevoked.1"
        ]  # fmt: skip
        if not known:
            return
        lifts, approval = tuple(known[-3:]), f"forged-{next(self.count):08d}"
        mine = list(self.people[tenant].items())
        people, at = rng.choice(
            [(dict(mine[:1]), region), (self.evil, region), (dict(mine[:2]), "elsewhere"), ({}, region)]
        )
        words = statements.restore_statement(tenant, at, approval, lifts, 1)
        signatures = self.sign(people, words) * rng.choice((1, 2))
        if rng.random() < 0.3:
            signatures = tuple(
                statements.Signature(person=p, signature=cmk.signer.sign(words.signed_bytes())) for p, _ in mine[:2]
            )
        forged = d.AccessRestored(lifts=lifts, approval=approval, approvers_version=1, signatures=signatures[:8])
        e = self.forge(forged, subject, cmk.signer)
        self.hub.store(e.subject, env.encode(e), e.id)

    async def forged_anything(self, tenant: str, region: str) -> None:
        """Strangers, nodes and the provider on subjects and under seals that are not theirs."""
        rng, cmk = self.rng, self.rng.choice(self.cmks)
        stranger = rng.choice([seal.Signer(b"stranger".ljust(32)), next(iter(self.nodes.values())).signer])
        routine, critical = (str(subjects.residence_aggregate(region, tenant, x)) for x in ("routine", "critical"))
        main = str(subjects.ledger_aggregate("critical"))
        evil = seal.Signer(b"stranger".ljust(32))
        own = tuple(d.Approver(person=p, public_key=s.public_key) for p, s in sorted(self.evil.items()))
        if rng.random() < 0.4:
            await self.forged_ack(tenant, region)
            return
        made = rng.choice([
            lambda: self.forge(d.AccessRevoked(reason="test"), critical, stranger),
            lambda: self.forge(d.SigningKeyRotated(key=evil.key_id, public_key=evil.public_key), main, cmk.signer),
            lambda: self.forge(d.NodeRemoved(node=f"{EU}-1", region=EU), main, cmk.signer),
            lambda: self.forge(d.ApproversSet(version=1, approvers=own), routine, cmk.signer),
            lambda: self.forge(d.TenantConfigurationUpdated(lease_s=600000), routine, cmk.signer),
            lambda: self.forge(d.AccessResumed(), routine, stranger, counter=1),
        ])  # fmt: skip
        e = made()
        self.hub.store(e.subject, env.encode(e), e.id)

    async def forged_ack(self, tenant: str, region: str) -> None:
        """Somebody acknowledges everything in a node's name."""
        node = self.rng.choice([n for n in self.nodes.values() if n.region.name == region])
        voice = Voice(node.name, region, seal.Signer(b"stranger".ljust(32)))
        voice.signer.key_id = node.signer.key_id
        ack = reports.SyncAck(
            tenant=tenant, lane="critical", ledger_epoch=self.hub.epoch, floor=99, state="revoked", boot_id="b", lease_s=1
        )  # fmt: skip
        e = voice.report(tenant, ack, epoch=self.hub.epoch)
        self.hub.reports.append(Stored(len(self.hub.reports) + 1, e.subject, env.encode(e), e.id))
        self.hub.pulse()

    async def labels(self, tenant: str, region: str) -> None:
        """Both CMKs may do it at once, each its own."""
        texts = [str(next(self.count)) for _ in range(self.rng.choice((1, len(self.cmks))))]
        cmks = [self.cmk()] if len(texts) == 1 else [c for c in self.cmks if c.serving]
        await asyncio.gather(*(
            self._quietly(c.do(tenant, region, f"labels-{t}", lambda r, t=t: r.configure({"labels": {"n": t}})))
            for c, t in zip(cmks, texts, strict=False)
        ))  # fmt: skip

    async def lease(self, tenant: str, region: str) -> None:
        cmk, lease_s = self.cmk(), self.rng.choice(LEASES_S)
        approval = f"approval-{next(self.count):08d}"
        people = dict(list(self.people[tenant].items())[:2])
        words = statements.configuration_statement(tenant, region, approval, lease_s)
        self.signed[approval] = sorted(people)
        approved = Approved(approval, self.sign(people, words))
        await cmk.do(tenant, region, approval, lambda r: r.configure({"lease_s": lease_s}, approved))

    async def suspend(self, tenant: str, region: str) -> None:
        key = f"suspend-{next(self.count)}"
        await self.cmk().do(
            tenant, region, key, lambda r: r.resume() if r.facts.suspended else r.suspend("test")
        )  # fmt: skip

    async def replace_workload(self, tenant: str, region: str) -> None:
        cmk, n = self.cmk(), next(self.count)
        r = await cmk.registry.load(subjects.residence_aggregate(region, tenant), Residence)
        for enrolment in list(r.facts.live_workloads()):
            await cmk.do(tenant, region, f"remove-{n}", lambda r, e=enrolment: r.remove_workload(e))  # type: ignore[misc]
        await asyncio.sleep(self.rng.random())
        await cmk.do(
            tenant, region, f"enrol-{n}",
            lambda r: r.enrol_workload("app", "payments", fingerprint=f"{n:064x}", spiffe=None),
        )  # fmt: skip

    async def approvers(self, tenant: str, region: str) -> None:
        cmk, n = self.cmk(), next(self.count)
        r = await cmk.registry.load(subjects.residence_aggregate(region, tenant), Residence)
        f = r.facts
        self.people[tenant].setdefault(f"p-{tenant}-{n}", seal.Signer(f"{tenant}{n}".encode().ljust(32)))
        chosen = dict(self.rng.sample(sorted(self.people[tenant].items()), 3))
        pairs = [(p, s.public_key) for p, s in sorted(chosen.items())]
        own = statements.approvers_hash(tenant, region, f.approvers_version + 1, pairs, f.approvers_hash)
        old = {p: s for p, s in self.people[tenant].items() if p in f.approvers}
        decree = d.ApproversSet(
            version=f.approvers_version + 1, previous=f.approvers_hash,
            approvers=tuple(d.Approver(person=p, public_key=k) for p, k in pairs),
            signatures=self.sign(dict(list(old.items())[:2]), statements.approvers_statement(tenant, region, own)),
        )  # fmt: skip
        await cmk.do(tenant, region, f"approvers-{n}", lambda r: r.decree(decree))

    async def rotate_key(self, _tenant: str, _region: str) -> None:
        """Governance seals with a new key; the old one is retired, now or never."""
        cmk, n = self.rng.choice(self.cmks), next(self.count)
        new, old = seal.Signer(f"cmk key {n}".encode().ljust(32)), cmk.signer
        retires = (old.key_id,) if self.rng.random() < 0.6 else ()
        if retires and cmk.up:
            cmk.kill()
            await asyncio.sleep(1.0)
        self.governance[new.key_id] = new.public_key
        self.by_root(d.SigningKeyRotated(key=new.key_id, public_key=new.public_key, retires=retires))
        cmk.signer = new
        if retires:
            self.stolen.append(old)
        if cmk.up:
            cmk.kill()
        await asyncio.sleep(0.5)
        if not cmk.up:
            cmk.start()

    async def stolen_key(self, tenant: str, region: str) -> None:
        """Somebody seals with a key whose retirement all nodes have read; those that may read anew know it late."""
        nodes, rng = self.nodes.values(), self.rng
        known = [s for s in self.stolen if all(n.up and s.key_id in n.custodian.state.retired for n in nodes)]
        if not known or {"lying", "disks", "membership"} & self.features:
            return
        decree = rng.choice((
            d.AccessRevoked(reason="test"), d.AccessSuspended(reason="test"), d.AccessResumed(),
            d.TenantConfigurationUpdated(lease_s=min(LEASES_S)),
        ))  # fmt: skip
        subject = str(subjects.residence_aggregate(region, tenant, d.lane_of(decree)))
        e = self.forge(decree, subject, rng.choice(known), epoch=rng.randint(1, self.hub.epoch))
        self.void.add(e.id)
        if self.hub.up:
            self.hub.store(e.subject, env.encode(e), e.id)

    async def membership(self, _tenant: str, _region: str) -> None:
        extra = self.nodes.get(f"{EU}-3")
        if extra is None:
            extra = self.add_node(f"{EU}-3", EU)
            extra.hear_health = [c.on_health for c in self.cmks]
            self.enrol(extra)
            extra.start()
        elif extra.name not in self.enrolled:
            self.enrolled[extra.name] = "removed"
            self.by_root(d.NodeRemoved(node=extra.name, region=EU))
            if self.rng.random() < 0.5:
                extra.kill()

    # --- what goes wrong --------------------------------------------------------------------------------------------

    async def _faults(self) -> None:
        rng = self.rng
        menu: dict[str, list[Act]] = {
            "kills": [self._kill], "reboots": [self._reboot], "pauses": [self._pause], "disk": [self._disk],
            "partitions": [self._partition, self._half], "weather": [self._weather], "vault": [self._leaf, self._node_link],
            "cmk": [self._cmk_dies], "hub": [self._hub_dies], "loss": [self._loss], "lying": [self._reappend, self._withhold],
            "mirrors": [self._tail], "roots": [self._root], "disks": [self._disk_lost],
            "corruption": [self._corrupt], "full": [self._hub_full],
        }  # fmt: skip
        acts = [a for f in sorted(self.features) for a in menu.get(f, [])]
        while acts:
            await asyncio.sleep(rng.expovariate(1 / 5.0))
            task = asyncio.ensure_future(rng.choice(acts)())
            self.under_way[task] = None
            task.add_done_callback(lambda done: self.under_way.pop(done, None))

    def any_node(self) -> Node:
        return self.rng.choice(list(self.nodes.values()))

    def alive(self, node: Node) -> bool:
        return self.enrolled.get(node.name) != "removed" or self.rng.random() < 0.3

    async def _kill(self) -> None:
        node = self.any_node()
        if self.rng.random() < 0.6:  # at an effect's boundary: right after something was taken
            await self._next_take(node)
        node.kill()
        await asyncio.sleep(self.rng.random() * 4)
        if not node.up and not self.healed and self.alive(node):
            node.start()

    async def _disk_lost(self) -> None:
        """A node comes back without its database."""
        node = self.any_node()
        node.kill()
        node.disk.node, node.disk.residences = None, {}
        self.marks = {k: v for k, v in self.marks.items() if k[0] != node.name}
        await asyncio.sleep(self.rng.random() * 4)
        if not node.up and not self.healed and self.alive(node):
            node.start()

    async def _corrupt(self) -> None:
        """A row of a node's database is not what was written; the node may start with it, or go on without it."""
        node, rng = self.any_node(), self.rng
        if not node.disk.residences:
            return
        tenant = rng.choice(sorted(node.disk.residences))
        r = rows._RESIDENCE.decode(node.disk.residences[tenant])
        altered = rng.choice((
            b"\x00" * 40,
            msgspec.json.encode(msgspec.structs.replace(r, workloads={})),
            msgspec.json.encode(msgspec.structs.replace(r, suspended=not r.suspended)),
            msgspec.json.encode(msgspec.structs.replace(r, revocations={})),
            msgspec.json.encode(Held(tenant=tenant)),
        ))  # fmt: skip
        node.disk.residences[tenant] = altered
        self.history.add("corrupted", node=node.name, tenant=tenant)
        if rng.random() < 0.5:
            node.kill()
            self.marks = {k: v for k, v in self.marks.items() if k[0] != node.name}
            await asyncio.sleep(rng.random() * 2)
            if not node.up and not self.healed and self.alive(node):
                node.start()

    async def _next_take(self, node: Node) -> None:
        if not node.up:
            return
        taken = asyncio.Event()
        take = node.custodian.take
        left = self.rng.randint(1, 3)

        def watched(given: Any) -> Any:
            nonlocal left
            done = take(given)
            if any(e.kind in ("close", "ack", "fence") for e in done.effects):
                left -= 1
                if left <= 0:
                    taken.set()
            return done

        node.custodian.take = watched  # type: ignore[method-assign]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(taken.wait(), 8)
        if self.rng.random() < 0.7:
            await asyncio.sleep(self.rng.random() * 0.02)

    async def _reboot(self) -> None:
        node = self.any_node()
        node.reboot()
        await asyncio.sleep(self.rng.random() * 6)
        if not node.up and not self.healed and self.alive(node):
            node.start()

    async def _pause(self) -> None:
        node = self.any_node()
        node.pause()
        await asyncio.sleep(self.rng.choice((0.3, 1.5, 5.0, 40.0)))
        node.resume()

    async def _disk(self) -> None:
        node = self.any_node()
        if self.rng.random() < 0.5:
            node.disk.full = True
        else:
            node.disk.slow_s = self.rng.random() * 3
        await asyncio.sleep(self.rng.random() * 8)
        node.disk.full, node.disk.slow_s = False, 0.0

    async def _partition(self) -> None:
        region = self.rng.choice(list(self.regions.values()))
        region.down.up = region.back.up = False
        await asyncio.sleep(self.rng.choice((1.0, 5.0, 20.0, 70.0)))
        region.down.up = region.back.up = True

    async def _half(self) -> None:
        region = self.rng.choice(list(self.regions.values()))
        link = self.rng.choice((region.down, region.back))
        for _ in range(self.rng.randint(1, 4)):
            link.up = False
            await asyncio.sleep(self.rng.random() * 12)
            link.up = True
            await asyncio.sleep(self.rng.random() * 3)

    async def _weather(self) -> None:
        links = [x for r in self.regions.values() for x in (r.down, r.back)] + [n.health for n in self.nodes.values()]
        for link in links + [c.link for c in self.cmks]:
            link.drop, link.double, link.slow_s = 0.25, 0.3, 0.1
        await asyncio.sleep(self.rng.random() * 20)
        self._calm()

    def _calm(self) -> None:
        for link in (x for r in self.regions.values() for x in (r.down, r.back)):
            link.drop, link.double, link.slow_s, link.up = 0.0, 0.0, 0.01, True
        for link in (*(n.health for n in self.nodes.values()), *(c.link for c in self.cmks)):
            link.drop, link.double, link.slow_s, link.up = 0.0, 0.0, 0.01, True

    async def _leaf(self) -> None:
        region = self.rng.choice(list(self.regions.values()))
        region.up = False
        await asyncio.sleep(self.rng.random() * 6)
        region.up = True

    async def _node_link(self) -> None:
        node = self.any_node()
        node.link.up = False
        await asyncio.sleep(self.rng.choice((0.5, 3.0, 50.0)))
        node.link.up = True

    async def _cmk_dies(self) -> None:
        cmk = self.rng.choice(self.cmks)
        if self.rng.random() < 0.3:
            cmk.link.up = False
            await asyncio.sleep(self.rng.random() * 15)
            cmk.link.up = True
            return
        cmk.kill()
        await asyncio.sleep(self.rng.random() * 8)
        if not cmk.up:
            cmk.start()

    async def _hub_full(self) -> None:
        """Nothing more can be written at the hub; it reads and hears on."""
        if not self.hub.full:
            self.hub.full = True
            await asyncio.sleep(self.rng.uniform(20, 80))
            self.hub.full = False

    async def _hub_dies(self) -> None:
        self.hub.up = False
        await asyncio.sleep(self.rng.choice((1.0, 6.0, 45.0)))
        self.hub.up = True
        self.hub.pulse()

    async def _tail(self) -> None:
        """A leaf loses power: its routine mirror's tail is gone, its nodes are down for a moment."""
        region = self.rng.choice(list(self.regions.values()))
        mirror = region.mirrors["routine"]
        nodes = [n for n in self.nodes.values() if n.region is region]
        for node in nodes:
            node.kill()
        if mirror.messages:
            mirror.lose(self.rng.randint(0, min(3, len(mirror.messages))))
        await asyncio.sleep(self.rng.random() * 3)
        for node in nodes:
            if not node.up and self.alive(node):
                node.start()

    async def _root(self) -> None:
        tenant = self.rng.choice(self.tenants)
        self.roots.refuse[tenant] = self.rng.choice(("KeyDisabled", "Unreachable", "AccessDenied"))
        await asyncio.sleep(self.rng.random() * 10)
        self.roots.refuse.pop(tenant, None)

    async def _reappend(self) -> None:
        """The bus stores old messages again, under new sequences."""
        for _ in range(self.rng.randint(1, 4)):
            if self.hub.up and self.hub.ledger:
                m = self.rng.choice(self.hub.ledger)
                self.hub.store(m.subject, m.body, f"again-{next(self.count)}")
            await asyncio.sleep(self.rng.random())

    async def _withhold(self) -> None:
        """The bus keeps some of a region's messages back, and lies to governance about the head."""
        region = self.rng.choice(list(self.regions.values()))
        mirrors = self.rng.choice((["critical"], ["routine"], ["critical", "routine"]))
        self.hub.lying = True

        def hide(m: Stored) -> None:
            if self.hub.lying and self.rng.random() < 0.5:
                for lane in mirrors:
                    region.mirrors[lane].withheld.add(m.id)
                if silent:
                    region.muted.add(m.id)

        self.hub.on_append.insert(0, hide)
        silent = self.rng.random() < 0.5
        await asyncio.sleep(self.rng.choice((5.0, 20.0, 60.0, 150.0)))
        self.hub.lying = False
        self.hub.on_append.remove(hide)
        self._reveal()

    def _reveal(self) -> None:
        for region in self.regions.values():
            region.muted.clear()
            for mirror in region.mirrors.values():
                if mirror.withheld:
                    mirror.withheld.clear()
                    mirror.rebuild()

    async def _loss(self) -> None:
        await asyncio.shield(asyncio.ensure_future(self._lose()))

    async def _lose(self) -> None:
        """The hub loses its tail; an operator restores it from what mirrors hold, under a new epoch."""
        if self.hub.epoch > 2 or not self.hub.up:
            return
        rng, hub = self.rng, self.hub
        hub.up = False
        for cmk in self.cmks:
            cmk.kill()
        await asyncio.sleep(rng.random() * 5)
        lost = hub.ledger[len(hub.ledger) - rng.randint(0, min(6, len(hub.ledger) - 8)) :]
        kept = hub.ledger[: len(hub.ledger) - len(lost)]
        dark = rng.random() < 0.3
        held = {} if dark else {
            m.sequence: m for r in self.regions.values() for x in r.mirrors.values() for m in x.messages if m in lost
        }  # fmt: skip
        tail = [m for _, m in sorted(held.items())]
        self.lost |= {m.id for m in lost if m not in tail}
        self.history.add("loss", events=sorted(m.id for m in lost if m not in tail))
        hub.epoch += 1
        hub.ledger, hub.base = [], hub.epoch << 40
        for m in (*kept, *tail):
            hub.store(m.subject, m.body, m.id)
        self.by_root(d.LedgerOpened(epoch=hub.epoch, first_sequence=hub.base + 1, closes=("accepted",)))
        rotations = [env.decode(m.body) for m in hub.ledger if b"SigningKeyRotated" in m.body]
        said: list[Any] = [d.read(e.tag, e.data) for e in rotations if e.tag == "SigningKeyRotated.1"]
        for signer in {c.signer.key_id: c.signer for c in self.cmks}.values():  # as `ceremony.open_epoch`
            if signer.key_id not in {x.key for x in said}:
                self.by_root(d.SigningKeyRotated(key=signer.key_id, public_key=signer.public_key))
        back = {x.key for x in said} & {s.key_id for s in self.stolen} - {key for x in said for key in x.retires}
        if back:
            own = self.cmks[0].signer
            self.by_root(d.SigningKeyRotated(key=own.key_id, public_key=own.public_key, retires=tuple(sorted(back))))
        hub.up = True
        hub.pulse()
        for cmk in self.cmks:
            cmk.kill()
            cmk.start()

    # --- the end ----------------------------------------------------------------------------------------------------

    async def heal(self) -> None:
        """Nothing goes wrong any more."""
        for task in list(self.under_way):
            task.cancel()
        await asyncio.gather(*self.under_way, return_exceptions=True)
        self.healed = True
        self.hub.up, self.hub.lying, self.hub.full = True, False, False
        self._calm()
        self._reveal()
        self.roots.refuse.clear()
        for region in self.regions.values():
            region.up = True
        for cmk in self.cmks:
            if not cmk.up:
                cmk.start()
        for node in self.nodes.values():
            node.disk.full, node.disk.slow_s, node.link.up = False, 0.0, True
            node.resume()
            if not node.up and self.enrolled.get(node.name) != "removed":
                node.start()
        self.hub.pulse()
        self.history.add("healed")
        self.heal_at = self.loop.time()
        await asyncio.sleep(3.0)
        for _ in range(int(HEAL_S)):
            await asyncio.sleep(1.0)
            if not self.different():
                break

    def different(self) -> list[str]:
        """What does not agree with the ledger yet."""
        out: list[str] = []
        expected = self._expected()
        live = [n for n in self.nodes.values() if self.enrolled.get(n.name) != "removed"]
        for (tenant, region), want in expected.items():
            for node in (n for n in live if n.region.name == region):
                r = node.custodian.state.residences.get(tenant)
                if r is None:
                    out.append(f"{node.name} does not know {tenant}")
                    continue
                have = {"routine": r.routine, "critical": r.critical}
                for (lane, epoch), counter in want["marks"].items():
                    floor = have[lane].get(epoch, Mark()).floor
                    if lane == "routine" and epoch < self.hub.epoch and self._says_the_same(node, r):
                        continue  # the bus kept back what changed nothing until its epoch was closed: nobody needs it
                    if floor < counter and not self.lost:
                        out.append(f"{node.name} has {tenant} {lane} {epoch}/{floor} of {counter}")
                if self.lost:
                    continue
                if (verdict(r) == "revoked") != want["revoked"]:
                    out.append(f"{node.name} says {verdict(r)} of {tenant}, the ledger revoked={want['revoked']}")
                if verdict(r) not in ("revoked", "active", "suspended"):
                    out.append(f"{node.name} says {verdict(r)} of {tenant}")
                if verdict(r) == "active" and not want["revoked"]:
                    at = self.history.lines
                    recent = (x for x in reversed(at[-3000:]) if x["kind"] == "op" and x["result"] == "served")
                    good = any(
                        x["node"] == node.name and x["tenant"] == tenant and x["t"] > self.heal_at for x in recent
                    )
                    if not good and want["workloads"]:
                        out.append(f"{node.name} does not serve {tenant}")
            for cmk in self.cmks:
                if self.lost:
                    continue
                status = cmk.watch.critical(tenant, region).status
                if status not in ((*SETTLED,) if want["revoked"] else ("InSync",)):
                    out.append(f"{cmk.name} shows {status} of {tenant} in {region}")
        there = {m.id for m in self.hub.ledger} | self.lost
        answered = {x["event"] for x in self.history.lines if x["kind"] == "answer"}
        out += [f"the answered revocation {event} is nowhere" for event in answered - there]
        return [*out, *(f"{cmk.name} still has a revocation in its spool" for cmk in self.cmks if cmk.spool.kept)]

    def _says_the_same(self, node: Node, r: Held) -> bool:
        ledger = self.cmks[0].fold.digests(node.region.name).get(r.tenant)
        return ledger is not None and ledger.digest == canon.digest(digests.facts(r, self.hub.epoch))

    def _expected(self) -> dict[tuple[str, str], dict[str, Any]]:
        """What the ledger says, told in another way than either plane does."""
        facts: dict[tuple[str, str], dict[str, Any]] = {}
        seen: set[str] = set()
        opened = 0
        for m in self.hub.ledger:
            try:
                e = env.decode(m.body)
                where = subjects.parse_decree(m.subject)
                if e.tag == "LedgerOpened.1":
                    opened = max(opened, e.epoch)
                env.verify(e, m.subject, self.governance)
                decree = d.read(e.tag, e.data)
            except Exception:
                continue
            if where.kind != "residence" or e.id in seen or not self._counts(e, decree):
                continue
            if where.lane == "routine" and e.epoch < opened:  # a straggler, by a stolen key: it need not count
                continue
            seen.add(e.id)
            home = facts.setdefault(
                (where.tenant, where.region),
                {"marks": {}, "highest": {}, "lifted": set(), "workloads": {}, "revoked": False},
            )
            home["marks"][where.lane, e.epoch] = max(home["marks"].get((where.lane, e.epoch), 0), e.counter)
            if isinstance(decree, d.AccessRevoked):
                home["highest"][e.epoch] = max(home["highest"].get(e.epoch, (0, "")), (e.counter, e.id))
            elif isinstance(decree, d.AccessRestored) and len(self.signed.get(decree.approval, [])) >= 2:
                home["lifted"] |= {x.event for x in decree.lifts}
            elif isinstance(decree, d.WorkloadEnrolled):
                home["workloads"][decree.enrolment] = True
            elif isinstance(decree, d.WorkloadRemoved):
                for enrolment in decree.enrolments:
                    home["workloads"][enrolment] = False
            home["revoked"] = any(i not in home["lifted"] for _, i in home["highest"].values())
        for home in facts.values():
            home["workloads"] = [w for w, on in home["workloads"].items() if on]
        return facts

    def _counts(self, e: env.Envelope, decree: d.Decree) -> bool:
        return e.id not in self.void and (e.priority == "PRIORITY_CRITICAL") == (d.lane_of(decree) == "critical")

    async def converged(self) -> None:
        left = self.different()
        if left:
            self.problems.append("not converged: " + "; ".join(left[:6]))
        took = self.loop.time() - self.heal_at
        self.history.add("converged", after_s=round(took, 3), left=left)


class Run(msgspec.Struct):
    """What became of a seed."""

    seed: int
    features: tuple[str, ...]
    problems: list[str]
    history: list[dict[str, Any]]


def run(seed: int, features: Iterable[str] | None = None, play_s: float | None = None) -> Run:
    """Play one seed in virtual time."""
    kept: list[World] = []

    async def main() -> None:
        world = World(seed, features, play_s)
        world.lives = {}
        kept.append(world)
        await world.play()

    gc.collect()
    gc.freeze()  # what is there now is not looked through again after each run
    gc.disable()  # a run is short
    with cheap_seals(), own_clocks(), seeded(random.Random(seed), lambda: WALL_NS):
        run_loop(main)
    gc.enable()
    world = kept[0]
    broken = check(world.history.lines)
    deaths = [f"{n.name} died: {w}" for n in world.nodes.values() for w in n.deaths]
    deaths += [f"{x['node']} failed: {x['why']}" for x in world.history.lines if x["kind"] == "failed"]
    return Run(seed, tuple(sorted(world.features)), [*broken, *deaths, *world.problems], world.history.lines)
