"""Commands that take two people: the words they sign, and what is ordered once both have. Signs nothing itself.

`COMMANDS` is the table. The words are made anew from the ledger at each step: an approval for words that no longer fit
(a revocation meanwhile, other approvers) is void.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from openkcm.contract import decrees as d
from openkcm.contract import statements
from openkcm.contract.subjects import approval_aggregate, residence_aggregate
from openkcm.governance.approval import Approval, ApprovalFacts
from openkcm.governance.commands import Asked
from openkcm.governance.errors import IllegalNow, Invalid, NotFound
from openkcm.governance.references import check_root
from openkcm.governance.registry import Recorded
from openkcm.governance.residence import Approved, Residence
from openkcm.governance.service import Cmk

__all__ = ["COMMANDS", "grant", "prepare", "propose", "reject", "withdraw"]

APPROVAL_MS: Final = 7 * 86_400_000
Arguments = Mapping[str, str]


class Consent(NamedTuple):
    """A command: its words, and its execution on the residence."""

    words: Callable[[Cmk, Residence, str, Arguments], statements.Statement]
    order: Callable[[Cmk, Residence, Arguments, Approved], None]


def _restore_words(_: Cmk, r: Residence, approval: str, _given: Arguments) -> statements.Statement:
    if not r.facts.open_revocations:
        raise IllegalNow("nothing is revoked here")
    f = r.facts
    return statements.restore_statement(f.tenant, f.region, approval, f.highest_revocations, f.approvers_version)


def _restore(_: Cmk, r: Residence, _given: Arguments, approved: Approved) -> None:
    r.restore(approved)


def _root(given: Arguments) -> d.RootReference:
    try:
        fields = {"provider": given["provider"], "ref": given["ref"], "credential": given.get("credential") or None}
        return msgspec.convert(fields, d.RootReference)
    except (KeyError, msgspec.ValidationError) as bad:
        raise Invalid(f"LinkRootKey takes provider, ref and perhaps credential: {bad}") from bad


def _link_words(cmk: Cmk, r: Residence, approval: str, given: Arguments) -> statements.Statement:
    root = _root(given)
    check_root(root, cmk.regions[r.facts.region])
    return statements.link_statement(r.facts.tenant, r.facts.region, approval, root.provider, root.ref, root.credential)


def _link(cmk: Cmk, r: Residence, given: Arguments, approved: Approved) -> None:
    r.link_root(_root(given), cmk.regions[r.facts.region], approved)


def _lease(given: Arguments) -> int:
    text = given.get("lease_s", "")
    if not text.isascii() or not text.isdigit() or not d.MIN_LEASE_S <= int(text) <= d.MAX_LEASE_S:
        raise Invalid(f"LengthenLease takes lease_s, {d.MIN_LEASE_S} to {d.MAX_LEASE_S} seconds")
    return int(text)


def _lease_words(_: Cmk, r: Residence, approval: str, given: Arguments) -> statements.Statement:
    return statements.configuration_statement(r.facts.tenant, r.facts.region, approval, _lease(given))


def _lengthen(_: Cmk, r: Residence, given: Arguments, approved: Approved) -> None:
    r.configure({"lease_s": _lease(given)}, approved)


def _destroy_words(_: Cmk, r: Residence, approval: str, _given: Arguments) -> statements.Statement:
    return statements.destroy_statement(r.facts.tenant, r.facts.region, approval, r.facts.approvers_version)


def _destroy(_: Cmk, r: Residence, _given: Arguments, approved: Approved) -> None:
    r.destroy(approved)


COMMANDS: Final[dict[str, Consent]] = {
    "RestoreAccess": Consent(_restore_words, _restore),
    "LinkRootKey": Consent(_link_words, _link),
    "LengthenLease": Consent(_lease_words, _lengthen),
    "DestroyContext": Consent(_destroy_words, _destroy),
}


def _consent(command: str) -> Consent:
    if command not in COMMANDS:
        raise Invalid(f"no such command: {', '.join(COMMANDS)} take two people")
    return COMMANDS[command]


async def _words(
    cmk: Cmk, tenant: str, region: str, command: str, approval: str, given: Arguments
) -> tuple[Residence, statements.Statement]:
    residence = await cmk.registry.load(residence_aggregate(region, tenant), Residence)
    return residence, _consent(command).words(cmk, residence, approval, given)


def _fence(residence: Residence) -> int:
    return residence.counters.get(("critical", residence.epoch), 0)


async def prepare(cmk: Cmk, tenant: str, region: str, command: str, given: Arguments) -> dict[str, Any]:
    """Return the words to sign. Nothing is recorded.

    Raises:
        Invalid, IllegalNow: No such command, or nothing to approve.
    """
    approval = secrets.token_hex(16)
    residence, words = await _words(cmk, tenant, region, command, approval, given)
    return {
        "approval": approval,
        "statement": msgspec.to_builtins(words),
        "signed_bytes": words.signed_bytes(),
        "fence_seen": _fence(residence),
    }


async def propose(
    cmk: Cmk, asked: Asked, tenant: str, region: str, command: str, approval: str,
    arguments: tuple[tuple[str, str], ...], signature: bytes,
) -> list[Recorded]:  # fmt: skip
    """Ask for the second signature.

    Raises:
        IllegalNow: The words are not (any more) the ones this command has here.
        BadSignature: Not the caller's over these words.
    """
    residence, words = await _words(cmk, tenant, region, command, approval, dict(arguments))
    if words.arguments != arguments:
        raise IllegalNow("these are not the words of this command as things stand: prepare them again")
    proposer = statements.Signature(person=asked.caller.subject, signature=signature)
    now_ms = cmk.registry.now_ms
    order = asked.order(cmk, tenant, "RequestApproval")
    return await cmk.registry.execute(
        approval_aggregate(tenant, approval), Approval, order,
        lambda a: a.request(
            words, proposer, residence.facts.approvers, fence_seen=_fence(residence), expires_at_ms=now_ms + APPROVAL_MS
        ),
    )  # fmt: skip


async def grant(cmk: Cmk, asked: Asked, tenant: str, approval: str, signature: bytes) -> list[Recorded]:
    """Sign as the second person, and order what was approved.

    (1) the words still fit: otherwise the approval is void and says so; (2) the signature is recorded; (3) the command
    is given under the approval's own id, so that a repetition after a crash orders it once; (4) and noted.

    Raises:
        NotFound: No such approval.
        IllegalNow: Not open any more, or void by what happened meanwhile.
        Forbidden: The proposer never votes.
        BadSignature: Not the caller's over these words.
    """
    where = approval_aggregate(tenant, approval)
    facts = await _facts(cmk, tenant, approval)
    request = facts.request
    assert request is not None
    region = request.region or ""
    given = dict(request.arguments)
    if facts.state in {"Requested", "Granted"}:
        stale = await _stale(cmk, tenant, facts)  # (1)
        if stale is not None:
            order = cmk.own_order(tenant, "VoidApproval", approval)
            for one in await cmk.registry.execute(where, Approval, order, lambda a: a.void("stale")):
                await cmk.projected(one.sequence)
            raise IllegalNow(f"{stale}: this approval is void, prepare another one")
    residence = await cmk.registry.load(residence_aggregate(region, tenant), Residence)
    approver = statements.Signature(person=asked.caller.subject, signature=signature)
    order = asked.order(cmk, tenant, "GrantApproval")
    now_ms = cmk.registry.now_ms
    done = await cmk.registry.execute(  # (2)
        where, Approval, order, lambda a: a.grant(approver, residence.facts.approvers, now_ms=now_ms)
    )
    granted = (await cmk.registry.load(where, Approval)).facts
    execution = cmk.own_order(tenant, f"Execute{request.command}", approval)
    execution = msgspec.structs.replace(execution, actor=asked.caller.actor, causation=done[0].event if done else None)
    approved = Approved(approval, granted.signatures)
    executed = await cmk.registry.execute(  # (3)
        residence_aggregate(region, tenant), Residence, execution,
        lambda r: COMMANDS[request.command].order(cmk, r, given, approved),
    )  # fmt: skip
    assert executed
    noted = await cmk.registry.execute(  # (4)
        where, Approval, cmk.own_order(tenant, "NoteExecution", approval), lambda a: a.executed(executed[0].event)
    )
    return [*executed, *done, *noted]


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


async def _stale(cmk: Cmk, tenant: str, facts: ApprovalFacts) -> str | None:
    request = facts.request
    assert request is not None
    try:
        residence, words = await _words(
            cmk, tenant, request.region or "", request.command, facts.approval, dict(request.arguments)
        )
    except (IllegalNow, Invalid) as gone:
        return str(gone)
    if words.sha256() != request.statement:
        return "the words no longer fit what is in force"
    if request.command == "RestoreAccess" and _fence(residence) != request.fence_seen:
        return "something critical happened since it was asked for"
    return None
