"""A node asks two people's passkeys before it lifts a revocation, and refuses what only looks like two."""

from __future__ import annotations

import pytest

from authenticator import Authenticator
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import statements
from openkcm.execution.desired import step
from openkcm.execution.inputs import Arrived
from openkcm.execution.residence_state import State, verdict
from press import Press, seed


class World:
    def __init__(self) -> None:
        self.press = Press()
        self.ann, self.bob = Authenticator("ES256"), Authenticator("EdDSA")
        self.press.people = {"p-ann": self.ann, "p-bob": self.bob}  # type: ignore[dict-item]
        self.state = State(
            node="eu-frankfurt-1", region="eu-frankfurt", boot_id="b", trust_root=self.press.root.public_key
        )
        for e in (*self.press.opening(("eu-frankfurt-1", "eu-frankfurt")), *self.press.onboarded("acme")):
            self.arrive(e)
        self.revoked = self.press.residence("acme", d.AccessRevoked(reason="test"))
        self.arrive(self.revoked)
        assert self.verdict() == "revoked"

    def arrive(self, e: env.Envelope) -> None:
        self.press.sequence += 1
        source = "critical" if ".critical." in e.subject else "routine"
        self.state, _ = step(
            self.state, Arrived(source, self.press.sequence, e.subject, env.encode(e), 10**12, final=False)
        )

    def verdict(self) -> str:
        return verdict(self.state.residences["acme"])


@pytest.fixture
def world() -> World:
    return World()


def test_two_passkeys_lift(world: World) -> None:
    world.arrive(world.press.restore("acme", world.revoked))
    assert world.verdict() == "active"
    assert world.state.residences["acme"].approvers == {"p-ann": world.ann.key, "p-bob": world.bob.key}


class Elsewhere:
    """A device that answers a page of somebody else's, or without its person."""

    def __init__(self, device: Authenticator, **wrong: object) -> None:
        self.device, self.wrong, self.public_key = device, wrong, device.key

    def sign(self, words: bytes) -> bytes:
        return self.device.sign(words, **self.wrong)


@pytest.mark.parametrize("wrong", [{"origin": "https://evil.example"}, {"rp_id": "evil.example"}, {"flags": 1}])
def test_an_answer_given_to_another_site_lifts_nothing(world: World, wrong: dict) -> None:
    people = {"p-ann": world.ann, "p-bob": Elsewhere(world.bob, **wrong)}
    world.arrive(world.press.restore("acme", world.revoked, people=people))
    assert world.verdict() == "revoked"


def test_answers_to_another_restore_lift_nothing(world: World) -> None:
    other = statements.Lift(epoch=1, fence=1, event="00000000-0000-4000-8000-000000000000")
    elsewhere = world.press.restore("acme", lifts=(other,))
    answered = d.read(elsewhere.tag, elsewhere.data)
    assert isinstance(answered, d.AccessRestored)
    real = statements.Lift(epoch=1, fence=world.revoked.counter, event=world.revoked.id)
    forged = d.AccessRestored(
        lifts=(real,), approval=answered.approval, approvers_version=1, signatures=answered.signatures
    )
    world.arrive(world.press.residence("acme", forged, counter=elsewhere.counter))
    assert world.verdict() == "revoked"


def test_a_key_file_and_a_passkey_sign_together(world: World) -> None:
    carl = seed("carl")
    people = {"p-ann": world.ann, "p-carl": carl}
    world.arrive(world.press.approvers("acme", people, signed_by=("p-ann", "p-bob")))  # type: ignore[arg-type]
    world.arrive(world.press.restore("acme", world.revoked, people=people))
    assert world.verdict() == "active"
