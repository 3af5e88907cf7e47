"""Authority: an intact event that nobody was allowed to append is found; what two people signed is not."""

import pytest

from audit.sealed_ledger import ANNA, BEN, NODE_NAME, PEOPLE, REGION, ROOT, TENANT, SealedLedger, whole
from openkcm.audit.account import account
from openkcm.audit.authority import Authority
from openkcm.audit.verify import TrustedLedger
from openkcm.contract import decrees as d
from openkcm.contract import statements
from openkcm.contract.seal import Signer

STRANGER = Signer(b"\x07" * 32)


def judged(ledger):
    trusted, authority = TrustedLedger(ROOT.public_key), Authority()
    events = [trusted.add(*entry) for entry in ledger.entries]
    for event in events:
        authority.judge(event)
    return events, authority.findings


def codes(ledger):
    return [finding.code for finding in judged(ledger)[1]]


def signed_by(statement, *people):
    return tuple(statements.Signature(person=p, signature=PEOPLE[p].sign(statement.signed_bytes())) for p in people)


def test_a_life_by_the_rules_has_no_findings():
    assert judged(whole())[1] == []


def test_the_account_says_who_ordered_who_approved_and_which_node_obeyed_when():
    events, findings = judged(whole())
    _, revoked, restored = account(events, findings)
    assert (revoked.tag, revoked.by, revoked.outcome) == ("AccessRevoked.1", "anna", "acked")
    assert [(o.node, o.after_ms, o.state) for o in revoked.obeyed] == [(NODE_NAME, 10, "revoked")]
    assert restored.approved_by == ("anna", "ben")


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"signers": ("anna",)}, "signatures"),
        ({"signers": ("anna", "anna")}, "signatures"),
        ({"signers": ()}, "signatures"),
        ({"granted_by": None}, "approval"),
        ({"granted_by": "anna"}, "approval"),
        ({"version": 2}, "restore"),
    ],
)
def test_a_restore_without_two_people_is_found(how, code):
    ledger = SealedLedger().open()
    restored = ledger.restore(ledger.revoke(), **how)
    events, findings = judged(ledger)
    assert code in [f.code for f in findings]
    assert restored.id in {f.event for f in findings} or code == "approval"
    assert any(o.outcome == "refused" for o in account(events, findings))


def test_a_restore_of_what_was_never_revoked_is_found():
    ledger = SealedLedger().open()
    lift = ledger.revoke()
    ledger.restore(statements.Lift(epoch=1, fence=lift.fence + 1, event=lift.event))
    assert codes(ledger) == ["restore"]


def test_a_confirmation_needs_the_sealed_ack_of_every_node():
    for acks, code in (
        (lambda _it, _lift: (), "confirmation"),
        (lambda it, lift: (it.ack(lift.fence, signer=STRANGER),), "ack"),
        (lambda it, lift: (it.ack(lift.fence - 1),), "ack"),
        (lambda it, lift: (it.ack(lift.fence, tenant="bolt"),), "ack"),
        (lambda it, lift: (it.ack(lift.fence, epoch=2),), "ack"),
        (lambda it, lift: (it.ack(lift.fence, node="us-virginia-1"),), "ack"),
    ):
        ledger = SealedLedger().open()
        lift = ledger.revoke()
        ledger.confirm(lift, acks(ledger, lift))
        assert codes(ledger) == [code]


def test_a_confirmation_of_no_revocation_is_found():
    ledger = SealedLedger().open()
    lift = ledger.revoke()
    ledger.confirm(statements.Lift(epoch=1, fence=2, event=lift.event), (ledger.ack(2),))
    assert codes(ledger) == ["confirmation"]


def link(ref, **more):
    return d.RootKeyLinked(root=d.RootReference(provider="file", ref=ref), **more)


def test_another_root_over_a_linked_one_needs_two_people():
    ledger = SealedLedger().open()
    ledger.residence(link("one"))
    ledger.residence(link("one"))
    ledger.residence(link("two"))
    words = statements.link_statement(TENANT, REGION, "approval-0002", "file", "three", None)
    ledger.residence(link("three", approval="approval-0002", signatures=signed_by(words, "anna", "ben")))
    ledger.residence(link("four", approval="approval-0002", signatures=signed_by(words, "anna", "ben")))
    events, findings = judged(ledger)
    assert [(f.code, f.sequence) for f in findings] == [("approval", 9), ("approval", 11)]
    assert len(events) == 11


def test_a_longer_lease_needs_two_people_and_a_shorter_one_none():
    ledger = SealedLedger().open()
    ledger.residence(d.TenantConfigurationUpdated(lease_s=60))
    ledger.residence(d.TenantConfigurationUpdated(lease_s=61, approval="approval-0003"))
    assert codes(ledger) == ["signatures"]


def test_new_approvers_are_signed_by_two_of_the_old():
    first = statements.approvers_hash(TENANT, REGION, 1, [(n, k.public_key) for n, k in PEOPLE.items()], None)
    new = (
        d.Approver(person="cleo", public_key=STRANGER.public_key),
        d.Approver(person="ben", public_key=BEN.public_key),
    )
    own = statements.approvers_hash(TENANT, REGION, 2, [(a.person, a.public_key) for a in new], first)
    words = statements.approvers_statement(TENANT, REGION, own)
    for version, previous, people, code in (
        (2, first, ("anna", "ben"), []),
        (2, first, ("anna",), ["signatures"]),
        (3, first, ("anna", "ben"), ["approvers"]),
        (2, None, ("anna", "ben"), ["approvers"]),
    ):
        ledger = SealedLedger().open()
        ledger.residence(
            d.ApproversSet(version=version, approvers=new, previous=previous, signatures=signed_by(words, *people))
        )
        assert codes(ledger) == code


def test_where_three_sign_two_are_found_in_a_region_and_for_the_whole_tenant():
    first = statements.approvers_hash(TENANT, REGION, 1, [(n, k.public_key) for n, k in PEOPLE.items()], None)
    three = {**PEOPLE, "cleo": STRANGER}
    pairs = [(name, key.public_key) for name, key in sorted(three.items())]
    words = statements.approvers_statement(
        TENANT, REGION, statements.approvers_hash(TENANT, REGION, 2, pairs, first, 3)
    )
    ledger = SealedLedger().open()
    ledger.residence(
        d.ApproversSet(
            version=2, approvers=tuple(d.Approver(person=p, public_key=k) for p, k in pairs), quorum=3, previous=first,
            signatures=signed_by(words, "anna", "ben"),
        )
    )  # fmt: skip
    ledger.residence(d.TenantConfigurationUpdated(lease_s=60))
    longer = statements.configuration_statement(TENANT, REGION, "approval-0003", 61)
    by_two = d.TenantConfigurationUpdated(
        lease_s=61, approval="approval-0003", signatures=signed_by(longer, "anna", "ben")
    )
    ledger.residence(by_two)
    for n, quorum in enumerate((3, 2)):  # the way back takes three
        policy = statements.policy_statement(TENANT, f"approval-100{n}", quorum)
        ledger.tenant(
            d.ApprovalPolicyChanged(
                quorum=quorum, approval=f"approval-100{n}", signatures=signed_by(policy, "anna", "ben")
            )
        )
    assert codes(ledger) == ["signatures", "signatures"]
    third = statements.Signature(person="cleo", signature=STRANGER.sign(longer.signed_bytes()))
    ledger = SealedLedger().open()
    few = tuple(d.Approver(person=p, public_key=PEOPLE["anna"].public_key) for p in ("anna", "ben"))
    ledger.residence(d.ApproversSet(version=2, approvers=few, quorum=3, previous=first, signatures=(third,)))
    assert codes(ledger) == ["approvers"]


def test_two_names_with_one_key_are_no_two_approvers():
    first = statements.approvers_hash(TENANT, REGION, 1, [(n, k.public_key) for n, k in PEOPLE.items()], None)
    new = (d.Approver(person="cleo", public_key=ANNA.public_key), d.Approver(person="dora", public_key=ANNA.public_key))
    ledger = SealedLedger().open()
    ledger.residence(d.ApproversSet(version=2, approvers=new, previous=first))
    assert codes(ledger) == ["approvers"]


def test_the_end_of_a_residence_needs_two_people():
    ledger = SealedLedger().open()
    words = statements.destroy_statement(TENANT, REGION, "approval-0004", 1)
    ledger.residence(
        d.ContextDestroyed(approval="approval-0004", approvers_version=1, signatures=signed_by(words, "anna"))
    )
    assert codes(ledger) == ["signatures"]


def granting(*people, roles=("kill-switch",), key=None, approval="approval-0001", person="ben"):
    words = statements.role_statement(TENANT, "GrantRole", approval, person, roles, key)
    return d.RoleGranted(
        person=person, roles=roles, approval_key=key, approval=approval, signatures=signed_by(words, *people)
    )


@pytest.mark.parametrize(
    ("decree", "code"),
    [
        (granting("anna"), "signatures"),
        (granting(), "signatures"),
        (d.RoleGranted(person="ben", roles=("kill-switch",)), "role"),
        (d.RoleGranted(person="ben", roles=(), approval_key=STRANGER.public_key), "role"),
        (d.RoleWithdrawn(person="ben", roles=("approver",)), "approval"),
        (d.ApprovalPolicyChanged(quorum=2, approval="approval-0001", signatures=()), "signatures"),
    ],
)
def test_a_role_a_key_or_a_policy_without_two_people_is_found(decree, code):
    ledger = SealedLedger().open()
    ledger.tenant(decree)
    assert codes(ledger) == [code]


def test_two_people_grant_a_role_once():
    ledger = SealedLedger().open()
    ledger.tenant(granting("anna", "ben"))
    ledger.tenant(granting("anna", "ben"))
    assert codes(ledger) == ["approval"]


def ended(*, signers=("anna", "ben"), acks=None, by_lease=(), regions=(REGION,)):
    ledger = SealedLedger().open()
    words = statements.destroy_statement(TENANT, REGION, "approval-0004", 1)
    destroyed = ledger.residence(
        d.ContextDestroyed(approval="approval-0004", approvers_version=1, signatures=signed_by(words, *signers))
    )
    given = (ledger.ack(destroyed.counter),) if acks is None else acks(ledger, destroyed)
    ledger.tenant(d.TenantTerminated(regions=regions, nodes=(NODE_NAME,), by_lease=by_lease, acks=given))
    return codes(ledger)


def test_the_end_of_a_tenant_holds_every_nodes_own_word_or_the_end_of_its_lease():
    assert ended() == []
    assert ended(acks=lambda _l, _d: (), by_lease=(NODE_NAME,)) == []
    assert ended(acks=lambda _l, _d: ()) == ["termination"]
    assert ended(acks=lambda ledger, x: (ledger.ack(x.counter, signer=STRANGER),)) == ["ack"]
    assert ended(acks=lambda ledger, x: (ledger.ack(x.counter - 1),)) == ["ack"]
    assert ended(acks=lambda ledger, x: (ledger.ack(x.counter, tenant="bolt"),)) == ["ack"]
    assert ended(signers=("anna",)) == ["signatures", "termination"]
    assert ended(regions=(REGION, "us-virginia")) == ["termination"]
    assert ended(regions=("us-virginia",)) == ["ack"]
