"""The ledger as read, the fleet, the stream of news, and whether this process is well."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from litestar import Response
from litestar.response import ServerSentEvent, ServerSentEventMessage, Stream

from openkcm.contract import api
from openkcm.contract import envelope as env
from openkcm.contract.metrics import figure, render
from openkcm.governance.checks import verified
from openkcm.governance.commands import Caller
from openkcm.governance.errors import Invalid, TooMany
from openkcm.governance.figures import figures, lags
from openkcm.governance.news import Item
from openkcm.governance.portal.problems import request_id
from openkcm.governance.portal.requests import Desk, answered
from openkcm.governance.portal.surface import Call, Param, following, operation

__all__ = ["ledger_event"]

MAX_EVENTS: Final = 1000
KEEP_ALIVE_S: Final = 15.0
#: Then the browser comes back by itself and shows again who it is.
STREAM_S: Final = 900.0
NDJSON: Final = "application/x-ndjson"
ROLE_EVENTS: Final = frozenset({"RoleGranted", "RoleWithdrawn", "TenantRegistered"})
LEDGER: Final = (
    Param("tenant", "string", "Whose; only the operator may leave it out.", None, 63),
    Param("after", "integer", "Events behind this sequence.", 0),
    Param("limit", "integer", "How many at most; more than 1000 are given by pages.", MAX_EVENTS),
)


def ledger_event(sequence: int, subject: str, body: bytes) -> dict[str, Any]:
    """Return an event as the API shows it."""
    e = env.decode(body)
    return {
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


@operation("GET", "/ledger", "ReadLedger", name="readLedger", answer=api.Page[api.LedgerEvent], query=LEDGER,
           of_queried=True)  # fmt: skip
async def ledger(call: Call) -> Response[bytes]:
    """Return events behind a cursor: an auditor's own tenant, the operator's all.

    `Accept: application/x-ndjson` gives one event a line; `Link` names the next page while there is one.
    """
    tenant = call.query["tenant"]
    if tenant is None and not call.caller.operator:
        raise Invalid("tenant is needed: whose ledger?")
    views = call.desk.cmk.views
    limit = min(call.query["limit"], MAX_EVENTS)
    found = views.events(tenant, call.query["after"], limit)
    if NDJSON in call.request.headers.get("accept", ""):
        return _lines(call, found, more=len(found) == limit)
    return call.answer({"value": [ledger_event(*one) for one in found], "count": views.event_count(tenant)})


def _lines(call: Call, found: list[tuple[int, str, bytes]], *, more: bool) -> Response[bytes]:
    body = b"".join(msgspec.json.encode(ledger_event(*one)) + b"\n" for one in found)
    headers = {"Cache-Control": "no-store", "X-Request-Id": request_id(call.request)}
    if more and found:
        headers["Link"] = following(call.request, "after", found[-1][0])
    return Response(body, media_type=NDJSON, headers=headers)


@operation("GET", "/tenants/{tenant}/verification", "ReadLedger", name="verifyLedger", answer=api.Verification)
async def verification(call: Call) -> Response[bytes]:
    """Check every seal and counter of the tenant's events as this process holds them."""
    return call.answer(await asyncio.to_thread(verified, call.desk.cmk, call.tenant))


@operation("GET", "/tenants/{tenant}/export", "ReadLedger", name="exportLedger", media_type="application/x-ndjson")
async def export(call: Call) -> Stream:
    """Give all events of the tenant with their sealed bytes, and the trust events that verify them: NDJSON."""
    name = f'attachment; filename="{call.tenant}-events.ndjson"'
    headers = {"Cache-Control": "no-store", "Content-Disposition": name}
    return Stream(_all_lines(call.desk, call.tenant), media_type=call.operation.media_type, headers=headers)


async def _all_lines(desk: Desk, tenant: str) -> AsyncIterator[bytes]:
    after = 0
    while found := desk.cmk.views.exported(tenant, after, MAX_EVENTS):
        after = found[-1][0]
        yield b"".join(msgspec.json.encode(ledger_event(*one)) + b"\n" for one in found)
        await asyncio.sleep(0)


@operation("GET", "/fleet", "ReadFleet", name="showFleet", answer=api.Fleet)
async def fleet(call: Call) -> Response[bytes]:
    """Show the regions and their nodes, as they last reported."""
    cmk = call.desk.cmk
    regions = []
    for name, region in cmk.regions.items():
        enrolled = cmk.views.enrolled(name)
        nodes = [_node(call.desk, call.caller, node, enrolled) for node in enrolled]
        regions.append({"region": name, "residency": region.residency, "nodes": nodes})
    return call.answer(
        {
            "value": regions,
            "count": len(regions),
            "spooled_revocations": cmk.switch.waiting,
            "ledger": {
                "read_to": cmk.projection.cursor,
                "epoch": cmk.projection.epoch,
                "sealing_key": cmk.signer.key_id,
                "sealing_key_settled": cmk.settled_key == cmk.signer.key_id,
            },
        }
    )


def _node(desk: Desk, caller: Caller, node: str, enrolled: list[str]) -> dict[str, Any]:
    health = desk.cmk.watch.health.get(node)
    if health is None:
        return {"node": node, "last_seen_ms": None}
    lag = lags(desk.cmk, health.check.region, node)
    check = msgspec.to_builtins(health.check)
    marks = [mark for mark, _ in health.marks.values() if caller.operator or mark.tenant in caller.roles]
    check["residences"] = msgspec.to_builtins(marks)
    differs = [x.tenant for x in desk.cmk.telling.drift.differs(node) if caller.operator or x.tenant in caller.roles]
    others = desk.cmk.telling.vaults.differs(node, enrolled)
    return {**check, "lag": lag, "last_seen_ms": health.at_ms, "differs": differs, "vault_differs": others}


@operation("GET", "/events", None, name="streamEvents", media_type="text/event-stream")
async def events(call: Call) -> ServerSentEvent:
    """Stream what happens, of the caller's own tenants. `Last-Event-ID`: first what happened since, without a gap."""
    text = call.request.headers.get("last-event-id", "")
    if text and (not text.isascii() or not text.isdigit() or len(text) > 18):
        raise Invalid("Last-Event-ID takes the id of an event of this stream")
    if call.desk.cmk.news.full:
        raise TooMany("as many streams are open as there can be: try again later")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return ServerSentEvent(_stream(call.desk, call.caller, int(text) if text else None), headers=headers)


async def _stream(desk: Desk, caller: Caller, after: int | None) -> AsyncIterator[ServerSentEventMessage]:
    """(1) listen; (2) say what was missed, out of the read model; (3) say what comes, and nothing twice."""
    until = time.monotonic() + STREAM_S
    with desk.cmk.news.listening() as queue:  # (1)
        yield ServerSentEventMessage(event="hello", data=f'{{"read_to":{desk.cmk.projection.cursor}}}', retry=2000)
        said = after or 0
        while after is not None and (missed := desk.cmk.views.happened(said, MAX_EVENTS)):  # (2)
            for item in missed:
                said = item.sequence or said
                if _concerns(item, caller):
                    yield _message(item, msgspec.json.encode(item))
        while (left := until - time.monotonic()) > 0:  # (3)
            try:
                told = await asyncio.wait_for(queue.get(), min(KEEP_ALIVE_S, left))
            except TimeoutError:
                caller = msgspec.structs.replace(caller, roles=desk.cmk.views.roles(caller.subject))
                yield ServerSentEventMessage(comment="still here")
                continue
            if told is None:
                return
            item, raw = told
            if item.event in ROLE_EVENTS:
                caller = msgspec.structs.replace(caller, roles=desk.cmk.views.roles(caller.subject))
            if _concerns(item, caller) and (item.sequence is None or item.sequence > said):
                yield _message(item, raw)


def _message(item: Item, raw: bytes) -> ServerSentEventMessage:
    identity = None if item.sequence is None else str(item.sequence)
    return ServerSentEventMessage(event=item.kind, id=identity, data=raw.decode())


def _concerns(item: Item, caller: Caller) -> bool:
    return caller.operator or item.tenant in caller.roles or (item.kind == "health" and bool(caller.roles))


# --- probes, outside /cmk/v1 ----------------------------------------------------------------------------------------


@operation("GET", "/healthz", None, name="healthz", answer=api.Health, public=True, outside=True)
async def healthz(call: Call) -> Response[bytes]:
    """Say that the process lives."""
    return call.answer({"status": "ok", "checks": {}})


@operation("GET", "/readyz", None, name="readyz", answer=api.Health, public=True, outside=True)
async def readyz(call: Call) -> Response[bytes]:
    """Say whether it can do its work: 503 when not."""
    cmk = call.desk.cmk
    checks = {
        "ledger": cmk.connection.is_connected,
        "signing_key": cmk.signer.key_id in cmk.projection.signing_keys,
        "work": not cmk.failed.done(),
    }
    good = all(checks.values())
    answer = {"status": "ok" if good else "not ready", "checks": checks}
    return answered(call.request, answer, status=200 if good else 503)


@operation("GET", "/metrics", "ReadFigures", name="metrics", media_type="text/plain; version=0.0.4", outside=True)
async def scrape(call: Call) -> Response[str]:
    """Show the figures of this CMK to the provider's operator; a scrape brings its bearer token."""
    shown = figures(call.desk.cmk)
    shown |= {figure("openkcm_cmk_refused_total", why=why): n for why, n in call.desk.admission.refused.items()}
    return Response(render(shown), media_type=call.operation.media_type)
