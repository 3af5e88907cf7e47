"""What takes two people: prepare the words, ask, sign, refuse, take back."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, post
from litestar.params import FromPath
from msgspec import Meta

from openkcm.contract import decrees as d
from openkcm.governance import consent
from openkcm.governance.commands import Asked, tenant_region
from openkcm.governance.errors import NotFound
from openkcm.governance.portal.requests import Req, answered, desk_of, paged

__all__ = ["ROUTES"]

PATH = "/tenants/{tenant:str}/approvals"
SignatureBytes = Annotated[bytes, Meta(min_length=64, max_length=64)]
Pairs = Annotated[tuple[tuple[str, str], ...], Meta(max_length=1100)]


class PrepareBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST approvals/prepare."""

    command: str
    region: str
    arguments: dict[str, str] = {}


class ProposeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST approvals: the words as they were prepared, and the caller's signature over them."""

    approval: d.Id
    command: str
    region: str
    arguments: Pairs
    signature: SignatureBytes


class GrantBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST grants."""

    signature: SignatureBytes


@post(f"{PATH}/prepare", status_code=200)
async def prepare(request: Req, tenant: FromPath[str]) -> Response[bytes]:
    """Return the words to sign; nothing is recorded."""
    desk = desk_of(request)
    await desk.allowed(request, "ProposeApproval", tenant)
    body = await desk.body(request, PrepareBody)
    tenant_region(desk.cmk, tenant, body.region)
    return answered(request, await consent.prepare(desk.cmk, tenant, body.region, body.command, body.arguments))


@post(PATH)
async def propose(request: Req, tenant: FromPath[str]) -> Response[bytes]:
    """Ask for the second signature."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "ProposeApproval", tenant)
    body = await desk.body(request, ProposeBody)
    tenant_region(desk.cmk, tenant, body.region)

    async def work(asked: Asked) -> dict[str, Any]:
        done = await consent.propose(
            desk.cmk, asked, tenant, body.region, body.command, body.approval, body.arguments, body.signature
        )
        path = f"/cmk/v1/tenants/{tenant}/approvals/{body.approval}"
        return await desk.recorded(path, done, approval=body.approval, sync=path)

    return await desk.write(request, caller, work)


@get(PATH)
async def listing(request: Req, tenant: FromPath[str]) -> Response[bytes]:
    """List the tenant's approvals, newest first."""
    desk = desk_of(request)
    await desk.allowed(request, "ReadTenant", tenant)
    return answered(request, paged(request, desk.cmk.views.approvals(tenant)))


@get(f"{PATH}/{{approval:str}}")
async def show(request: Req, tenant: FromPath[str], approval: FromPath[str]) -> Response[bytes]:
    """Show one approval."""
    desk = desk_of(request)
    await desk.allowed(request, "ReadTenant", tenant)
    found = desk.cmk.views.approvals(tenant, approval)
    if not found:
        raise NotFound(f"no approval {approval[:80]}")
    return answered(request, found[0])


@post(f"{PATH}/{{approval:str}}/grants")
async def grant(request: Req, tenant: FromPath[str], approval: FromPath[str]) -> Response[bytes]:
    """Sign as the second person: the command is then in the ledger."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "AnswerApproval", tenant)
    body = await desk.body(request, GrantBody)
    if not desk.cmk.views.approvals(tenant, approval):
        raise NotFound(f"no approval {approval[:80]}")

    async def work(asked: Asked) -> dict[str, Any]:
        done = await consent.grant(desk.cmk, asked, tenant, approval, body.signature)
        path = f"/cmk/v1/tenants/{tenant}/approvals/{approval}"
        region = desk.cmk.views.approvals(tenant, approval)[0]["region"]
        answer = await desk.recorded(path, done, sync=f"/cmk/v1/tenants/{tenant}/regions/{region}/sync")
        return {**answer, "event": done[0].event, "generation": done[0].counter}

    return await desk.write(request, caller, work)


@post(f"{PATH}/{{approval:str}}/rejections")
async def reject(request: Req, tenant: FromPath[str], approval: FromPath[str]) -> Response[bytes]:
    """Say no."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "AnswerApproval", tenant)
    if not desk.cmk.views.approvals(tenant, approval):
        raise NotFound(f"no approval {approval[:80]}")

    async def work(asked: Asked) -> dict[str, Any]:
        path = f"/cmk/v1/tenants/{tenant}/approvals/{approval}"
        return await desk.recorded(path, await consent.reject(desk.cmk, asked, tenant, approval), sync=path)

    return await desk.write(request, caller, work)


@delete(f"{PATH}/{{approval:str}}", status_code=202)
async def withdraw(request: Req, tenant: FromPath[str], approval: FromPath[str]) -> Response[bytes]:
    """Take it back."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "ProposeApproval", tenant)
    if not desk.cmk.views.approvals(tenant, approval):
        raise NotFound(f"no approval {approval[:80]}")

    async def work(asked: Asked) -> dict[str, Any]:
        path = f"/cmk/v1/tenants/{tenant}/approvals/{approval}"
        return await desk.recorded(path, await consent.withdraw(desk.cmk, asked, tenant, approval), sync=path)

    return await desk.write(request, caller, work)


ROUTES = [prepare, propose, listing, show, grant, reject, withdraw]
