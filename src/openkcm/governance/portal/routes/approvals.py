"""What takes two people: prepare the words, ask, sign, refuse, take back."""

from __future__ import annotations

from typing import Any, Final

from litestar import Response

from openkcm.contract import api, bodies
from openkcm.governance import consent, lists
from openkcm.governance.commands import Asked, tenant_region
from openkcm.governance.errors import Invalid, NotFound
from openkcm.governance.portal.requests import region_path
from openkcm.governance.portal.surface import Call, operation

__all__: list[str] = []

PATH: Final = "/tenants/{tenant}/approvals"
ONE: Final = f"{PATH}/{{approval}}"


def _path(call: Call, approval: str) -> str:
    return f"/cmk/v1/tenants/{call.tenant}/approvals/{approval}"


def _signature(body: bodies.SignatureBody) -> bytes:
    if (body.signature is None) == (body.assertion is None):
        raise Invalid("give signature or assertion, one of the two")
    return body.signature if body.signature is not None else body.assertion.packed()  # type: ignore[union-attr]


def _approval(call: Call) -> dict[str, Any]:
    found = call.desk.cmk.views.approval(call.tenant, call.part("approval"))
    if found is None:
        raise NotFound(f"no approval {call.part('approval')[:80]}")
    return found


async def _prepared(call: Call, command: str, region: str | None, arguments: dict[str, str]) -> Response[bytes]:
    if region is not None:
        tenant_region(call.desk.cmk, call.tenant, region)
    return call.answer(
        await consent.prepare(call.desk.cmk, call.tenant, region, command, arguments, call.caller.subject)
    )


@operation("POST", f"{PATH}/prepare", "ProposeApproval", name="prepareApproval", body=bodies.PrepareBody,
           answer=api.Words, status=200, example={"command": "RestoreAccess", "region": "eu-frankfurt"})  # fmt: skip
async def prepare(call: Call) -> Response[bytes]:
    """Return the words to sign; nothing is recorded."""
    return await _prepared(call, call.body.command, call.body.region, call.body.arguments)


@operation("POST", "/tenants/{tenant}/restores", "ProposeApproval", name="prepareRestore", body=bodies.RestoreBody,
           answer=api.Words, status=200, example={"region": "eu-frankfurt"})  # fmt: skip
async def restore(call: Call) -> Response[bytes]:
    """Return the words that lift every open revocation of a region; two people sign them as an approval."""
    return await _prepared(call, "RestoreAccess", call.body.region, {})


@operation("POST", PATH, "ProposeApproval", name="proposeApproval", body=bodies.ProposeBody, answer=api.Accepted,
           fresh=True, example={
               "approval": "0" * 32, "command": "RestoreAccess", "region": "eu-frankfurt",
               "arguments": [["approvers", "1"]], "signature": "A" * 86 + "==",
           })  # fmt: skip
async def propose(call: Call) -> Response[bytes]:
    """Ask for the other signatures, with one's own over the words as they were prepared."""
    desk, body, signature = call.desk, call.body, _signature(call.body)
    if body.region is not None:
        tenant_region(desk.cmk, call.tenant, body.region)

    async def work(asked: Asked) -> dict[str, Any]:
        done = await consent.propose(
            desk.cmk, asked, call.tenant, body.region, body.command, body.approval, body.arguments, signature
        )
        path = _path(call, body.approval)
        return await desk.recorded(path, done, approval=body.approval, sync=path)

    return await call.write(work)


@operation("GET", PATH, "ReadTenant", name="listApprovals", answer=api.Page[api.Approval], paged=True)
async def listing(call: Call) -> Response[bytes]:
    """List the tenant's approvals, newest first."""
    return call.listed(call.page(lists.APPROVALS))


@operation("GET", ONE, "ReadTenant", name="showApproval", answer=api.Approval)
async def show(call: Call) -> Response[bytes]:
    """Show one approval."""
    return call.answer(_approval(call))


@operation("GET", f"{ONE}/words", "AnswerApproval", name="showWords", answer=api.Words)
async def words(call: Call) -> Response[bytes]:
    """Return the very words of an open approval, for its next signer."""
    found = _approval(call)
    told = await consent.words_of(call.desk.cmk, call.tenant, call.part("approval"), call.caller.subject)
    return call.answer({"approval": found["approval"], "fence_seen": found["fence_seen"], **told})


@operation("POST", f"{ONE}/grants", "AnswerApproval", name="grantApproval", body=bodies.SignatureBody,
           answer=api.Accepted, fresh=True, example={"signature": "A" * 86 + "=="})  # fmt: skip
async def grant(call: Call) -> Response[bytes]:
    """Sign as another person; with the last signature of the quorum the command is in the ledger."""
    desk, signature, approval = call.desk, _signature(call.body), call.part("approval")
    region = _approval(call)["region"]

    async def work(asked: Asked) -> dict[str, Any]:
        done = await consent.grant(desk.cmk, asked, call.tenant, approval, signature)
        sync = _path(call, approval) if region is None else f"{region_path(call.tenant, region)}/sync"
        answer = await desk.recorded(_path(call, approval), done, sync=sync)
        return {**answer, "event": done[0].event, "generation": done[0].counter}

    return await call.write(work)


@operation("POST", f"{ONE}/rejections", "AnswerApproval", name="rejectApproval", answer=api.Accepted)
async def reject(call: Call) -> Response[bytes]:
    """Say no."""
    _approval(call)
    approval = call.part("approval")

    async def work(asked: Asked) -> dict[str, Any]:
        done = await consent.reject(call.desk.cmk, asked, call.tenant, approval)
        return await call.desk.recorded(_path(call, approval), done, sync=_path(call, approval))

    return await call.write(work)


@operation("DELETE", ONE, "ProposeApproval", name="withdrawApproval", answer=api.Accepted)
async def withdraw(call: Call) -> Response[bytes]:
    """Take it back."""
    _approval(call)
    approval = call.part("approval")

    async def work(asked: Asked) -> dict[str, Any]:
        done = await consent.withdraw(call.desk.cmk, asked, call.tenant, approval)
        return await call.desk.recorded(_path(call, approval), done, sync=_path(call, approval))

    return await call.write(work)
