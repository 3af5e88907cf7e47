"""What a node reads, on its own leaf."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from openkcm.bus.connection import Connection
from openkcm.bus.errors import BusError, Refused
from openkcm.bus.lanes import LaneReader, repeat, subscribe_lane0
from openkcm.bus.ledger import Ledger
from openkcm.bus.messages import Stored
from openkcm.contract import trace
from openkcm.contract.subjects import residence_aggregate
from orbital_fixture import EU, EU_NODE, Orbital, running_orbital

ROUTINE, CRITICAL = f"{EU_NODE}-routine", f"{EU_NODE}-critical"


async def fill(cmk: Connection, count: int, lane: str = "routine", region: str = EU) -> list[Stored]:
    ledger = Ledger(cmk)
    subject = str(residence_aggregate(region, "acme", lane))
    stored = []
    for number in range(count):
        id_ = str(uuid.uuid4())
        done = await ledger.append(subject, b"%d" % number, id=id_, tag="X.1", expected_last=None)
        stored.append(Stored(done.sequence, subject, b"%d" % number, id_))
    return stored


async def drain(reader: LaneReader, count: int, batch: int = 7) -> list[Stored]:
    found: list[Stored] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += await reader.fetch(batch, 1.0)
    return found


@pytest.fixture
async def cmk(orbital: Orbital) -> AsyncIterator[Connection]:
    connection = await orbital.connect("cmk")
    yield connection
    await connection.close()


@pytest.fixture
async def node(orbital: Orbital) -> AsyncIterator[Connection]:
    connection = await orbital.connect(EU_NODE)
    yield connection
    await connection.close()


async def test_a_decrees_trace_reaches_the_hubs_readers_the_lane_and_the_signal_and_is_no_part_of_its_bytes(
    orbital: Orbital, cmk: Connection, node: Connection
) -> None:
    start, here = (await Ledger(cmk).info()).last, trace.fresh()
    fast = await orbital.connect(EU_NODE)
    signal: list[Stored] = []

    async def heard(stored: Stored) -> None:
        signal.append(stored)

    await subscribe_lane0(fast, EU, heard)
    with trace.under(here):
        sent = await fill(cmk, 1, lane="critical")
    sent += await fill(cmk, 1, lane="critical")  # outside of every trace
    reader = LaneReader(node, "LEDGER-CRITICAL", CRITICAL)
    await reader.reset(start)
    lane = await drain(reader, 2)
    hub = await Ledger(cmk).read(sent[0].subject, after=start)
    for found in (lane, hub, signal):
        assert [one.trace for one in found] == [str(here), ""]
        assert [one.body for one in found] == [one.body for one in sent]
    await reader.close()
    await fast.close()


async def test_a_reader_hands_out_its_lane_of_its_region_in_order_with_the_hubs_sequences(
    cmk: Connection, node: Connection
) -> None:
    start = (await Ledger(cmk).info()).last
    routine = await fill(cmk, 20)
    await fill(cmk, 5, region="us-virginia")
    critical = await fill(cmk, 3, lane="critical")
    for stream, consumer, want in (("LEDGER", ROUTINE, routine), ("LEDGER-CRITICAL", CRITICAL, critical)):
        reader = LaneReader(node, stream, consumer)
        await reader.reset(start)
        assert await drain(reader, len(want)) == want
        assert await reader.fetch(10, 0.05) == []
        await reader.ack(want)
        await reader.close()


async def test_a_reset_to_a_cursor_hands_out_exactly_what_is_behind_it_acknowledged_or_not(
    cmk: Connection, node: Connection
) -> None:
    start = (await Ledger(cmk).info()).last
    stored = await fill(cmk, 12)
    reader = LaneReader(node, "LEDGER", ROUTINE)
    await reader.reset(start)
    assert await drain(reader, 12) == stored
    await reader.ack(stored)
    for keep in (0, 5, 11):
        await reader.reset(stored[keep].sequence)
        assert await drain(reader, 11 - keep) == stored[keep + 1 :]
        assert await reader.fetch(10, 0.05) == []
    await reader.reset(start)
    assert (await drain(reader, 5, batch=5)) == stored[:5]
    await reader.reset(start)  # with a pull half used up
    assert await drain(reader, 12, batch=100) == stored
    await reader.close()


async def test_a_waiting_fetch_returns_with_the_message_that_comes(cmk: Connection, node: Connection) -> None:
    reader = LaneReader(node, "LEDGER-CRITICAL", CRITICAL)
    await reader.reset((await Ledger(cmk).info()).last)
    waiting = asyncio.create_task(reader.fetch(100, 20.0))
    await asyncio.sleep(0)
    stored = await fill(cmk, 1, lane="critical")
    async with asyncio.timeout(10):
        assert await waiting == stored
    await reader.close()


async def test_a_reader_that_was_never_reset_reads_nothing(node: Connection) -> None:
    with pytest.raises(BusError, match="reset"):
        await LaneReader(node, "LEDGER", ROUTINE).fetch(1, 0.1)


async def test_a_reader_of_a_foreign_consumer_is_refused(orbital: Orbital, node: Connection) -> None:
    for stream, consumer in (("LEDGER", "eu-frankfurt-2-routine"), ("LEDGER-CRITICAL", ROUTINE)):
        with pytest.raises(Refused):
            await LaneReader(node, stream, consumer).reset(0)


async def test_a_repeated_decree_is_heard_again_on_lane0_as_it_was(cmk: Connection, node: Connection) -> None:
    heard: asyncio.Queue[Stored] = asyncio.Queue()
    await subscribe_lane0(node, EU, heard.put)
    (stored,) = await fill(cmk, 1, lane="critical")
    await repeat(cmk, stored, tag="X.1")
    async with asyncio.timeout(10):
        assert [await heard.get(), await heard.get()] == [stored, stored]


async def test_a_reader_goes_on_where_it_was_after_its_leaf_was_killed(tmp_path: Path) -> None:
    with running_orbital(tmp_path) as orbital:
        cmk, node = await orbital.connect("cmk"), await orbital.connect(EU_NODE)
        reader = LaneReader(node, "LEDGER-CRITICAL", CRITICAL)
        await reader.reset(0)
        first = await fill(cmk, 5, lane="critical")
        assert await drain(reader, 5) == first
        await asyncio.to_thread(orbital.kill, EU)
        second = await fill(cmk, 5, lane="critical")
        await asyncio.to_thread(orbital.start, EU)
        found: list[Stored] = []
        async with asyncio.timeout(40):
            while len(found) < 5:
                try:
                    found += await reader.fetch(100, 1.0)
                except BusError:
                    await asyncio.sleep(0.05)
        assert found == second
        await cmk.close()
        await node.close()


async def test_a_reader_after_a_killed_one_gets_everything_in_order_though_the_dead_ones_pull_is_open(
    orbital: Orbital, cmk: Connection, node: Connection
) -> None:
    start = (await Ledger(cmk).info()).last
    dead = LaneReader(node, "LEDGER", ROUTINE)
    await dead.reset(start)
    assert await dead.fetch(500, 0.05) == []  # its pull stays open on the server
    await node.close()
    stored = await fill(cmk, 30)
    successor = await orbital.connect(EU_NODE)
    reader = LaneReader(successor, "LEDGER", ROUTINE)
    for cursor, want in ((start, stored), (stored[9].sequence, stored[10:]), (start, stored)):
        await reader.reset(cursor)
        assert await drain(reader, len(want)) == want
    await successor.close()
