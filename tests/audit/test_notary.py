"""The notary on a real hub: grows with the ledger, makes one history with a second notary, never signs a fork."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from governance_ledger import CMK, EU, ROGUE, TRUST, Stored
from governance_ledger import Ledger as Script
from openkcm.audit.notary import Fork, Notary, checkpoint_of, judge
from openkcm.bus.checkpoints import Checkpoints, subscribe_checkpoints
from openkcm.bus.connection import Connection
from openkcm.bus.errors import Conflict, Refused
from openkcm.bus.ledger import Ledger
from openkcm.contract import checkpoint as cp
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import merkle, resources, seal, subjects
from openkcm.contract.published import open_published, seal_published
from openkcm.projector import Writer, open_writer
from openkcm.projector.ledger import Projection
from openkcm.projector.trees import StoredTree, heads
from orbital_fixture import EU_NODE, US_NODE, running_orbital

NAME = cp.ledger_name(TRUST.public_key)
KEYS = {CMK.key_id: CMK.public_key}


def writer_at(path: Path) -> Writer:
    return open_writer(path, resources.ROOT / "projections" / "cmk", synchronous="NORMAL")


class Bench:
    """A script of events appended to a real hub, folded into read models of our own."""

    def __init__(self, connection: Connection) -> None:
        self.hub, self.checkpoints = Ledger(connection), Checkpoints(connection)
        self.script = Script()
        self.stored: list[Stored] = []

    async def grow(self, count: int) -> None:
        for n in range(count):
            tenant = f"t{len(self.script.messages)}-{n}"
            self.script.add(subjects.residence_aggregate(EU, tenant), d.TenantConfigurationUpdated(lease_s=60))
        for message in self.script.messages[len(self.stored) :]:
            done = await self.hub.append(message.subject, message.body, id=message.id, tag="X.1", expected_last=None)
            self.stored.append(msgspec.structs.replace(message, sequence=done.sequence))

    def notary(self, writer: Writer, **clock: object) -> Notary:
        return Notary(self.hub, self.checkpoints, writer, lambda: CMK, TRUST.public_key, **clock)  # type: ignore[arg-type]

    async def newest(self, tree: str = EU) -> cp.Checkpoint:
        stored = await self.checkpoints.last(tree)
        assert stored is not None
        return open_published(stored.subject, stored.body, KEYS, NAME).checkpoint


async def test_checkpoints_grow_with_the_ledger_and_reach_the_region_alone(tmp_path: Path) -> None:
    with running_orbital(tmp_path) as orbital:
        cmk, eu, us = [await orbital.connect(user) for user in ("cmk", EU_NODE, US_NODE)]
        heard: list[Stored] = []

        async def hear(stored: Stored) -> None:
            heard.append(stored)

        await subscribe_checkpoints(eu, EU, hear)
        with pytest.raises(Refused):
            await subscribe_checkpoints(us, EU, hear)
        bench = Bench(cmk)
        await bench.grow(5)
        writer = writer_at(tmp_path / "a.sqlite")
        projection = Projection(writer, TRUST.public_key)
        projection.apply(bench.stored)
        clock = [0.0]
        one, two = [bench.notary(writer, monotonic=lambda: clock[0]) for _ in range(2)]
        first = await one.round()
        assert {p.tree for p in first} == {EU, "global"}
        assert await two.round() == []
        assert await one.round() == []  # nothing happened, no minute has passed
        clock[0] = 61.0
        assert {p.tree for p in await two.round()} == {EU, "global"}
        assert await one.round() == []  # the other one's is a second old
        await bench.grow(3)
        projection.apply(bench.stored)
        grown = [p for p in await one.round() if p.tree == EU]
        assert grown == [await bench.newest()]
        nodes = StoredTree(writer, EU, 1)
        before = next(p for p in first if p.tree == EU)
        proof = merkle.consistency_proof(nodes, before.size, grown[0].size)
        merkle.verify_consistency(before.size, grown[0].size, before.root, grown[0].root, proof)
        for _ in range(100):
            if len(heard) == 3:
                break
            await asyncio.sleep(0.02)
        points = [open_published(s.subject, s.body, KEYS, NAME) for s in heard]
        assert [p.counter for p in points] == [1, 2, 3]
        assert [p.checkpoint.size for p in points] == [5, 5, 8]
        writer.close()
        for connection in (cmk, eu, us):
            await connection.close()


async def test_a_key_gives_its_word_over_its_seals_only_while_all_of_them_hold(tmp_path: Path) -> None:
    with running_orbital(tmp_path) as orbital:
        cmk = await orbital.connect("cmk")
        bench = Bench(cmk)
        writer = writer_at(tmp_path / "a.sqlite")
        projection = Projection(writer, TRUST.public_key)
        notary = bench.notary(writer)

        async def published() -> dict[str, bool]:
            projection.apply(bench.stored)
            await notary.round()
            notes = {tree: await bench.checkpoints.last(tree) for tree in (EU, "global")}
            return {
                tree: cp.vouches(open_published(s.subject, s.body, KEYS, NAME).note, CMK.public_key)
                for tree, s in notes.items() if s is not None
            }  # fmt: skip

        await bench.grow(3)
        assert await published() == {EU: True, "global": True}
        bench.script.add(subjects.residence_aggregate(EU, "acme"), d.TenantConfigurationUpdated(), signer=ROGUE)
        await bench.grow(1)
        assert (await published())[EU] is False
        await bench.grow(1)
        assert (await published())[EU] is False  # and never again: it is a leaf under all that comes
        writer.close()
        await cmk.close()


async def test_a_notary_signs_with_the_key_of_the_moment_and_never_with_a_retired_one(tmp_path: Path) -> None:
    with running_orbital(tmp_path) as orbital:
        cmk = await orbital.connect("cmk")
        bench = Bench(cmk)
        writer = writer_at(tmp_path / "a.sqlite")
        projection = Projection(writer, TRUST.public_key)
        signer = [CMK]
        notary = Notary(bench.hub, bench.checkpoints, writer, lambda: signer[0], TRUST.public_key)
        upcoming = seal.Signer(b"u" * 32)
        rotated = d.SigningKeyRotated(key=upcoming.key_id, public_key=upcoming.public_key, retires=(CMK.key_id,))
        bench.script.add(subjects.ledger_aggregate(), rotated, signer=TRUST)
        await bench.grow(0)
        projection.apply(bench.stored)
        assert await notary.round() == []
        signer[0] = upcoming
        assert [p.tree for p in await notary.round()] == ["global"]
        writer.close()
        await cmk.close()


async def test_two_notaries_at_once_make_one_history(tmp_path: Path) -> None:
    with running_orbital(tmp_path) as orbital:
        cmk = await orbital.connect("cmk")
        bench = Bench(cmk)
        writer = writer_at(tmp_path / "a.sqlite")
        projection = Projection(writer, TRUST.public_key)
        notaries = [bench.notary(writer) for _ in range(4)]
        published = 0
        for _ in range(6):
            await bench.grow(2)
            projection.apply(bench.stored)
            rounds = await asyncio.gather(*(n.round() for n in notaries))
            assert sum(p.tree == EU for points in rounds for p in points) == 1
            published += 1
        stored = await bench.checkpoints.last(EU)
        assert open_published(stored.subject, stored.body, KEYS, NAME).counter == published
        e = seal_published(await bench.newest(), CMK, counter=9, epoch=1, at_ms=1, time_source="x")
        with pytest.raises(Conflict):
            await bench.checkpoints.append(EU, env.encode(e), id=e.id, tag=e.tag, expected_last=1)
        writer.close()
        await cmk.close()


async def test_a_notary_with_another_history_signs_nothing_and_names_both(tmp_path: Path) -> None:
    with running_orbital(tmp_path) as orbital:
        cmk = await orbital.connect("cmk")
        bench = Bench(cmk)
        await bench.grow(6)
        true, false = writer_at(tmp_path / "a.sqlite"), writer_at(tmp_path / "b.sqlite")
        Projection(true, TRUST.public_key).apply(bench.stored)
        last = bench.stored[-1]
        forged = Script()
        forged.add(subjects.residence_aggregate(EU, "other"), d.TenantConfigurationUpdated(lease_s=99))
        other = msgspec.structs.replace(forged.messages[-1], sequence=last.sequence)
        Projection(false, TRUST.public_key).apply([*bench.stored[:-1], other])
        await bench.notary(true).round()
        signed = await bench.newest()
        liar = bench.notary(false)
        await liar.round()
        await liar.round()
        assert await bench.newest() == signed
        assert liar.forks[EU].theirs == signed
        assert liar.forks[EU].ours.root != signed.root
        assert signed.root.hex()[:16] in str(liar.forks[EU])
        true.close()
        false.close()
        await cmk.close()


def test_what_is_judged(tmp_path: Path) -> None:
    script = Script()
    for n in range(5):
        script.add(subjects.residence_aggregate(EU, f"t{n}"), d.TenantConfigurationUpdated(lease_s=60))
    writer = writer_at(tmp_path / "a.sqlite")
    projection = Projection(writer, TRUST.public_key)
    messages = script.messages
    projection.apply(messages[:-2])
    old = next(checkpoint_of(NAME, h) for h in heads(writer) if h.tree == EU)
    projection.apply(messages)
    now = next(checkpoint_of(NAME, h) for h in heads(writer) if h.tree == EU)
    end, nodes = messages[-1].sequence, StoredTree(writer, EU, 1)

    def said(point: cp.Checkpoint) -> object:
        e = seal_published(point, CMK, counter=1, epoch=1, at_ms=1, time_source="x")
        return open_published(e.subject, env.encode(e), KEYS, NAME)

    assert judge(now, nodes, None, ledger_end=end, age_s=0)
    assert judge(now, nodes, said(old), ledger_end=end, age_s=0)
    assert not judge(now, nodes, said(now), ledger_end=end, age_s=59)
    assert judge(now, nodes, said(now), ledger_end=end, age_s=60)
    assert not judge(old, nodes, said(now), ledger_end=end, age_s=99), "a read model on its way signs nothing"
    with pytest.raises(Fork, match="ends at"):
        judge(old, nodes, said(now), ledger_end=old.sequence, age_s=99)
    with pytest.raises(Fork, match="another root"):
        judge(now, nodes, said(msgspec.structs.replace(old, root=bytes(32))), ledger_end=end, age_s=0)
    later = msgspec.structs.replace(now, epoch=2, origin=cp.origin_of(NAME, EU, 2), size=1, sequence=2 << 40)
    assert judge(later, nodes, said(now), ledger_end=2 << 40, age_s=0), "an epoch begins a tree"
    writer.close()


def test_only_governance_publishes_and_only_for_its_tree() -> None:
    point = cp.Checkpoint(origin=cp.origin_of(NAME, EU, 1), size=1, root=bytes(32), epoch=1, sequence=9)
    e = seal_published(point, CMK, counter=1, epoch=1, at_ms=1, time_source="x")
    assert open_published(e.subject, env.encode(e), KEYS, NAME).checkpoint == point
    stranger = seal.Signer(b"s" * 32)
    for subject, sealed, keys, ledger in (
        (subjects.checkpoint("us-virginia"), e, KEYS, NAME),
        (e.subject, seal_published(point, stranger, counter=1, epoch=1, at_ms=1, time_source="x"), KEYS, NAME),
        (e.subject, e, {}, NAME),
        (e.subject, e, KEYS, "openkcm-other"),
    ):
        with pytest.raises(cp.ContractError):
            open_published(subject, env.encode(sealed), keys, ledger)
