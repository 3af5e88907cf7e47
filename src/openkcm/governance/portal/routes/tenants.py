"""Tenants: register, list, show; and whoever asks about itself."""

from __future__ import annotations

from typing import Any

from litestar import Response

from openkcm.contract import api, bodies
from openkcm.governance import commands, lists
from openkcm.governance.commands import Asked
from openkcm.governance.portal.passkeys import creation_options, key_of
from openkcm.governance.portal.surface import Call, operation

__all__: list[str] = []

EXAMPLE = {
    "id": "acme",
    "regions": ["eu-frankfurt", "us-virginia"],
    "people": [
        {"person": "f3b9a6d2-anna", "roles": ["tenant-admin", "key-admin", "kill-switch"]},
        {"person": "f3b9a6d2-ben", "roles": ["approver"]},
    ],
}


@operation("POST", "/tenants", "RegisterTenant", name="registerTenant", body=bodies.TenantBody, answer=api.Accepted,
           example=EXAMPLE)  # fmt: skip
async def register(call: Call) -> Response[bytes]:
    """Register a tenant with its first people, who sign what takes two of them."""
    body: bodies.TenantBody = call.body

    async def work(asked: Asked) -> dict[str, Any]:
        done = await commands.register_tenant(call.desk.cmk, asked, body)
        path = f"/cmk/v1/tenants/{body.id}"
        return await call.desk.recorded(path, done, sync=f"{path}/regions")

    return await call.write(work)


@operation("GET", "/tenants", "ReadTenant", name="listTenants", answer=api.Page[api.TenantSummary], paged=True)
async def listing(call: Call) -> Response[bytes]:
    """List the tenants the caller has to do with; the operator sees all."""
    page = call.page(lists.ALL_TENANTS if call.caller.operator else lists.TENANTS_OF, many=call.caller.roles)
    regions: dict[str, lists.Rows] = {row["id"]: [] for row in page.rows}
    for row in call.desk.cmk.views.rows(lists.REGIONS_OF, many=regions):
        regions[row["tenant"]].append(row)
    return call.listed(page, [{"id": tenant, "regions": found} for tenant, found in regions.items()])


@operation("GET", "/tenants/{tenant}", "ReadTenant", name="showTenant", answer=api.Tenant)
async def show(call: Call) -> Response[bytes]:
    """Show a tenant with its people, their roles and how each signs."""
    return call.answer(call.desk.cmk.views.tenant(call.tenant))


@operation("GET", "/tenants/{tenant}/regions", "ReadTenant", name="listRegions", answer=api.Page[api.TenantRegion],
           paged=True)  # fmt: skip
async def regions(call: Call) -> Response[bytes]:
    """List a tenant's regions with their states."""
    return call.listed(call.page(lists.REGIONS))


@operation("GET", "/tenants/{tenant}/people", "ReadTenant", name="listPeople", answer=api.Page[api.TenantPerson],
           paged=True)  # fmt: skip
async def people(call: Call) -> Response[bytes]:
    """List a tenant's people. Roles are granted and withdrawn by approvals: GrantRole, WithdrawRole."""
    return call.listed(call.page(lists.PEOPLE))


# --- oneself --------------------------------------------------------------------------------------------------------


@operation("GET", "/me", None, name="showMe", answer=api.Me)
async def me(call: Call) -> Response[bytes]:
    """Show who asks, and what the ledger lets the caller do."""
    caller, desk = call.caller, call.desk
    session = desk.session(call.request)
    key = desk.cmk.views.offered_key(caller.subject)
    fresh = desk.fresh_until_s(session.auth_time_s) * 1000 if session is not None and caller.kind == "session" else None
    return call.answer(
        {
            "issuer": caller.issuer,
            "subject": caller.subject,
            "kind": caller.kind,
            "operator": caller.operator,
            "roles": {tenant: sorted(roles) for tenant, roles in sorted(caller.roles.items())},
            "fresh_until_ms": fresh,
            "signs_with": None if key is None else "ed25519" if len(key) == 32 else "passkey",
        }
    )


@operation("GET", "/me/approval-key/options", None, name="passkeyOptions", answer=api.KeyOptions)
async def options(call: Call) -> Response[bytes]:
    """Return what the browser needs to make a passkey for this site."""
    return call.answer(creation_options(call.desk, call.desk.origin(call.request), call.caller.subject))


@operation("POST", "/me/approval-key", None, name="offerApprovalKey", body=bodies.KeyBody, answer=api.KeyOffered,
           status=200, fresh=True, example={"ed25519": "O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik="})  # fmt: skip
async def offer(call: Call) -> Response[bytes]:
    """Offer one's own approval key. In force at once where nobody could consent yet; elsewhere by GrantRole."""
    key = key_of(call.desk, call.desk.origin(call.request), call.caller.subject, call.body)
    asked = Asked(call.caller, commands.content_hash(key), commands.content_hash(b"offer", key))
    registered = await commands.offer_key(call.desk.cmk, asked, key)
    return call.answer({"fingerprint": commands.content_hash(key), "registered": registered})


@operation("DELETE", "/me/sessions", None, name="signOutEverywhere", answer=api.Health, status=200)
async def sign_out(call: Call) -> Response[bytes]:
    """End every session of the caller's pages, in every browser."""
    call.desk.sessions.end_all(call.caller.issuer, call.caller.subject)
    return call.answer({"status": "ok"})
