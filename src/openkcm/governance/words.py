"""The words of what takes two people, and the order that follows once both have signed. Pure but for the CMK it reads.

`COMMANDS` is the table. Words are made anew from the ledger at each step, so that they are those of what is in force.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from openkcm.contract import decrees as d
from openkcm.contract import statements
from openkcm.contract.ids import PersonId
from openkcm.governance.approval import Approved
from openkcm.governance.authorities import authority_of, check_unclaimed
from openkcm.governance.commands import Asked, settle_regions
from openkcm.governance.errors import IllegalNow, Invalid, NotFound
from openkcm.governance.references import check_root
from openkcm.governance.registry import Recorded
from openkcm.governance.residence import Residence
from openkcm.governance.service import Cmk
from openkcm.governance.tenant import Tenant, TenantFacts

__all__ = ["COMMANDS", "Arguments", "Consent", "consent_of"]

Arguments = Mapping[str, str]


class Consent(NamedTuple):
    """A command: what it is about, its words, its execution there, and what follows elsewhere (again changes nothing).

    `people`: the tenant, with everybody's key.
    """

    about: Literal["region", "tenant"]
    words: Callable[[Cmk, Any, TenantFacts, str, Arguments], statements.Statement]
    order: Callable[[Cmk, Any, TenantFacts, Arguments, Approved], None]
    after: Callable[[Cmk, Asked, str], Awaitable[list[Recorded]]] | None = None


def _restore_words(
    _: Cmk, r: Residence, _people: TenantFacts, approval: str, _given: Arguments
) -> statements.Statement:
    if not r.facts.open_revocations:
        raise IllegalNow("nothing is revoked here")
    f = r.facts
    return statements.restore_statement(f.tenant, f.region, approval, f.highest_revocations, f.approvers_version)


def _root(given: Arguments) -> d.RootReference:
    try:
        fields = {"provider": given["provider"], "ref": given["ref"], "credential": given.get("credential") or None}
        return msgspec.convert(fields, d.RootReference)
    except (KeyError, msgspec.ValidationError) as bad:
        raise Invalid(f"LinkRootKey takes provider, ref and perhaps credential: {bad}") from bad


def _link_words(cmk: Cmk, r: Residence, _people: TenantFacts, approval: str, given: Arguments) -> statements.Statement:
    root = _root(given)
    check_root(root, cmk.regions[r.facts.region], r.facts.tenant)
    return statements.link_statement(r.facts.tenant, r.facts.region, approval, root.provider, root.ref, root.credential)


def _certificate(given: Arguments) -> bytes:
    return authority_of(given.get("certificate", ""))


def _authority_words(
    cmk: Cmk, r: Residence, _people: TenantFacts, approval: str, given: Arguments
) -> statements.Statement:
    certificate = _certificate(given)
    r.check_authority(certificate)
    check_unclaimed(cmk, r.facts.tenant, r.facts.region, certificate)
    return statements.authority_statement(r.facts.tenant, r.facts.region, approval, certificate)


def _lease(given: Arguments) -> int:
    return _number(given, "LengthenLease", "lease_s", d.MIN_LEASE_S, d.MAX_LEASE_S)


def _number(given: Arguments, command: str, name: str, least: int, most: int) -> int:
    text = given.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not least <= int(text) <= most:
        raise Invalid(f"{command} takes {name}, {least} to {most}")
    return int(text)


def _set_of(people: TenantFacts) -> tuple[d.Approver, ...]:
    """Everybody with an approval key who may approve, in the order of their names."""
    may = {"tenant-admin", "approver"}
    return tuple(
        d.Approver(person=person, public_key=key)
        for person, key in sorted(people.keys.items())
        if people.people[person][0] & may
    )


def _set_words(_: Cmk, r: Residence, people: TenantFacts, _approval: str, _given: Arguments) -> statements.Statement:
    f, approvers = r.facts, _set_of(people)
    if statements.different_people(a.public_key for a in approvers) < people.quorum:
        raise IllegalNow(f"fewer than {people.quorum} people with an approval key may approve: grant the role approver")
    if (f.approvers, f.quorum) == ({a.person: a.public_key for a in approvers}, people.quorum):
        raise IllegalNow("these very people are the approvers already, and as many sign")
    pairs = [(a.person, a.public_key) for a in approvers]
    own = statements.approvers_hash(f.tenant, f.region, f.approvers_version + 1, pairs, f.approvers_hash, people.quorum)
    return statements.approvers_statement(f.tenant, f.region, own)


def _person(given: Arguments) -> tuple[str, tuple[str, ...]]:
    person, roles = given.get("person", ""), tuple(given.get("roles", "").split())
    try:
        msgspec.convert(person, PersonId)
    except msgspec.ValidationError as bad:
        raise Invalid("person takes an OIDC subject: letters, digits and . _ : @ -") from bad
    return person, roles


def _offered(cmk: Cmk, person: str, given: Arguments) -> bytes | None:
    """Return the key that a person has offered, when the words name its hash or ask for it by `offered`."""
    wanted = given.get("approval_key", "")
    if not wanted:
        return None
    key = cmk.views.offered_key(person)
    if key is None or wanted not in {"offered", hashlib.sha256(key).hexdigest()}:
        raise IllegalNow(f"{person} offers no such approval key (any more): the person makes a passkey first")
    return key


def _grant_words(cmk: Cmk, _t: Tenant, people: TenantFacts, approval: str, given: Arguments) -> statements.Statement:
    person, roles = _person(given)
    key = _offered(cmk, person, given)
    Tenant.check_grant(person, roles, key)
    return statements.role_statement(people.tenant, "GrantRole", approval, person, roles, key)


def _grant_role(cmk: Cmk, t: Tenant, _people: TenantFacts, given: Arguments, approved: Approved) -> None:
    person, roles = _person(given)
    t.grant(person, roles, _offered(cmk, person, given), approved)


def _withdraw_words(_: Cmk, _t: Tenant, people: TenantFacts, approval: str, given: Arguments) -> statements.Statement:
    person, roles = _person(given)
    if not set(roles) & people.people.get(person, (frozenset[str](), None))[0]:
        raise NotFound(f"{person[:80]} has none of these roles")
    return statements.role_statement(people.tenant, "WithdrawRole", approval, person, roles)


def _regions(t: TenantFacts, given: Arguments) -> tuple[str, ...]:
    """Return all regions that the tenant then has: those named, or those it has and one to `add`."""
    named = given.get("regions", "").split() or [*t.regions, given.get("add", "")]
    return tuple(sorted(set(named)))


def _region_words(cmk: Cmk, t: Tenant, people: TenantFacts, approval: str, given: Arguments) -> statements.Statement:
    regions = _regions(people, given)
    unknown = [r for r in regions if r not in people.regions and (r not in cmk.regions or cmk.regions[r].draining)]
    if unknown:
        raise Invalid(f"no region {unknown[0][:80]!r} that takes tenants in")
    t.check_regions(regions)
    return statements.regions_statement(people.tenant, approval, regions)


def _quorum(given: Arguments) -> int:
    return _number(given, "ChangeApprovalPolicy", "quorum", 2, 8)


def _policy_words(_: Cmk, _t: Tenant, people: TenantFacts, approval: str, given: Arguments) -> statements.Statement:
    return statements.policy_statement(people.tenant, approval, _quorum(given))


# fmt: off
COMMANDS: Final[dict[str, Consent]] = {
    "RestoreAccess": Consent("region", _restore_words, lambda _c, r, _p, _g, a: r.restore(a)),
    "LinkRootKey": Consent(
        "region", _link_words, lambda c, r, _p, g, a: r.link_root(_root(g), c.regions[r.facts.region], a)
    ),
    "LengthenLease": Consent(
        "region",
        lambda _c, r, _p, approval, g: statements.configuration_statement(
            r.facts.tenant, r.facts.region, approval, _lease(g)
        ),
        lambda _c, r, _p, g, a: r.configure({"lease_s": _lease(g)}, a),
    ),
    "TrustWorkloadAuthority": Consent(
        "region", _authority_words, lambda _c, r, _p, g, a: r.trust_authority(_certificate(g), a)
    ),
    "DestroyContext": Consent(
        "region",
        lambda _c, r, _p, approval, _g: statements.destroy_statement(
            r.facts.tenant, r.facts.region, approval, r.facts.approvers_version
        ),
        lambda _c, r, _p, _g, a: r.destroy(a),
    ),
    "SetApprovers": Consent("region", _set_words, lambda _c, r, p, _g, a: r.set_approvers(_set_of(p), p.quorum, a)),
    "GrantRole": Consent("tenant", _grant_words, _grant_role),
    "WithdrawRole": Consent(
        "tenant", _withdraw_words, lambda _c, t, _p, g, a: t.withdraw(*_person(g), a)
    ),
    "AddRegion": Consent(
        "tenant", _region_words, lambda _c, t, p, g, a: t.add_region(_regions(p, g), a), settle_regions
    ),
    "ChangeApprovalPolicy": Consent("tenant", _policy_words, lambda _c, t, _p, g, a: t.change_policy(_quorum(g), a)),
}
# fmt: on


def consent_of(command: str) -> Consent:
    """Return the line of a command.

    Raises:
        Invalid: No such command.
    """
    if command not in COMMANDS:
        raise Invalid(f"no such command: {', '.join(COMMANDS)} take two people")
    return COMMANDS[command]
