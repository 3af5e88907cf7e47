"""The aggregates: a command makes its decrees, or raises and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from governance_ledger import ANNA, BERT, EU, ROGUE, SOMEBODY, approvers, signature
from openkcm.contract import decrees as d
from openkcm.contract import statements, subjects
from openkcm.contract.fleet import RegionConfiguration, RootPolicy
from openkcm.governance.aggregate import LedgerAggregate, Order
from openkcm.governance.approval import Approval
from openkcm.governance.errors import (
    BadSignature,
    Forbidden,
    GovernanceError,
    IllegalNow,
    Invalid,
    InvalidReference,
    NeedsApproval,
    NotFound,
    SecretRefused,
)
from openkcm.governance.references import check_root, refuse_secrets
from openkcm.governance.residence import LEGAL, Approved, Residence
from openkcm.governance.tenant import Tenant

ORDER = Order(tenant="acme", actor=SOMEBODY, command="Test", key="k", correlation="c")
REGION = RegionConfiguration(
    region=EU, residency=("DE",), nodes=("n-1",), roots=RootPolicy(
        providers=("file", "aws", "gcp", "azure", "pkcs11", "kmip"),
        vaults={"acme.vault.azure.net": "germanywestcentral", "acme-hsm.managedhsm.azure.net": "germanywestcentral",
                "acme-us.vault.azure.net": "eastus"},
    ),
    root_regions={"aws": ("eu-central-1",), "gcp": ("europe-west3",), "azure": ("germanywestcentral",)},
)  # fmt: skip
ROOT = d.RootReference(provider="file", ref="/keys/acme")
KNOWN = {"anna": ANNA.public_key, "bert": BERT.public_key}


class History:
    """A residence whose commands go into its history at once, as the registry would put them there."""

    def __init__(self, kind: type[LedgerAggregate] = Residence, where: Any = None) -> None:
        self.aggregate = kind.empty(where or subjects.residence_aggregate(EU, "acme"))
        self.orders = 0

    def do(self, command: str, *args: Any, **kwargs: Any) -> list[d.Decree]:
        self.orders += 1
        order = Order(tenant="acme", actor=SOMEBODY, command=command, key=str(self.orders), correlation="c")
        fork = self.aggregate.under(order, 1)
        before = (self.aggregate.facts, dict(self.aggregate.counters), self.aggregate.version)
        try:
            getattr(fork, command)(*args, **kwargs)
        except GovernanceError:
            assert fork.ordered() == []
            assert fork.facts is before[0]
            raise
        finally:
            assert (self.aggregate.facts, self.aggregate.counters, self.aggregate.version) == before
        made = fork.ordered()
        for event in made:
            self.aggregate.happened(event.decree, event=event.event, epoch=event.epoch, counter=event.counter)
        assert self.aggregate.facts == fork.facts
        return [event.decree for event in made]

    @property
    def state(self) -> str:
        return self.aggregate.facts.state


def residence(state: str = "Active") -> History:
    h = History()
    h.do("appoint", approvers().approvers)
    h.do("set_defaults")
    h.do("configure", {"lease_s": 3600})
    assert h.do("appoint", approvers().approvers) == h.do("set_defaults") == []
    if state in {"Linked", "Active", "Suspended", "Revoked", "Destroyed"}:
        h.do("link_root", ROOT, REGION)
    if state in {"Active", "Suspended", "Revoked", "Destroyed"}:
        h.do("register_system", "payments")
    if state == "Suspended":
        h.do("suspend", "drill")
    if state == "Revoked":
        h.do("revoke", "drill")
    if state == "Destroyed":
        h.do("destroy", consent(statements.destroy_statement("acme", EU, "approval-1", 1)))
    assert h.state == state
    return h


def consent(words: statements.Statement, people: Any = (("anna", ANNA), ("bert", BERT))) -> Approved:
    return Approved(words.approval, tuple(signature(p, s, words) for p, s in people))


STATES = ("Requested", "Linked", "Active", "Suspended", "Revoked", "Destroyed")
COMMANDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "configure": ("configure", ({"hand_out": "never"},)),
    "link the root key": ("link_root", (ROOT, REGION)),
    "register a system": ("register_system", ("archive",)),
    "rotate": ("order_rotation", ("L2", None)),
    "suspend": ("suspend", ("drill",)),
}


@pytest.mark.parametrize("state", STATES)
def test_a_revocation_is_legal_in_every_state(state: str) -> None:
    assert residence(state).do("revoke", "stolen") == [d.AccessRevoked(reason="stolen")]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_legal_in_its_states_only(command: str, state: str) -> None:
    method, arguments = COMMANDS[command]
    history = residence(state)
    if state in LEGAL[command]:
        assert history.do(method, *arguments)
    else:
        with pytest.raises(IllegalNow, match=state):
            history.do(method, *arguments)


def test_a_system_is_registered_with_its_hand_out_policy_and_may_have_another_later() -> None:
    h = residence("Active")
    (registered,) = h.do("register_system", "archive", "wrapped-only")
    assert (registered.system, registered.hand_out) == ("archive", "wrapped-only")
    for policy in ("never", None):
        (configured,) = h.do("configure_system", registered.registration, policy)
        assert configured == d.SystemConfigured(registration=registered.registration, hand_out=policy)
    with pytest.raises(NotFound):
        h.do("configure_system", "reg-nobodys", "never")


def test_a_restore_names_the_highest_revocation_of_every_epoch_by_id() -> None:
    h = residence("Active")
    for epoch, counter, event in ((1, 1, "a"), (1, 2, "b"), (2, 1, "c")):
        h.aggregate.happened(d.AccessRevoked(reason="x"), event=event, epoch=epoch, counter=counter)
    lifts = [statements.Lift(epoch=1, fence=2, event="b"), statements.Lift(epoch=2, fence=1, event="c")]
    words = statements.restore_statement("acme", EU, "approval-1", lifts, 1)
    (made,) = h.do("restore", consent(words))
    assert isinstance(made, d.AccessRestored)
    assert made.lifts == tuple(lifts)
    assert h.state == "Active"


@pytest.mark.parametrize(
    "people", [(), (("anna", ANNA),), (("anna", ANNA), ("anna", ANNA)), (("anna", ANNA), ("bert", ROGUE))]
)
def test_fewer_than_two_people_restore_nothing(people: Any) -> None:
    h = residence("Revoked")
    words = statements.restore_statement("acme", EU, "approval-1", h.aggregate.facts.highest_revocations, 1)
    with pytest.raises(BadSignature):
        h.do("restore", consent(words, people))
    assert h.state == "Revoked"


def test_signatures_for_an_older_revocation_do_not_lift_a_newer_one() -> None:
    h = residence("Revoked")
    words = statements.restore_statement("acme", EU, "approval-1", h.aggregate.facts.highest_revocations, 1)
    h.do("revoke", "again")
    with pytest.raises(BadSignature):
        h.do("restore", consent(words))
    assert h.state == "Revoked"


def test_what_the_ledger_holds_without_two_people_changes_nothing_here_either() -> None:
    h = residence("Revoked")
    lifts = h.aggregate.facts.highest_revocations
    rogue = d.AccessRestored(lifts=lifts, approval="approval-1", approvers_version=1, signatures=())
    h.aggregate.happened(rogue, event="r", epoch=1, counter=19)
    h.aggregate.happened(
        d.RootKeyLinked(root=d.RootReference(provider="file", ref="/thief")), event="s", epoch=1, counter=10
    )
    h.aggregate.happened(d.TenantConfigurationUpdated(lease_s=7200), event="t", epoch=1, counter=21)
    assert (h.state, h.aggregate.facts.root, h.aggregate.facts.configuration.lease_s) == ("Revoked", ROOT, 3600)
    assert h.aggregate.counters["routine", 1] == 21  # it counts all the same


def test_another_root_and_a_longer_lease_take_two_people_and_an_approval_counts_once() -> None:
    h = residence()
    other = d.RootReference(provider="file", ref="/keys/other")
    with pytest.raises(NeedsApproval):
        h.do("link_root", other, REGION)
    with pytest.raises(NeedsApproval):
        h.do("configure", {"lease_s": 7200})
    h.do(
        "link_root",
        other,
        REGION,
        consent(statements.link_statement("acme", EU, "approval-1", "file", "/keys/other", None)),
    )
    longer = consent(statements.configuration_statement("acme", EU, "approval-2", 7200))
    h.do("configure", {"lease_s": 7200}, longer)
    h.do("configure", {"lease_s": 60})
    with pytest.raises(BadSignature):
        h.do("configure", {"lease_s": 7200}, longer)
    assert (h.aggregate.facts.root, h.aggregate.facts.configuration.lease_s) == (other, 60)


def test_a_merge_patch_keeps_what_it_does_not_name_and_null_gives_the_default() -> None:
    h = residence()
    h.do("configure", {"labels": {"a": "1", "b": "2"}, "hand_out": "never"})
    h.do("configure", {"labels": {"a": None, "c": "3"}})
    now = h.aggregate.facts.configuration
    assert (now.labels, now.hand_out, now.lease_s) == ({"b": "2", "c": "3"}, "never", 3600)
    h.do("configure", {"hand_out": None})
    assert h.aggregate.facts.configuration.hand_out == "allowed"


def test_a_certificate_speaks_for_one_workload_and_a_removed_one_may_come_again() -> None:
    h = residence()
    h.do("enrol_workload", "a", "payments", fingerprint="0" * 64, spiffe=None)
    with pytest.raises(IllegalNow):
        h.do("enrol_workload", "b", "payments", fingerprint="0" * 64, spiffe=None)
    with pytest.raises(Invalid):
        h.do("enrol_workload", "b", "payments", fingerprint=None, spiffe=None)
    with pytest.raises(NotFound):
        h.do("enrol_workload", "b", "nobody", fingerprint="1" * 64, spiffe=None)
    (enrolment,) = h.aggregate.facts.workloads
    h.do("remove_workload", enrolment)
    h.do("enrol_workload", "b", "payments", fingerprint="0" * 64, spiffe=None)
    assert len(h.aggregate.facts.live_workloads()) == 1


def test_the_same_order_makes_the_same_ids_and_another_one_others() -> None:
    made = []
    for key in ("k", "k", "l"):
        fork = residence("Linked").aggregate.under(
            Order(tenant="acme", actor=SOMEBODY, command="X", key=key, correlation="c"), 1
        )
        made.append((fork.register_system("s"), fork.ordered()[0].event))
    assert made[0] == made[1]
    assert made[0][0] != made[2][0]
    assert made[0][1] != made[2][1]


def test_a_tenant_needs_two_people_and_regions_that_exist() -> None:
    h = History(Tenant, subjects.tenant_aggregate("acme"))
    good = tuple(
        d.Person(person=p, roles=("approver",), approval_key=s.public_key) for p, s in (("anna", ANNA), ("bert", BERT))
    )
    one_persons = (good[0], d.Person(person="carl", roles=(), approval_key=ANNA.public_key))
    provider = (good[0], d.Person(person="bert", roles=("provider-operator",), approval_key=BERT.public_key))
    for people, regions in (
        (good[:1], (EU,)),
        (provider, (EU,)),
        (one_persons, (EU,)),
        (good, ("mars",)),
        (good, ()),
        ((good[0], good[0]), (EU,)),
    ):
        with pytest.raises(Invalid):
            h.do("register", people, regions, {EU})
    h.do("register", good, (EU,), {EU})
    assert h.do("register", good, (EU,), {EU}) == []  # it may have broken off: what is missing is still made
    with pytest.raises(IllegalNow):
        h.do("register", (*good[::-1], d.Person(person="carl", roles=())), (EU,), {EU})
    h.do("assign_regions", (EU,))
    assert h.do("assign_regions", (EU,)) == []
    with pytest.raises(IllegalNow):
        h.do("assign_regions", (EU, "us-virginia"))


def asked() -> History:
    h = History(Approval, subjects.approval_aggregate("acme", "approval-1"))
    h.do("request", WORDS, signature("anna", ANNA, WORDS), KNOWN, fence_seen=1, expires_at_ms=100)
    return h


WORDS = statements.destroy_statement("acme", EU, "approval-1", 1)


def test_an_approval_is_granted_by_another_person_only_in_time_and_once() -> None:
    with pytest.raises(BadSignature):
        History(Approval, subjects.approval_aggregate("acme", "approval-1")).do(
            "request", WORDS, signature("anna", ROGUE, WORDS), KNOWN, fence_seen=1, expires_at_ms=100
        )
    h = asked()
    with pytest.raises(Forbidden):
        h.do("grant", signature("anna", ANNA, WORDS), KNOWN, now_ms=1)
    with pytest.raises(Forbidden):  # another name for the same key is the same person
        h.do("grant", signature("anne", ANNA, WORDS), {**KNOWN, "anne": ANNA.public_key}, now_ms=1)
    with pytest.raises(BadSignature):
        h.do("grant", signature("bert", ROGUE, WORDS), KNOWN, now_ms=1)
    with pytest.raises(IllegalNow, match="expired"):
        h.do("grant", signature("bert", BERT, WORDS), KNOWN, now_ms=100)
    assert h.do("grant", signature("bert", BERT, WORDS), KNOWN, now_ms=99)
    assert h.do("grant", signature("bert", BERT, WORDS), KNOWN, now_ms=99) == []
    assert {s.person for s in h.aggregate.facts.signatures} == {"anna", "bert"}
    h.do("executed", "an-event")
    with pytest.raises(IllegalNow):
        h.do("grant", signature("bert", BERT, WORDS), KNOWN, now_ms=99)
    assert h.do("void", "late") == []


def test_the_proposer_withdraws_and_others_reject() -> None:
    h = asked()
    with pytest.raises(Forbidden):
        h.do("reject", "anna", now_ms=1)
    with pytest.raises(Forbidden):
        h.do("withdraw", "bert", now_ms=1)
    h.do("reject", "bert", now_ms=1)
    assert h.state == "Rejected"
    with pytest.raises(IllegalNow):
        h.do("withdraw", "anna", now_ms=1)


GOOD = [
    ("aws", "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
    ("aws", "arn:aws:kms:eu-central-1:123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab"),
    ("aws", "arn:aws:kms:eu-central-1:000000000000:alias/acme-eu"),
    ("gcp", "projects/acme-prod/locations/europe-west3/keyRings/Ring_1/cryptoKeys/root"),
    ("azure", "https://acme.vault.azure.net/keys/l1"),
    ("azure", "https://ACME.vault.azure.net/keys/l1/0123456789abcdef0123456789abcdef"),
    ("azure", "https://acme-hsm.managedhsm.azure.net/keys/l1"),
    ("pkcs11", "pkcs11:token=Acme%20HSM;object=l1;type=secret-key"),
    ("pkcs11", "pkcs11:serial=def86c0b36d39e10;id=%01%02"),
    ("kmip", "name:acme-l1"),
    ("kmip", "5c9b81ef-4ee5-42cd-ba2d-c002fdd0c7b3"),
    ("file", "/tmp/pytest-of-root/pytest-0/test_a_revocation_overtakes_a_link_already_0/roots/acme.keys"),
]


@pytest.mark.parametrize(("provider", "ref"), GOOD)
def test_a_reference_of_the_region_is_taken(provider: Any, ref: str) -> None:
    check_root(d.RootReference(provider=provider, ref=ref), REGION, "acme")


@pytest.mark.parametrize(
    ("provider", "ref"),
    [
        ("aws", "arn:aws:kms:eu-central-1:123456789012:alias/aws/s3"),
        ("aws", "arn:aws:kms:eu-central-1:123456789012:key/1234abcd"),
        ("aws", "arn:aws:s3:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
        ("aws", "arn:aws:kms:eu-west-1:123456789012:alias/acme"),
        ("aws", " arn:aws:kms:eu-central-1:123456789012:alias/acme"),
        ("aws", "arn:aws:kms:eu-central-1:123456789012:alias/acme\n"),
        ("gcp", "projects/acme-prod/locations/us/keyRings/r/cryptoKeys/k"),
        ("gcp", "projects/acme-prod/locations/europe-west3/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"),
        ("azure", "https://acme-us.vault.azure.net/keys/l1"),
        ("azure", "https://nobody.vault.azure.net/keys/l1"),
        ("azure", "https://acme.vault.azure.net.evil.example/keys/l1"),
        ("azure", "https://acme.vault.azure.net/secrets/l1"),
        ("azure", "http://acme.vault.azure.net/keys/l1"),
        ("azure", "https://acme.vault.azure.net/keys/l1/latest"),
        ("pkcs11", "pkcs11:object=l1"),
        ("pkcs11", "pkcs11:token=x;object=y?module-path=/tmp/evil.so"),
        ("pkcs11", "pkcs11:token=x;object=y;type=private"),
        ("pkcs11", "pkcs11:token=x;token=y;object=z"),
        ("pkcs11", "pkcs11:token=x;slot-id=1;object=z"),
        ("pkcs11", "pkcs11:token=%ff;object=z"),
        ("kmip", "name:"),
        ("kmip", "kmip://elsewhere/5c9b"),
        ("file", "keys/../../etc/passwd"),
        ("file", "a\x00b"),
    ],
)
def test_a_reference_of_nothing_or_of_elsewhere_is_refused(provider: Any, ref: str) -> None:
    with pytest.raises(InvalidReference):
        check_root(d.RootReference(provider=provider, ref=ref), REGION, "acme")


def test_a_credential_that_serves_others_is_refused_before_any_event() -> None:
    roots = replace(REGION.roots, credentials={"acme-role": {"profile": "acme", "tenants": ("acme",)}})
    region, root = replace(REGION, roots=roots), d.RootReference(provider="aws", ref=GOOD[0][1], credential="acme-role")
    check_root(root, region, "acme")
    with pytest.raises(InvalidReference, match="does not serve globex"):
        check_root(root, region, "globex")


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "-----BEGIN RSA PRIVATE KEY-----",
        "password=hunter2",
        "Server=x;AccountKey=abc",
        "https://user:pass@vault.example",
        "pkcs11:token=x;object=y?pin-value=1234",
        "pkcs11:token=x;object=y?pin-source=file:/etc/pin&pin=1",
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.",
        "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "file-Zx81KqLm0PnRsTuVwXyZaBcDeFgHiJkLmNoPqRsT",
    ],
)
def test_what_looks_like_a_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(SecretRefused) as refused:
        refuse_secrets(text, "the reference")
    assert text not in str(refused.value)
