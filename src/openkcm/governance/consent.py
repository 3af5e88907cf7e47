"""Commands that take two people: the words they sign, and what is ordered once both have. Signs nothing itself.

`COMMANDS` is the table. The words are made anew from the ledger at each step: an approval for words that no longer fit
(a revocation meanwhile, other approvers) is void.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from openkcm.contract import decrees as d
from openkcm.contract import passkey, statements
from openkcm.contract.ids import PersonId
from openkcm.contract.subjects import DecreeSubject, approval_aggregate, residence_aggregate, tenant_aggregate
from openkcm.governance.approval import OPEN, Approval, ApprovalFacts, Approved
from openkcm.governance.authorities import authority_of, check_unclaimed
from openkcm.governance.commands import Asked, settle_regions
from openkcm.governance.errors import IllegalNow, Invalid, NotFound, NotOpen, OtherWords
from openkcm.governance.references import check_root
from openkcm.governance.registry import Recorded
from openkcm.governance.residence import Residence
from openkcm.governance.service import Cmk
from openkcm.governance.tenant import Tenant, TenantFacts

__all__ = ["COMMANDS", "grant", "prepare", "propose", "reject", "withdraw", "words_of"]

APPROVAL_MS: Final = 7 * 86_400_000
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
    if statements.different_people(a.public_key for a in approvers) < statements.REQUIRED_SIGNATURES:
        raise IllegalNow("fewer than two people with an approval key may approve: grant the role approver first")
    if f.approvers == {a.person: a.public_key for a in approvers}:
        raise IllegalNow("these very people are the approvers already")
    pairs = [(a.person, a.public_key) for a in approvers]
    own = statements.approvers_hash(f.tenant, f.region, f.approvers_version + 1, pairs, f.approvers_hash)
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
    "SetApprovers": Consent("region", _set_words, lambda _c, r, p, _g, a: r.set_approvers(_set_of(p), a)),
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


def _consent(command: str) -> Consent:
    if command not in COMMANDS:
        raise Invalid(f"no such command: {', '.join(COMMANDS)} take two people")
    return COMMANDS[command]


class _Matter(NamedTuple):
    """What a command is about, as the ledger has it now, and its words."""

    where: DecreeSubject
    aggregate: Tenant | Residence
    people: TenantFacts
    words: statements.Statement

    @property
    def approvers(self) -> dict[str, bytes]:
        """Whose signatures count: a region's approvers there, the tenant's people elsewhere."""
        return self.aggregate.facts.approvers if isinstance(self.aggregate, Residence) else self.people.keys

    @property
    def fence(self) -> int:
        return self.aggregate.counters.get(("critical", self.aggregate.epoch), 0)


async def _matter(cmk: Cmk, tenant: str, region: str | None, command: str, approval: str, given: Arguments) -> _Matter:
    consent = _consent(command)
    people = await cmk.registry.load(tenant_aggregate(tenant), Tenant)
    aggregate: Tenant | Residence = people
    where = tenant_aggregate(tenant)
    if consent.about == "region":
        if region is None:
            raise Invalid(f"{command} needs a region")
        where = residence_aggregate(region, tenant)
        aggregate = await cmk.registry.load(where, Residence)
    elif region is not None:
        raise Invalid(f"{command} is about the whole tenant: name no region")
    return _Matter(where, aggregate, people.facts, consent.words(cmk, aggregate, people.facts, approval, given))


async def prepare(
    cmk: Cmk, tenant: str, region: str | None, command: str, given: Arguments, person: str
) -> dict[str, Any]:
    """Return the words that `person` is to sign, and the challenge a passkey answers. Nothing is recorded.

    Raises:
        Invalid, IllegalNow: No such command, or nothing to approve.
    """
    approval = secrets.token_hex(16)
    matter = await _matter(cmk, tenant, region, command, approval, given)
    return {"approval": approval, "fence_seen": matter.fence, **_to_sign(matter, person)}


def _to_sign(matter: _Matter, person: str) -> dict[str, Any]:
    signed = matter.words.signed_bytes()
    key = matter.approvers.get(person)
    known = passkey.read_key(key) if key is not None else None
    return {
        "statement": msgspec.to_builtins(matter.words),
        "signed_bytes": signed,
        "challenge": passkey.challenge_of(signed),
        "rp_id": known.rp_id if known is not None else None,
        "credential": known.credential if known is not None else None,
        "may_sign": key is not None,
    }


async def words_of(cmk: Cmk, tenant: str, approval: str, person: str) -> dict[str, Any]:
    """Return the words of an approval that waits, for its next signer.

    Raises:
        NotFound: No such approval.
        IllegalNow: Not open any more, or void by what happened meanwhile.
    """
    facts = await _facts(cmk, tenant, approval)
    if facts.state not in OPEN:
        raise NotOpen(f"approval {approval} is {facts.state}")
    matter, stale = await _still(cmk, tenant, facts)
    if matter is None:
        raise IllegalNow(f"{stale}: this approval is void, prepare another one")
    return _to_sign(matter, person)


async def propose(
    cmk: Cmk, asked: Asked, tenant: str, region: str | None, command: str, approval: str,
    arguments: tuple[tuple[str, str], ...], signature: bytes,
) -> list[Recorded]:  # fmt: skip
    """Ask for the second signature.

    Raises:
        IllegalNow: The words are not (any more) the ones this command has here.
        BadSignature: Not the caller's over these words.
    """
    matter = await _matter(cmk, tenant, region, command, approval, dict(arguments))
    if matter.words.arguments != arguments:
        raise OtherWords("these are not the words of this command as things stand: prepare them again")
    proposer = statements.Signature(person=asked.caller.subject, signature=signature)
    now_ms = cmk.registry.now_ms
    order = asked.order(cmk, tenant, "RequestApproval")
    return await cmk.registry.execute(
        approval_aggregate(tenant, approval), Approval, order,
        lambda a: a.request(
            matter.words, proposer, matter.approvers, fence_seen=matter.fence, expires_at_ms=now_ms + APPROVAL_MS
        ),
    )  # fmt: skip


async def grant(cmk: Cmk, asked: Asked, tenant: str, approval: str, signature: bytes) -> list[Recorded]:
    """Sign as the second person, and order what was approved.

    (1) the words still fit: otherwise the approval is void and says so; (2) the signature is recorded; (3) the command
    is given under the approval's own id, so that a repetition after a crash orders it once; (4) and noted.

    Returns:
        What is in the ledger now; with a quorum above the signatures so far, the signature alone.

    Raises:
        NotFound: No such approval.
        NotOpen, IllegalNow: Not open any more, or void by what happened meanwhile.
        Forbidden: The proposer never votes.
        BadSignature: Not the caller's over these words.
    """
    where = approval_aggregate(tenant, approval)
    facts = await _facts(cmk, tenant, approval)
    request = facts.request
    assert request is not None
    given = dict(request.arguments)
    if facts.state not in OPEN:
        raise NotOpen(f"approval {approval} is {facts.state}: a signature counts once")
    matter, stale = await _still(cmk, tenant, facts)  # (1)
    if matter is None:
        order = cmk.own_order(tenant, "VoidApproval", approval)
        for one in await cmk.registry.execute(where, Approval, order, lambda a: a.void("stale")):
            await cmk.projected(one.sequence)
        raise IllegalNow(f"{stale}: this approval is void, prepare another one")
    approver = statements.Signature(person=asked.caller.subject, signature=signature)
    order = asked.order(cmk, tenant, "GrantApproval")
    now_ms = cmk.registry.now_ms
    done = await cmk.registry.execute(  # (2)
        where, Approval, order, lambda a: a.grant(approver, matter.approvers, now_ms=now_ms)
    )
    granted = (await cmk.registry.load(where, Approval)).facts
    if len(granted.signatures) < matter.people.quorum:
        return done
    execution = cmk.own_order(tenant, f"Execute{request.command}", approval)
    execution = msgspec.structs.replace(execution, actor=asked.caller.actor, causation=done[0].event if done else None)
    approved, about = Approved(approval, granted.signatures), matter.where
    executed = await cmk.registry.execute(  # (3)
        about, type(matter.aggregate), execution,
        lambda x: COMMANDS[request.command].order(cmk, x, matter.people, given, approved),
    )  # fmt: skip
    assert executed
    after = COMMANDS[request.command].after
    followed = await after(cmk, asked, tenant) if after is not None else []
    noted = await cmk.registry.execute(  # (4)
        where, Approval, cmk.own_order(tenant, "NoteExecution", approval), lambda a: a.executed(executed[0].event)
    )
    return [*executed, *done, *followed, *noted]


async def reject(cmk: Cmk, asked: Asked, tenant: str, approval: str) -> list[Recorded]:
    """Say no.

    Raises:
        NotFound, IllegalNow, Forbidden: As they say.
    """
    await _facts(cmk, tenant, approval)
    now_ms = cmk.registry.now_ms
    return await cmk.registry.execute(
        approval_aggregate(tenant, approval), Approval, asked.order(cmk, tenant, "RejectApproval"),
        lambda a: a.reject(asked.caller.subject, now_ms=now_ms),
    )  # fmt: skip


async def withdraw(cmk: Cmk, asked: Asked, tenant: str, approval: str) -> list[Recorded]:
    """Take it back.

    Raises:
        NotFound, IllegalNow, Forbidden: As they say.
    """
    await _facts(cmk, tenant, approval)
    now_ms = cmk.registry.now_ms
    return await cmk.registry.execute(
        approval_aggregate(tenant, approval), Approval, asked.order(cmk, tenant, "WithdrawApproval"),
        lambda a: a.withdraw(asked.caller.subject, now_ms=now_ms),
    )  # fmt: skip


async def _facts(cmk: Cmk, tenant: str, approval: str) -> ApprovalFacts:
    facts = (await cmk.registry.load(approval_aggregate(tenant, approval), Approval)).facts
    if facts.request is None:
        raise NotFound(f"no approval {approval}")
    return facts


async def _still(cmk: Cmk, tenant: str, facts: ApprovalFacts) -> tuple[_Matter | None, str]:
    """Return the matter while the words still fit it; else None and why not."""
    request = facts.request
    assert request is not None
    try:
        matter = await _matter(cmk, tenant, request.region, request.command, facts.approval, dict(request.arguments))
    except (IllegalNow, Invalid, NotFound) as gone:
        return None, str(gone)
    if matter.words.sha256() != request.statement:
        return None, "the words no longer fit what is in force"
    if request.command == "RestoreAccess" and matter.fence != request.fence_seen:
        return None, "something critical happened since it was asked for"
    return matter, ""
