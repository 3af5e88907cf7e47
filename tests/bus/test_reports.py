"""Reports and signs of life, from the leaf to the hub and back."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from openkcm.bus.beat import health_subject, say, subscribe_beats, subscribe_health
from openkcm.bus.errors import Refused, TooLarge
from openkcm.bus.messages import Stored
from openkcm.bus.publish import api
from openkcm.bus.reports import Reports, send
from openkcm.contract.subjects import ReportSubject, beat
from orbital_fixture import EU, EU_NODE, US, US_NODE, Orbital


def new_id() -> str:
    return str(uuid.uuid4())


async def take(orbital: Orbital, count: int, after: int = 0) -> list[Stored]:
    cmk = await orbital.connect("cmk")
    found: list[Stored] = []
    following = Reports(cmk).follow(after)
    async with asyncio.timeout(20):
        async for stored in following:
            found.append(stored)
            if len(found) == count:
                break
    await following.aclose()
    await cmk.close()
    return found


async def test_reports_of_all_regions_reach_governance_once_each_and_each_regions_in_its_order(
    orbital: Orbital,
) -> None:
    sent: dict[str, list[tuple[str, bytes, str]]] = {EU: [], US: []}
    nodes = {EU: await orbital.connect(EU_NODE), US: await orbital.connect(US_NODE)}
    for number in range(10):
        for region, node in ((EU, EU_NODE), (US, US_NODE)):
            subject, id_ = str(ReportSubject(region, node, "acme", "sync-ack")), new_id()
            first = await send(nodes[region], subject, b"%d" % number, id=id_, tag="SyncAck.1")
            again = await send(nodes[region], subject, b"%d" % number, id=id_, tag="SyncAck.1")
            assert (again.sequence, again.duplicate) == (first.sequence, True)
            sent[region].append((subject, b"%d" % number, id_))
    found = await take(orbital, 20)
    for region, want in sent.items():
        assert [(s.subject, s.body, s.id) for s in found if region in s.subject] == want
    assert [s.sequence for s in found] == list(range(1, 21))
    assert await take(orbital, 5, after=15) == found[15:]
    for node in nodes.values():
        await node.close()


async def test_a_report_of_another_node_or_an_oversized_one_is_refused(orbital: Orbital) -> None:
    node = await orbital.connect(EU_NODE)
    with pytest.raises(Refused):
        await send(node, str(ReportSubject(EU, "eu-frankfurt-2", "acme", "sync-ack")), b"x", id=new_id())
    with pytest.raises(TooLarge):
        await send(node, str(ReportSubject(EU, EU_NODE, "acme", "sync-ack")), b"x" * 70000, id=new_id())
    await node.close()


async def test_health_reaches_governance_and_its_answer_the_region_alone(orbital: Orbital) -> None:
    cmk, eu, us = [await orbital.connect(user) for user in ("cmk", EU_NODE, US_NODE)]
    healths: asyncio.Queue[Stored] = asyncio.Queue()
    beats: dict[str, asyncio.Queue[Stored]] = {EU: asyncio.Queue(), US: asyncio.Queue()}
    ends = [
        await subscribe_health(cmk, healths.put),
        await subscribe_beats(eu, EU, beats[EU].put),
        await subscribe_beats(us, US, beats[US].put),
    ]
    subject, id_ = health_subject(EU, EU_NODE), new_id()
    async with asyncio.timeout(20):
        await say(eu, subject, b"alive", id=id_, tag="HealthCheck.2")
        assert await healths.get() == Stored(0, subject, b"alive", id_)
        await say(cmk, beat(EU), b"beat", id=id_, tag="Beat.1")
        assert await beats[EU].get() == Stored(0, f"kcm.beat.{EU}", b"beat", id_)
        await say(cmk, beat(US), b"other", id=id_, tag="Beat.1")
        assert (await beats[US].get()).body == b"other"  # and nothing of eu-frankfurt's before it
        for body in (b"2", b"3"):
            await say(eu, subject, body, id=new_id(), tag="HealthCheck.2")
        while True:
            state = (await api(cmk, "$JS.reports.API.STREAM.INFO.HEALTH"))["state"]
            if state["last_seq"] == 3:
                break
            await asyncio.sleep(0.01)
    assert state["messages"] == 1  # the last one of each node is kept
    with pytest.raises(Refused):
        await say(eu, health_subject(EU, "eu-frankfurt-2"), b"x", id=id_, tag="HealthCheck.2")
    with pytest.raises(Refused):
        await say(eu, beat(EU), b"forged", id=id_, tag="Beat.1")
    with pytest.raises(Refused):
        await subscribe_beats(us, EU, beats[EU].put)
    for end in ends:
        await end()
    for connection in (cmk, eu, us):
        await connection.close()
