"""What updates have superseded in the vault: when it goes, what of it stays on the server's disk, and what never goes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from openkcm.bus.vault import Vault
from openkcm.execution import eraser
from openkcm.execution.eraser import Eraser
from openkcm.execution.keyring import RingRecord
from openkcm.execution.records import ObjectRecord
from openkcm.execution.residence_state import Residence, State
from openkcm.execution.safe import Safe
from openkcm.execution.voice import Voice
from orbital_fixture import EU, EU_NODE, running_orbital
from press import seed

TENANT, REG = "acme", "pay"
ID = "1" * 32


class Region:
    """A real vault, and what one node writes there."""

    def __init__(self, vault: Vault, store: Path) -> None:
        self.vault, self.store = vault, store
        self.safe = Safe(vault, Voice(EU_NODE, EU, seed(EU_NODE)), EU)
        self.state = State(
            node=EU_NODE, region=EU, boot_id="b", trust_root=bytes(32), epoch=1,
            keys={seed(EU_NODE).key_id: (seed(EU_NODE).public_key, EU_NODE)}, nodes={EU_NODE: EU},
            residences={TENANT: Residence(tenant=TENANT)},
        )  # fmt: skip
        self.eraser = self.next_process()
        self.last: dict[str, int] = {}

    def next_process(self) -> Eraser:
        return Eraser(self.safe, lambda: self.state)

    async def put(self, kind: str, id_: str, record: msgspec.Struct, replaces: int = 0) -> int:
        where = self.safe.subject(TENANT, kind, id_)
        at, _ = await self.safe.put(where, record, expect=(str(where), replaces), epoch=1)
        return at

    async def ring(self, *versions: int) -> None:
        place = self.safe.subject(TENANT, "ring", TENANT)
        before = await self.safe.get(place, RingRecord, self.state)
        l3 = {REG: dict.fromkeys(versions, ID), "another": {1: ID}}
        ring = RingRecord(tenant=TENANT, region=EU, approvers_hash="0" * 64, l3=l3)
        at = before[0] if before else 0
        await self.safe.put(place, ring, expect=(str(place), at), epoch=1, replaces=at)

    async def revised(self, uid: str, *versions: int) -> list[bytes]:
        """Write revisions of an object under these versions of its key; return what each has of its own."""
        found = []
        for version in versions:
            found.append(os.urandom(16).hex().encode())
            record = ObjectRecord(
                uid=uid, registration=REG, object_type=2, state=1, l3_version=version, wrapped=b"w", attributes=b"",
                names=(found[-1].decode(),),
            )  # fmt: skip
            self.last[uid] = await self.put("object", uid, record, self.last.get(uid, 0))
            self.eraser.later(self.safe.subject(TENANT, "object", uid))
        return found

    async def left(self, uid: str) -> int:
        return len(await self.vault.revisions(str(self.safe.subject(TENANT, "object", uid))))

    def on_disk(self, needles: list[bytes]) -> list[bool]:
        """Whether each is in a file of the store."""
        files = [f.read_bytes() for f in self.store.rglob("*.blk")]
        return [any(needle in file for file in files) for needle in needles]


@pytest.fixture
async def region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Region]:
    monkeypatch.setattr(eraser, "PACE_S", 0.0)
    with running_orbital(tmp_path) as orbital:
        node = await orbital.connect(EU_NODE)
        region = Region(Vault(node, EU), next(p for p in orbital.servers[EU].store.rglob("VAULT")))
        await region.ring(1)
        yield region
        await node.close()


async def test_what_updates_left_is_overwritten_on_the_disk_and_the_newest_stays(region: Region) -> None:
    told = await region.revised("o", 1, 1, 1)
    assert region.on_disk(told) == [True, True, True]
    await region.eraser.sweep()
    assert region.on_disk(told) == [False, False, True]
    assert await region.left("o") == 1
    assert region.eraser.superseded == 0


async def test_what_a_process_forgets_at_its_end_the_next_one_finds(region: Region) -> None:
    told = await region.revised("o", 1, 1)
    await region.revised("single", 1)
    await region.next_process().sweep()
    assert region.on_disk(told) == [False, True]
    assert await region.left("single") == 1


async def test_while_the_key_rotates_they_wait_and_when_its_version_is_destroyed_they_just_go(region: Region) -> None:
    await region.ring(1, 2)
    told = await region.revised("o", 1, 2)
    await region.eraser.sweep()
    assert await region.left("o") == 2  # a Destroy still finds it
    await region.ring(2)
    told += await region.revised("o", 2)
    await region.next_process().sweep()
    assert await region.left("o") == 1
    assert region.on_disk(told) == [True, False, True]  # the first one's bytes are there: no key opens them


async def test_a_version_that_a_ring_does_not_name_yet_is_not_taken_for_a_destroyed_one(region: Region) -> None:
    told = await region.revised("o", 2, 2)
    await region.eraser.sweep()
    assert region.on_disk(told) == [False, True]


async def test_a_destroyed_residence_is_left_to_the_shredder(region: Region) -> None:
    await region.revised("o", 1, 1)
    place = region.safe.subject(TENANT, "ring", TENANT)
    at, ring = await region.safe.get(place, RingRecord, region.state)
    gone = msgspec.structs.replace(ring, destroyed=True, l3={})
    await region.safe.put(place, gone, expect=(str(place), at), epoch=1, replaces=at)
    await region.eraser.sweep()
    assert await region.left("o") == 2


async def test_the_newest_stays_whoever_writes_meanwhile(region: Region) -> None:
    async def write() -> None:
        for _ in range(60):
            await region.revised("o", 1)

    writing = asyncio.ensure_future(write())
    others = [region.eraser, region.next_process()]
    while not writing.done():
        await asyncio.gather(*(one.sweep() for one in others))
    await writing
    newest = await region.vault.get(str(region.safe.subject(TENANT, "object", "o")))
    assert newest is not None
    assert newest.sequence == region.last["o"]
    await region.next_process().sweep()
    assert await region.left("o") == 1


async def test_an_object_that_changes_all_the_time_is_not_left_to_it(region: Region) -> None:
    where = region.safe.subject(TENANT, "object", "busy")
    taken = [region.eraser.later(where) for _ in range(2 * eraser.PER_OBJECT)]
    assert taken.count(False) == 2
    assert taken[0]


async def test_more_objects_than_it_remembers_are_found_all_the_same(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eraser, "MOST", 1)
    for uid in ("a", "b", "c"):
        await region.revised(uid, 1, 1)
    await region.eraser.sweep()
    assert [await region.left(uid) for uid in ("a", "b", "c")] == [1, 1, 1]


async def test_of_a_destroyed_residence_the_keys_go_first_and_overwritten(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    await region.revised("o", 1, 1)
    await region.put("l3", ID, msgspec.defstruct("Any", [])())
    gone: list[tuple[str, bool]] = []
    erase = Vault.erase

    async def seen(vault: Vault, subject: str, sequence: int, *, overwrite: bool = True) -> None:
        gone.append((subject.split(".")[4], overwrite))
        await erase(vault, subject, sequence, overwrite=overwrite)

    monkeypatch.setattr(Vault, "erase", seen)
    assert await region.safe.erase_all(TENANT, frozenset({"ring"})) == {"l3": 1, "object": 2}
    assert gone == [("l3", True), ("object", False), ("object", False)]


async def test_what_lies_under_a_subject_of_nobodys_making_stops_nothing(region: Region) -> None:
    for _ in range(2):
        await region.vault._connection.request(f"kcm.vault.{EU}.{TENANT}.object.NOT-AN=ID", b"x")
    await region.revised("o", 1, 1)
    await region.next_process().sweep()
    assert await region.left("o") == 1
