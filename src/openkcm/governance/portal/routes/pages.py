"""The pages, each made whole on the server; their live parts are asked for again when news come. They order nothing.

Orders go from the page to the API with the session's cookie and the page's token, as anybody else's would.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import jinja2
from litestar import Request, Response, get
from litestar.response import Redirect

from openkcm.governance import authorities, byok, commands, ending, lists
from openkcm.governance.commands import MAY, Caller
from openkcm.governance.errors import STATUS, Forbidden, GovernanceError, NotFound, Unauthenticated
from openkcm.governance.portal import wording
from openkcm.governance.portal.requests import COOKIE, Desk, Req, desk_of
from openkcm.governance.portal.sessions import csrf_of

__all__ = ["PAGES", "ROUTES", "prepare", "rendered"]

PAGES: Final = Path(__file__).parent.parent / "pages"
TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PAGES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip
TEMPLATES.filters.update(wording.FILTERS)
EVENTS_SHOWN: Final = 50
CARDS_SHOWN: Final = 24
#: Systems on a page, and workloads of each: by name the others are found.
MANY: Final = 20
KEYS_DRAWN: Final = 8
OPEN: Final = ("Requested", "Granted")
Values = dict[str, Any]
Page = Callable[["Reader"], Awaitable[Values] | Values]


class Reader:
    """Who looks at which page."""

    def __init__(self, request: Req, desk: Desk, caller: Caller, *, fresh: bool) -> None:
        self.request, self.desk, self.caller, self.fresh = request, desk, caller, fresh
        self.views, self.cmk = desk.cmk.views, desk.cmk

    @property
    def tenant(self) -> str:
        """Whose."""
        return str(self.request.path_params["tenant"])

    @property
    def region(self) -> str:
        """Where."""
        return str(self.request.path_params["region"])

    def sync(self, tenant: str, region: str) -> Values:
        """Return who has what."""
        return self.cmk.watch.sync(tenant, region, self.cmk.registry.now_ms)

    def can(self, command: str, tenant: str | None) -> bool:
        """Whether a button makes sense; the API decides."""
        return bool(self.caller.roles_in(tenant) & MAY.get(command, frozenset()))


def prepare() -> None:
    """Compile every page."""
    for name in TEMPLATES.list_templates(extensions=["html"]):
        TEMPLATES.get_template(name)


def rendered(name: str, status: int = 200, **values: Any) -> Response[str]:
    """Return a page."""
    html = TEMPLATES.get_template(name).render(values)
    return Response(html, status_code=status, media_type="text/html", headers={"Cache-Control": "no-store"})


def other_host(desk: Desk, request: Req) -> Response[Any] | None:
    """Send a browser that came by another name (or a forged Host) to where the pages are; passkeys know that only."""
    origin = desk.cmk.configuration.origin
    if origin is None or request.headers.get("host", "") == urlsplit(origin).netloc:
        return None
    return Redirect(origin + str(request.url.path), status_code=307)


def page(path: str, template: str, command: str | None = "ReadTenant") -> Callable[[Page], Any]:
    """Declare a page: its path, its template, and who may look."""

    def declare(make: Page) -> Any:
        async def answer(request: Request[Any, Any, Any]) -> Response[Any]:
            desk = desk_of(request)
            elsewhere = other_host(desk, request)
            if elsewhere is not None:
                return elsewhere
            tenant, region = request.path_params.get("tenant"), request.path_params.get("region")
            try:
                caller, fresh = await desk.caller(request)
                desk.spend(request, caller, "read")
                if command is not None:
                    commands.allow(desk.cmk, caller, command, tenant)
                if tenant is not None and region is not None:
                    commands.tenant_region(desk.cmk, tenant, region)
                reader = Reader(request, desk, caller, fresh=fresh)
                made = make(reader)
                values = made if isinstance(made, dict) else await made
            except Unauthenticated:
                return rendered("login.html", said=None, onward=str(request.url.path))
            except (Forbidden, NotFound) as no:
                if no.refusal:
                    desk.denials.note(caller.actor, command or "ReadPage", no, tenant=tenant, region=region)
                return rendered("refused.html", 403 if isinstance(no, Forbidden) else 404, said=str(no), **_frame(None))
            except GovernanceError as bad:
                return rendered("refused.html", STATUS[bad.code], said=str(bad), **_frame(None))
            return rendered(template, **{**_frame(reader), **values})

        return get(path)(answer)

    return declare


def _frame(reader: Reader | None) -> Values:
    """Return what every page shows around its own."""
    if reader is None:
        return {"caller": None, "tenants": [], "tenant": None, "csrf": "", "waiting": 0, "here": ""}
    caller, views = reader.caller, reader.views
    mine = [row["id"] for row in views.rows(lists.TENANTS_OF, many=caller.roles)]
    tenant = reader.request.path_params.get("tenant") or (mine[0] if mine else None)
    waiting = len(views.open_approvals(tenant)) if tenant is not None else 0
    return {
        "caller": caller, "tenants": mine, "tenant": tenant, "waiting": waiting, "here": str(reader.request.url.path),
        "csrf": csrf_of(reader.request.cookies.get(COOKIE, "")), "can": reader.can, "fresh": reader.fresh,
        "signs": views.offered_key(caller.subject) is not None,
    }  # fmt: skip


# --- overview -------------------------------------------------------------------------------------------------------


def _overview(reader: Reader) -> Values:
    caller, asked = reader.caller, reader.request.query_params
    like, state = asked.get("q", "")[:63], asked.get("state", "")
    listing = lists.ALL_REGIONS if caller.operator else lists.REGIONS_OF
    found = reader.views.page(
        listing, q=like, many=caller.roles, wanted=[("state", state)] if state in wording.STATES else [],
        top=CARDS_SHOWN, after=asked.get("after"),
    )  # fmt: skip
    rows = [{**row, "sync": reader.sync(row["tenant"], row["region"])} for row in found.rows]
    onward = None if found.after is None else urlencode({"q": like, "state": state, "after": found.after})
    return {
        "rows": rows, "q": like, "state_asked": state, "count": found.count, "onward": onward,
        "live_query": urlencode(asked), "states": wording.STATES, "most": CARDS_SHOWN, "begun": "after" not in asked,
    }  # fmt: skip


@page("/", "overview.html", None)
def overview(reader: Reader) -> Values:
    """Every tenant region at a glance."""
    return _overview(reader)


@page("/overview/live", "parts/overview.html", None)
def overview_live(reader: Reader) -> Values:
    """Its live part."""
    return _overview(reader)


# --- a tenant region ------------------------------------------------------------------------------------------------


def _region(reader: Reader) -> Values:
    found = reader.views.residence(reader.tenant, reader.region) or {}
    return {
        "it": found, "sync": reader.sync(reader.tenant, reader.region), "region": reader.region, "drawn": KEYS_DRAWN,
        "root_states": wording.ROOT_STATES, "providers": wording.PROVIDERS,
        "history": reader.views.history(reader.tenant, region=reader.region, limit=EVENTS_SHOWN),
    }  # fmt: skip


@page("/tenants/{tenant:str}/regions/{region:str}", "region.html")
def region(reader: Reader) -> Values:
    """One tenant region: root key, key hierarchy, nodes, lease, history."""
    return _region(reader)


@page("/tenants/{tenant:str}/regions/{region:str}/live", "parts/region.html")
def region_live(reader: Reader) -> Values:
    """Its live part."""
    return _region(reader)


# --- onboarding -----------------------------------------------------------------------------------------------------


@page("/onboarding", "new_tenant.html", "RegisterTenant")
def new_tenant(reader: Reader) -> Values:
    """The provider's part of it: name, regions, first people."""
    return {"regions": sorted(n for n, r in reader.cmk.regions.items() if not r.draining)}


def _onboarding(reader: Reader) -> Values:
    found = _region(reader)
    rules = reader.cmk.regions[reader.region]
    people = reader.views.rows(lists.PEOPLE, reader.tenant)
    return {
        **found, "people": people, "leases": wording.LEASES,
        "providers": {name: wording.PROVIDERS[name] for name in rules.roots.providers},
        "root_regions": rules.root_regions,
        "policies": {
            p: wording.policy(p, reader.tenant, rules.roots.principals.get(p)) for p in rules.roots.providers
        },
        "imports": byok.RULES,
    }  # fmt: skip


@page("/tenants/{tenant:str}/regions/{region:str}/onboarding", "onboarding.html")
def onboarding(reader: Reader) -> Values:
    """The customer's part: people, root key, check, lease, first system."""
    return _onboarding(reader)


@page("/tenants/{tenant:str}/regions/{region:str}/onboarding/live", "parts/onboarding.html")
def onboarding_live(reader: Reader) -> Values:
    """Its live part."""
    return _onboarding(reader)


# --- the kill switch ------------------------------------------------------------------------------------------------


def _switch(reader: Reader) -> Values:
    regions = reader.views.regions_of(reader.tenant)
    cut = []
    for name in regions:
        revocations = reader.views.revocations(reader.tenant, name)
        if revocations:
            cut.append({"region": name, "newest": revocations[0], "sync": reader.sync(reader.tenant, name)})
    return {
        "radius": [reader.views.blast_radius(reader.tenant, name) for name in regions], "cut": cut,
        "termination": ending.shown(reader.cmk, reader.tenant),
        "quorum": max([reader.views.quorum(reader.tenant), *reader.views.quorums(reader.tenant).values()]),
    }  # fmt: skip


@page("/tenants/{tenant:str}/kill-switch", "switch.html")
def switch(reader: Reader) -> Values:
    """What a pull would cut, the switch itself, and each node going dark."""
    return _switch(reader)


@page("/tenants/{tenant:str}/kill-switch/live", "parts/switch.html")
def switch_live(reader: Reader) -> Values:
    """Its live part."""
    return _switch(reader)


@page("/tenants/{tenant:str}/kill-switch/radius", "parts/radius.html")
def radius_live(reader: Reader) -> Values:
    """What a pull would cut now."""
    return _switch(reader)


@page("/tenants/{tenant:str}/revocations/{event:str}/receipt", "receipt.html")
def receipt(reader: Reader) -> Values:
    """One revocation as a document to file."""
    found = reader.views.receipt(reader.tenant, str(reader.request.path_params["event"]))
    if found is None:
        raise NotFound("no such revocation")
    return {"receipt": found}


# --- approvals, people, workloads -----------------------------------------------------------------------------------


def _approvals(reader: Reader) -> Values:
    views, tenant = reader.views, reader.tenant
    waiting = [a for state in OPEN for a in views.rows(lists.APPROVALS, tenant, wanted=[("state", state)])]
    closed = [a for a in views.rows(lists.APPROVALS, tenant, top=EVENTS_SHOWN) if a["state"] not in OPEN]
    return {
        "approvals": [*waiting, *closed], "me": reader.caller.subject, "quorum": views.quorum(tenant),
        "quorums": views.quorums(tenant),
        "revoked": views.rows(lists.REGIONS, tenant, wanted=[("state", "Revoked")]),
        "regions": reader.views.regions_of(reader.tenant),
    }  # fmt: skip


@page("/tenants/{tenant:str}/approvals", "approvals.html")
def approvals(reader: Reader) -> Values:
    """What waits for another person."""
    return _approvals(reader)


@page("/tenants/{tenant:str}/approvals/live", "parts/approvals.html")
def approvals_live(reader: Reader) -> Values:
    """Its live part."""
    return _approvals(reader)


def _people(reader: Reader) -> Values:
    found = reader.views.tenant(reader.tenant) or {}
    regions = [reader.views.residence(reader.tenant, r) or {} for r in reader.views.regions_of(reader.tenant)]
    return {"it": found, "approvers": {r["region"]: r["approvers"] for r in regions}, "me": reader.caller.subject}


@page("/tenants/{tenant:str}/people", "people.html")
def people(reader: Reader) -> Values:
    """Who may what, and how each signs."""
    return _people(reader)


@page("/tenants/{tenant:str}/people/live", "parts/people.html")
def people_live(reader: Reader) -> Values:
    """Its live part."""
    return _people(reader)


def _workloads(reader: Reader) -> Values:
    found = reader.views.residence(reader.tenant, reader.region) or {}
    addresses = reader.cmk.configuration.kmip.get(reader.region, ())
    q = reader.request.query_params.get("q", "").strip().lower()[:63]
    having = reader.views.systems_with(reader.tenant, reader.region, q)
    named = [s for s in found.get("systems", ()) if q in s["system"] or s["system"] in having]
    systems = []
    for system in named[:MANY]:
        workloads = reader.views.page(
            lists.WORKLOADS, reader.tenant, reader.region, wanted=[("system", system["system"])],
            q="" if q in system["system"] else q, top=MANY,
        )  # fmt: skip
        systems.append({**system, "workloads": workloads.rows, "more": workloads.count - len(workloads.rows)})
    return {
        "it": found, "q": q, "systems": systems, "more": len(named[MANY:]),
        "region": reader.region, "sync": reader.sync(reader.tenant, reader.region),
        "authorities": authorities.shown(reader.views.rows(lists.AUTHORITIES, reader.tenant, reader.region)),
        "address": addresses[0] if addresses else "NODE:5696",
    }  # fmt: skip


@page("/tenants/{tenant:str}/regions/{region:str}/workloads", "workloads.html")
def workloads(reader: Reader) -> Values:
    """Systems, enrolled certificates, and a ready configuration for common clients."""
    return _workloads(reader)


@page("/tenants/{tenant:str}/regions/{region:str}/workloads/live", "parts/workloads.html")
def workloads_live(reader: Reader) -> Values:
    """Its live part."""
    return _workloads(reader)


# --- audit, fleet, oneself ------------------------------------------------------------------------------------------


@page("/tenants/{tenant:str}/audit", "audit.html")
async def audit(reader: Reader) -> Values:
    """Every event, searchable; witnesses; export."""
    search = reader.request.query_params.get("q", "")[:80]
    priority = reader.request.query_params.get("priority", "") == "on"
    return {
        "events": reader.views.history(reader.tenant, limit=200, search=search, priority=priority), "q": search,
        "priority": priority, "count": reader.views.event_count(reader.tenant),
        "trees": await reader.cmk.trees.shown(),
    }  # fmt: skip


@page("/fleet", "fleet.html", "ReadFleet")
def fleet(reader: Reader) -> Values:
    """Regions and nodes, for operators."""
    regions = []
    for name, rules in reader.cmk.regions.items():
        watch, telling, enrolled = reader.cmk.watch, reader.cmk.telling, reader.views.enrolled(name)
        nodes = [
            {"node": n, "health": watch.health.get(n), "differs": telling.drift.differs(n),
             "other_vault": telling.vaults.differs(n, enrolled)}
            for n in enrolled
        ]  # fmt: skip
        regions.append({"region": name, "residency": rules.residency, "nodes": nodes, "draining": rules.draining})
    return {"fleet": regions, "now_ms": reader.cmk.registry.now_ms, "read_to": reader.cmk.projection.cursor,
            "epoch": reader.cmk.projection.epoch, "spooled": reader.cmk.switch.waiting}  # fmt: skip


@page("/me", "me.html", None)
def me(reader: Reader) -> Values:
    """One's own passkey and sessions."""
    return {"subject": reader.caller.subject, "issuer": reader.caller.issuer, "roles": reader.caller.roles}


ROUTES: Final = [
    overview, overview_live, region, region_live, new_tenant, onboarding, onboarding_live, switch, switch_live,
    radius_live, receipt,
    approvals, approvals_live, people, people_live, workloads, workloads_live, audit, fleet, me,
]  # fmt: skip
