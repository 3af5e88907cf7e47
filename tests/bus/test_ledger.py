"""The ledger on real servers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from openkcm.bus.connection import Connection
from openkcm.bus.errors import Conflict, Refused, SameIdOtherMessage, TooLarge, Unavailable
from openkcm.bus.lanes import mirror_head, subscribe_lane0
from openkcm.bus.ledger import Ledger
from openkcm.bus.messages import Stored
from openkcm.contract.subjects import residence_aggregate
from orbital_fixture import EU, EU_NODE, US_NODE, Orbital, running_orbital


def new_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
async def cmk(orbital: Orbital) -> AsyncIterator[Connection]:
    connection = await orbital.connect("cmk")
    yield connection
    await connection.close()


@pytest.fixture
def ledger(cmk: Connection) -> Ledger:
    return Ledger(cmk)


@pytest.fixture
def tenant() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


async def test_an_append_is_read_back_by_subject_and_by_sequence(ledger: Ledger, tenant: str) -> None:
    subject = str(residence_aggregate(EU, tenant))
    assert await ledger.last(subject) is None
    ids = [new_id(), new_id()]
    first = await ledger.append(subject, b"one", id=ids[0], tag="X.1", expected_last=0)
    second = await ledger.append(subject, b"two", id=ids[1], tag="X.1", expected_last=first.sequence)
    assert not first.duplicate
    assert not second.duplicate
    stored = [Stored(first.sequence, subject, b"one", ids[0]), Stored(second.sequence, subject, b"two", ids[1])]
    assert await ledger.read(subject) == stored
    assert await ledger.read(subject, after=first.sequence) == stored[1:]
    assert await ledger.read(subject, after=second.sequence) == []
    assert await ledger.last(subject) == stored[1]
    now = asyncio.get_running_loop().time()
    assert await ledger.leader_last([f"kcm.decree.{EU}.{tenant}.>", f"kcm.decree.{EU}.no.>"], since_s=now) == stored[1]
    assert await ledger.leader_last([f"kcm.decree.{EU}.nobody.>"], since_s=now) is None
    assert [s async for s in ledger.read_all(after=first.sequence - 1, until=second.sequence)] == stored
    state = await ledger.info()
    assert state.deleted == 0
    assert state.last >= second.sequence


async def test_an_append_with_an_outdated_expectation_is_a_conflict_and_changes_nothing(
    ledger: Ledger, tenant: str
) -> None:
    subject = str(residence_aggregate(EU, tenant))
    await ledger.append(subject, b"one", id=new_id(), tag="X.1", expected_last=0)
    before = await ledger.info()
    with pytest.raises(Conflict):
        await ledger.append(subject, b"two", id=new_id(), tag="X.1", expected_last=0)
    assert await ledger.info() == before


async def test_the_same_message_again_is_a_duplicate_with_and_without_an_expectation(
    ledger: Ledger, tenant: str
) -> None:
    subject, id_ = str(residence_aggregate(EU, tenant)), new_id()
    first = await ledger.append(subject, b"one", id=id_, tag="X.1", expected_last=0)
    await ledger.append(subject, b"two", id=new_id(), tag="X.1", expected_last=first.sequence)
    for expected in (0, None):
        again = await ledger.append(subject, b"one", id=id_, tag="X.1", expected_last=expected)
        assert (again.sequence, again.duplicate) == (first.sequence, True)


async def test_the_same_id_with_another_body_or_subject_is_refused_and_shown(ledger: Ledger, tenant: str) -> None:
    subject, id_ = str(residence_aggregate(EU, tenant)), new_id()
    first = await ledger.append(subject, b"one", id=id_, tag="X.1", expected_last=0)
    before = await ledger.info()
    for other, body, expected in (
        (subject, b"two", None),
        (subject, b"two", 0),
        (str(residence_aggregate("us-virginia", tenant)), b"one", None),
    ):
        with pytest.raises(SameIdOtherMessage) as caught:
            await ledger.append(other, body, id=id_, tag="X.1", expected_last=expected)
        assert caught.value.stored == Stored(first.sequence, subject, b"one", id_)
    assert await ledger.info() == before


async def test_what_the_table_does_not_allow_is_refused_at_once_and_counted(orbital: Orbital, ledger: Ledger) -> None:
    trust = await orbital.connect("trust")
    before = await ledger.info()
    with pytest.raises(Refused):
        await Ledger(trust).append(
            f"kcm.decree.{EU}.acme.critical.residence.acme", b"x", id=new_id(), tag="X.1", expected_last=None
        )
    assert trust.permission_errors == 1
    opened = await Ledger(trust).append(
        "kcm.decree.global._.routine.ledger.main", b"x", id=new_id(), tag="X.1", expected_last=None
    )
    assert opened.sequence == before.last + 1
    assert (await Ledger(trust).last("kcm.decree.global._.routine.ledger.main")) is not None
    await trust.close()


async def test_a_decree_over_64_kib_is_too_large(ledger: Ledger, tenant: str) -> None:
    subject = str(residence_aggregate(EU, tenant))
    for size in (65536, 2 << 20):
        with pytest.raises(TooLarge):
            await ledger.append(subject, b"x" * size, id=new_id(), tag="X.1", expected_last=None)


async def test_governance_can_neither_delete_nor_purge_nor_change_nor_make_a_consumer(cmk: Connection) -> None:
    for what in (
        "STREAM.PURGE.LEDGER",
        "STREAM.DELETE.LEDGER",
        "STREAM.UPDATE.LEDGER",
        "STREAM.MSG.DELETE.LEDGER",
        "CONSUMER.CREATE.LEDGER.x",
        "CONSUMER.DURABLE.CREATE.LEDGER.mirror-eu-frankfurt",
        "CONSUMER.DELETE.LEDGER.mirror-eu-frankfurt",
        "CONSUMER.RESET.LEDGER.mirror-eu-frankfurt",
    ):
        with pytest.raises(Refused):
            await cmk.request(f"$JS.API.{what}", b"{}")


async def test_a_critical_decree_reaches_lane0_of_its_region_alone_and_both_mirrors(
    orbital: Orbital, ledger: Ledger, tenant: str
) -> None:
    eu, us = await orbital.connect(EU_NODE), await orbital.connect(US_NODE)
    heard: dict[str, asyncio.Queue[Stored]] = {"eu-frankfurt": asyncio.Queue(), "us-virginia": asyncio.Queue()}
    await subscribe_lane0(eu, "eu-frankfurt", heard["eu-frankfurt"].put)
    await subscribe_lane0(us, "us-virginia", heard["us-virginia"].put)
    subject, id_ = str(residence_aggregate(EU, tenant, "critical")), new_id()
    done = await ledger.append(subject, b"revoke", id=id_, tag="AccessRevoked.1", expected_last=0)
    async with asyncio.timeout(10):
        assert await heard["eu-frankfurt"].get() == Stored(done.sequence, subject, b"revoke", id_)
    for_all, id_of_all = "kcm.decree.global._.critical.ledger.main", new_id()
    of_all = await ledger.append(for_all, b"key", id=id_of_all, tag="SigningKeyRotated.1", expected_last=None)
    async with asyncio.timeout(10):
        for region in heard.values():  # us-virginia hears this one first: nothing of eu-frankfurt's came before it
            assert await region.get() == Stored(of_all.sequence, for_all, b"key", id_of_all)
        for node in (eu, us):
            for stream in ("LEDGER", "LEDGER-CRITICAL"):
                while await mirror_head(node, stream) < of_all.sequence:  # noqa: ASYNC110 -- on the server
                    await asyncio.sleep(0.01)
    await eu.close()
    await us.close()


async def test_the_auditors_mirror_has_everything_and_takes_nothing(orbital: Orbital, ledger: Ledger) -> None:
    subject = str(residence_aggregate(EU, "audited"))
    done = await ledger.append(subject, b"x", id=new_id(), tag="X.1", expected_last=None)
    auditor = await orbital.connect("auditor")
    theirs = Ledger(auditor)
    async with asyncio.timeout(15):
        while (await theirs.info()).last < done.sequence:  # noqa: ASYNC110 -- it happens on the server
            await asyncio.sleep(0.05)
    assert [s async for s in theirs.read_all()] == [s async for s in ledger.read_all()]
    with pytest.raises(Refused):
        await theirs.append(subject, b"forged", id=new_id(), tag="X.1", expected_last=None)
    await auditor.close()


async def test_follow_goes_on_without_gap_or_duplicate_over_a_hub_killed_and_restarted(tmp_path: Path) -> None:
    with running_orbital(tmp_path) as orbital:
        writer, reader = await orbital.connect("cmk"), await orbital.connect("cmk")
        ledger = Ledger(writer)
        subject = str(residence_aggregate(EU, "acme"))
        seen: list[Stored] = []

        async def reading(filters: list[str] | None, into: list[Stored]) -> None:
            async for stored in Ledger(reader).follow(after=0, filters=filters):
                into.append(stored)  # noqa: PERF401 -- it never ends

        filtered: list[Stored] = []
        tasks = [
            asyncio.create_task(reading(None, seen)),
            asyncio.create_task(reading([f"kcm.decree.{EU}.*.critical.>", "kcm.decree.global._.>"], filtered)),
        ]
        sent = []
        for number in range(60):
            if number == 30:
                await asyncio.to_thread(orbital.kill, "hub")
                with pytest.raises(Unavailable):
                    await ledger.append(subject, b"x", id=new_id(), tag="X.1", expected_last=None, timeout_s=0.3)
                await asyncio.to_thread(orbital.start, "hub")
            on = subject if number % 10 else str(residence_aggregate(EU, "acme", "critical"))
            id_ = new_id()
            async with asyncio.timeout(20):
                while True:
                    try:
                        await ledger.append(on, b"%d" % number, id=id_, tag="X.1", expected_last=None, timeout_s=0.5)
                        break
                    except Unavailable:
                        await asyncio.sleep(0.05)
            sent.append((on, b"%d" % number, id_))
        async with asyncio.timeout(20):
            while len(seen) < 60 or len(filtered) < 6:  # noqa: ASYNC110 -- two readers fill them
                await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [(s.subject, s.body, s.id) for s in seen] == sent
        assert [s.sequence for s in seen] == list(range(1, 61))
        assert filtered == [s for s in seen if ".critical." in s.subject]
        await writer.close()
        await reader.close()
