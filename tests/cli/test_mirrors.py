"""A mirror that lost events, or cannot read them, is found and made anew; one that is whole or late is left alone."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from openkcm.bus import copies
from openkcm.bus.connection import Connection
from openkcm.bus.errors import BusError
from openkcm.bus.lanes import LaneReader
from openkcm.bus.ledger import Ledger
from openkcm.bus.messages import Stored
from openkcm.bus.publish import api
from openkcm.cli import flow, mirrors
from openkcm.contract import checkpoint as cp
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import merkle
from openkcm.contract.merkle import Edge
from openkcm.contract.published import seal_published
from openkcm.contract.subjects import tree_of
from openkcm.execution.inputs import MirrorShort
from openkcm.execution.mirrored import Kept
from openkcm.execution.residence_state import State
from openkcm.execution.treewatch import TreeWatch
from orbital_fixture import EU, EU_NODE, Orbital, running_orbital
from press import Press, seed

STREAMS = ("LEDGER", "LEDGER-CRITICAL")


@pytest.fixture
async def ground(tmp_path):
    """A ledger with events of both lanes, which the mirrors have acknowledged."""
    with running_orbital(tmp_path) as orbital:
        layout = SimpleNamespace(state=orbital.state_dir, regions=orbital.regions, server_ports=orbital.ports)
        press, cmk = Press(), await orbital.connect("cmk")
        events = [*press.opening(), *press.onboarded("acme")]
        for e in (*events, *(revocation(press) for _ in range(20))):
            await append(cmk, e)
        await flow.wait_until_flowing(layout)
        hub = await orbital.connect("ledger-admin")
        for consumer in ("mirror", "mirror-critical"):
            await until(hub, f"$JS.API.CONSUMER.INFO.LEDGER.{consumer}-{EU}", lambda a: not a["num_ack_pending"])
        yield SimpleNamespace(orbital=orbital, layout=layout, press=press, cmk=cmk, hub=hub)
        await cmk.close()
        await hub.close()


def revocation(press: Press) -> env.Envelope:
    return press.residence("acme", d.AccessRevoked(reason="test"))


async def append(cmk: Connection, e: env.Envelope) -> None:
    await Ledger(cmk).append(e.subject, env.encode(e), id=e.id, tag=e.tag, expected_last=None)


async def until(connection: Connection, subject: str, true) -> None:
    deadline = time.monotonic() + 20
    while not true(await api(connection, subject)):
        assert time.monotonic() < deadline, subject
        await asyncio.sleep(0.05)


def damage(orbital: Orbital) -> None:
    """Flip a bit in the middle of the last block of each mirror of a stopped leaf."""
    for stream in STREAMS:
        *_, block = sorted((orbital.state_dir / "nats" / EU).rglob(f"streams/{stream}/msgs/*.blk"), key=by_number)
        content = bytearray(block.read_bytes())
        content[len(content) // 2] ^= 1
        block.write_bytes(content)


def by_number(block: Path) -> int:
    return int(block.stem)


@pytest.mark.parametrize("stopped", ["killed", "in order"])
async def test_a_mirror_with_a_damaged_block_is_made_anew_with_all_that_the_hub_has(ground, stopped) -> None:
    """Killed, the server drops all behind the damage, and the hub does not send it again; stopped in order, it does not
    see the damage until somebody reads it."""
    orbital, layout = ground.orbital, ground.layout
    assert await mirrors.make_whole(layout) == []
    orbital.kill(EU) if stopped == "killed" else orbital.servers[EU].stop()
    damage(orbital)
    orbital.start(EU)
    await append(ground.cmk, revocation(ground.press))
    await flow.wait_until_flowing(layout)
    short = {c.stream: c for c in await mirrors.compare(layout) if c.is_short}
    assert {(c.region, c.stream) for c in short.values()} == {(EU, stream) for stream in STREAMS}
    assert [c.is_short for c in await mirrors.compare(layout, [EU], read=False)] == [stopped == "killed"] * 2
    assert await mirrors.make_whole(layout, [EU]) == [
        f"{EU}: made {stream} anew, it had {short[stream].mirror} of {short[stream].hub} events" for stream in STREAMS
    ]
    assert all(c.mirror == c.hub for c in await mirrors.compare(layout))
    admin = await orbital.connect(f"{EU}-admin")
    assert (await api(admin, "$JS.API.STREAM.INFO.LEDGER"))["config"]["deny_delete"] is True
    assert (await api(admin, f"$JS.API.CONSUMER.INFO.LEDGER.{EU}-1-routine"))["num_pending"] > 0
    await admin.close()


async def test_a_node_that_read_its_tree_in_a_damaged_mirror_agrees_once_that_is_made_anew(ground) -> None:
    orbital, cmk = ground.orbital, ground.press.cmk
    orbital.kill(EU)
    damage(orbital)
    orbital.start(EU)
    await append(ground.cmk, revocation(ground.press))
    await flow.wait_until_flowing(ground.layout)
    edge, last = Edge(), 0
    for m in await copies.copy_of(ground.hub, "LEDGER", after=0):
        if tree_of(m.subject) == EU:
            edge, last = edge.append(merkle.ledger_leaf(1, m.sequence, m.subject, m.body)), m.sequence
    origin = cp.origin_of(cp.ledger_name(ground.press.root.public_key), EU, 1)
    signed = cp.Checkpoint(origin=origin, size=edge.size, root=edge.root(), epoch=1, sequence=last)
    said = seal_published(signed, cmk, counter=1, epoch=1, at_ms=1, time_source="t")
    state = State(node=EU_NODE, region=EU, boot_id="b", trust_root=ground.press.root.public_key, epoch=1,
                  keys={cmk.key_id: (cmk.public_key, "cmk")})  # fmt: skip
    told, node = [], await orbital.connect(EU_NODE)

    async def nothing(_: object) -> None:
        pass

    watch = TreeWatch(LaneReader(node, "LEDGER", f"{EU_NODE}-tree"), seed("n"), Kept(), state=lambda: state,
                      take=told.append, keep=nothing, send=nothing)  # fmt: skip
    reading = asyncio.ensure_future(watch.run())
    async with asyncio.timeout(30):
        while watch.tree.kept.sequence < last:  # noqa: ASYNC110 -- another one's progress
            await asyncio.sleep(0.05)
        await watch.hear(Stored(1, said.subject, env.encode(said), said.id))
        assert told == [MirrorShort(None), MirrorShort(f"signed is {signed}")]
        await mirrors.make_whole(ground.layout, [EU])
        while len(told) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert told[2:] == [MirrorShort(None)]
    assert watch.tree.kept.agreed == signed
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await node.close()


async def test_a_mirror_that_is_late_is_left_alone(ground) -> None:
    later = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    pause = f"$JS.API.CONSUMER.PAUSE.LEDGER.mirror-{EU}"
    assert (await api(ground.hub, pause, {"pause_until": later}))["paused"]
    await append(ground.cmk, revocation(ground.press))
    assert await mirrors.mend(ground.layout, EU) == ([], False)
    assert not (await api(ground.hub, pause))["paused"]
    await flow.wait_until_flowing(ground.layout)
    assert await mirrors.mend(ground.layout, EU) == ([], True)


async def test_a_mirror_that_goes_on_where_the_hub_ends_is_left_alone_whatever_it_lacks(ground) -> None:
    admin = await ground.orbital.connect(f"{EU}-admin")
    stored = await copies.copy_of(ground.hub, "LEDGER", after=0)
    for stream in STREAMS:
        declared = (await api(admin, f"$JS.API.STREAM.INFO.{stream}"))["config"]
        await copies.remove(admin, stream)
        consumer = f"$JS.ledger.API.CONSUMER.RESET.LEDGER.{mirrors.FED[stream][0].format(region=EU)}"
        await api(admin, consumer, {"seq": 1})
        await api(admin, f"$JS.API.STREAM.CREATE.{stream}", {**declared, "deny_delete": False})
        await until(admin, f"$JS.API.STREAM.INFO.{stream}", lambda a: a["state"]["last_seq"] == stored[-1].sequence)
        for lost in range(len(stored) - 12, len(stored) - 2):
            await api(admin, f"$JS.API.STREAM.MSG.DELETE.{stream}", {"seq": stored[lost].sequence})
    before = [await copies.extent(admin, stream) for stream in STREAMS]
    assert all(c.is_short for c in await mirrors.compare(ground.layout, [EU]))
    body = (await api(ground.hub, "$JS.API.STREAM.INFO.LEDGER"))["config"]
    await copies.remove(ground.hub, "LEDGER")
    await copies.create_at(ground.hub, body, 1)
    tagged = [(m, env.decode(m.body).tag) for m in stored[:-1]]
    await copies.refill(ground.cmk, tagged, first_sequence=1)
    assert not any(c.is_short for c in await mirrors.compare(ground.layout, [EU]))
    assert await mirrors.mend(ground.layout, EU) == ([], False)
    assert [await copies.extent(admin, stream) for stream in STREAMS] == before
    await admin.close()


async def test_what_the_old_mirror_acknowledges_while_it_goes_is_sent_to_the_new_one_too(ground, monkeypatch) -> None:
    remove, consumer = copies.remove, f"$JS.API.CONSUMER.INFO.LEDGER.mirror-{EU}"

    async def late(connection: Connection, stream: str) -> None:
        await until(ground.hub, consumer, lambda a: a["ack_floor"]["stream_seq"] > 0)
        await remove(connection, stream)

    monkeypatch.setattr(copies, "remove", late)
    admin = await ground.orbital.connect(f"{EU}-admin")
    (region,) = [r for r in ground.layout.regions if r.region == EU]
    await mirrors.make_anew(admin, region, "LEDGER")
    await flow.wait_until_flowing(ground.layout)
    assert all(c.mirror == c.hub for c in await mirrors.compare(ground.layout, [EU]))
    await admin.close()


async def test_a_mirror_that_is_not_there_is_made(ground) -> None:
    admin = await ground.orbital.connect(f"{EU}-admin")
    await copies.remove(admin, "LEDGER")
    assert (await mirrors.mend(ground.layout, EU))[1] is False
    await flow.wait_until_flowing(ground.layout)
    assert await mirrors.mend(ground.layout, EU) == ([], True)
    await admin.close()


async def test_without_the_hubs_answer_nothing_is_deleted(ground) -> None:
    admin = await ground.orbital.connect(f"{EU}-admin")
    before = await copies.extent(admin, "LEDGER")
    ground.orbital.kill("hub")
    (region,) = [r for r in ground.layout.regions if r.region == EU]
    with pytest.raises(BusError):
        await mirrors.make_anew(admin, region, "LEDGER")
    assert await copies.extent(admin, "LEDGER") == before
    await admin.close()
