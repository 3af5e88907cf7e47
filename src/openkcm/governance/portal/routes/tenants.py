"""Tenants: register, list, show."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath

from openkcm.governance import commands
from openkcm.governance.commands import Asked
from openkcm.governance.portal.requests import Req, answered, desk_of, paged

__all__ = ["ROUTES"]


@post("/tenants")
async def register(request: Req) -> Response[bytes]:
    """Register a tenant (provider-operator)."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "RegisterTenant", None)
    body = await desk.body(request, commands.TenantBody)

    async def work(asked: Asked) -> dict[str, Any]:
        done = await commands.register_tenant(desk.cmk, asked, body)
        return await desk.recorded(f"/cmk/v1/tenants/{body.id}", done, sync=f"/cmk/v1/tenants/{body.id}/regions")

    return await desk.write(request, caller, work)


@get("/tenants")
async def listing(request: Req) -> Response[bytes]:
    """List the tenants the caller has to do with; the operator sees all."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "ReadTenant", None)
    names = [t for t in desk.cmk.views.tenants() if caller.operator or t in caller.roles]
    values = []
    for name in names:
        regions = [
            {k: r[k] for k in ("region", "state", "generation", "fence")} for r in desk.cmk.views.residences(name)
        ]
        values.append({"id": name, "regions": regions})
    return answered(request, paged(request, values))


@get("/tenants/{tenant:str}")
async def show(request: Req, tenant: FromPath[str]) -> Response[bytes]:
    """Show a tenant with its people."""
    desk = desk_of(request)
    await desk.allowed(request, "ReadTenant", tenant)
    return answered(request, desk.cmk.views.tenant(tenant))


@get("/tenants/{tenant:str}/regions")
async def regions(request: Req, tenant: FromPath[str]) -> Response[bytes]:
    """List a tenant's regions with their states."""
    desk = desk_of(request)
    await desk.allowed(request, "ReadTenant", tenant)
    return answered(request, paged(request, desk.cmk.views.residences(tenant)))


ROUTES = [register, listing, show, regions]
