"""The kill switch and the end: dry run, pull, what became of it. A pull waits for no approval and no other change."""

from __future__ import annotations

from typing import Any, Final

from litestar import Response

from openkcm.contract import api, bodies
from openkcm.governance import commands, ending, lists
from openkcm.governance.commands import Asked
from openkcm.governance.errors import NotFound
from openkcm.governance.portal.requests import answered, region_path
from openkcm.governance.portal.routes.reading import ledger_event
from openkcm.governance.portal.surface import Call, Param, operation

__all__: list[str] = []

PATH: Final = "/tenants/{tenant}/revocations"
DRY: Final = (Param("dryRun", "boolean", "Show what it would cut, and cut nothing.", default=False),)


@operation("POST", PATH, "RevokeAccess", name="revoke", body=bodies.RevocationBody, answer=api.Revocations, query=DRY,
           budget="revoke", fresh=True, example={"regions": ["eu-frankfurt"], "reason": "suspected"})  # fmt: skip
async def revoke(call: Call) -> Response[bytes]:
    """Pull the kill switch: 202 once it is on the disk, in the ledger or in the spool that brings it there."""
    desk, tenant, body = call.desk, call.tenant, call.body
    regions = tuple(desk.cmk.views.regions_of(tenant)) if body.regions is None else body.regions
    for region in regions:
        commands.tenant_region(desk.cmk, tenant, region)
    if call.query["dryRun"]:
        radius = [desk.cmk.views.blast_radius(tenant, region) for region in sorted(set(regions))]
        return answered(call.request, {"dryRun": True, "regions": radius})

    async def work(asked: Asked) -> dict[str, Any]:
        pulled = await commands.revoke(desk.cmk, asked, tenant, regions, body.reason)
        return {
            "resource": f"/cmk/v1/tenants/{tenant}/revocations",
            "revocations": [
                {
                    "region": p.region, "event": p.event, "fence": p.fence, "recorded": p.recorded,
                    "sync": f"{region_path(tenant, p.region)}/sync",
                }
                for p in pulled
            ],
        }  # fmt: skip

    return await call.write(work, remembered=False)


@operation("GET", PATH, "ReadTenant", name="listRevocations", answer=api.Page[api.TenantRevocation], paged=True)
async def listing(call: Call) -> Response[bytes]:
    """List the tenant's revocations, newest first, with what became of each."""
    return call.listed(call.page(lists.REVOCATIONS))


@operation("GET", f"{PATH}/{{event}}", "ReadTenant", name="showRevocation", answer=api.TenantRevocation)
async def show(call: Call) -> Response[bytes]:
    """Show one revocation."""
    found = call.desk.cmk.views.rows(lists.REVOCATIONS, call.tenant, wanted=[("event", call.part("event"))])
    if not found:
        raise NotFound("no such revocation")
    return call.answer(found[0])


@operation("GET", f"{PATH}/{{event}}/receipt", "ReadTenant", name="showReceipt", answer=api.Receipt)
async def receipt(call: Call) -> Response[bytes]:
    """Show one revocation to file: the sealed order, and the confirmation with each node's own sealed word."""
    found = call.desk.cmk.views.receipt(call.tenant, call.part("event"))
    if found is None:
        raise NotFound("no such revocation")
    sealed = [None if one is None else ledger_event(one["sequence"], one["subject"], one["body"])
              for one in (found, found["confirmed"])]  # fmt: skip
    return call.answer({"revocation": sealed[0], "confirmation": sealed[1]})


@operation("POST", "/tenants/{tenant}/terminations", "TerminateTenant", name="terminate", body=bodies.ReasonBody,
           answer=api.Accepted, fresh=True, example={"reason": "contract-ended"})  # fmt: skip
async def terminate(call: Call) -> Response[bytes]:
    """Begin the tenant's end: each region is then destroyed by an approval of its own, DestroyContext."""

    async def work(asked: Asked) -> dict[str, Any]:
        path = f"/cmk/v1/tenants/{call.tenant}/terminations"
        done = await commands.terminate(call.desk.cmk, asked, call.tenant, call.body.reason)
        return await call.desk.recorded(path, done, sync=path)

    return await call.write(work)


@operation("GET", "/tenants/{tenant}/terminations", "ReadTenant", name="listTerminations",
           answer=api.Page[api.Termination], paged=True)  # fmt: skip
async def terminations(call: Call) -> Response[bytes]:
    """Show how far the tenant's end is, and which nodes it waits for."""
    cmk = call.desk.cmk
    page = call.page(lists.TERMINATIONS)
    return call.listed(page, [ending.shown(cmk, row["tenant"]) or {} for row in page.rows])
