"""The ledger's fold: one file an event, faults kept and harmless, any interleaving of the lanes gives the same views."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from governance_ledger import ANNA, BERT, CMK, EU, ROGUE, TRUST, US, Ledger, Stored, approvers, restored, signature
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import resources, statements, subjects
from openkcm.projector import Writer, open_writer
from openkcm.projector.ledger import LEDGER_TABLES, Projection

SCHEMA = resources.ROOT / "projections" / "cmk"
VIEWS = ("residence", "open_revocation", "destroyed", "system", "workload", "node", "tenant_region", "approval")
R = subjects.residence_aggregate


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    w = open_writer(tmp_path / "cmk.sqlite", SCHEMA, synchronous="NORMAL")
    yield w
    w.close()


def project(writer: Writer, messages: list[Stored]) -> Projection:
    projection = Projection(writer, TRUST.public_key)
    projection.apply(messages)
    return projection


def state(writer: Writer, tenant: str = "acme", region: str = EU) -> str:
    return writer.rows("SELECT state FROM residence WHERE tenant = ? AND region = ?", (tenant, region))[0][0]


def onboarded() -> Ledger:
    ledger = Ledger()
    for tenant in ("acme", "bolt"):
        people = tuple(
            d.Person(person=f"{tenant}-{p}", roles=("tenant-admin", "approver"), approval_key=s.public_key)
            for p, s in (("anna", ANNA), ("bert", BERT))
        )
        ledger.add(subjects.tenant_aggregate(tenant), d.TenantRegistered(people=people))
        ledger.add(subjects.tenant_aggregate(tenant), d.TenantRegionsAssigned(regions=(EU, US)))
        for region in (EU, US):
            where = R(region, tenant)
            ledger.add(where, approvers())
            ledger.add(where, d.TenantConfigurationUpdated(lease_s=3600))
            root = d.RootReference(provider="file", ref=f"{tenant}.keys")
            ledger.add(where, d.RootKeyLinked(root=root))
            ledger.add(where, d.SystemRegistered(system="payments", registration="payments-1"))
    return ledger


def test_every_decree_has_its_file_and_every_file_its_decree() -> None:
    files = {path.stem for path in (SCHEMA / "on").glob("*.sql")}
    assert files == {kind.decree.__name__ for kind in d.DECREES.values()}


def test_the_list_of_ledger_tables_is_complete(writer: Writer) -> None:
    tables = {name for (name,) in writer.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
    others = {
        "report_cursor",
        "node_ack",
        "node_root",
        "node_rotation",
        "node_shredded",
        "node_note",
        "handed_out",
        "counted_series",
        "request",
        "session",
        "offered_key",
        "node_cosignature",
    }
    assert tables == set(LEDGER_TABLES) | others


def test_a_residence_goes_through_its_states(writer: Writer) -> None:
    ledger = onboarded()
    where = R(EU, "acme")
    projection = project(writer, ledger.messages)
    assert (state(writer), state(writer, "bolt", US)) == ("Active", "Active")
    ledger.add(where, d.AccessSuspended(reason="ordered"))
    projection.apply(ledger.messages)
    assert state(writer) == "Suspended"
    revocation = ledger.add(where, d.AccessRevoked(reason="ordered"))
    projection.apply(ledger.messages)
    assert (state(writer), state(writer, "acme", US), state(writer, "bolt")) == ("Revoked", "Active", "Active")
    lift = statements.Lift(epoch=1, fence=1, event=revocation.id)
    ledger.add(where, restored(EU, "acme", [lift], [("anna", ANNA), ("bert", BERT)]))
    ledger.add(where, d.AccessResumed())
    projection.apply(ledger.messages)
    assert state(writer) == "Active"
    words = statements.destroy_statement("acme", EU, "approval-2", 1)
    two = (signature("anna", ANNA, words), signature("bert", BERT, words))
    ledger.add(where, d.ContextDestroyed(approval="approval-2", approvers_version=1, signatures=two))
    projection.apply(ledger.messages)
    assert state(writer) == "Destroyed"
    assert projection.cursor == len(ledger.messages)
    assert writer.rows("SELECT * FROM rejected") == []


@pytest.mark.parametrize(
    "signers", [[], [("anna", ANNA)], [("anna", ANNA), ("anna", ANNA)], [("anna", ANNA), ("bert", ROGUE)]]
)
def test_a_restore_that_governance_sealed_without_two_people_lifts_nothing(writer: Writer, signers: list) -> None:
    ledger = onboarded()
    revocation = ledger.add(R(EU, "acme"), d.AccessRevoked(reason="ordered"))
    lift = statements.Lift(epoch=1, fence=1, event=revocation.id)
    ledger.add(R(EU, "acme"), restored(EU, "acme", [lift], signers))
    project(writer, ledger.messages)
    assert state(writer) == "Revoked"


def test_a_longer_lease_another_root_and_other_approvers_need_two_people(writer: Writer) -> None:
    ledger = onboarded()
    where = R(EU, "acme")
    ledger.add(where, d.TenantConfigurationUpdated(lease_s=7200))
    ledger.add(where, d.RootKeyLinked(root=d.RootReference(provider="file", ref="thief.keys")))
    first = approvers()
    own = statements.approvers_hash("acme", EU, 1, [(a.person, a.public_key) for a in first.approvers], None)
    thieves = d.ApproversSet(version=2, previous=own, approvers=approvers((("x", ROGUE), ("y", CMK))).approvers)
    ledger.add(where, thieves)
    ledger.add(where, d.TenantConfigurationUpdated(lease_s=60))
    projection = project(writer, ledger.messages)
    query = "SELECT c.lease_s, k.ref, (SELECT max(version) FROM approvers_set WHERE region = c.region AND tenant = c.tenant) FROM configuration c JOIN root_key k USING (tenant, region) WHERE tenant = 'acme' AND region = ?"
    assert writer.rows(query, (EU,)) == [(60, "acme.keys", 1)]
    words = statements.approvers_statement(
        "acme", EU, statements.approvers_hash("acme", EU, 2, [(a.person, a.public_key) for a in thieves.approvers], own)
    )
    ledger.add(where, replace(thieves, signatures=(signature("anna", ANNA, words), signature("bert", BERT, words))))
    lease = statements.configuration_statement("acme", EU, "approval-9", 7200)
    longer = d.TenantConfigurationUpdated(
        lease_s=7200, approval="approval-9", signatures=(signature("x", ROGUE, lease), signature("y", CMK, lease))
    )
    ledger.add(where, longer)
    projection.apply(ledger.messages)
    assert writer.rows(query, (EU,)) == [(7200, "acme.keys", 2)]
    again = statements.configuration_statement("acme", EU, "approval-10", 7200)
    signed = (signature("x", ROGUE, again), signature("y", CMK, again))
    ledger.add(where, replace(longer, approval="approval-10", signatures=signed))  # no other lease
    ledger.add(where, d.TenantConfigurationUpdated(lease_s=60))
    ledger.add(where, longer)  # the same approval once more
    projection.apply(ledger.messages)
    assert writer.rows(query, (EU,)) == [(60, "acme.keys", 2)]
    assert [
        x
        for (x,) in writer.rows(
            "SELECT lease_s FROM lease WHERE tenant = 'acme' AND region = ? ORDER BY generation", (EU,)
        )
    ] == [3600, 60, 7200, 60]


def test_faults_are_kept_and_change_nothing(writer: Writer) -> None:
    ledger = onboarded()
    good = len(ledger.messages)
    where = R(EU, "acme")
    ledger.add(where, d.AccessRevoked(reason="forged"), signer=ROGUE)
    ledger.add(where, d.AccessSuspended(reason="late"), counter=99)
    ledger.add(where, d.AccessSuspended(reason="again"), counter=1)
    ledger.add(where, d.AccessRevoked(reason="wrong-lane"), lane="routine", counter=5)
    ledger.add(
        subjects.ledger_aggregate(), d.NodeEnrolled(node="n", region=EU, key=ROGUE.key_id, public_key=ROGUE.public_key)
    )
    moved = ledger.messages[3]
    ledger.messages.append(replace(moved, sequence=len(ledger.messages) + 1, subject=str(R(US, "acme"))))
    ledger.messages.append(Stored(len(ledger.messages) + 1, str(where), b"{", "x"))
    projection = project(writer, ledger.messages)
    faults = writer.rows("SELECT sequence - ?, reason FROM rejected ORDER BY sequence", (good,))
    assert faults == [
        (1, "bad-seal"),
        (2, "gap"),
        (3, "duplicate"),
        (4, "wrong-lane"),
        (5, "bad-seal"),
        (6, "bad-seal"),
        (7, "malformed"),
    ]
    assert state(writer) == "Active"
    assert projection.cursor == good + 7
    assert writer.rows("SELECT count(*) FROM node") == [(0,)]


def test_a_retired_signing_key_seals_nothing_more(writer: Writer) -> None:
    ledger = onboarded()
    ledger.add(
        subjects.ledger_aggregate(),
        d.SigningKeyRotated(key=ROGUE.key_id, public_key=ROGUE.public_key, retires=(CMK.key_id,)),
        signer=TRUST,
    )
    ledger.add(R(EU, "acme"), d.AccessSuspended(reason="old-key"))
    ledger.add(R(EU, "acme"), d.AccessSuspended(reason="new-key"), signer=ROGUE, counter=5)
    projection = project(writer, ledger.messages)
    assert writer.rows("SELECT reason FROM suspension") == [("new-key",)]
    assert set(projection.signing_keys) == {ROGUE.key_id} == set(Projection(writer, TRUST.public_key).signing_keys)


def test_a_second_projection_goes_on_behind_the_cursor(writer: Writer) -> None:
    ledger = onboarded()
    project(writer, ledger.messages[:9])
    after = project(writer, ledger.messages)
    assert after.cursor == len(ledger.messages)
    assert state(writer) == "Active"
    assert writer.rows("SELECT * FROM rejected") == []


def lanes_of(ledger: Ledger) -> tuple[list[Stored], list[Stored]]:
    critical = [m for m in ledger.messages if subjects.parse_decree(m.subject).lane == "critical"]
    return critical, [m for m in ledger.messages if m not in critical]


def story(seed: int) -> Ledger:
    """Many events over few keys, so that they collide."""
    chance = random.Random(seed)
    ledger = onboarded()
    revoked: dict[tuple[str, str], list[env.Envelope]] = {}
    for _ in range(40):
        tenant, region = chance.choice(("acme", "bolt")), chance.choice((EU, US))
        where, mine = R(region, tenant), revoked.setdefault((tenant, region), [])
        match chance.randrange(9):
            case 0 | 1:
                mine.append(ledger.add(where, d.AccessRevoked(reason="ordered")))
            case 2 | 3 if mine:
                lift = statements.Lift(epoch=1, fence=mine[-1].counter, event=mine[-1].id)
                ledger.add(where, restored(region, tenant, [lift], [("anna", ANNA), ("bert", BERT)]))
            case 4:
                ledger.add(where, d.AccessSuspended(reason="ordered"))
            case 5:
                ledger.add(where, d.AccessResumed())
            case 6:
                ledger.add(where, d.WorkloadRemoved(enrolments=(f"enrolment-{chance.randrange(3)}",)))
            case 7:
                enrolment = f"enrolment-{chance.randrange(3)}"
                ledger.add(
                    where,
                    d.WorkloadEnrolled(
                        workload="w",
                        system="payments",
                        registration="payments-1",
                        enrolment=enrolment,
                        fingerprint="0" * 64,
                    ),
                )
            case _:
                ledger.add(where, d.TenantConfigurationUpdated(lease_s=chance.choice((60, 3600))))
    return ledger


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 20), order=st.randoms(use_true_random=False))
def test_any_interleaving_of_the_lanes_gives_the_same_views(
    tmp_path_factory: pytest.TempPathFactory, seed: int, order: random.Random
) -> None:
    ledger = story(seed)
    # The key that seals both lanes is announced on the critical one: it comes first, as nodes hold back what they cannot verify.
    critical, routine = lanes_of(ledger)
    head = [critical.pop(0)]
    merged = list(head)
    while critical or routine:
        lane = critical if critical and (not routine or order.random() < 0.5) else routine
        merged.append(lane.pop(0))
    merged = [replace(m, sequence=i) for i, m in enumerate(merged, 1)]
    seen = []
    for messages in (ledger.messages, merged):
        w = open_writer(tmp_path_factory.mktemp("views") / "cmk.sqlite", SCHEMA, synchronous="NORMAL")
        project(w, messages)
        seen.append({view: sorted(map(repr, w.rows(f"SELECT * FROM {view}"))) for view in VIEWS})
        w.close()
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "forged",
    [
        d.RoleGranted(person="acme-eve", roles=(), approval_key=ROGUE.public_key),
        d.RoleGranted(person="acme-anna", roles=("kill-switch",)),
        d.RoleWithdrawn(person="acme-bert", roles=("approver",)),
        d.ApprovalPolicyChanged(quorum=3, approval="approval-0001", signatures=()),
    ],
)
def test_roles_keys_and_policies_without_two_peoples_signatures_change_no_table(
    writer: Writer, forged: d.Decree
) -> None:
    ledger = onboarded()
    ledger.add(subjects.tenant_aggregate("acme"), forged)
    project(writer, ledger.messages)
    assert writer.rows("SELECT count(*) FROM agreed") == [(0,)]
    assert writer.rows("SELECT count(*) FROM approval_policy") == [(0,)]
    assert len(writer.rows("SELECT * FROM person_role WHERE tenant = 'acme'")) == 4
    assert not writer.rows("SELECT * FROM person WHERE person = 'acme-eve'")


def test_where_three_sign_two_change_no_table(writer: Writer) -> None:
    """In a region as its set of approvers says, for the whole tenant as its policy says."""
    ledger, where = onboarded(), R(EU, "acme")
    both = (("anna", ANNA), ("bert", BERT))
    everybody = (*both, ("cleo", ROGUE))
    first = statements.approvers_hash("acme", EU, 1, [(p, k.public_key) for p, k in both], None)
    own = statements.approvers_hash("acme", EU, 2, [(p, k.public_key) for p, k in everybody], first, 3)
    words = statements.approvers_statement("acme", EU, own)
    of_three = replace(approvers(everybody), version=2, previous=first, quorum=3)
    ledger.add(where, replace(of_three, signatures=tuple(signature(p, k, words) for p, k in both)))
    longer = statements.configuration_statement("acme", EU, "approval-8", 86_401)
    for people in (both, everybody):
        signed = tuple(signature(p, k, longer) for p, k in people)
        ledger.add(where, d.TenantConfigurationUpdated(lease_s=86_401, approval="approval-8", signatures=signed))
        project(writer, ledger.messages)
        row = writer.rows("SELECT lease_s FROM configuration WHERE tenant = 'acme' AND region = ?", (EU,))
        assert (row == [(86_401,)]) == (people == everybody)
    tenant = subjects.tenant_aggregate("acme")
    people = (("acme-anna", ANNA), ("acme-bert", BERT))
    for n, quorum in enumerate((3, 2)):
        policy = statements.policy_statement("acme", f"approval-10{n}", quorum)
        signed = tuple(signature(p, k, policy) for p, k in people)
        ledger.add(tenant, d.ApprovalPolicyChanged(quorum=quorum, approval=f"approval-10{n}", signatures=signed))
    project(writer, ledger.messages)
    assert writer.rows("SELECT quorum FROM approval_policy") == [(3,)]


def test_a_third_persons_key_without_two_signatures_is_nobodys(writer: Writer) -> None:
    ledger = Ledger()
    people = (
        d.Person(person="anna", roles=("approver",), approval_key=ANNA.public_key),
        d.Person(person="bert", roles=("approver",)),
        d.Person(person="carl", roles=("auditor",)),
    )
    nova = subjects.tenant_aggregate("nova")
    ledger.add(nova, d.TenantRegistered(people=people))
    for person, key in (("bert", BERT), ("carl", ROGUE)):
        ledger.add(nova, d.RoleGranted(person=person, roles=(), approval_key=key.public_key))
    project(writer, ledger.messages)
    assert writer.rows("SELECT person FROM person WHERE approval_key IS NOT NULL ORDER BY 1") == [("anna",), ("bert",)]
