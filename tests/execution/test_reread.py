"""A residence that is not what the ledger says is read again from the mirrors: it heals, and never forgets a revocation."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest
from msgspec.structs import replace

from openkcm.bus.messages import Stored
from openkcm.contract import decrees as d
from openkcm.contract import digest as canon
from openkcm.contract import envelope as env
from openkcm.contract import reports, subjects
from openkcm.execution import digests, feeds, rows
from openkcm.execution.desired import step
from openkcm.execution.inputs import Arrived, BeatArrived, Held, Reread
from openkcm.execution.residence_state import Mark, Residence, State, verdict
from press import Press, seed

NODE = ("eu-frankfurt-1", "eu-frankfurt")
T0, NOW = 10**12, 10**12 + 5


class World:
    """A node's state beside the mirrors that it was fed from."""

    def __init__(self) -> None:
        self.press, self.mirror = Press(), []
        self.state = State(node=NODE[0], region=NODE[1], boot_id="boot-1", trust_root=self.press.root.public_key)
        for e in (*self.press.opening(NODE), *self.press.onboarded("acme"), *self.press.onboarded("bolt")):
            self.arrive(e)

    def store(self, e: env.Envelope) -> Held:
        self.press.sequence += 1
        self.mirror.append(Held(self.press.sequence, e.subject, env.encode(e)))
        return self.mirror[-1]

    def arrive(self, e: env.Envelope):
        m = self.store(e)
        lane = "critical" if ".critical." in e.subject else "routine"
        self.state, effects = step(self.state, Arrived(lane, m.sequence, m.subject, m.body, T0))
        return effects

    def order(self, decree: d.Decree) -> env.Envelope:
        e = self.press.residence("acme", decree)
        self.arrive(e)
        return e

    def reread(self, tenant="acme", *, final=True, without=()):
        lanes = [
            tuple(
                m for m in self.mirror
                if m.subject == str(subjects.residence_aggregate(NODE[1], tenant, lane)) and m not in without
            )
            for lane in ("routine", "critical")
        ]  # fmt: skip
        self.state, effects = step(self.state, Reread(tenant, *lanes, NOW, final=final))
        return effects

    @property
    def acme(self) -> Residence:
        return self.state.residences["acme"]

    def alter(self, **fields) -> Residence:
        """Have something else in memory than the ledger says."""
        true = self.acme
        self.state = replace(self.state, residences={**self.state.residences, "acme": replace(true, **fields)})
        return true


@pytest.fixture
def world() -> World:
    return World()


def kinds(effects):
    return [x.kind for x in effects]


def test_what_is_right_is_written_again_and_changes_nothing(world):
    before = world.state
    (commit,) = world.reread()
    assert world.state == before
    assert commit.rows == (rows.residence_row(world.acme), rows.node_row(world.state))


@pytest.mark.parametrize(
    "wrong",
    [
        {"suspended": True},
        {"workloads": {}},
        {"root": None},
        {"approvers": {}, "approvers_version": 0, "approvers_hash": None},
        {"hand_out": "never"},
        {"leases": ((0, 999_999),)},
        {"routine": {1: Mark(2)}},
        {"routine": {}, "systems": {}, "workloads": {}},
        {"lifted": frozenset({"11111111-2222-8333-8444-555555555555"})},
    ],
)
def test_what_is_wrong_becomes_what_the_ledger_says(world, wrong):
    true = world.alter(**wrong)
    effects = world.reread()
    assert digests.facts(world.acme, 1) == digests.facts(true, 1)
    assert world.acme.lease_s == true.lease_s
    assert kinds(effects)[-4:] == ["lease", "provision", "ack", "ack"]
    assert "commit" in kinds(effects)


def test_an_enrolment_that_the_ledger_does_not_know_is_cut_before_anything_is_committed(world):
    known = next(iter(world.acme.workloads.values()))
    world.alter(workloads={**world.acme.workloads, "enr-nobody": replace(known, enrolment="enr-nobody")})
    effects = world.reread()
    assert kinds(effects).index("cut") < kinds(effects).index("commit")
    assert next(x.names for x in effects if x.kind == "cut") == ("enr-nobody",)


def test_a_lost_revocation_is_obeyed_first_of_all(world):
    world.order(d.AccessRevoked(reason="test"))
    world.alter(revocations={})
    assert verdict(world.acme) == "active"
    effects = world.reread()
    assert verdict(world.acme) == "revoked"
    assert kinds(effects)[:4] == ["alarm", "close", "commit", "fence"]


def test_a_mirror_that_holds_less_than_the_mark_lifts_nothing_and_closes_the_residence(world):
    world.order(d.AccessRevoked(reason="test"))
    world.order(d.WorkloadRemoved(enrolments=("enr-00000001",)))
    assert kinds(world.reread(final=False, without=world.mirror[-2:])) == ["defer"]
    effects = world.reread(without=world.mirror[-2:])
    assert verdict(world.acme) == "revoked"
    assert world.acme.removed == {"enr-00000001"}
    assert world.acme.critical == {1: Mark(2)}
    assert [x.detail for x in effects if x.kind == "alarm"] == ["mirror-holds-less", "read-again-and-changed"]


def test_a_residence_that_a_short_mirror_closed_opens_when_the_mirror_is_whole(world):
    world.order(d.WorkloadRemoved(enrolments=("enr-00000001",)))
    assert "close" in kinds(world.reread(without=world.mirror[-1:]))
    assert verdict(world.acme) == "frozen"
    assert not digests.facts(world.acme, 1).whole  # so governance goes on asking
    world.reread()
    assert verdict(world.acme) == "active"


def test_a_short_routine_mirror_changes_nothing_routine(world):
    world.order(d.AccessSuspended(reason="test"))
    before = world.acme
    world.reread(without=world.mirror[-1:])
    assert world.acme == before


def test_critical_facts_of_ours_are_kept_even_when_a_whole_mirror_does_not_tell_them(world):
    """A forged floor is a door too many, never one too few: whoever wants it gone deletes the node's database."""
    world.alter(floors={"L2/": 4}, removed=frozenset({"enr-y"}), destroyed=True)
    world.reread()
    assert (world.acme.floors, world.acme.removed, world.acme.destroyed) == ({"L2/": 4}, {"enr-y"}, True)


def test_decrees_that_governance_did_not_seal_heal_nothing(world):
    forged = world.press.residence("acme", d.AccessSuspended(reason="test"), signer=seed("stranger"))
    world.store(forged)
    before = world.acme
    world.reread()
    assert world.acme == before


def test_messages_of_another_residence_are_not_read_into_this_one(world):
    before = world.state
    theirs = tuple(m for m in world.mirror if ".bolt." in m.subject)
    world.state, _ = step(
        world.state, Reread("acme", (*(m for m in world.mirror if ".acme." in m.subject), *theirs), (), NOW, True)
    )
    assert world.state == before


def test_a_rotation_that_was_carried_out_is_not_ordered_again(world):
    world.order(d.RotationOrdered(level="L2", rotation="rot-00000001"))
    world.alter(rotations=(), suspended=True)
    world.order(d.RotationOrdered(level="L2", rotation="rot-00000002"))
    world.reread()
    assert [rotation for _, _, rotation in world.acme.rotations] == ["rot-00000002"]


def test_a_critical_decree_told_again_on_lane0_is_obeyed_when_its_fact_was_lost(world):
    e = world.order(d.AccessRevoked(reason="test"))
    world.alter(revocations={})
    again = Arrived("lane0", world.press.sequence, e.subject, env.encode(e), NOW)
    world.state, effects = step(world.state, again)
    assert verdict(world.acme) == "revoked"
    assert kinds(effects) == ["alarm", "close", "commit", "fence", "ack"]
    world.state, effects = step(world.state, again)
    assert kinds(effects) == ["fence", "ack"]


def test_a_routine_decree_told_again_on_lane0_is_taken_when_it_is_the_next_and_only_then(world):
    first, second = (world.press.residence("acme", x) for x in (d.AccessSuspended(reason="test"), d.AccessResumed()))
    frozen_at, place = world.acme.frozen_at, world.acme.routine_sequence
    for e, taken in ((second, False), (first, True), (second, True)):
        world.state, _ = step(world.state, Arrived("lane0", 10**6, e.subject, env.encode(e), NOW))
        assert (e.counter in world.acme.routine[1]) is taken
    assert (world.acme.frozen_at, world.acme.routine_sequence) == (frozen_at, place)


# --- the question ---------------------------------------------------------------------------------------------------


def asked(world: World, *tenants: str, signer=None, **changed):
    question = {"region": NODE[1], "ledger_epoch": 1, "node": NODE[0], "tenants": tenants, **changed}
    e = world.press.seal(
        None, subjects.beat(NODE[1]), tag=reports.RECHECK_TAG, signer=signer,
        raw=msgspec.json.encode(reports.Recheck(**question)),
    )  # fmt: skip
    world.state, effects = step(world.state, BeatArrived(e.subject, env.encode(e)))
    return [(x.kind, x.tenant) for x in effects]


def test_governance_has_residences_read_again_or_all_digests_told(world):
    assert asked(world, "acme", "bolt") == [("reread", "acme"), ("reread", "bolt")]
    assert asked(world) == [("tell", "")]


def test_a_question_to_another_node_or_of_another_epoch_is_not_ours(world):
    assert asked(world, "acme", node="eu-frankfurt-2") == []
    assert asked(world, "acme", ledger_epoch=2) == []


def test_a_question_that_governance_did_not_seal_is_dropped(world):
    assert asked(world, "acme", signer=seed("stranger")) == [("alarm", "")]
    assert list(world.state.dropped.values()) == [1]


# --- digests --------------------------------------------------------------------------------------------------------


#: What of a Residence is not compared, and why.
LOCAL = {
    "head_routine": "follows from the counters", "head_critical": "follows from the counters",
    "routine_sequence": "a cursor", "frozen_at": "a cursor", "thawed": "a cursor",
    "quorum": "in the set's hash", "first_approvers_hash": "follows from the first set, which every later one names",
    "approvals_used": "governance keeps another set: what it refused is in none",
    "rotations": "still to be done here", "root_refusal": "what the root says here", "failure": "what went wrong here",
    "refusal": "what was refused here",
}  # fmt: skip
CHANGES = {
    "tenant": "other", "routine": {1: Mark(9)}, "critical": {1: Mark(9)}, "leases": ((0, 7),), "configured": False,
    "authorities": {"ca-00000001": b"DER"}, "hand_out": "never", "hand_outs": {"reg-acme-payments": "never"}, "max_objects": 3, "approvers": {}, "approvers_version": 9,
    "approvers_hash": "0" * 64,
    "root": None, "systems": {}, "workloads": {}, "suspended": True, "lifted": frozenset("x"), "removed": frozenset("x"),
    "floors": {"L2/": 2}, "destroyed": True, "unreadable": frozenset("x"), "missing_critical": True,
}  # fmt: skip


@pytest.mark.parametrize("field", [f for f in Residence.__struct_fields__ if f not in LOCAL])
def test_whatever_decrees_decide_is_in_the_digest(world, field):
    from openkcm.execution.residence_state import Revocation

    changed = {**CHANGES, "revocations": {1: Revocation(9, "x")}}[field]
    if field == "approvers":
        assert digests.facts(world.acme, 1).approvers[1] == world.acme.approvers_hash  # the keys are in the hash
        return
    one, other = (digests.facts(r, 1) for r in (world.acme, replace(world.acme, **{field: changed})))
    assert canon.digest(one) != canon.digest(other)


class Rows:
    """The node's table, as SQL would give it."""

    def __init__(self, world: World) -> None:
        self.held = [dict(rows.residence_row(r)[1]) for r in world.state.residences.values()]

    def rows(self, _query):
        return [(7, 8, *(row[name] for name in digests.COLUMNS)) for row in self.held]


def test_a_row_that_contradicts_itself_or_cannot_be_read_is_equal_to_nothing(world):
    table = Rows(world)
    kept = digests.Kept(table)
    good = kept.read(1)
    assert good.cursor == (7, 8)
    assert [r.tenant for r in good.residences] == ["acme", "bolt"]
    for column, value in (("body", b"\x00"), ("fence", 99), ("verdict", "revoked"), ("lease_s", 1)):
        before, table.held[0][column] = table.held[0][column], value
        altered = kept.read(1)
        assert altered.digest != good.digest
        assert altered.residences[0].digest == canon.NOTHING
        table.held[0][column] = before
    assert kept.read(1) == good


def test_a_node_starts_without_a_row_that_it_cannot_read_and_serves_that_tenant_nothing(world):
    node = (7, 8, rows.node_row(world.state)[1]["body"])
    fresh = State(node=NODE[0], region=NODE[1], boot_id="boot-2", trust_root=world.press.root.public_key)
    bodies = [b"\xff\xfe", rows.residence_row(world.state.residences["bolt"])[1]["body"]]
    loaded = rows.load(fresh, node, bodies)
    assert list(loaded.residences) == ["bolt"]
    assert loaded.dropped == {"unreadable-row": 1}


async def test_a_revocation_does_not_wait_until_a_long_history_is_read_again(world, monkeypatch):
    for n in range(20 * feeds.TURN):
        world.order(d.TenantConfigurationUpdated(lease_s=60, labels={"n": str(n)}))
    true = world.alter(suspended=True)
    obeyed: list[int] = []

    class Custodian:
        state = world.state

        def take(self, given):
            self.state, effects = step(self.state, given)
            if isinstance(given, Reread):
                assert len(given.routine) + len(given.critical) <= feeds.TURN
            return SimpleNamespace(effects=effects, deferred=any(e.kind == "defer" for e in effects))

    async def held(_connection, stream, subject, after):
        assert (".critical." in subject) == (stream == feeds.STREAM_OF["critical"])
        return [
            Stored(m.sequence, m.subject, m.body, "") for m in world.mirror
            if m.subject == subject and m.sequence > after
        ]  # fmt: skip

    async def revoked() -> None:
        for _ in range(5):  # well into it
            await asyncio.sleep(0)
        e = world.press.residence("acme", d.AccessRevoked(reason="test"))
        m = world.store(e)
        custodian.take(Arrived("lane0", m.sequence, m.subject, m.body, T0))
        obeyed.append(len(done))

    custodian, done = Custodian(), []
    monkeypatch.setattr(feeds, "held", held)
    monkeypatch.setattr(feeds, "LaneReader", lambda *_: None)
    ears = feeds.Feeds(None, custodian, NODE[0])
    reading = asyncio.ensure_future(ears._judge_anew("acme"))
    reading.add_done_callback(done.append)
    await asyncio.gather(reading, revoked())
    assert obeyed == [0]
    after = custodian.state.residences["acme"]
    assert verdict(after) == "revoked"
    assert after.revocations[1].fence == 1
    assert (after.suspended, after.routine, after.lease_s) == (False, true.routine, 60)


@pytest.mark.parametrize("read_from", ["the next decree", "the start"])
def test_a_residence_whose_row_was_lost_serves_nobody_by_its_routine_lane_alone(read_from) -> None:
    world = World()
    removed = tuple(w.enrolment for w in world.acme.serving_workloads())
    world.order(d.WorkloadRemoved(enrolments=removed))
    world.state = replace(world.state, residences={**world.state.residences, "acme": Residence(tenant="acme")})
    if read_from == "the start":
        for m in [m for m in world.mirror if ".acme." in m.subject and ".routine." in m.subject]:
            world.state, effects = step(world.state, Arrived("routine", m.sequence, m.subject, m.body, T0))
    else:
        effects = world.arrive(world.press.residence("acme", d.TenantConfigurationUpdated(lease_s=60)))
        assert [e.kind for e in effects if e.kind == "reread"] == ["reread"]
    assert verdict(world.acme) == "frozen"
    world.reread()
    assert (verdict(world.acme), world.acme.serving_workloads()) == ("active", [])
    assert world.acme.removed >= set(removed)
