"""Keys between vault, root and arena: races, late unseals, planted records. Vault and root are small doubles here; the
real ones are in test_node and test_roots_*."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from openkcm.bus.errors import Conflict
from openkcm.bus.messages import Stored
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.execution.arena import Gate, RegionArena
from openkcm.execution.cells import KeyArena
from openkcm.execution.desired import step
from openkcm.execution.gates import Gates
from openkcm.execution.inputs import Arrived
from openkcm.execution.keychain import Keychain
from openkcm.execution.keyring import FenceRecord, RingRecord
from openkcm.execution.known import digest_of
from openkcm.execution.node import SPARE_CELLS
from openkcm.execution.residence_state import State
from openkcm.execution.roots.base import Canary, Wrapped
from openkcm.execution.safe import Safe
from openkcm.execution.vaultcheck import lost_keys
from openkcm.execution.voice import Voice
from openkcm.execution.warmth import Warmth
from press import Press, seed

REGION, REG = "eu-frankfurt", "reg-acme-payments"


class Vault:
    """Compare-and-set in memory."""

    def __init__(self) -> None:
        self.records: dict[str, Stored] = {}
        self.sequence = 0

    def last(self, subject):
        return self.records[subject].sequence if subject in self.records else 0

    async def get(self, subject):
        await asyncio.sleep(0)
        return self.records.get(subject)

    async def put(self, subject, body, *, id, expect):  # noqa: A002 -- as on the bus
        await asyncio.sleep(0)
        if self.last(expect[0]) != expect[1]:
            raise Conflict(subject)
        self.sequence += 1
        self.records[subject] = Stored(self.sequence, subject, body, id)
        return self.sequence

    async def erase(self, subject, sequence, *, overwrite=True):
        if self.last(subject) == sequence:
            del self.records[subject]

    async def revisions(self, subject):
        return [self.last(subject)] if subject in self.records else []


class Root:
    """A root that wraps by adding one to each byte; waits when told to."""

    def __init__(self) -> None:
        self.hold = asyncio.Event()
        self.hold.set()
        self.asked = 0

    def cancel(self, tenant):
        pass

    async def wrap_new_kek(self, tenant, root, context, into):
        self.asked += 1
        await self.hold.wait()
        into[:] = bytes(range(32))
        return Wrapped(
            ciphertext=bytes(range(1, 33)),
            root_version="v1",
            canary=Canary(ciphertext=b"c", root_version="v1", digest=bytes(32)),
        )

    async def unwrap(self, tenant, root, wrapped, context, into):
        self.asked += 1
        await self.hold.wait()
        into[:] = bytes(b - 1 for b in wrapped.ciphertext)


class Node:
    def __init__(self, name: str, vault: Vault, root: Root, press: Press, slots: int = 16) -> None:
        self.press, self.root, self.drained = press, root, True
        self.state = State(node=name, region=REGION, boot_id="b", trust_root=press.root.public_key)
        self.arena, cells = RegionArena(slots=slots, workloads=16), KeyArena(cells=slots + SPARE_CELLS)
        self.gates = Gates(self.arena, cells, lambda: None, root.cancel, lambda _: None, lambda: self.drained)
        self.cells = cells
        self.safe = Safe(vault, Voice(name, REGION, seed(name)), REGION)
        self.keychain = Keychain(REGION, lambda: self.state, self.gates, self.safe, root)
        self.sequence = 0

    def take(self, *envelopes):
        for e in envelopes:
            self.sequence += 1
            source = "critical" if ".critical." in e.subject else "routine"
            self.state, effects = step(self.state, Arrived(source, self.sequence, e.subject, env.encode(e), 0))
            for effect in effects:
                if effect.kind == "close":
                    self.gates.close(effect.tenant, effect.detail)

    def key(self) -> bytes:
        (slot,) = self.gates.slots("acme").values()
        start = 8 * (512 + slot * 8)
        return bytes(self.arena._mapping.view[start : start + 32])


@pytest.fixture
async def pair():
    press, vault, root = Press(), Vault(), Root()
    nodes = [Node(name, vault, root, press) for name in ("eu-frankfurt-1", "eu-frankfurt-2")]
    opening = [*press.opening(*((n, REGION) for n in ("eu-frankfurt-1", "eu-frankfurt-2"))), *press.onboarded("acme")]
    for node in nodes:
        node.take(*opening)
    return nodes, vault, root


async def test_two_nodes_that_make_the_keys_at_once_end_with_the_same_ones(pair):
    (one, two), vault, _ = pair
    assert await asyncio.gather(one.keychain.provision("acme"), two.keychain.provision("acme")) == [
        (None, ()),
        (None, ()),
    ]
    assert one.key() == two.key() != bytes(32)
    kinds = sorted(subject.split(".")[4] for subject in vault.records)
    assert kinds == ["l2", "l3", "ring"]  # what lost was never used, and is gone


async def test_an_unseal_begun_before_a_revocation_cannot_put_a_key_in_place(pair):
    (one, _), _, root = pair
    root.hold.clear()
    under_way = asyncio.ensure_future(one.keychain.provision("acme"))
    while not root.asked:  # noqa: ASYNC110 -- a double that counts
        await asyncio.sleep(0)
    revoked = one.press.residence("acme", d.AccessRevoked(reason="test"))
    one.take(revoked)
    root.hold.set()
    await under_way
    assert not one.keychain.is_open("acme")
    assert one.gates.cell("acme", 1) is None
    one.take(one.press.restore("acme", revoked))
    assert (await one.keychain.provision("acme"))[0] is None
    assert one.keychain.is_open("acme")


async def test_closing_wipes_l2_and_l3_and_raises_the_slots_generation(pair):
    (one, _), _, _ = pair
    await one.keychain.provision("acme")
    (slot,) = one.gates.slots("acme").values()
    cell, before = one.gates.cell("acme", 1), one.arena.generation(slot)
    view = one.cells.view(cell)
    assert bytes(view) != bytes(32)
    one.take(one.press.residence("acme", d.AccessRevoked(reason="test")))
    assert one.arena.gate(slot) is Gate.REVOKED
    assert one.arena.generation(slot) > before
    assert one.key() == bytes(32)
    assert bytes(view) == bytes(32)


async def test_a_record_that_no_node_of_the_region_sealed_is_refused(pair):
    (one, _), vault, _ = pair
    await one.keychain.provision("acme")
    stranger = Safe(vault, Voice("eu-frankfurt-1", REGION, seed("stranger")), REGION)
    where = one.safe.subject("acme", "ring", "acme")
    ring = RingRecord(tenant="acme", region=REGION, approvers_hash="0" * 64)
    met: list[str] = []
    one.safe.on_stranger = lambda: met.append("stranger")
    await stranger.put(where, ring, expect=(str(where), vault.last(str(where))), epoch=1)
    assert await one.keychain.provision("acme") == ("VaultRecordRefused", ())
    assert met


async def test_a_record_moved_from_another_place_is_refused(pair):
    (one, _), vault, _ = pair
    await one.keychain.provision("acme")
    one.safe.on_stranger = lambda: pytest.fail("its key is known")
    (ring,) = [s for s in vault.records if ".ring." in s]
    moved = vault.records[ring]
    one.take(*one.press.onboarded("bolt"))
    vault.records[ring.replace("acme.ring.acme", "bolt.ring.bolt")] = Stored(
        moved.sequence, "kcm.vault.eu-frankfurt.bolt.ring.bolt", moved.body, moved.id
    )
    assert await one.keychain.provision("bolt") == ("VaultRecordRefused", ())


async def test_a_forged_history_with_other_approvers_does_not_reach_the_old_keys(pair):
    (one, _), vault, root = pair
    await one.keychain.provision("acme")
    press = Press()
    press.people = {"p-eve": seed("eve"), "p-mal": seed("mal")}
    rogue = Node("eu-frankfurt-1", vault, root, press)
    rogue.take(*press.opening(("eu-frankfurt-1", REGION)), *press.onboarded("acme"))
    assert await rogue.keychain.provision("acme") == ("WrongContext", ())


async def test_suspension_leaves_the_keys_readable_only(pair):
    (one, _), _, _ = pair
    await one.keychain.provision("acme")
    one.take(one.press.residence("acme", d.AccessSuspended(reason="test")))
    await one.keychain.provision("acme")
    (slot,) = one.gates.slots("acme").values()
    assert one.arena.gate(slot) is Gate.SUSPENDED
    one.take(one.press.residence("acme", d.AccessResumed()))
    await one.keychain.provision("acme")
    assert one.arena.gate(slot) is Gate.OPEN


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ({"behind_mark": True}, "SmallerThanMark"),
        ({"fork": "two"}, "ForkedLedger"),
        ({"short": "A"}, "MirrorIncomplete"),
    ],
)
async def test_a_node_that_sees_less_or_another_history_than_it_should_opens_nothing(pair, why, said):
    (one, _), _, _ = pair
    one.state = msgspec.structs.replace(one.state, **why)
    assert await one.keychain.provision("acme") == (said, ())
    assert not one.keychain.is_open("acme")


async def test_an_l2_unwrapped_for_a_residence_that_was_closed_meanwhile_is_kept_nowhere(pair):
    (one, two), _, root = pair
    await one.keychain.provision("acme")
    asked = root.asked
    root.hold.clear()
    under_way = asyncio.ensure_future(two.keychain.provision("acme"))
    while root.asked == asked:  # noqa: ASYNC110 -- a double that counts
        await asyncio.sleep(0)
    two.take(two.press.residence("acme", d.AccessRevoked(reason="test")))
    root.hold.set()
    await under_way
    assert two.gates.cell("acme", 1) is None
    assert all(bytes(two.cells.view(cell)) == bytes(32) for cell in range(16))


async def test_a_residence_for_which_no_slot_is_left_is_named_and_nothing_of_it_is_stored(pair):
    (one, _), vault, _ = pair
    one.arena.allocate_many(one.arena.free)
    assert await one.keychain.provision("acme") == ("KeySlotsFull", ())
    assert vault.records == {}
    assert one.gates.slots("acme") == {}


def test_who_was_not_used_for_the_longest_time_is_the_coldest_and_nobody_who_was_used_of_late():
    now = [100.0]
    warmth = Warmth(lambda: now[0], idle_s=10)
    for tenant in ("acme", "bolt", "core"):
        warmth.warm(tenant)
        now[0] += 1
    assert warmth.coldest(["acme", "bolt", "core"]) is None
    warmth.use(["acme"])
    now[0] += 9
    assert warmth.coldest(["acme", "bolt", "core"]) == "bolt"
    assert warmth.coldest(["acme", "core"]) == "core"
    assert warmth.coldest([]) is None
    warmth.chill("bolt")
    assert (warmth.cold, warmth.evicted) == ({"bolt"}, 1)


@pytest.fixture
def crowded():
    """One node with two key slots and three residences; nobody counts as in use."""
    press, vault, root = Press(), Vault(), Root()
    node = Node("eu-frankfurt-1", vault, root, press, slots=2)
    node.keychain.warmth = Warmth(idle_s=0)
    tenants = ("acme", "bolt", "core")
    node.take(*press.opening(("eu-frankfurt-1", REGION)), *(e for t in tenants for e in press.onboarded(t)))
    return node, vault, root


async def test_a_cold_residence_gives_way_to_one_that_is_wanted_and_comes_back_when_it_is(crowded):
    one, vault, _ = crowded
    for tenant in ("acme", "bolt"):
        assert await one.keychain.provision(tenant) == (None, ())
    kept = {tenant: bytes(one.arena._key(*one.gates.slots(tenant).values())) for tenant in ("acme", "bolt")}
    assert await one.keychain.provision("core") == (None, ())  # new: its keys must be made
    assert one.gates.slots("acme") == {}
    assert one.gates.cell("acme", 1) is None
    assert not one.keychain.is_open("acme")
    assert one.keychain.warmth.cold == {"acme"}
    assert kept["acme"] not in bytes(one.arena._mapping.view)
    records = dict(vault.records)
    assert await one.keychain.provision("acme") == (None, ())  # nobody wants it: it stays cold
    assert one.keychain.warmth.cold == {"acme"}
    one.keychain.warmth.demand("acme")
    assert await one.keychain.provision("acme") == (None, ())
    assert bytes(one.arena._key(*one.gates.slots("acme").values())) == kept["acme"]
    assert vault.records == records
    assert one.keychain.warmth.cold == {"bolt"}
    assert one.keychain.warmth.evicted == 2


async def test_nobody_who_is_in_use_or_under_way_gives_way(crowded):
    one, vault, _ = crowded
    for tenant in ("acme", "bolt"):
        await one.keychain.provision(tenant)
    records = dict(vault.records)
    one.keychain.warmth._idle_s = 60  # used a moment ago
    assert await one.keychain.provision("core") == ("KeySlotsFull", ())
    assert vault.records == records
    one.keychain.warmth._idle_s = 0
    one.drained = False  # a worker is inside an operation
    assert await one.keychain.provision("core") == ("KeySlotsFull", ())
    assert all(one.keychain.is_open(t) and one.arena.gate(*one.gates.slots(t).values()) is Gate.OPEN
               for t in ("acme", "bolt"))  # fmt: skip
    one.drained = True
    async with one.keychain.turn("acme"):  # its keys are being worked on
        assert await one.keychain.provision("core") == (None, ())
    assert one.keychain.is_open("acme")
    assert not one.keychain.is_open("bolt")


async def test_a_residence_that_is_closed_keeps_no_slot_from_others(crowded):
    one, _, _ = crowded
    for tenant in ("acme", "bolt"):
        await one.keychain.provision(tenant)
    one.take(one.press.residence("acme", d.AccessRevoked(reason="test")))
    one.keychain.warmth._idle_s = 60
    assert await one.keychain.provision("core") == (None, ())
    assert one.keychain.is_open("bolt")
    assert one.keychain.is_open("core")
    assert one.keychain.warmth.evicted == 0


class Remembered:
    """What a node's database says it has seen."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[int, bytes]] = {}

    def last(self, subject):
        return self.seen.get(subject)


async def test_an_older_genuine_ring_is_refused_and_a_lost_one_is_not_made_anew(pair):
    (one, two), vault, _ = pair
    await one.keychain.provision("acme")
    where = str(one.safe.subject("acme", "ring", "acme"))
    newest = vault.records[where]
    e = env.decode(newest.body)
    memory = Remembered()
    memory.seen[where] = e.counter + 1, b"of a later revision"
    two.safe = two.keychain.records._safe = two.keychain._safe = Safe(
        vault, Voice("eu-frankfurt-2", REGION, seed("eu-frankfurt-2")), REGION, memory
    )
    assert await two.keychain.provision("acme") == ("VaultRecordRefused", ())
    assert not two.keychain.is_open("acme")
    memory.seen[where] = e.counter, digest_of(where, b"another one of the same revision")
    assert await two.keychain.provision("acme") == ("VaultRecordRefused", ())
    memory.seen[where] = e.counter, digest_of(where, bytes(e.data))
    assert await two.keychain.provision("acme") == (None, ())
    del vault.records[where]
    assert await two.keychain.provision("acme") == ("VaultRecordLost", ())
    assert where not in vault.records


async def test_an_update_is_above_what_it_replaces_whatever_the_clock_says(pair):
    _, vault, _ = pair
    memory = Remembered()
    safe = Safe(vault, Voice("eu-frankfurt-1", REGION, seed("eu-frankfurt-1")), REGION, memory)
    where = safe.subject("acme", "object", "o")
    memory.seen[str(where)] = 1 << 60, b"written by a node whose clock is far ahead"
    await safe.put(where, FenceRecord(tenant="acme"), expect=(str(where), 0), epoch=1)
    assert env.decode(vault.records[str(where)].body).counter > 1 << 60


async def test_after_a_start_all_that_fit_come_back_however_many_wait_for_their_root_at_once():
    press, vault, root, tenants = Press(), Vault(), Root(), [f"t{n:03}" for n in range(200)]
    opening = [*press.opening(("eu-frankfurt-1", REGION)), *(e for t in tenants for e in press.onboarded(t))]
    for start in range(2):  # the first makes the keys, the second finds them
        node = Node("eu-frankfurt-1", vault, root, press, slots=len(tenants))
        node.take(*opening)
        root.hold.clear()
        coming = asyncio.gather(*(node.keychain.provision(t) for t in tenants))
        await asyncio.sleep(0.05)
        root.hold.set()
        assert set(await coming) == {(None, ())}
        assert [t for t in tenants if not node.keychain.is_open(t)] == [], start
        assert not node.keychain.warmth.cold


async def test_a_revision_that_a_crash_left_goes_at_the_first_look_at_the_vault():
    class Littered(Vault):
        def __init__(self):
            super().__init__()
            self.left: dict[str, list[int]] = {}
            self.looked = 0

        async def revisions(self, subject):
            self.looked += 1
            return [*self.left.get(subject, ()), *await super().revisions(subject)]

        async def erase(self, subject, sequence, *, overwrite=True):
            if sequence in self.left.get(subject, ()):
                self.left[subject].remove(sequence)
            else:
                await super().erase(subject, sequence)

    press, vault = Press(), Littered()
    node = Node("eu-frankfurt-1", vault, Root(), press)
    node.take(*press.opening(("eu-frankfurt-1", REGION)), *press.onboarded("acme"))
    assert await node.keychain.provision("acme") == (None, ())
    vault.left = {subject: [0] for subject in vault.records}
    there, tidied = set(vault.records), set()
    assert await lost_keys(node.safe, node.state, tidied) == []
    assert not any(vault.left.values())
    assert set(vault.records) == there
    looked = vault.looked
    await lost_keys(node.safe, node.state, tidied)
    assert vault.looked == looked
