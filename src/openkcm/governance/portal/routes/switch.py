"""The kill switch: dry run and pull. Waits for no approval, no rate limit, no If-Match, no other change."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, post
from litestar.params import FromPath

from openkcm.contract import decrees as d
from openkcm.governance import commands
from openkcm.governance.commands import Asked
from openkcm.governance.errors import Invalid
from openkcm.governance.portal.requests import Req, answered, desk_of

__all__ = ["ROUTES"]


class RevocationBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST revocations: no regions means all of the tenant's."""

    regions: tuple[str, ...] | None = None
    reason: d.ReasonCode = "ordered"


@post("/tenants/{tenant:str}/revocations")
async def revoke(request: Req, tenant: FromPath[str]) -> Response[bytes]:
    """Cut access: 202 once it is on the disk, in the ledger or in the spool that brings it there."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "RevokeAccess", tenant)
    body = await desk.body(request, RevocationBody)
    dry = request.query_params.get("dryRun", "false").lower()
    if dry not in {"true", "false"}:
        raise Invalid("dryRun takes true or false")
    regions = tuple(desk.cmk.views.regions_of(tenant)) if body.regions is None else body.regions
    if not regions:
        raise Invalid("regions names none")
    for region in regions:
        commands.tenant_region(desk.cmk, tenant, region)
    if dry == "true":
        radius = [desk.cmk.views.blast_radius(tenant, region) for region in sorted(set(regions))]
        return answered(request, {"dryRun": True, "regions": radius})

    async def work(asked: Asked) -> dict[str, Any]:
        pulled = await commands.revoke(desk.cmk, asked, tenant, regions, body.reason)
        base = f"/cmk/v1/tenants/{tenant}"
        return {
            "resource": base,
            "revocations": [
                {
                    "region": p.region, "event": p.event, "fence": p.fence, "recorded": p.recorded,
                    "sync": f"{base}/regions/{p.region}/sync",
                }
                for p in pulled
            ],
        }  # fmt: skip

    return await desk.write(request, caller, work, remembered=False)


ROUTES = [revoke]
