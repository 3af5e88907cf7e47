"""The ledger as read, the fleet, the stream of news, and whether this process is well."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from litestar import Response, get
from litestar.response import ServerSentEvent, ServerSentEventMessage

from openkcm.contract import envelope as env
from openkcm.contract.metrics import render
from openkcm.governance.commands import Caller
from openkcm.governance.errors import Invalid
from openkcm.governance.figures import figures, lags
from openkcm.governance.news import Item
from openkcm.governance.portal.requests import Desk, Req, answered, desk_of, number

__all__ = ["PROBES", "ROUTES"]

MAX_EVENTS: Final = 1000
KEEP_ALIVE_S: Final = 15.0


@get("/ledger")
async def ledger(request: Req) -> Response[bytes]:
    """Return events behind a cursor: an auditor's own tenant, the operator's all."""
    desk = desk_of(request)
    tenant = request.query_params.get("tenant")
    await desk.allowed(request, "ReadLedger", tenant)
    if tenant is None and not (await desk.caller(request)).operator:
        raise Invalid("tenant is needed: whose ledger?")
    after, limit = number(request, "after", 0), min(number(request, "limit", MAX_EVENTS), MAX_EVENTS)
    values = []
    for sequence, subject, body in desk.cmk.views.events(tenant, after, limit):
        e = env.decode(body)
        values.append(
            {
                "sequence": sequence,
                "subject": subject,
                "body": base64.b64encode(body).decode(),
                "id": e.id,
                "tag": e.tag,
                "counter": e.counter,
                "epoch": e.epoch,
                "actor": msgspec.to_builtins(e.actor),
                "priority": e.priority,
                "correlation": e.correlation,
                "causation": e.causation,
                "at_ms": e.at_ms,
                "data": e.data,
            }
        )
    return answered(request, {"value": values, "count": desk.cmk.views.event_count(tenant)})


@get("/fleet")
async def fleet(request: Req) -> Response[bytes]:
    """Return the regions and their nodes, as they last reported."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "ReadFleet", None)
    cmk = desk.cmk
    regions = []
    for name, region in cmk.regions.items():
        nodes = [
            _node(desk, caller, node)
            for node in sorted({n for n, _, removed in cmk.views.nodes(name) if removed is None})
        ]
        regions.append({"region": name, "residency": region.residency, "nodes": nodes})
    return answered(
        request,
        {
            "value": regions,
            "count": len(regions),
            "spooled_revocations": cmk.switch.waiting,
            "ledger": {"read_to": cmk.projection.cursor, "epoch": cmk.projection.epoch},
        },
    )


def _node(desk: Desk, caller: Caller, node: str) -> dict[str, Any]:
    health = desk.cmk.watch.health.get(node)
    if health is None:
        return {"node": node, "last_seen_ms": None}
    lag = lags(desk.cmk, health.check.region, node)
    check = msgspec.to_builtins(health.check)
    check["residences"] = [r for r in check["residences"] if caller.operator or r["tenant"] in caller.roles]
    return {**check, "lag": lag, "last_seen_ms": health.at_ms}


@get("/events")
async def events(request: Req) -> ServerSentEvent:
    """Stream what happens from now on, of the caller's own tenants."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "ReadTenant", None)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return ServerSentEvent(_stream(desk, caller), headers=headers)


async def _stream(desk: Desk, caller: Caller) -> AsyncIterator[ServerSentEventMessage]:
    yield ServerSentEventMessage(event="hello", data="{}", retry=2000)
    async for item in desk.cmk.news.listen(KEEP_ALIVE_S):
        if item is None:
            yield ServerSentEventMessage(comment="still here")
        elif _concerns(item, caller):
            identity = None if item.sequence is None else str(item.sequence)
            yield ServerSentEventMessage(event=item.kind, id=identity, data=msgspec.json.encode(item).decode())


def _concerns(item: Item, caller: Caller) -> bool:
    return caller.operator or item.tenant in caller.roles or item.kind == "health"


@get("/healthz")
async def healthz(request: Req) -> Response[bytes]:
    """Say that the process lives."""
    return answered(request, {"status": "ok"})


@get("/readyz")
async def readyz(request: Req) -> Response[bytes]:
    """Say whether it can do its work: 503 when not."""
    cmk = desk_of(request).cmk
    checks = {
        "ledger": cmk.connection.is_connected,
        "signing_key": cmk.signer.key_id in cmk.projection.signing_keys,
        "work": not cmk.failed.done(),
    }
    good = all(checks.values())
    return answered(request, {"status": "ok" if good else "not ready", "checks": checks}, status=200 if good else 503)


@get("/metrics", media_type="text/plain; version=0.0.4")
async def scrape(request: Req) -> str:
    """Show the figures of this CMK to the provider's operator (a scrape brings its bearer token)."""
    desk = desk_of(request)
    await desk.allowed(request, "ReadFigures", None)
    return render(figures(desk.cmk))


ROUTES = [ledger, fleet, events]
PROBES = [healthz, readyz, scrape]
