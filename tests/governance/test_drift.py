"""What nodes hold against what the ledger says: when it is compared, what is asked, and what is told again."""

from __future__ import annotations

import pytest

from openkcm.contract import decrees as d
from openkcm.contract import digest as canon
from openkcm.contract import envelope as env
from openkcm.contract import reports, statements
from openkcm.contract.reports import ResidenceDigest, Told
from openkcm.contract.resources import ROOT
from openkcm.execution import digests
from openkcm.execution.desired import step
from openkcm.execution.inputs import Arrived
from openkcm.execution.residence_state import State
from openkcm.governance.drift import AGAIN_S, BUSY, STILL_S, Drift
from openkcm.governance.ledger_facts import LedgerFacts, facts
from openkcm.projector import open_reader, open_writer
from openkcm.projector.ledger import Projection
from own_ca import OwnCa
from press import Press, new_id, sign

NODE, EU = "eu-frankfurt-1", "eu-frankfurt"
OLD_TAG = "0:" + "0" * 32


def told(tenant: str, generation: int, fence: int = 0, word: str = "a") -> ResidenceDigest:
    return ResidenceDigest(tenant=tenant, generation=generation, fence=fence, digest=f"{canon.VERSION}:{word * 32}")


class Ledger:
    """What governance has read, and the comparison over it."""

    def __init__(self) -> None:
        self.says = {"acme": told("acme", 3), "bolt": told("bolt", 5, 1)}
        self.heads, self.read_to, self.epoch, self.now = (30, 20), 30, 1, 100.0
        self.drift = Drift(
            self, epoch=lambda: self.epoch, read_to=lambda: self.read_to, monotonic=lambda: self.now,
            behind=lambda _, cursor: any(at < head for at, head in zip(cursor, self.heads, strict=True)),
        )  # fmt: skip

    def digests(self, _region: str) -> dict[str, ResidenceDigest]:
        return self.says

    def hear(self, *held: ResidenceDigest, cursor=(30, 20), pages=False, digest=None, epoch=1):
        """Return what governance says to a node that holds this."""
        own = canon.region_digest({r.tenant: r.digest for r in held})
        return self.drift.heard(
            reports.HealthCheck(
                node=NODE, region=EU, nonce="0" * 32, boot_id="b", sent_boottime_ns=1, ledger_epoch=epoch,
                cursor=cursor, known_tags=(), workers=1, memory="memfd_secret", sealed_mappings=True, dropped=0,
                digest=digest or own,
                told=Told(first=0, of=len(held), residences=held) if pages else None,
            )
        )  # fmt: skip

    def differing(self) -> list[str]:
        return [x.tenant for x in self.drift.differs(NODE)]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


ACME, BOLT = told("acme", 3), told("bolt", 5, 1)
WRONG = told("acme", 3, word="b")


def test_a_node_that_holds_what_the_ledger_says_is_asked_nothing(ledger):
    assert ledger.hear(ACME, BOLT) is None


def test_one_digest_that_differs_has_each_told_and_each_that_differs_read_again_once(ledger):
    asked = ledger.hear(WRONG, BOLT)
    assert (asked.question.node, asked.question.tenants, asked.again) == (NODE, (), ())
    again = ledger.hear(WRONG, BOLT, pages=True)
    assert (again.question.tenants, again.again) == (("acme",), (("acme", 3, 0),))
    assert ledger.differing() == ["acme"]
    assert ledger.hear(WRONG, BOLT, pages=True) is None
    assert ledger.hear(ACME, BOLT) is None
    assert (ledger.differing(), ledger.drift.found, ledger.drift.healed) == ([], 1, 1)


def test_what_goes_on_differing_is_told_again_after_a_while(ledger):
    assert ledger.hear(WRONG, BOLT, pages=True) is not None
    ledger.now += AGAIN_S
    assert ledger.hear(WRONG, BOLT, pages=True) is not None
    assert (ledger.drift.found, len(ledger.differing())) == (1, 1)


def test_something_else_that_differs_is_told_at_once(ledger):
    assert ledger.hear(WRONG, BOLT, pages=True) is not None
    assert ledger.hear(told("acme", 3, word="c"), BOLT, pages=True) is not None


def test_what_the_ledger_does_not_know_and_what_the_node_lacks_both_differ(ledger):
    again = ledger.hear(ACME, told("nobody", 1), pages=True)
    assert again.question.tenants == ("bolt", "nobody")
    assert again.again == (("bolt", 0, 0), ("nobody", 1, 0))


def test_a_node_that_is_behind_and_comes_nearer_is_no_drift(ledger):
    for at in range(10, 10 + BUSY - 1):
        assert ledger.hear(told("acme", 2, word="c"), BOLT, cursor=(at, 20)) is None


def test_a_node_that_stands_still_below_the_ledger_lacks_something(ledger):
    """A decree that the bus keeps back at the very end of a lane: nothing follows that would show the gap."""
    behind = told("acme", 2, word="c")
    assert ledger.hear(behind, BOLT, cursor=(29, 20)) is None
    ledger.now += STILL_S / 2
    assert ledger.hear(behind, BOLT, cursor=(29, 20)) is None
    ledger.now += STILL_S / 2
    assert ledger.hear(behind, BOLT, cursor=(29, 20)) is not None
    again = ledger.hear(behind, BOLT, cursor=(29, 20), pages=True)
    assert again.again == (("acme", 2, 0),)


def test_a_node_that_agreed_until_now_is_behind_at_first(ledger):
    assert ledger.hear(ACME, BOLT, cursor=(29, 20)) is None
    assert ledger.hear(told("acme", 2, word="c"), BOLT, cursor=(29, 20)) is None


def test_a_decree_that_was_passed_over_shows_although_the_cursor_is_at_the_end(ledger):
    again = ledger.hear(told("acme", 2, word="c"), BOLT, pages=True)
    assert again.again == (("acme", 2, 0),)


def test_under_constant_change_residences_at_the_same_counters_are_compared_and_no_others(ledger):
    moving = told("acme", 2, word="c")
    answers = [ledger.hear(moving, BOLT, cursor=(10 + n, 20)) for n in range(BUSY)]
    assert [a is not None for a in answers] == [False] * (BUSY - 1) + [True]
    assert ledger.hear(moving, told("bolt", 5, 1, word="d"), cursor=(20, 20), pages=True).question.tenants == ("bolt",)


@pytest.mark.parametrize(
    "how", [{"epoch": 2}, {"cursor": (31, 20)}, {"digest": OLD_TAG}], ids=["epoch", "ahead of us", "another version"]
)
def test_nothing_is_compared_that_is_not_the_same(ledger, how):
    assert ledger.hear(WRONG, BOLT, pages=True, **how) is None
    assert ledger.differing() == []


def test_an_older_node_that_tells_no_digest_is_asked_nothing(ledger):
    check = reports.HealthCheck(
        node=NODE, region=EU, nonce="0" * 32, boot_id="b", sent_boottime_ns=1, ledger_epoch=1, cursor=(30, 20),
        known_tags=(), workers=1, memory="mlock", sealed_mappings=True, dropped=0,
    )  # fmt: skip
    assert ledger.drift.heard(check) is None


# --- both sides count alike -----------------------------------------------------------------------------------------


def every_decree(press: Press):
    """Each decree of a residence, and some that nobody may carry out."""
    yield from press.opening((NODE, EU))
    yield from press.onboarded("acme")
    yield from press.onboarded("bolt")
    revoked = press.residence("acme", d.AccessRevoked(reason="test"))
    yield revoked
    yield press.residence("acme", d.AccessRevoked(reason="test"))
    yield press.restore("acme", revoked)
    yield press.restore("acme", revoked, people={"p-ann": press.people["p-ann"]})  # one signature lifts nothing
    yield press.residence("acme", d.AccessSuspended(reason="test"))
    yield press.residence("acme", d.TenantConfigurationUpdated(lease_s=30, hand_out="never", max_objects=9))
    yield press.residence("acme", d.TenantConfigurationUpdated(lease_s=3000))  # longer, and signed by nobody
    yield press.residence("acme", d.RotationOrdered(level="L2", rotation="rot-00000001"))
    yield press.residence("acme", d.EmergencyRotationOrdered(level="L2", below=3))
    yield press.residence("acme", d.EmergencyRotationOrdered(level="L3", registration="reg-acme-payments", below=2))
    yield press.residence("acme", d.WorkloadRemoved(enrolments=("enr-acme-app",)))
    yield press.residence("bolt", d.SystemDecommissioned(registrations=("reg-bolt-payments",)))
    ca, approval = OwnCa("acme root"), new_id("approval")
    words = statements.authority_statement("acme", EU, approval, ca.der)
    for people in ({"p-ann": press.people["p-ann"]}, press.people):
        given = {"authority": "aut-00000001", "certificate": ca.der, "approval": approval}
        yield press.residence("acme", d.WorkloadAuthorityTrusted(signatures=sign(words, people), **given))
    own = {"registration": "reg-acme-payments", "spiffe": "spiffe://acme.example/app", "authority": "aut-00000001"}
    yield press.residence(
        "acme", d.WorkloadEnrolled(workload="own", system="payments", enrolment="enr-acme-own", **own)
    )
    yield press.residence("acme", d.WorkloadAuthoritiesRemoved(authorities=("aut-00000001",)))
    yield press.residence("bolt", d.AccessResumed())
    yield press.residence(
        "bolt", d.SystemRegistered(system="two", registration="reg-00000002", hand_out="wrapped-only")
    )
    yield press.residence("bolt", d.SystemConfigured(registration="reg-00000002", hand_out="never"))
    yield press.residence("bolt", d.SystemConfigured(registration="reg-bolt-payments", hand_out="never"))
    yield press.residence("bolt", d.SystemConfigured(registration="reg-00000002"))
    yield press.residence("bolt", d.SystemConfigured(registration="reg-unknown1", hand_out="never"))


def test_node_and_ledger_digest_every_decree_alike(tmp_path):
    press = Press()
    writer = open_writer(tmp_path / "cmk.sqlite", ROOT / "projections" / "cmk")
    projection, reader = Projection(writer, press.root.public_key), open_reader(tmp_path / "cmk.sqlite")
    says = LedgerFacts(reader, lambda: projection.epoch)
    state = State(node=NODE, region=EU, boot_id="b", trust_root=press.root.public_key)
    seen = set()
    for sequence, e in enumerate(every_decree(press), start=1):
        m = Arrived("critical" if ".critical." in e.subject else "routine", sequence, e.subject, env.encode(e), 1)
        state, _ = step(state, m)
        says.touched(projection.apply([m]))
        seen.add(e.tag)
        for tenant, r in state.residences.items():
            assert facts(reader, tenant, EU, 1) == digests.facts(r, 1), e.tag
        ours = {t: canon.digest(digests.facts(r, 1)) for t, r in state.residences.items()}
        assert {t: r.digest for t, r in says.digests(EU).items()} == ours
    reader.close()
    writer.close()
    kinds = {tag for tag, kind in d.DECREES.items() if kind.aggregate == "residence"}
    assert kinds - seen == {"RevocationConfirmed.1", "ContextDestroyed.1"}
