"""The region's vault on its leaf."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from openkcm.bus.connection import Connection
from openkcm.bus.errors import BusError, Conflict, Refused, SameIdOtherMessage, TooLarge
from openkcm.bus.lanes import LaneReader
from openkcm.bus.messages import Stored
from openkcm.bus.publish import api
from openkcm.bus.vault import Vault
from openkcm.contract.subjects import VaultSubject
from orbital_fixture import EU, EU_NODE, US_NODE, Orbital, running_orbital


def new_id() -> str:
    return str(uuid.uuid4())


def record(kind: str = "key") -> str:
    return str(VaultSubject(EU, "acme", kind, uuid.uuid4().hex[:12]))


@pytest.fixture
async def node(orbital: Orbital) -> AsyncIterator[Connection]:
    connection = await orbital.connect(EU_NODE)
    yield connection
    await connection.close()


@pytest.fixture
def vault(node: Connection) -> Vault:
    return Vault(node, EU)


async def test_a_record_is_created_and_updated_by_compare_and_set(vault: Vault) -> None:
    subject, id_ = record(), new_id()
    assert await vault.get(subject) is None
    first = await vault.put(subject, b"one", id=id_, expect=(subject, 0), tag="Key.1")
    assert await vault.get(subject) == Stored(first, subject, b"one", id_)
    with pytest.raises(Conflict):
        await vault.put(subject, b"two", id=new_id(), expect=(subject, 0))
    second = await vault.put(subject, b"two", id=new_id(), expect=(subject, first))
    assert await vault.revisions(subject) == [first, second]
    await vault.erase(subject, first)
    assert await vault.revisions(subject) == [second]
    assert (await vault.get(subject)).body == b"two"


async def test_a_create_can_expect_the_record_of_its_wrapping_key(vault: Vault) -> None:
    wrapping, child = record("l2"), record("l3")
    at = await vault.put(wrapping, b"l2", id=new_id(), expect=(wrapping, 0))
    await vault.put(child, b"l3", id=new_id(), expect=(wrapping, at))
    newer = await vault.put(wrapping, b"tombstone", id=new_id(), expect=(wrapping, at))
    with pytest.raises(Conflict):
        await vault.put(record("l3"), b"late", id=new_id(), expect=(wrapping, at))
    assert newer > at


async def test_the_same_write_again_is_done_once_and_another_under_its_id_is_refused(vault: Vault) -> None:
    subject, id_ = record(), new_id()
    first = await vault.put(subject, b"one", id=id_, expect=(subject, 0))
    assert await vault.put(subject, b"one", id=id_, expect=(subject, 0)) == first
    with pytest.raises(SameIdOtherMessage):
        await vault.put(subject, b"two", id=id_, expect=(subject, first))
    assert await vault.revisions(subject) == [first]


async def test_what_is_not_this_regions_or_too_large_is_refused(orbital: Orbital, vault: Vault) -> None:
    foreign = str(VaultSubject("us-virginia", "acme", "key", "1"))
    for attempt in (vault.get(foreign), vault.put(foreign, b"x", id=new_id(), expect=(foreign, 0))):
        with pytest.raises(BusError, match="not of region"):
            await attempt
    us = await orbital.connect(US_NODE)
    subject = record()
    with pytest.raises(Refused):
        await Vault(us, EU).put(subject, b"x", id=new_id(), expect=(subject, 0))
    await us.close()
    with pytest.raises(TooLarge):
        await vault.put(subject, b"x" * (1 << 20), id=new_id(), expect=(subject, 0))
    assert await vault.get(subject) is None


async def test_an_erase_of_another_records_revision_erases_nothing(vault: Vault) -> None:
    mine, other = record(), record()
    at = await vault.put(other, b"other", id=new_id(), expect=(other, 0))
    with pytest.raises(BusError, match="not erased"):
        await vault.erase(mine, at)
    assert (await vault.get(other)).body == b"other"


async def test_a_nodes_own_reader_hears_every_write(node: Connection, vault: Vault) -> None:
    start = (await api(node, "$JS.API.STREAM.INFO.VAULT"))["state"]["last_seq"]
    reader = LaneReader(node, "VAULT", f"{EU_NODE}-vault")
    await reader.reset(start)
    written = []
    for number in range(3):
        subject, id_ = record(), new_id()
        at = await vault.put(subject, b"%d" % number, id=id_, expect=(subject, 0))
        written.append(Stored(at, subject, b"%d" % number, id_))
    found: list[Stored] = []
    async with asyncio.timeout(10):
        while len(found) < 3:
            found += await reader.fetch(10, 1.0)
    assert found == written
    await reader.close()


async def test_an_erased_revision_is_gone_from_the_server_and_from_its_disk(tmp_path: Path) -> None:
    with running_orbital(tmp_path) as orbital:
        node = await orbital.connect(EU_NODE)
        vault, subject = Vault(node, EU), record()
        secret, kept = uuid.uuid4().bytes * 4, uuid.uuid4().bytes * 4
        first = await vault.put(subject, secret, id=new_id(), expect=(subject, 0))
        await vault.put(subject, kept, id=new_id(), expect=(subject, first))
        store = orbital.servers[EU].store
        assert on_disk(store, secret)  # else the test would prove nothing
        await vault.erase(subject, first)
        assert (await api(node, "$JS.API.STREAM.MSG.GET.VAULT", {"seq": first}))["error"]["err_code"] == 10037
        await vault.erase(subject, first)  # done already is done
        assert not on_disk(store, secret)
        assert on_disk(store, kept)
        await node.close()


def on_disk(store: Path, needle: bytes) -> bool:
    return any(needle in file.read_bytes() for file in store.rglob("*") if file.is_file())
