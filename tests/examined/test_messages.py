"""A message that is late, doubled, reordered, forged, replayed, re-appended or of another epoch changes nothing: every tag.

What may change is only the place (cursors, rolling hash, what was seen), the count of what was dropped, and from where the
lane is read again should the key be announced that it came under.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from openkcm.bus.messages import Stored
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import reports, seal, subjects
from openkcm.contract.errors import ContractError
from openkcm.execution.desired import step
from openkcm.execution.inputs import Arrived, BeatArrived, NonceSent
from openkcm.execution.residence_state import State
from openkcm.execution.voice import Voice
from openkcm.governance import inbox
from press import Press, seed

_spec = importlib.util.spec_from_file_location("examples", Path(__file__).parents[1] / "golden" / "examples.py")
assert _spec is not None
assert _spec.loader is not None
examples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(examples)

NODE = ("eu-frankfurt-1", "eu-frankfurt")
EVIL = seed("stranger")
BY_TAG = {d.tag_of(x): x for x in examples.DECREES}
PLACE = ("cursor_routine", "cursor_critical", "seen_routine", "seen_critical", "chain", "recent_heads", "dropped",
         "unjudged")  # fmt: skip


def known(state: State) -> State:
    """What the node knows, without its place and its counts."""
    return replace(state, **{f: getattr(State(node="", region="", boot_id="", trust_root=b""), f) for f in PLACE})


class Scene:
    """A node with acme on board, a beat honoured, a revocation lifted, and a press that continues its ledger."""

    def __init__(self) -> None:
        self.press = p = Press()
        self.state = State(node=NODE[0], region=NODE[1], boot_id="boot-1", trust_root=p.root.public_key)
        self.sequence = 0
        self.taken: list[tuple[int, env.Envelope]] = []
        for e in (*p.opening(NODE), *p.onboarded("acme"), *p.onboarded("bolt")):
            self.take(e)
        revoked = p.residence("acme", d.AccessRevoked(reason="test"))
        for e in (revoked, p.restore("acme", revoked), p.residence("acme", d.AccessSuspended(reason="test"))):
            self.take(e)

    def take(self, e: env.Envelope) -> None:
        self.sequence += 1
        self.taken.append((self.sequence, e))
        self.give(e, self.sequence)

    def give(self, e: env.Envelope, sequence: int, *, source=None, subject=None) -> list:
        lane = "critical" if ".critical." in (subject or e.subject) else "routine"
        arrived = Arrived(source or lane, sequence, subject or e.subject, env.encode(e), 10**12, final=True)
        self.state, effects = step(self.state, arrived)
        return effects

    def fresh(self, tag: str, **how) -> env.Envelope:
        """A decree of a tag that the node has not seen, on its aggregate's subject."""
        decree, kind = BY_TAG[tag], d.DECREES[tag]
        where = {
            "residence": subjects.residence_aggregate("eu-frankfurt", "acme", kind.lane),
            "tenant": subjects.tenant_aggregate("acme"),
            "approval": subjects.approval_aggregate("acme", "approval-12345678"),
            "ledger": subjects.ledger_aggregate(kind.lane),
        }[kind.aggregate]
        return self.press.seal(decree, how.pop("subject", None) or str(where), **how)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def unchanged(scene: Scene, *messages, **how) -> None:
    before = known(scene.state)
    for e in messages:
        scene.sequence += 1
        effects = scene.give(e, scene.sequence, **how)
        assert not {x.kind for x in effects} & {"close", "cut", "provision", "lease", "open"}, effects
    assert known(scene.state) == before


@pytest.mark.parametrize("tag", d.DECREES)
@pytest.mark.parametrize("author", ["a stranger", "a node", "the other authority"])
def test_a_forged_decree_changes_nothing(scene, tag, author):
    root = type(BY_TAG[tag]) in d.TRUST_ROOT_DECREES
    other = scene.press.cmk if root else scene.press.root
    signer = {"a stranger": EVIL, "a node": seed(NODE[0]), "the other authority": other}[author]
    unchanged(scene, scene.fresh(tag, signer=signer))
    assert sum(scene.state.dropped.values()) == 1


@pytest.mark.parametrize("tag", d.DECREES)
def test_a_decree_with_one_byte_changed_changes_nothing(scene, tag):
    e = scene.fresh(tag)
    unchanged(scene, replace(e, counter=e.counter + 1))
    unchanged(scene, replace(e, epoch=e.epoch + 1))
    unchanged(scene, replace(e, at_ms=e.at_ms + 1))
    unchanged(scene, replace(e, data=msgspec.Raw(b"[" + bytes(e.data) + b"]")))


@pytest.mark.parametrize("tag", d.DECREES)
def test_a_decree_under_another_subject_lane_or_region_changes_nothing(scene, tag):
    kind = d.DECREES[tag]
    e = scene.fresh(tag)
    other = "routine" if kind.lane == "critical" else "critical"
    for subject in (
        e.subject.replace(f".{kind.lane}.", f".{other}."),
        e.subject.replace("acme", "bolt") if "acme" in e.subject else e.subject.replace("._.", ".acme."),
        e.subject.replace("eu-frankfurt", "us-virginia") if "eu-" in e.subject else e.subject.replace("global", "us-x"),
        e.subject + ".x",
        "kcm.decree.eu-frankfurt.acme.urgent.residence.acme",
    ):
        unchanged(scene, e, subject=subject)
    wrong = scene.fresh(tag, subject=e.subject.replace(f".{kind.lane}.", f".{other}."))
    unchanged(scene, wrong)  # sealed by governance itself for the other lane


@pytest.mark.parametrize("source", ["lane0", "critical", "routine"])
def test_what_was_taken_changes_nothing_when_it_comes_again_late_doubled_reordered_or_appended_anew(scene, source):
    for sequence, e in reversed(scene.taken):
        for at in (sequence, scene.sequence + 1):
            before = known(scene.state)
            effects = scene.give(e, at, source=source)
            assert known(scene.state) == before, e.tag
            assert not {x.kind for x in effects} & {"close", "cut", "provision", "lease"}, (e.tag, effects)
        scene.sequence += 1


ROUTINE_OF_RESIDENCE = [t for t, k in d.DECREES.items() if k.aggregate == "residence" and k.lane == "routine"]


@pytest.mark.parametrize("tag", ROUTINE_OF_RESIDENCE)
def test_a_routine_decree_of_a_closed_or_unopened_epoch_changes_nothing(scene, tag):
    homes = scene.state.residences["acme"]
    ahead = scene.fresh(tag, epoch=7, counter=1)
    scene.sequence += 1
    scene.give(ahead, scene.sequence)
    assert replace(scene.state.residences["acme"], frozen_at=None) == homes
    late = scene.fresh(tag)
    scene.press.epoch = 2
    scene.take(scene.press.ledger(d.LedgerOpened(epoch=2, first_sequence=2 << 40)))
    for e in (scene.press.residence("acme", d.AccessSuspended(reason="x"), counter=1),):
        scene.take(e)
    unchanged(scene, late)


@pytest.mark.parametrize("tag", ROUTINE_OF_RESIDENCE)
def test_a_routine_decree_over_a_gap_changes_nothing_but_says_so(scene, tag):
    homes = scene.state.residences["acme"]
    scene.press.counters[str(subjects.residence_aggregate("eu-frankfurt", "acme"))] += 1
    scene.sequence += 1
    effects = scene.give(scene.fresh(tag), scene.sequence)
    assert replace(scene.state.residences["acme"], frozen_at=None) == homes
    assert [x.detail for x in effects if x.kind == "alarm"] == ["routine-gap"]


BEATS = {
    "forged": {"signer": EVIL},
    "a node's": {"signer": seed(NODE[0])},
    "of another epoch": {"epoch": 2},
    "of another region": {"region": "us-virginia"},
    "for another subject": {"subject": "kcm.beat.us-virginia"},
    "with another history": {"chain": b"\1" * 32},
    "with a foreign nonce": {"nonce": "b" * 32},
}


@pytest.mark.parametrize("how", BEATS)
def test_a_beat_that_is_not_governances_answer_to_us_renews_nothing(scene, how):
    given = dict(BEATS[how])
    scene.state, _ = step(scene.state, NonceSent("a" * 32, 10**9))
    head, chain = scene.state.cursor_critical, given.pop("chain", scene.state.chain)
    e = scene.press.beat(head, chain, given.pop("nonce", "a" * 32), **given)
    scene.state, effects = step(scene.state, BeatArrived(e.subject, env.encode(e)))
    assert scene.state.beat is None
    assert "lease" not in [x.kind for x in effects]


def test_an_older_beat_replayed_takes_nothing_back_and_gives_nothing(scene):
    sent = []
    for n in (1, 2):
        scene.state, _ = step(scene.state, NonceSent(f"{n:032x}", n * 10**9))
        sent.append(scene.press.beat(scene.state.cursor_critical, scene.state.chain, f"{n:032x}"))
    for e in (sent[1], sent[0], sent[1]):
        scene.state, _ = step(scene.state, BeatArrived(e.subject, env.encode(e)))
        assert scene.state.beat == ("boot-1", 2 * 10**9)


# --- reports, heard by governance -----------------------------------------------------------------------------------

OWN = seed(NODE[0])
KEYS = {OWN.key_id: (*NODE, OWN.public_key)}
REPORTS = {reports.tag_of(r): r for r in examples.REPORTS}


def report(signer: seal.Signer = OWN, tag: str = "SyncAck.1", **changed) -> Stored:
    e = Voice(*NODE, signer).report(getattr(REPORTS[tag], "tenant", None), REPORTS[tag], epoch=1)
    if signer is not OWN:
        e = replace(e, key=OWN.key_id)
    e = replace(e, **{k: v for k, v in changed.items() if k != "found"})
    return Stored(1, changed.get("found", e.subject), env.encode(e), e.id)


@pytest.mark.parametrize("tag", REPORTS)
def test_a_report_that_is_not_the_nodes_own_is_heard_by_nobody(tag):
    good = report(tag=tag)
    assert inbox.hear(good, KEYS).node == NODE[0]
    for bad in (
        report(EVIL, tag),
        report(tag=tag, epoch=9),
        report(tag=tag, counter=1),
        report(tag=tag, data=msgspec.Raw(b"{}")),
        report(tag=tag, found=good.subject.replace("eu-frankfurt-1", "eu-frankfurt-2")),
        report(tag=tag, found=good.subject.replace("eu-frankfurt.", "us-virginia.")),
        replace(good, body=good.body[:-1]),
    ):
        with pytest.raises(ContractError):
            inbox.hear(bad, KEYS)
    with pytest.raises(inbox.UnknownNode):
        inbox.hear(good, {})
    other = {OWN.key_id: ("eu-frankfurt-2", "eu-frankfurt", OWN.public_key)}
    with pytest.raises(ContractError):
        inbox.hear(good, other)
