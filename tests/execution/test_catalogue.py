"""The object catalogue: commits that are shared, records that arrive out of order, and what a million objects cost."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from execution.test_keychain import Vault
from openkcm.bus.messages import Stored
from openkcm.contract import envelope, resources, subjects
from openkcm.execution import catalogue, known, lines, shredder
from openkcm.execution.arena import RegionArena, WorkerArena
from openkcm.execution.catalogue import Catalogue
from openkcm.execution.keyring import RingRecord
from openkcm.execution.known import Known, summed
from openkcm.execution.objects import Objects
from openkcm.execution.records import ObjectRecord
from openkcm.execution.residence_state import State
from openkcm.execution.safe import Planted, Safe
from openkcm.execution.terms import name_term
from openkcm.execution.voice import Voice
from openkcm.projector import open_writer
from openkcm.projector.database import StorageFailed
from press import seed

OTHER = "eu-frankfurt-2"
REGION, NODE, TENANT, REG = "eu-frankfurt", "eu-frankfurt-1", "acme", "pay"


def record(uid: str, *names: str) -> ObjectRecord:
    return ObjectRecord(
        uid=uid, registration=REG, object_type=2, state=1, l3_version=1, wrapped=b"w", attributes=b"", names=names
    )


class Here:
    """A catalogue on a real SQLite; `commits` lists its transactions: how many rows, and whether they were synced."""

    def __init__(self, folder) -> None:
        self.database = open_writer(folder / "node.sqlite", resources.ROOT / "projections" / "node")
        signer = seed(NODE)
        self.vault, self.disk = Vault(), ThreadPoolExecutor(1)
        voice = Voice(NODE, REGION, signer)
        self.state = State(
            node=NODE,
            region=REGION,
            boot_id="b",
            trust_root=bytes(32),
            epoch=1,
            keys={seed(node).key_id: (seed(node).public_key, node) for node in (NODE, OTHER)},
            nodes={NODE: REGION, OTHER: REGION},
        )
        self.bumped: list[str] = []
        self.commits: list[tuple[int, bool]] = []
        self.bad: set[str] = set()
        self.catalogue = Catalogue(
            Safe(self.vault, voice, REGION), lambda: self.state, self.commit, lambda _, uid: self.bumped.append(uid),
            self.disk, Known(self.database),
        )  # fmt: skip

    def commit(self, rows, *, synced) -> None:
        self.commits.append((len(rows), synced))
        if self.bad & {row.get("uid") for _, row in rows}:
            raise StorageFailed("disk")
        self.database.apply(rows, synced=synced)

    async def put(self, *args, own: int = 0) -> int:
        expect = None if own else (str(self.catalogue._safe.subject(TENANT, "l3", "k")), 0)
        return await self.catalogue.put(TENANT, record(*args), expect=expect, own=own)

    def stored(self, uid: str) -> Stored:
        return self.vault.records[str(self.catalogue._safe.subject(TENANT, "object", uid))]

    def others(self, uid: str, sequence: int) -> Stored:
        """The region's other node writes an object."""
        where = self.catalogue._safe.subject(TENANT, "object", uid)
        sealed = Voice(OTHER, REGION, seed(OTHER)).record(
            where, "ObjectRecord.1", msgspec.json.encode(record(uid)), epoch=1, above=0
        )
        return Stored(sequence, str(where), envelope.encode(sealed), sealed.id)

    async def feed(self) -> None:
        """Bring what the vault has, as it comes, for ever."""
        while True:
            await asyncio.sleep(0.001)
            new = [r for r in self.vault.records.values() if r.sequence > self.catalogue.cursor]
            if new:
                await self.catalogue.take(sorted(new, key=lambda r: r.sequence))

    def found(self, *names: str) -> list[tuple[str, str]]:
        """Which objects the index finds by these names."""
        sql = "SELECT uid FROM object_terms WHERE term = ? AND tenant = ? ORDER BY uid"
        return [(u, n) for n in names for (u,) in self.database.rows(sql, (name_term(TENANT, REG, n), TENANT))]


@pytest.fixture
def here(tmp_path):
    here = Here(tmp_path)
    yield here
    here.disk.shutdown()
    here.database.close()


async def test_those_who_wait_for_the_disk_share_its_next_sync(here):
    done = await asyncio.gather(*(here.put(f"o-{n}", f"name-{n}") for n in range(100)))
    assert len(set(done)) == 100
    assert len(here.commits) < 10
    assert len(here.found(*(f"name-{n}" for n in range(100)))) == 100
    assert sorted(here.bumped) == sorted(f"o-{n}" for n in range(100))


async def test_what_the_disk_refuses_for_one_fails_that_one_alone(here):
    here.bad.add("o-3")
    done = await asyncio.gather(*(here.put(f"o-{n}") for n in range(20)), return_exceptions=True)
    assert [n for n, one in enumerate(done) if isinstance(one, StorageFailed)] == [3]
    assert "o-3" not in here.bumped
    assert len(here.database.rows("SELECT uid FROM objects")) == 19


async def test_a_new_object_is_answered_when_the_feed_has_brought_it_and_is_committed_once(here):
    feed = asyncio.ensure_future(here.feed())
    done = await asyncio.gather(*(here.put(f"o-{n}") for n in range(50)))
    feed.cancel()
    assert {s for (s,) in here.database.rows("SELECT sequence FROM objects")} == set(done)
    assert sorted(here.bumped) == sorted(f"o-{n}" for n in range(50))  # each once
    assert not any(synced for _, synced in here.commits)


async def test_who_waits_for_a_late_feed_commits_alone_and_nobody_waits_again_until_it_is_back(here, monkeypatch):
    monkeypatch.setattr(catalogue, "FEED_S", 0.001)
    first = await here.put("first")
    monkeypatch.setattr(catalogue, "FEED_S", 3600)
    await asyncio.wait_for(here.put("second"), 5)
    assert here.database.rows("SELECT count(*) FROM objects") == [(2,)]
    await here.catalogue.take([here.stored("first")])
    assert here.catalogue.cursor == first
    waits = asyncio.ensure_future(here.put("third"))
    await asyncio.wait([waits], timeout=0.05)
    assert not waits.done()
    await here.catalogue.take([here.stored("second"), here.stored("third")])
    await asyncio.wait_for(waits, 5)
    assert here.database.rows("SELECT count(*) FROM objects") == [(3,)]


async def test_a_change_is_on_the_disk_when_it_is_answered_and_a_new_object_in_the_vault(here):
    first = await here.put("o")
    assert [synced for _, synced in here.commits] == [False]
    assert here.database.rows("SELECT sequence FROM objects") == [(first,)]
    assert here.stored("o").sequence == first
    await here.put("o", own=first)
    assert [synced for _, synced in here.commits] == [False, True]


async def test_what_another_node_wrote_is_on_the_disk_before_the_feed_goes_on_and_what_we_did_need_not_be(here):
    await here.put("mine")
    here.commits.clear()
    await here.catalogue.take([here.stored("mine")])
    await here.catalogue.take([here.others("theirs", 2)])
    await here.catalogue.take([here.stored("mine"), here.others("too", 3)])
    assert [synced for _, synced in here.commits] == [False, True, True]


async def test_a_body_that_was_sealed_here_is_known_again_to_the_last_byte(here):
    safe = here.catalogue._safe
    await here.put("o")
    stored = here.stored("o")
    sealed = envelope.decode(stored.body)
    forged = msgspec.structs.replace(sealed, seal=bytes(64))
    for _ in range(2):
        with pytest.raises(Planted, match="not sealed by key"):
            safe.open(Stored(1, stored.subject, envelope.encode(forged), ""), here.state)
    assert safe.open(stored, here.state).own  # known
    assert safe.open(stored, here.state).own  # verified
    gone = msgspec.structs.replace(here.state, keys={})
    await here.put("p")
    with pytest.raises(Planted, match="unknown key"):
        safe.open(here.stored("p"), gone)


async def test_only_a_place_that_something_may_have_lain_in_is_looked_up(here):
    high, asked = 1 << 50, []

    class Memory:
        def last(self, subject: str) -> tuple[int, bytes]:
            asked.append(subject)
            return high, b""

    safe = Safe(here.vault, Voice(NODE, REGION, seed(NODE)), REGION, Memory())
    new, named = (safe.subject(TENANT, "object", uid) for uid in ("n", "named"))
    _, body = await safe.put(new, record("n"), expect=(str(safe.subject(TENANT, "l3", "k")), 0), epoch=1)
    assert envelope.decode(body).counter < high
    _, body = await safe.put(named, record("named"), expect=(str(named), 0), epoch=1)
    assert envelope.decode(body).counter == high + 1
    assert asked == [str(named)]


async def test_a_record_of_the_feed_is_looked_up_once(here, monkeypatch):
    asked = []
    monkeypatch.setattr(Known, "last", lambda _, subject: asked.append(subject))
    await here.catalogue.take([here.others("o", 1)])
    assert len(asked) == 1


async def test_records_that_nobody_of_the_region_sealed_are_all_counted_and_few_of_them_logged(here, caplog):
    await here.put("o")
    stored = here.stored("o")
    planted = [Stored(n, stored.subject, b"{}", "") for n in range(2, 502)]
    for at in range(0, 500, 50):
        await here.catalogue.take(planted[at : at + 50])
    assert here.catalogue.planted == 500
    assert len([m for m in caplog.messages if "vault record refused" in m]) == lines.FIRST
    assert here.database.rows("SELECT count(*) FROM objects") == [(1,)]


async def test_an_older_record_that_arrives_late_changes_neither_object_nor_names(here):
    first = await here.put("o", "old")
    older = here.vault.records[str(here.catalogue._safe.subject(TENANT, "object", "o"))]
    second = await here.put("o", "new", own=first)
    await here.catalogue.take([Stored(first, older.subject, older.body, older.id)])
    assert here.found("old", "new") == [("o", "new")]
    assert here.database.rows("SELECT sequence FROM objects") == [(second,)]


async def test_a_caller_who_gives_up_takes_nobody_along(here):
    gone = asyncio.ensure_future(here.put("gone"))
    others = [asyncio.ensure_future(here.put(f"o-{n}")) for n in range(5)]
    await asyncio.sleep(0)
    gone.cancel()
    assert len(await asyncio.gather(*others)) == 5


async def test_by_name_comes_page_after_page_and_no_statement_reads_a_whole_system(here):
    await asyncio.gather(*(here.put(f"o-{n:03}", "same") for n in range(150)))
    await here.put("other", "else")
    arena = RegionArena(slots=8, workloads=8)
    objects = Objects(here.database, WorkerArena(arena.fd, arena.size, arena.mode))
    pages = list(
        objects.pages(TENANT, REG, object_type=None, uid=None, term=name_term(TENANT, REG, "same"), state=None)
    )
    assert [r.uid for page in pages for r in page] == [f"o-{n:03}" for n in range(150)]
    assert max(map(len, pages)) < 150
    columns = ("tenant", "uid", "registration", "sequence", "term", "state", "found_as", "object_type", "record")
    given = dict.fromkeys(columns, 1)
    for name in ("object", "object_term"):
        for one in here.database._named[name].statements:
            for *_, step in here.database.rows(f"EXPLAIN QUERY PLAN {one.sql}", one.pick(given)):
                assert "uid=?" in step or not step.startswith(("SCAN obj", "SEARCH ")), (name, step)


# --- what a residence leaves, when it has a lot -------------------------------------------------------------------------


class Counted:
    """A reader that says how many rows its largest answer had."""

    def __init__(self, database) -> None:
        self.database, self.most = database, 0

    def rows(self, sql, parameters=()):
        found = self.database.rows(sql, parameters)
        self.most = max(self.most, len(found))
        return found


def ring(tenant: str = TENANT, **fields) -> RingRecord:
    return RingRecord(tenant=tenant, region=REGION, approvers_hash="0" * 64, **fields)


async def fed(here, *given: tuple[str, str, str, object]) -> None:
    """The vault's feed brings records: (tenant, kind, id, body), all at once."""
    batch = []
    for tenant, kind, id_, body in given:
        where = subjects.VaultSubject(REGION, tenant, kind, id_)
        above = here.vault.last(str(where))
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        e = here.catalogue._safe._voice.record(where, f"{kind.title()}Record.1", data, epoch=1, above=above)
        await here.vault.put(str(where), envelope.encode(e), id=e.id, expect=(str(where), above))
        batch.append(here.vault.records[str(where)])
    await here.catalogue.take(batch)


def digest_kept(here) -> tuple[str, str]:
    """The digest as it was committed, and that of what is known."""
    ((kept,),) = here.database.rows("SELECT digest FROM vault_cursor")
    return kept, summed(d for (d,) in here.database.rows("SELECT digest FROM vault_known"))


async def test_a_ring_that_names_other_keys_has_only_keys_read(here):
    await fed(here, *((TENANT, "object", f"o-{n}", record(f"o-{n}")) for n in range(50)))
    await fed(here, (TENANT, "l3", "1" * 32, b"{}"), (TENANT, "l3", "2" * 32, b"{}"))
    here.catalogue.known._kept = counted = Counted(here.database)
    await fed(here, (TENANT, "ring", TENANT, ring(l3={REG: {2: "2" * 32}})))
    assert counted.most <= 2
    kinds = [(k, s.rpartition(".")[2]) for s, k in here.database.rows("SELECT subject, kind FROM vault_known")]
    assert ("l3", "2" * 32) in kinds
    assert ("l3", "1" * 32) not in kinds
    assert len(kinds) == 52
    assert len(set(digest_kept(here))) == 1


@pytest.fixture
async def full(here, monkeypatch):
    """Ten objects and a key of one tenant, one object of another; pages of three."""
    monkeypatch.setattr(known, "PAGE", 3)
    await fed(
        here, (TENANT, "l3", "k", b"{}"), *((TENANT, "object", f"o-{n}", record(f"o-{n}", "x")) for n in range(10))
    )
    await fed(here, ("bolt", "object", "b", record("b")))
    here.commits.clear()
    return here


#: The last one comes with a change of an object in the same batch: neither its old nor its new digest may stay.
END = ((TENANT, "object", "o-4", record("o-4", "changed")), (TENANT, "ring", TENANT, ring(destroyed=True)))


async def test_a_destroyed_residence_is_forgotten_page_by_page(full):
    full.catalogue.known._kept = counted = Counted(full.database)
    await fed(full, *END)
    assert counted.most <= 3
    assert len(full.commits) >= 5
    assert max(rows for rows, _ in full.commits[:-1]) <= 4  # three records and the cursor
    left = {s.split(".")[3] + "." + k for s, k in full.database.rows("SELECT subject, kind FROM vault_known")}
    assert left == {"acme.ring", "bolt.object"}
    assert len({*digest_kept(full), full.catalogue.known.digest}) == 1


async def test_what_a_crash_left_of_it_is_forgotten_when_the_tombstone_comes_again(full):
    cursor, digest = full.catalogue.known.cursor, full.catalogue.known.digest
    apply = full.catalogue._commit

    def twice(rows, *, synced):
        if len(full.commits) == 2:
            raise StorageFailed("power")
        apply(rows, synced=synced)

    full.catalogue._commit = twice
    with pytest.raises(StorageFailed, match="power"):
        await fed(full, *END)
    assert (full.catalogue.known.cursor, full.catalogue.known.digest) == (cursor, digest)  # others are told no half
    again = Known(full.database)
    assert again.cursor == cursor
    full.catalogue._commit, full.catalogue.known, full.catalogue.cursor = apply, again, cursor
    batch = [r for r in full.vault.records.values() if r.sequence > cursor]
    await full.catalogue.take(sorted(batch, key=lambda r: r.sequence))
    assert {k for (k,) in full.database.rows("SELECT kind FROM vault_known WHERE tenant = ?", (TENANT,))} == {"ring"}
    assert len({*digest_kept(full), again.digest}) == 1


async def test_rows_are_shredded_so_many_at_a_time(full, monkeypatch):
    monkeypatch.setattr(shredder, "PAGE", 3)
    whole = shredder.Shredder(full.catalogue._safe, lambda: full.state, full.database, full.disk, None)
    assert whole._forget_some(TENANT) == 6  # three objects, and three of their terms
    assert full.database.rows("SELECT count(*) FROM objects WHERE tenant = ?", (TENANT,)) == [(7,)]
    assert (await whole._forget(TENANT))[0] == 14
    assert full.database.rows("SELECT tenant FROM objects") == [("bolt",)]
    assert full.database.rows("SELECT count(*) FROM object_terms WHERE tenant = ?", (TENANT,)) == [(0,)]
    assert full.database.rows("SELECT data FROM vault_known WHERE kind = 'l3'") == [(None,)]


async def test_this_nodes_copies_go_before_the_vaults_and_so_does_what_comes_meanwhile(full, monkeypatch):
    """The vault's take hours for many objects."""
    safe, reported, seen = full.catalogue._safe, [], []

    async def erase_all(tenant, _keep):
        seen.append(full.database.rows("SELECT count(*) FROM objects WHERE tenant = ?", (tenant,)))
        if len(seen) == 1:
            full.database.apply(catalogue._rows(tenant, 99, record("late", "n"), b"{}"))
            return {"object": 10}
        return {}

    async def report(_tenant, what):
        reported.append(what)

    async def nothing(*_):
        return None

    for name, of in (("erase_all", erase_all), ("get", nothing), ("tidy", nothing)):
        monkeypatch.setattr(safe, name, of)
    await shredder.Shredder(safe, lambda: full.state, full.database, full.disk, report)._shred(TENANT)
    assert seen == [[(0,)], [(1,)]]
    assert full.database.rows("SELECT tenant FROM objects") == [("bolt",)]
    (said,) = reported
    assert (said.rows, said.vault, said.log_truncated) == (22, {"object": 10}, True)
