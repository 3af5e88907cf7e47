"""As many of the tenant's people sign as their set of approvers says: judged by the node itself, whoever seals the decree.

Two sign with Ed25519, one with a passkey; governance's own seal is on every decree here, and is worth nothing for these.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from authenticator import Authenticator
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import statements
from openkcm.execution import rows
from openkcm.execution.inputs import Arrived
from openkcm.execution.judge import judged
from openkcm.execution.residence_state import State, verdict
from press import Press, seed, sign

REGION = "eu-frankfurt"

ANN, BOB, CAT, DAN = "p-ann", "p-bob", "p-cat", "p-dan"


class World:
    """A node's state, fed by a press: a residence of four approvers, of whom three sign."""

    def __init__(self) -> None:
        self.press, self.sequence = Press(), 0
        self.state = State(node="n-1", region=REGION, boot_id="b", trust_root=self.press.root.public_key)
        for e in (*self.press.opening(("n-1", REGION)), *self.press.onboarded("acme")):
            self.take(e)
        self.press.people |= {CAT: Authenticator(), DAN: seed("dan")}
        self.take(self.press.approvers("acme", signed_by=[ANN, BOB], quorum=3))
        assert (self.acme.approvers_version, self.acme.quorum, self.acme.refusal) == (2, 3, None)

    @property
    def acme(self):
        return self.state.residences["acme"]

    def take(self, e: env.Envelope) -> str | None:
        self.sequence += 1
        source = "critical" if ".critical." in e.subject else "routine"
        arrived = Arrived(
            source=source, subject=e.subject, body=env.encode(e), sequence=self.sequence, now_ns=1, final=True
        )
        self.state, _ = judged(self.state, arrived)
        return self.state.residences["acme"].refusal if "acme" in self.state.residences else None

    def some(self, *names: str) -> dict:
        return {name: self.press.people[name] for name in names}

    def restart(self) -> None:
        fresh = State(node="n-1", region=REGION, boot_id="b2", trust_root=self.press.root.public_key)
        _, node = rows.node_row(self.state)
        _, row = rows.residence_row(self.acme)
        at = (self.state.cursor_routine, self.state.cursor_critical, node["body"])
        self.state = rows.load(fresh, at, [row["body"]])


@pytest.fixture
def world() -> World:
    return World()


def test_two_signatures_are_refused_by_the_node_and_three_lift(world: World) -> None:
    e = world.press.residence("acme", d.AccessRevoked(reason="test"))
    world.take(e)
    for few in ((), (ANN,), (ANN, BOB), (BOB, CAT)):
        assert world.take(world.press.restore("acme", e, people=world.some(*few))) == "RestoreRefused"
        assert verdict(world.acme) == "revoked"
    world.restart()  # and it is not forgotten
    assert world.take(world.press.restore("acme", e, people=world.some(ANN, CAT))) == "RestoreRefused"
    assert world.take(world.press.restore("acme", e, people=world.some(ANN, BOB, CAT))) is None
    assert verdict(world.acme) == "active"


def test_who_signs_twice_or_under_another_name_counts_once(world: World) -> None:
    e = world.press.residence("acme", d.AccessRevoked(reason="test"))
    world.take(e)
    honest = world.press.restore("acme", e, people=world.some(ANN, BOB))
    decree = d.read(honest.tag, honest.data)
    assert isinstance(decree, d.AccessRestored)
    twice = (*decree.signatures, *decree.signatures)
    another = (*decree.signatures, statements.Signature(person=DAN, signature=decree.signatures[0].signature))
    for counter, given in ((honest.counter, twice), (None, another)):
        doubled = d.AccessRestored(lifts=decree.lifts, approval=decree.approval, approvers_version=2, signatures=given)
        world.take(world.press.residence("acme", doubled, counter=counter))
        assert (world.acme.refusal, verdict(world.acme)) == ("RestoreRefused", "revoked")


def end(w: World, *who: str) -> d.Decree:
    words = statements.destroy_statement("acme", REGION, "approval-end", 2)
    return d.ContextDestroyed(approval="approval-end", approvers_version=2, signatures=sign(words, w.some(*who)))


def lease(w: World, *who: str) -> d.Decree:
    words = statements.configuration_statement("acme", REGION, "approval-lease", 7200)
    return d.TenantConfigurationUpdated(lease_s=7200, approval="approval-lease", signatures=sign(words, w.some(*who)))


def root(w: World, *who: str) -> d.Decree:
    words = statements.link_statement("acme", REGION, "approval-root", "file", "/keys/other", None)
    reference = d.RootReference(provider="file", ref="/keys/other")
    return d.RootKeyLinked(root=reference, approval="approval-root", signatures=sign(words, w.some(*who)))


@pytest.mark.parametrize("ordered", [end, lease, root])
def test_whatever_takes_people_takes_so_many(world: World, ordered: Callable[..., d.Decree]) -> None:
    before = world.acme
    world.take(world.press.residence("acme", ordered(world, ANN, CAT)))
    after = world.acme
    assert after.refusal or not after.destroyed
    assert (after.destroyed, after.lease_s, after.root) == (before.destroyed, before.lease_s, before.root)
    world.take(world.press.residence("acme", ordered(world, ANN, BOB, CAT)))
    after = world.acme
    assert (after.destroyed, after.lease_s, after.root) != (before.destroyed, before.lease_s, before.root)


def test_fewer_signers_are_put_in_force_by_as_many_as_sign_now_and_a_set_has_as_many_people(world: World) -> None:
    known = world.press.sets["acme"]
    assert world.take(world.press.approvers("acme", signed_by=[ANN, BOB], quorum=2)) == "ApproversRefused"
    assert world.acme.quorum == 3
    world.press.sets["acme"] = known
    few = world.some(ANN, BOB)
    assert world.take(world.press.approvers("acme", few, signed_by=[ANN, BOB, CAT], quorum=3)) == "ApproversRefused"
    world.press.sets["acme"] = known
    assert world.take(world.press.approvers("acme", signed_by=[ANN, BOB, CAT], quorum=2)) is None
    assert (world.acme.approvers_version, world.acme.quorum) == (3, 2)


def test_the_number_is_part_of_what_is_signed_and_of_the_history(world: World) -> None:
    known = world.press.sets["acme"]
    signed_for_two = world.press.approvers("acme", signed_by=[ANN, BOB, CAT], quorum=2)
    world.press.sets["acme"] = known
    decree = d.read(signed_for_two.tag, signed_for_two.data)
    assert isinstance(decree, d.ApproversSet)
    moved = d.ApproversSet(
        version=decree.version, approvers=decree.approvers, quorum=4, previous=decree.previous,
        signatures=decree.signatures,
    )  # fmt: skip
    assert world.take(world.press.residence("acme", moved, counter=signed_for_two.counter)) == "ApproversRefused"
    pairs = [(a.person, a.public_key) for a in decree.approvers]
    of_two, of_three = (statements.approvers_hash("acme", REGION, 1, pairs, None, n) for n in (2, 3))
    assert of_two == statements.approvers_hash(
        "acme", REGION, 1, pairs, None
    )  # as before sets said so: keys are bound to it
    assert of_two != of_three


def test_a_set_and_a_row_of_an_older_release_mean_two(world: World) -> None:
    told = {k: v for k, v in msgspec.json.decode(rows.residence_row(world.acme)[1]["body"]).items() if k != "quorum"}
    _, node = rows.node_row(world.state)
    loaded = rows.load(world.state, (1, 1, node["body"]), [msgspec.json.encode(told)])
    assert loaded.residences["acme"].quorum == 2
    old = d.read("ApproversSet.1", b'{"version":1,"approvers":[{"person":"a","public_key":"' + b"A" * 43 + b'="},'
                 b'{"person":"b","public_key":"' + b"B" * 42 + b'A="}]}')  # fmt: skip
    assert isinstance(old, d.ApproversSet)
    assert old.quorum == 2
