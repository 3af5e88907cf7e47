"""Who signs for a tenant: first keys alone, then two people for every key, role and policy. Pure."""

from __future__ import annotations

import pytest

from authenticator import Authenticator
from governance_ledger import ANNA, BERT, EU, ROGUE, SOMEBODY, signature
from openkcm.contract import decrees as d
from openkcm.contract import statements, subjects
from openkcm.governance.aggregate import Order
from openkcm.governance.approval import Approved
from openkcm.governance.errors import BadSignature, Invalid, NeedsApproval, NotFound
from openkcm.governance.tenant import Tenant

ORDER = Order(tenant="acme", actor=SOMEBODY, command="X", key="k", correlation="c")
PEOPLE = (
    d.Person(person="anna", roles=("tenant-admin",)),
    d.Person(person="bert", roles=("approver",)),
    d.Person(person="carl", roles=("auditor",)),
)


class Story:
    def __init__(self) -> None:
        self.tenant = Tenant.empty(subjects.tenant_aggregate("acme"))
        self.counter = 0
        self.do("register", PEOPLE, (EU,), {EU})
        self.do("assign_regions", (EU,))

    def do(self, command: str, *arguments: object) -> d.Decree | None:
        fork = self.tenant.under(ORDER, 1)
        getattr(fork, command)(*arguments)
        for made in fork.ordered():
            self.counter += 1
            self.tenant.happened(made.decree, event=f"event-{self.counter}", epoch=1, counter=self.counter)
            return made.decree
        return None

    def agree(self, words: statements.Statement, *signers: tuple[str, object]) -> Approved:
        pairs = signers or (("anna", ANNA), ("bert", BERT))
        return Approved(words.approval, tuple(signature(p, s, words) for p, s in pairs))  # type: ignore[arg-type]


@pytest.fixture
def story() -> Story:
    s = Story()
    s.do("register_own_key", "anna", ANNA.public_key)
    s.do("register_own_key", "bert", BERT.public_key)
    return s


def granting(person: str, *roles: str, key: bytes | None = None, approval: str = "approval-1") -> statements.Statement:
    return statements.role_statement("acme", "GrantRole", approval, person, roles, key)


def test_a_person_registers_its_own_first_key_alone_only_until_two_can_sign(story: Story) -> None:
    assert story.tenant.facts.keys == {"anna": ANNA.public_key, "bert": BERT.public_key}
    assert story.do("register_own_key", "anna", ANNA.public_key) is None
    for person in ("anna", "carl"):
        with pytest.raises(NeedsApproval):
            story.do("register_own_key", person, ROGUE.public_key)
    with pytest.raises(NotFound):
        story.do("register_own_key", "mallory", ROGUE.public_key)
    with pytest.raises(Invalid):
        story.do("register_own_key", "carl", b"x" * 40)
    assert set(story.tenant.facts.keys) == {"anna", "bert"}


def test_one_person_under_two_names_is_not_two(story: Story) -> None:
    alone = Story()
    alone.do("register_own_key", "anna", ANNA.public_key)
    alone.do("register_own_key", "bert", ANNA.public_key)
    assert not alone.tenant.facts.consents


def test_a_key_takes_two_people_and_the_very_key_they_signed(story: Story) -> None:
    device = Authenticator()
    approved = story.agree(granting("carl", key=device.key))
    with pytest.raises(BadSignature):
        story.do("grant", "carl", (), Authenticator().key, approved)
    with pytest.raises(BadSignature):
        story.do("grant", "bert", (), device.key, approved)
    story.do("grant", "carl", (), device.key, approved)
    assert story.tenant.facts.keys["carl"] == device.key
    with pytest.raises(BadSignature):  # an approval counts once
        story.do("grant", "carl", (), device.key, approved)


@pytest.mark.parametrize(
    "signers", [(("anna", ANNA),), (("anna", ANNA), ("anna", ANNA)), (("anna", ANNA), ("bert", ROGUE))]
)
def test_a_role_takes_two_peoples_own_signatures(story: Story, signers: tuple) -> None:
    with pytest.raises(BadSignature):
        story.do("grant", "carl", ("kill-switch",), None, story.agree(granting("carl", "kill-switch"), *signers))
    assert story.tenant.facts.people["carl"][0] == {"auditor"}


def test_roles_come_and_go_by_two(story: Story) -> None:
    story.do("grant", "carl", ("kill-switch",), None, story.agree(granting("carl", "kill-switch")))
    assert story.tenant.facts.people["carl"][0] == {"auditor", "kill-switch"}
    words = statements.role_statement("acme", "WithdrawRole", "approval-2", "carl", ("auditor",))
    story.do("withdraw", "carl", ("auditor",), story.agree(words))
    assert story.tenant.facts.people["carl"][0] == {"kill-switch"}
    with pytest.raises(NotFound):
        story.do("withdraw", "carl", ("auditor",), story.agree(words))


def test_a_service_may_cut_access_and_be_nothing_else(story: Story) -> None:
    service = "service-" + "0" * 64
    story.do("grant", service, ("kill-switch",), None, story.agree(granting(service, "kill-switch")))
    for role in ("tenant-admin", "approver", "auditor", "key-admin"):
        with pytest.raises(Invalid):
            story.do("grant", service, (role,), None, story.agree(granting(service, role, approval="approval-9")))
    with pytest.raises(Invalid):
        story.do("grant", "carl", ("provider-operator",), None, story.agree(granting("carl", "provider-operator")))


def test_a_policy_takes_two_and_no_more_people_than_there_are(story: Story) -> None:
    three = statements.policy_statement("acme", "approval-3", 3)
    with pytest.raises(Invalid):
        story.do("change_policy", 3, story.agree(three))
    device = Authenticator("EdDSA")
    story.do("grant", "carl", (), device.key, story.agree(granting("carl", key=device.key)))
    with pytest.raises(BadSignature):
        story.do("change_policy", 3, story.agree(statements.policy_statement("acme", "approval-3", 2)))
    story.do("change_policy", 3, story.agree(three))
    assert story.tenant.facts.quorum == 3


@pytest.mark.parametrize(
    "forged",
    [
        d.RoleGranted(person="carl", roles=(), approval_key=ROGUE.public_key),
        d.RoleGranted(person="carl", roles=("tenant-admin",)),
        d.RoleWithdrawn(person="bert", roles=("approver",)),
        d.ApprovalPolicyChanged(quorum=2, approval="approval-1", signatures=()),
    ],
)
def test_what_governance_alone_appends_changes_nobody(story: Story, forged: d.Decree) -> None:
    before = story.tenant.facts
    story.tenant.happened(forged, event="forged", epoch=1, counter=story.counter + 1)
    assert story.tenant.facts == before
