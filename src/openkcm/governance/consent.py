"""Commands that take two people, from the first signature to the order. Signs nothing itself.

What they are and what they say is in `words`. At each step the words are made anew from the ledger: an approval for
words that no longer fit (a revocation meanwhile, other approvers) is void.
"""

from __future__ import annotations

import secrets
from typing import Any, Final, NamedTuple

import msgspec

from openkcm.contract import passkey, statements
from openkcm.contract.subjects import DecreeSubject, approval_aggregate, residence_aggregate, tenant_aggregate
from openkcm.governance.approval import OPEN, Approval, ApprovalFacts, Approved
from openkcm.governance.commands import Asked
from openkcm.governance.errors import IllegalNow, Invalid, NotFound, NotOpen, OtherWords
from openkcm.governance.registry import Recorded
from openkcm.governance.residence import Residence
from openkcm.governance.residence_facts import ResidenceFacts
from openkcm.governance.service import Cmk
from openkcm.governance.tenant import Tenant, TenantFacts
from openkcm.governance.words import COMMANDS, Arguments, consent_of

__all__ = ["grant", "prepare", "propose", "reject", "withdraw", "words_of"]

APPROVAL_MS: Final = 7 * 86_400_000


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
    def quorum(self) -> int:
        """How many sign: as the tenant's people agreed, and in a region as its nodes will ask."""
        facts = self.aggregate.facts
        return max(self.people.quorum, facts.quorum) if isinstance(facts, ResidenceFacts) else self.people.quorum

    @property
    def fence(self) -> int:
        return self.aggregate.counters.get(("critical", self.aggregate.epoch), 0)


async def _matter(cmk: Cmk, tenant: str, region: str | None, command: str, approval: str, given: Arguments) -> _Matter:
    consent = consent_of(command)
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
    if len(granted.signatures) < matter.quorum:
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
