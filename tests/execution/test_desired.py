"""The node's pure function. Each test names the rule it would miss; S numbers are the invariants of `desired`."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import reports, statements
from openkcm.execution import rows
from openkcm.execution.desired import step
from openkcm.execution.inputs import (
    Arrived,
    BeatArrived,
    ForkSeen,
    MirrorMeasured,
    MirrorShort,
    NonceSent,
    ReadAgain,
    RootObserved,
    StrangerMet,
)
from openkcm.execution.residence_state import Mark, State, verdict
from press import Press, seed, sign

NODE = ("eu-frankfurt-1", "eu-frankfurt")


class World:
    """A node's state, fed from a press; keeps every effect."""

    def __init__(self, press: Press) -> None:
        self.press, self.effects, self.seen = press, [], []
        self.state = State(node=NODE[0], region=NODE[1], boot_id="boot-1", trust_root=press.root.public_key)

    def give(self, given):
        self.state, effects = step(self.state, given)
        self.effects += effects
        return effects

    def arrive(
        self, e: env.Envelope, source=None, *, subject=None, body=None, final=False, now_ns=10**12, sequence=None
    ):
        if sequence is None:
            sequence = self.press.sequence = self.press.sequence + 1
        source = source or ("critical" if ".critical." in e.subject else "routine")
        where = subject or e.subject
        return self.give(Arrived(source, sequence, where, body or env.encode(e), now_ns, final))

    def kinds(self, effects):
        return [x.kind for x in effects]

    def verdict(self, tenant="acme"):
        return verdict(self.state.residences[tenant])


@pytest.fixture
def world() -> World:
    w = World(Press())
    for e in w.press.opening(NODE, ("eu-frankfurt-2", "eu-frankfurt")):
        w.arrive(e)
    for e in w.press.onboarded("acme"):
        w.arrive(e)
    assert w.verdict() == "active"
    return w


def revoke(w: World, **how) -> env.Envelope:
    return w.press.residence("acme", d.AccessRevoked(reason="test"), **how)


def test_a_revocation_closes_commits_fences_and_acknowledges_last(world):
    assert world.kinds(world.arrive(revoke(world))) == ["close", "commit", "fence", "ack"]
    assert world.verdict() == "revoked"


def test_a_revocation_on_lane0_is_obeyed_at_once_and_its_copy_in_the_mirror_is_a_duplicate(world):
    e = revoke(world)
    assert "close" in world.kinds(world.arrive(e, "lane0"))
    cursor = world.state.cursor_critical
    assert "close" not in world.kinds(world.arrive(e, "critical"))
    assert world.state.cursor_critical > cursor


def test_a_gap_shows_in_the_mirror_even_when_lane0_brought_what_comes_after_it(world):
    revoke(world)  # withheld everywhere
    removed = world.press.residence("acme", d.WorkloadRemoved(enrolments=("enr-acme-zzz",)))
    world.arrive(removed, "lane0")
    assert world.verdict() == "active"
    assert "close" in world.kinds(world.arrive(removed, "critical"))
    assert world.verdict() == "frozen"


def test_a_revocation_repeated_on_lane0_is_acknowledged_again_behind_its_fence_record(world):
    e = revoke(world)
    world.arrive(e, "critical")
    assert world.kinds(world.arrive(e, "lane0")) == ["fence", "ack"]


def test_a_routine_decree_repeated_on_lane0_is_acknowledged_again_and_in_the_mirror_is_a_duplicate(world):
    e = world.press.residence("acme", d.AccessSuspended(reason="test"))
    world.arrive(e)
    before = world.state
    assert [(x.kind, x.detail) for x in world.arrive(e, "lane0")] == [("ack", "routine")]
    assert "ack" not in world.kinds(world.arrive(e))
    assert world.state.residences == before.residences


def test_a_new_epoch_has_everything_acknowledged_anew(world):
    world.arrive(revoke(world))
    opened = world.press.ledger(d.LedgerOpened(epoch=2, first_sequence=2 << 40))
    effects = world.arrive(opened, sequence=(2 << 40) + 1)
    assert [(x.kind, x.detail) for x in effects] == [
        ("commit", ""),
        ("fence", ""),
        ("ack", "critical"),
        ("ack", "routine"),
    ]


def test_a_retired_key_seals_what_came_before_and_nothing_after_in_whatever_order_the_rotations_come(world):
    k2, k3 = seed("cmk-2"), seed("cmk-3")
    old = world.press.residence("acme", d.AccessSuspended(reason="test"))
    first = world.press.ledger(d.SigningKeyRotated(key=k2.key_id, public_key=k2.public_key))
    second = world.press.ledger(
        d.SigningKeyRotated(key=k3.key_id, public_key=k3.public_key, retires=(k2.key_id, world.press.cmk.key_id))
    )
    world.arrive(second, "critical", sequence=102)
    world.give(ReadAgain("critical"))
    world.arrive(first, "critical", sequence=101)
    world.arrive(revoke(world, signer=k2), sequence=103, final=True)
    assert world.state.dropped == {"bad-seal": 1}
    world.arrive(old, sequence=100)
    assert world.verdict() == "suspended"


def retirement(world) -> env.Envelope:
    new = seed("cmk-2")
    decree = d.SigningKeyRotated(key=new.key_id, public_key=new.public_key, retires=(world.press.cmk.key_id,))
    return world.press.ledger(decree)


def test_from_where_on_a_key_is_retired_the_lane_says_and_not_the_signal(world):
    retired = retirement(world)
    old = world.press.residence("acme", d.AccessSuspended(reason="test"))
    for sequence in (10**6, 50):  # whoever repeats a decree on lane0 writes its sequence himself
        world.arrive(retired, "lane0", sequence=sequence)
    world.arrive(retired, "critical", sequence=102)
    world.arrive(revoke(world), "critical", sequence=103)
    assert (world.verdict(), world.state.dropped) == ("active", {"bad-seal": 1})
    world.arrive(old, sequence=100)
    assert world.verdict() == "suspended"


SECOND = 2 << 40  # where the stream of epoch 2 begins


def restored(world, *, at: int, retirement: env.Envelope | None = None) -> None:
    """The ledger is made anew under epoch 2; `retirement`: what it holds of that at `at`, else its opening lies there."""
    if retirement is not None:
        world.arrive(retirement, "critical", sequence=at)
    opened = world.press.ledger(d.LedgerOpened(epoch=2, first_sequence=SECOND), epoch=2, counter=1)
    world.arrive(opened, sequence=at + (0 if retirement is None else 3))


@pytest.mark.parametrize("lost", [False, True], ids=["the retirement is there again", "the retirement was lost"])
def test_in_a_restored_ledger_a_retired_key_sealed_what_lies_before_its_end_and_nothing_behind(world, lost):
    old = [world.press.residence("acme", x) for x in (d.AccessSuspended(reason="test"), d.AccessResumed())]
    retired = retirement(world)
    world.arrive(retired, "critical", sequence=102)
    restored(world, at=SECOND + 5, retirement=None if lost else retired)
    world.arrive(old[0], sequence=SECOND + 4)  # it never came in the stream that was lost
    assert world.verdict() == "suspended"
    world.arrive(old[1], sequence=SECOND + 6, final=True)  # by a stolen key, for the closed epoch
    world.arrive(revoke(world), sequence=SECOND + 7)
    world.arrive(revoke(world, epoch=2, counter=1), sequence=SECOND + 9)
    assert (world.verdict(), world.state.dropped) == ("suspended", {"bad-seal": 3})
    world.arrive(old[1], sequence=101)  # where the lost stream had it
    assert world.verdict() == "active"


def test_a_routine_decree_under_a_retired_key_waits_until_a_restored_ledger_says_where_that_ends(world):
    old = world.press.residence("acme", d.AccessSuspended(reason="test"))
    retired = retirement(world)
    world.arrive(retired, "critical", sequence=102)
    assert world.kinds(world.arrive(old, sequence=SECOND + 4)) == ["defer"]
    world.arrive(old, sequence=SECOND + 4, final=True)
    assert (world.verdict(), world.state.dropped) == ("active", {"bad-seal": 1})
    restored(world, at=SECOND + 5)
    assert world.state.again_from == SECOND + 4
    world.give(ReadAgain("routine"))
    world.arrive(old, sequence=SECOND + 4)
    assert world.verdict() == "suspended"


def test_a_critical_decree_under_a_retired_key_is_obeyed_before_a_restored_ledger_says_where_that_ends(world):
    world.arrive(retirement(world), "critical", sequence=102)
    world.arrive(revoke(world), "critical", sequence=SECOND + 4)
    assert world.verdict() == "revoked"


def test_the_first_place_of_a_retirement_in_a_stream_counts(world):
    retired = retirement(world)
    world.arrive(retired, "critical", sequence=102)
    restored(world, at=SECOND + 5, retirement=retired)
    world.arrive(retired, "critical", sequence=SECOND + 9)  # a bus appended it once more
    world.arrive(revoke(world), sequence=SECOND + 7)
    assert (world.verdict(), world.state.dropped) == ("active", {"bad-seal": 1})


def test_an_opening_that_is_read_again_ends_no_key_that_was_retired_in_its_own_epoch(world):
    restored(world, at=SECOND + 5)
    late = world.press.residence("acme", d.AccessSuspended(reason="test"), epoch=2, counter=1)
    world.arrive(retirement(world), "critical", sequence=SECOND + 9)
    restored(world, at=SECOND + 5)
    world.arrive(late, sequence=SECOND + 8)
    assert world.verdict() == "suspended"


def test_where_keys_end_outlives_a_restart(world):
    world.arrive(retirement(world), "critical", sequence=102)
    restored(world, at=SECOND + 5)
    assert reloaded(world).retired == world.state.retired == {world.press.cmk.key_id: (
        world.press.cmk.public_key, {1: 102, 2: SECOND + 5}
    )}  # fmt: skip


def test_a_database_that_knows_one_place_only_has_the_critical_lane_read_again(world):
    retired = retirement(world)
    world.arrive(retired, "critical", sequence=102)
    restored(world, at=SECOND + 5, retirement=retired)
    key, (public, ends) = next(iter(world.state.retired.items()))
    before = rows.node_row(world.state)[1]["body"].replace(msgspec.json.encode(ends), b"102")
    world.state = rows.load(reloaded(world), (world.state.cursor_routine, world.state.cursor_critical, before), [])
    assert (world.state.retired, world.state.forked) == ({key: (public, {1: 102})}, True)
    world.give(ReadAgain("critical"))
    world.arrive(retired, "critical", sequence=SECOND + 5)
    assert world.state.retired == {key: (public, {1: 102, 2: SECOND + 5})}


def test_on_lane0_a_retired_key_asks_for_our_ack_again_and_nothing_else(world):
    routine, unknown = (world.press.residence("acme", x) for x in (d.AccessSuspended(reason="test"), d.AccessResumed()))
    known, forged = revoke(world), revoke(world)
    world.arrive(routine, sequence=100)
    world.arrive(known, sequence=101)
    world.arrive(retirement(world), sequence=102)
    before = world.state
    assert world.kinds(world.arrive(known, "lane0", sequence=101)) == ["fence", "ack"]
    assert [x.detail for x in world.arrive(routine, "lane0", sequence=100)] == ["routine"]
    assert world.state == before
    for number, e in enumerate((forged, unknown), 1):
        world.arrive(e, "lane0", sequence=50)  # said to lie before the retirement
        assert world.state.residences == before.residences
        assert world.state.dropped == {"bad-seal": number}


def test_what_a_removed_node_wrote_into_the_vault_stays_readable(world):
    key = seed("eu-frankfurt-2")
    world.arrive(world.press.ledger(d.NodeRemoved(node="eu-frankfurt-2", region="eu-frankfurt")))
    assert key.key_id not in world.state.keys
    assert world.state.former[key.key_id] == (key.public_key, "eu-frankfurt")


def test_a_revocation_overtakes_routine_decrees_still_queued(world):
    late = world.press.residence("acme", d.AccessSuspended(reason="test"))
    world.arrive(revoke(world))
    world.arrive(late)
    assert world.verdict() == "revoked"


def test_lane0_may_run_ahead_and_the_mark_keeps_what_lies_between_as_missing(world):
    first, second = revoke(world), revoke(world)
    world.arrive(second, "lane0")
    assert world.state.residences["acme"].critical[1] == Mark(0, frozenset({2}))
    world.arrive(first, "critical")
    assert world.state.residences["acme"].critical[1] == Mark(2)


def test_a_removal_behind_a_newer_revocation_is_not_taken_for_a_duplicate(world):
    removed = world.press.residence("acme", d.WorkloadRemoved(enrolments=("enr-acme-app",)))
    world.arrive(revoke(world), "lane0")
    assert "cut" in world.kinds(world.arrive(removed, "critical"))
    assert world.state.residences["acme"].removed == {"enr-acme-app"}


def test_a_gap_in_the_critical_lane_of_the_mirror_stops_serving_until_it_is_filled(world):
    first = world.press.residence("acme", d.WorkloadRemoved(enrolments=("enr-acme-zzz",)))
    second = world.press.residence("acme", d.WorkloadRemoved(enrolments=("enr-acme-yyy",)))
    assert "close" in world.kinds(world.arrive(second, "critical"))
    assert world.verdict() == "frozen"
    world.give(ReadAgain("critical"))
    world.arrive(second, "critical")
    assert world.verdict() == "frozen"
    world.arrive(first, "lane0")
    assert world.verdict() == "active"


def test_what_lane0_brings_again_of_what_the_mirror_had_brought_shows_what_else_was_lost(world):
    first = world.press.residence("acme", d.WorkloadRemoved(enrolments=("enr-acme-app",)))
    second = world.press.residence("acme", d.WorkloadRemoved(enrolments=("enr-acme-yyy",)))
    world.arrive(second, "lane0", sequence=world.state.cursor_critical + 1)
    assert world.verdict() == "active"  # the mirror is not there yet
    third = world.press.residence("acme", d.WorkloadRemoved(enrolments=("enr-acme-xxx",)))
    effects = world.arrive(third, "lane0", sequence=world.state.cursor_critical)
    assert "close" in world.kinds(effects)
    assert world.verdict() == "frozen"
    world.arrive(first, "lane0", sequence=world.state.cursor_critical - 1)
    assert world.verdict() == "active"


def test_a_gap_in_the_routine_lane_freezes_configuration_and_says_so(world):
    lost = world.press.residence("acme", d.AccessSuspended(reason="test"))
    after = world.press.residence("acme", d.SystemRegistered(system="archive", registration="reg-acme-archive"))
    effects = world.arrive(after)
    assert ("alarm", "routine-gap") in [(x.kind, x.detail) for x in effects]
    assert "reg-acme-archive" not in world.state.residences["acme"].systems
    at = world.state.cursor_routine
    world.give(ReadAgain("routine"))
    assert world.state.cursor_routine == 9  # the last that was applied
    world.arrive(lost, sequence=10)
    world.arrive(after, sequence=at)
    assert world.state.residences["acme"].suspended
    assert "reg-acme-archive" in world.state.residences["acme"].systems


def test_the_stricter_of_the_systems_and_the_residences_hand_out_policy_counts(world):
    def policy(name):
        return world.state.residences["acme"].hand_out_of(name)

    own, other = "reg-acme-archive", "reg-acme-payments"
    world.arrive(
        world.press.residence("acme", d.SystemRegistered(system="archive", registration=own, hand_out="wrapped-only"))
    )
    assert (policy(own), policy(other)) == ("wrapped-only", "allowed")
    effects = world.arrive(world.press.residence("acme", d.SystemConfigured(registration=own, hand_out="never")))
    assert "provision" in world.kinds(effects)  # from where workers are told
    assert (policy(own), policy(other)) == ("never", "allowed")
    world.arrive(world.press.residence("acme", d.SystemConfigured(registration=own, hand_out="allowed")))
    world.arrive(world.press.residence("acme", d.TenantConfigurationUpdated(lease_s=60, hand_out="wrapped-only")))
    assert (policy(own), policy(other)) == ("wrapped-only", "wrapped-only")  # the residence is the ceiling
    world.arrive(world.press.residence("acme", d.SystemConfigured(registration=own)))
    assert policy(own) == "wrapped-only"
    world.arrive(world.press.residence("acme", d.SystemConfigured(registration="reg-nobodys", hand_out="never")))
    assert world.state.residences["acme"].refusal == "UnknownSystem"


def test_two_peoples_restore_that_names_the_revocation_lifts_it(world):
    e = revoke(world)
    world.arrive(e)
    assert "provision" in world.kinds(world.arrive(world.press.restore("acme", e)))
    assert world.verdict() == "active"


@pytest.mark.parametrize(
    "people",
    [
        {},
        {"p-ann": seed("ann")},
        {"p-ann": seed("ann"), "p-eve": seed("eve")},
        {"p-ann": seed("cmk"), "p-bob": seed("cmk")},
    ],
)
def test_a_restore_without_two_of_the_approvers_is_refused_and_said(world, people):
    e = revoke(world)
    world.arrive(e)
    effects = world.arrive(world.press.restore("acme", e, people=people))
    assert ("alarm", "RestoreRefused") in [(x.kind, x.detail) for x in effects]
    assert world.verdict() == "revoked"
    assert world.state.residences["acme"].refusal == "RestoreRefused"


def test_one_persons_signature_given_twice_is_one(world):
    e = revoke(world)
    world.arrive(e)
    honest = world.press.restore("acme", e, people={"p-ann": seed("ann")})
    decree = d.read(honest.tag, honest.data)
    doubled = world.press.residence(
        "acme",
        d.AccessRestored(
            lifts=decree.lifts, approval=decree.approval, approvers_version=1, signatures=decree.signatures * 2
        ),
        counter=honest.counter,
    )
    world.arrive(doubled)
    assert world.verdict() == "revoked"


def test_a_restore_signed_for_another_region_is_refused(world):
    e = revoke(world)
    world.arrive(e)
    world.arrive(world.press.restore("acme", e, region="us-virginia"))
    assert world.verdict() == "revoked"


def test_a_restore_lifts_only_the_event_it_names_even_under_the_same_number(world):
    e = revoke(world)
    world.arrive(e)
    forged = statements.Lift(epoch=1, fence=e.counter, event="00000000-0000-4000-8000-000000000000")
    world.arrive(world.press.restore("acme", lifts=(forged,)))
    assert world.verdict() == "revoked"


def test_a_revocation_after_the_restore_holds(world):
    first = revoke(world)
    world.arrive(first)
    world.arrive(world.press.restore("acme", first))
    world.arrive(revoke(world))
    assert world.verdict() == "revoked"


def test_a_restore_that_overtakes_its_revocation_still_lifts_exactly_it(world):
    e = revoke(world)
    world.arrive(world.press.restore("acme", e))
    world.arrive(e)
    assert world.verdict() == "active"


def test_revocations_of_two_epochs_must_both_be_lifted(world):
    first = revoke(world)
    world.arrive(first)
    second = revoke(world, epoch=2, counter=1)
    world.arrive(second)
    world.arrive(world.press.restore("acme", second))
    assert world.verdict() == "revoked"
    world.arrive(world.press.restore("acme", first, second))
    assert world.verdict() == "active"


def test_new_approvers_need_two_of_the_old_ones(world):
    carol = {"p-ann": seed("ann"), "p-carol": seed("carol")}
    effects = world.arrive(world.press.approvers("acme", carol, signed_by=["p-ann"]))
    assert ("alarm", "ApproversRefused") in [(x.kind, x.detail) for x in effects]
    assert set(world.state.residences["acme"].approvers) == {"p-ann", "p-bob"}


def test_new_approvers_signed_by_two_of_the_old_ones_are_in_force(world):
    world.arrive(
        world.press.approvers("acme", {"p-ann": seed("ann"), "p-carol": seed("carol")}, signed_by=["p-ann", "p-bob"])
    )
    assert set(world.state.residences["acme"].approvers) == {"p-ann", "p-carol"}


def test_a_set_of_approvers_that_names_another_history_is_refused(world):
    world.arrive(world.press.approvers("acme", signed_by=["p-ann", "p-bob"], previous="0" * 64))
    assert world.state.residences["acme"].approvers_version == 1


def test_a_second_first_set_of_approvers_is_refused(world):
    world.arrive(world.press.approvers("acme", {"p-eve": seed("eve"), "p-mal": seed("mal")}, previous=None, version=1))
    assert set(world.state.residences["acme"].approvers) == {"p-ann", "p-bob"}


def test_a_longer_lease_needs_two_people_and_a_shorter_one_none(world):
    world.arrive(world.press.residence("acme", d.TenantConfigurationUpdated(lease_s=3600)))
    assert world.state.residences["acme"].lease_s == 60
    world.arrive(world.press.residence("acme", d.TenantConfigurationUpdated(lease_s=30)))
    assert world.state.residences["acme"].lease_s == 30
    words = statements.configuration_statement("acme", "eu-frankfurt", "approval-1", 3600)
    signed = d.TenantConfigurationUpdated(
        lease_s=3600, approval="approval-1", signatures=sign(words, world.press.people)
    )
    world.arrive(world.press.residence("acme", signed))
    assert world.state.residences["acme"].lease_s == 3600
    world.arrive(world.press.residence("acme", d.TenantConfigurationUpdated(lease_s=30)))
    world.arrive(world.press.residence("acme", signed))  # the same signatures again: used up
    assert world.state.residences["acme"].lease_s == 30


def test_another_root_key_over_a_linked_one_needs_two_people(world):
    other = d.RootReference(provider="file", ref="/keys/of-the-provider")
    world.arrive(world.press.residence("acme", d.RootKeyLinked(root=other)))
    assert world.state.residences["acme"].root.ref == "/keys/l1"


@pytest.mark.parametrize("signer", ["trust root", "eu-frankfurt-1", "nobody"])
def test_a_decree_that_governance_did_not_seal_is_dropped_and_counted(world, signer):
    before = world.state.residences
    world.arrive(revoke(world, signer=seed(signer)), final=True)
    assert world.state.residences == before
    assert world.state.dropped == {"bad-seal": 1}


def test_a_decree_found_under_another_subject_than_the_sealed_one_is_dropped(world):
    world.arrive(next(World(Press()).press.opening(NODE)), sequence=0)
    bolt = world.press.residence("bolt", d.AccessRevoked(reason="test"))
    world.arrive(bolt, subject=bolt.subject.replace("bolt", "acme"))
    assert world.verdict() == "active"
    assert world.state.dropped["bad-seal"] == 1


def test_a_changed_byte_breaks_the_seal(world):
    raw = env.encode(revoke(world))
    world.arrive(revoke(world), body=raw.replace(b'"reason":"test"', b'"reason":"tesu"'))
    assert world.verdict() == "active"


def test_governance_cannot_enrol_a_node_or_name_its_own_next_key(world):
    evil = seed("evil")
    world.arrive(
        world.press.ledger(d.SigningKeyRotated(key=evil.key_id, public_key=evil.public_key), signer=world.press.cmk)
    )
    assert evil.key_id not in world.state.keys


def test_a_routine_decree_under_a_key_not_yet_announced_waits_instead_of_being_lost(world):
    new = seed("cmk-2")
    late = world.press.residence("acme", d.AccessSuspended(reason="test"), signer=new)
    cursor = world.state.cursor_routine
    assert world.kinds(world.arrive(late, sequence=100)) == ["defer"]
    assert world.state.cursor_routine == cursor
    world.arrive(world.press.ledger(d.SigningKeyRotated(key=new.key_id, public_key=new.public_key)))
    world.arrive(late, sequence=100)
    assert world.verdict() == "suspended"


def test_a_gap_below_what_was_appended_again_has_the_lane_read_from_its_start_the_second_time(world):
    def labels(n: str) -> env.Envelope:
        return world.press.residence("acme", d.TenantConfigurationUpdated(lease_s=60, labels={"n": n}))

    first, kept_back, third = labels("1"), labels("2"), labels("3")
    at = world.state.cursor_routine
    world.arrive(first, sequence=at + 5)  # appended again; the mirror kept at + 1 (the first) and at + 2 back
    world.arrive(third, sequence=at + 6)
    assert world.state.residences["acme"].frozen_at == at + 6
    world.give(ReadAgain("routine"))
    world.arrive(third, sequence=at + 6)
    assert world.state.residences["acme"].frozen_at == 1
    world.give(ReadAgain("routine"))
    assert world.state.cursor_routine == 0
    for sequence, e in ((at + 1, first), (at + 2, kept_back), (at + 5, first), (at + 6, third)):
        world.arrive(e, sequence=sequence)
    after = world.state.residences["acme"]
    assert (after.head_routine, after.frozen_at, after.thawed) == (third.id, None, False)


def test_what_came_under_a_key_not_yet_announced_is_read_again_once_it_is(world):
    new = seed("cmk-2")
    early = world.press.residence("acme", d.AccessSuspended(reason="test"), signer=new)
    announced = world.press.ledger(d.SigningKeyRotated(key=new.key_id, public_key=new.public_key))
    world.arrive(early, sequence=200, final=True)
    assert world.state.again_from is None
    kept = rows.node_row(world.state)[1]["body"]
    world.state = rows.load(world.state, (world.state.cursor_routine, world.state.cursor_critical, kept),
                            [rows.residence_row(r)[1]["body"] for r in world.state.residences.values()])  # fmt: skip
    world.arrive(announced, "critical", sequence=199)
    assert world.state.again_from == 200
    world.give(ReadAgain("routine"))
    assert (world.state.cursor_routine, world.state.again_from) == (199, None)
    world.arrive(early, sequence=200)
    assert world.verdict() == "suspended"


def test_a_node_whose_enrolment_was_kept_from_us_is_known_once_its_record_has_us_read_the_lane_again(world):
    missed, later = seed("eu-9"), world.press.residence("acme", d.AccessSuspended(reason="test"))
    enrolled = world.press.ledger(
        d.NodeEnrolled(node="eu-9", region=world.press.region, key=missed.key_id, public_key=missed.public_key)
    )
    world.arrive(later, sequence=300)
    assert [e.detail for e in world.give(StrangerMet())] == ["record-of-unknown-key"]
    world.give(ReadAgain("routine"))
    assert world.state.cursor_routine == 0
    world.arrive(enrolled, sequence=200)
    world.arrive(later, sequence=300)
    assert world.state.keys[missed.key_id] == (missed.public_key, "eu-9")
    assert (world.state.cursor_routine, world.state.again_from) == (300, None)


def test_a_routine_tag_on_the_critical_lane_is_dropped(world):
    world.arrive(world.press.residence("acme", d.AccessResumed(), lane="critical"))
    assert world.state.dropped == {"wrong-lane": 1}


def test_an_unreadable_critical_decree_locks_the_residence(world):
    e = world.press.residence("acme", None, lane="critical", tag="AccessRevoked.9", raw=b'{"new":1}')
    assert "close" in world.kinds(world.arrive(e))
    assert world.verdict() == "frozen"


def test_an_unreadable_routine_decree_freezes_configuration_and_leaves_service_and_kill_switch(world):
    world.arrive(world.press.residence("acme", None, tag="Novelty.1", raw=b"{}"))
    world.arrive(world.press.residence("acme", d.AccessSuspended(reason="test")))
    assert world.verdict() == "active"
    world.arrive(revoke(world))
    assert world.verdict() == "revoked"


def test_a_decree_for_one_tenant_changes_nothing_of_another(world):
    for e in world.press.onboarded("bolt"):
        world.arrive(e)
    bolt = world.state.residences["bolt"]
    world.arrive(revoke(world))
    assert world.state.residences["bolt"] is bolt


def test_a_foreign_regions_decree_is_dropped(world):
    other = Press("us-virginia")
    e = other.residence("acme", d.AccessRevoked(reason="test"))
    world.arrive(e, final=True)
    assert world.state.dropped == {"foreign-region": 1}


# --- beats ----------------------------------------------------------------------------------------------------------


def beat(w: World, nonce="a" * 32, *, sent=5 * 10**9, head=None, chain=None, **how):
    w.give(NonceSent(nonce, sent))
    e = w.press.beat(w.state.cursor_critical if head is None else head, chain or w.state.chain, nonce, **how)
    return w.give(BeatArrived(e.subject, env.encode(e)))


def test_a_lease_runs_from_the_sending_of_the_nonce(world):
    assert "lease" in world.kinds(beat(world))
    assert world.state.lease_until(world.state.residences["acme"]) == 5 * 10**9 + 60 * 10**9


def test_nothing_is_leased_without_a_beat_or_by_one_of_another_boot(world):
    acme = world.state.residences["acme"]
    assert world.state.lease_until(acme) == 0
    beat(world)
    restarted = rows.load(
        State(node=NODE[0], region=NODE[1], boot_id="boot-2", trust_root=world.press.root.public_key),
        (world.state.cursor_routine, world.state.cursor_critical, rows.node_row(world.state)[1]["body"]),
        [],
    )
    assert restarted.lease_until(acme) == 0


def leases(w: World) -> dict[str, int]:
    """Seconds until which each tenant may be served."""
    return {t: w.state.lease_until(r) // 10**9 for t, r in w.state.residences.items()}


def reloaded(w: World) -> State:
    """What a restart in the same boot finds."""
    return rows.load(
        State(node=NODE[0], region=NODE[1], boot_id="boot-1", trust_root=w.press.root.public_key),
        (w.state.cursor_routine, w.state.cursor_critical, rows.node_row(w.state)[1]["body"]),
        [rows.residence_row(r)[1]["body"] for r in w.state.residences.values()],
    )


def test_a_tenant_left_out_keeps_the_lease_it_has_and_the_others_get_theirs(world):
    for e in world.press.onboarded("bolt"):
        world.arrive(e)
    beat(world)
    for nonce, sent in (("b" * 32, 15), ("c" * 32, 25)):
        assert "lease" in world.kinds(beat(world, nonce, sent=sent * 10**9, withheld=("acme",)))
    assert leases(world) == {"acme": 65, "bolt": 85}
    beat(world, "a" * 32)  # the bus kept the first beat, and the nonce's sending counts as it did
    assert leases(world) == {"acme": 65, "bolt": 85}
    world.state = reloaded(world)
    assert leases(world) == {"acme": 65, "bolt": 85}
    beat(world, "d" * 32, sent=35 * 10**9)
    assert leases(world) == {"acme": 95, "bolt": 95}


def test_a_tenant_left_out_of_the_first_beat_of_a_boot_is_not_served(world):
    beat(world, withheld=("acme",))
    assert leases(world) == {"acme": 0}


def test_a_beat_whose_head_is_not_applied_yet_waits_for_it(world):
    e = revoke(world)
    head = world.press.sequence + 1
    import hashlib

    chain = hashlib.sha256(world.state.chain + hashlib.sha256(env.encode(e)).digest()).digest()
    assert world.kinds(beat(world, head=head, chain=chain)) == []
    assert world.state.beat is None
    assert world.kinds(world.arrive(e))[-1] == "lease"


@pytest.mark.parametrize(
    "how",
    [
        {"chain": b"\1" * 32},
        {"signer": seed("evil")},
        {"epoch": 2},
        {"region": "us-virginia"},
        {"subject": "kcm.beat.us-virginia"},
    ],
)
def test_a_beat_of_another_history_author_epoch_or_region_renews_nothing(world, how):
    beat(world, **how)
    assert world.state.beat is None


def test_a_beat_that_echoes_a_foreign_nonce_renews_nothing(world):
    e = world.press.beat(world.state.cursor_critical, world.state.chain, "b" * 32)
    world.give(BeatArrived(e.subject, env.encode(e)))
    assert world.state.beat is None


def test_a_head_that_is_not_ours_has_the_critical_lane_read_again_until_it_is(world):
    first, second = revoke(world), revoke(world)
    at = world.press.sequence
    world.arrive(second, "critical", sequence=at + 2)  # the mirror kept the first back
    theirs = world.state.chain
    for sequence, e in ((at + 1, first), (at + 2, second)):
        theirs = reports.grown_head(theirs, sequence - 1, sequence, env.encode(e))
    assert world.state.chain != theirs
    beat(world, head=at + 2, chain=bytes(32))
    assert world.state.forked
    cursor, marks = world.state.seen_critical, world.state.residences["acme"].critical
    world.give(ReadAgain("critical"))
    assert (world.state.cursor_critical, world.state.forked) == (0, False)
    world.give(MirrorMeasured(10**6, cursor - 1))
    assert world.state.behind_mark  # the mark is what was seen, not where we read
    assert world.state.residences["acme"].critical == marks


def test_beats_by_a_key_whose_announcement_was_kept_from_us_have_the_critical_lane_read_again(world):
    new = seed("cmk-2")
    announced = world.press.ledger(d.SigningKeyRotated(key=new.key_id, public_key=new.public_key))
    at = world.press.sequence
    world.arrive(revoke(world, signer=world.press.cmk), sequence=at + 2)  # the mirror kept the announcement back
    beat(world, signer=new)
    assert (world.state.beat, world.state.forked) == (None, True)
    world.give(ReadAgain("critical"))
    world.arrive(announced, "critical", sequence=at + 1)
    assert new.key_id in world.state.keys
    beat(world, signer=new)
    assert world.state.beat is not None
    assert not world.state.forked


def test_the_rolling_hash_begins_anew_with_a_restored_ledger(world):
    e = revoke(world, epoch=2, counter=1)
    world.arrive(e, sequence=(2 << 40) + 5)
    assert world.state.chain == reports.grown_head(bytes(32), 0, 5, env.encode(e))


def test_keys_are_brought_in_place_when_the_mirror_has_caught_up_with_our_mark(world):
    world.give(MirrorMeasured(0, 0))
    assert world.kinds(world.give(MirrorMeasured(10**6, 10**6))) == ["provision"]


def test_a_longer_lease_does_not_lengthen_what_an_older_nonce_is_worth(world):
    world.give(NonceSent("a" * 32, 5 * 10**9))
    words = statements.configuration_statement("acme", "eu-frankfurt", "approval-1", 3600)
    longer = d.TenantConfigurationUpdated(
        lease_s=3600, approval="approval-1", signatures=sign(words, world.press.people)
    )
    world.arrive(world.press.residence("acme", longer), now_ns=6 * 10**9)
    beat(world)
    assert world.state.residences["acme"].lease_s == 3600
    assert world.state.lease_until(world.state.residences["acme"]) == 65 * 10**9


def test_a_beat_of_another_history_renews_nothing_when_its_head_comes_later(world):
    e = revoke(world)
    beat(world, head=world.press.sequence + 1, chain=b"\1" * 32)
    world.arrive(e)
    assert world.state.beat is None


def test_an_older_emergency_floor_does_not_lower_a_newer_one(world):
    older, newer = (
        world.press.residence("acme", d.EmergencyRotationOrdered(level="L3", registration="reg-acme-payments", below=n))
        for n in (2, 3)
    )
    world.arrive(newer, "lane0")
    world.arrive(older, "critical")
    assert world.state.residences["acme"].floors == {"L3/reg-acme-payments": 3}


def test_an_echo_is_worth_the_smaller_of_the_lease_then_and_now(world):
    world.give(NonceSent("a" * 32, 5 * 10**9))
    world.arrive(world.press.residence("acme", d.TenantConfigurationUpdated(lease_s=30)), now_ns=6 * 10**9)
    beat(world)
    assert world.state.lease_until(world.state.residences["acme"]) == 35 * 10**9


# --- roots, marks, restarts -----------------------------------------------------------------------------------------


def test_the_customers_no_locks_and_its_yes_unlocks_but_never_a_revocation(world):
    assert world.kinds(world.give(RootObserved("acme", "KeyDisabled")))[0] == "close"
    assert world.verdict() == "locked"
    world.give(RootObserved("acme", "Unreachable"))
    assert world.verdict() == "locked"
    world.arrive(revoke(world))
    world.give(RootObserved("acme", "ok"))
    assert world.verdict() == "revoked"


def test_an_unreachable_root_alone_locks_nobody(world):
    assert world.give(RootObserved("acme", "Unreachable")) == []


def test_a_mirror_smaller_than_the_mark_is_an_alarm_and_enables_nothing(world):
    world.give(MirrorMeasured(0, 0))
    assert world.state.behind_mark
    world.give(MirrorMeasured(10**6, 10**6))
    assert not world.state.behind_mark


def test_a_removed_node_closes_everything_at_once_and_no_beat_leases_to_it_again(world):
    beat(world)
    assert world.state.lease_until(world.state.residences["acme"]) > 0
    effects = world.arrive(world.press.ledger(d.NodeRemoved(node=NODE[0], region=NODE[1])))
    assert world.kinds(effects)[:3] == ["close", "commit", "lease"]
    beat(world)
    assert world.state.lease_until(world.state.residences["acme"]) == 0


def test_a_fork_enables_nothing_obeys_revocations_and_ends_with_a_new_epoch(world):
    effects = world.give(ForkSeen("signed is A; here is B"))
    assert world.kinds(effects) == ["commit", "alarm"]
    assert "A; here is B" in effects[1].detail
    system = world.press.residence("acme", d.SystemRegistered(system="archive", registration="reg-acme-archive"))
    at = world.press.sequence + 1
    assert ("alarm", "ForkedLedger") in [(x.kind, x.detail) for x in world.arrive(system)]
    assert "reg-acme-archive" not in world.state.residences["acme"].systems
    assert world.verdict() == "active", "what is served goes on under its lease"
    assert "close" in world.kinds(world.arrive(revoke(world)))
    assert world.verdict() == "revoked"
    world.arrive(system, sequence=at)
    assert "reg-acme-archive" not in world.state.residences["acme"].systems, "read again, and still forked"
    world.press.epoch = 2
    world.arrive(world.press.ledger(d.LedgerOpened(epoch=2, first_sequence=2 << 40)))
    assert world.state.fork is None
    assert world.state.residences["acme"].frozen_at == at
    world.give(ReadAgain("routine"))
    assert world.state.cursor_routine == at - 1
    world.arrive(system, sequence=at)
    assert "reg-acme-archive" in world.state.residences["acme"].systems
    assert world.state.residences["acme"].frozen_at is None


def test_a_mirror_that_lacks_events_enables_nothing_until_it_is_whole(world):
    for halted in (True, True, False):
        effects = world.give(MirrorShort("signed is A" if halted else None))
    assert world.kinds(effects) == ["commit", "provision"]
    assert [x.detail for x in world.effects if x.kind == "alarm"] == ["mirror incomplete: signed is A"], "said once"
    world.give(MirrorShort("signed is B"))
    world.state = reloaded(world)
    system = world.press.residence("acme", d.SystemRegistered(system="archive", registration="reg-acme-archive"))
    at = world.press.sequence + 1
    world.arrive(system)
    assert "reg-acme-archive" not in world.state.residences["acme"].systems
    assert world.verdict() == "active", "what is served goes on under its lease"
    world.give(MirrorShort(None))
    world.give(ReadAgain("routine"))
    world.arrive(system, sequence=at)
    assert "reg-acme-archive" in world.state.residences["acme"].systems
    assert "close" in world.kinds(world.arrive(revoke(world)))


def test_a_fork_outlives_a_restart(world):
    (commit, _) = world.give(ForkSeen("why"))
    _, node = commit.rows[0]
    fresh = State(node=NODE[0], region=NODE[1], boot_id="boot-1", trust_root=world.press.root.public_key)
    again = rows.load(fresh, (node["cursor_routine"], node["cursor_critical"], node["body"]), [])
    assert again.fork == "why"


def test_a_gap_that_is_filled_is_taken_when_the_residence_is_read_again(world):
    lost = world.press.residence("acme", d.AccessSuspended(reason="test"))
    after = world.press.residence("acme", d.SystemRegistered(system="archive", registration="reg-acme-archive"))
    at = world.press.sequence + 1
    world.arrive(after, sequence=at + 1)
    frozen = world.state.residences["acme"].frozen_at
    assert frozen is not None
    assert frozen <= at
    world.arrive(lost, sequence=at)
    world.arrive(after, sequence=at + 1)
    assert world.state.residences["acme"].suspended
    assert "reg-acme-archive" in world.state.residences["acme"].systems


def test_a_restored_ledger_begins_a_new_chain(world):
    e = revoke(world)
    world.arrive(e)
    world.arrive(e, sequence=(2 << 40) + 1)
    assert world.state.chain == hashlib.sha256(bytes(32) + hashlib.sha256(env.encode(e)).digest()).digest()


@pytest.mark.parametrize("removed_first", [False, True])
def test_a_removed_nodes_key_counts_no_more_whichever_lane_comes_first(world, removed_first):
    late = seed("eu-frankfurt-3")
    enrolled = world.press.ledger(
        d.NodeEnrolled(node="eu-frankfurt-3", region=NODE[1], key=late.key_id, public_key=late.public_key)
    )
    removed = world.press.ledger(d.NodeRemoved(node="eu-frankfurt-3", region=NODE[1]))
    for e in [removed, enrolled] if removed_first else [enrolled, removed]:
        world.arrive(e)
    assert "eu-frankfurt-3" not in world.state.nodes
    assert late.key_id not in world.state.keys


def test_a_restart_loads_the_rows_back_into_the_same_state(world):
    world.arrive(revoke(world))
    committed: dict = {}
    for effect in world.effects:
        for name, row in effect.rows:
            committed[name, row.get("tenant")] = row
    node = committed["node", None]
    again = rows.load(
        State(node=NODE[0], region=NODE[1], boot_id="boot-1", trust_root=world.press.root.public_key),
        (node["cursor_routine"], node["cursor_critical"], node["body"]),
        [row["body"] for (name, _), row in committed.items() if name == "residence"],
    )
    assert again.residences == world.state.residences
    assert again.chain == world.state.chain
    assert again.keys == world.state.keys


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_interleaving_and_repetition_of_the_lanes_ends_in_the_same_verdict_and_facts(data):
    press = Press()
    opening = list(press.opening(NODE))
    onboarded = list(press.onboarded("acme"))
    first, second = (press.residence("acme", d.AccessRevoked(reason="test")) for _ in range(2))
    removed = press.residence("acme", d.WorkloadRemoved(enrolments=("enr-acme-app",)))
    restored = press.restore("acme", second)
    routine, critical = [*onboarded, restored], [first, second, removed]
    w = World(press)
    for e in opening:
        w.arrive(e)
    queue = {"routine": list(routine), "critical": list(critical), "lane0": data.draw(st.permutations(critical))}
    while any(queue.values()):
        lane = data.draw(st.sampled_from([k for k, v in queue.items() if v]))
        w.arrive(queue[lane].pop(0), lane)
    acme = w.state.residences["acme"]
    assert verdict(acme) == "active"
    assert acme.removed == {"enr-acme-app"}
    assert acme.critical[1] == Mark(3)
    assert acme.routine[1] == Mark(6)
