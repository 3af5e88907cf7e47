"""What all routes share: who asks, what the body says, whether it was asked before, and the shape of an answer."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from litestar import Request, Response

from openkcm.contract.errors import ContractError
from openkcm.contract.subjects import ledger_aggregate, parse_decree
from openkcm.governance import commands
from openkcm.governance.commands import Asked, Caller
from openkcm.governance.errors import Forbidden, GovernanceError, Invalid, KeyReused, NotFound, Unauthenticated
from openkcm.governance.ledger_events import LedgerEvents
from openkcm.governance.portal.auth import Issuer, Sessions
from openkcm.governance.portal.problems import request_id
from openkcm.governance.registry import Recorded
from openkcm.governance.service import Cmk

__all__ = ["COOKIE", "Desk", "Req", "desk_of"]

log = logging.getLogger(__name__)
_T = TypeVar("_T")
Req = Request[Any, Any, Any]
COOKIE: Final = "openkcm_session"
_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}\Z")
_ETAG: Final = re.compile(r'(?:W/)?"(\d{1,18})"\Z')
REMEMBER_MS: Final = 7 * 86_400_000
DENIED_EVERY_S: Final = 60.0
DENIED_A_MINUTE: Final = 20


class Desk:
    """One portal: the CMK, the issuer it trusts, and the sessions of its pages."""

    def __init__(self, cmk: Cmk) -> None:
        self.cmk = cmk
        self.issuer = Issuer(cmk.configuration.oidc)
        self.sessions = Sessions()
        self.operators = frozenset(cmk.configuration.operators)
        self._denied: dict[tuple[str, str, str | None], float] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._in_flight: set[tuple[str, str, str, str]] = set()

    async def close(self) -> None:
        """Close what is open."""
        for task in self._writing:
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self.issuer.close()

    # --- who --------------------------------------------------------------------------------------------------------

    async def caller(self, request: Req) -> Caller:
        """Return who asks: by bearer token; for reading also by the pages' session.

        Raises:
            Unauthenticated: Neither.
        """
        header = request.headers.get("authorization", "")
        if header:
            scheme, _, token = header.partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise Unauthenticated("Authorization takes a bearer token")
            identity = await self.issuer.identify(token.strip())
        else:
            found = self.sessions.find(request.cookies.get(COOKIE, ""))
            if found is None or request.method not in {"GET", "HEAD"}:
                raise Unauthenticated("a bearer token is needed")
            identity = found
        roles = self.cmk.views.roles(identity.subject)
        return Caller(identity.issuer, identity.subject, roles, identity.subject in self.operators)

    async def allowed(self, request: Req, command: str, tenant: str | None, region: str | None = None) -> Caller:
        """Return the caller if the command is the caller's to give.

        Raises:
            Unauthenticated, Forbidden, NotFound: It is not.
        """
        caller = await self.caller(request)
        try:
            commands.allow(self.cmk, caller, command, tenant)
        except (Forbidden, NotFound) as no:
            self._deny(caller, command, tenant, region, no)
            raise
        if tenant is not None and region is not None:
            commands.tenant_region(self.cmk, tenant, region)
        return caller

    def _deny(self, caller: Caller, command: str, tenant: str | None, region: str | None, no: GovernanceError) -> None:
        """Write it into the ledger, once a minute for one person, command and tenant; not for what is not there."""
        if tenant is not None and self.cmk.views.tenant(tenant) is None:
            return
        now = time.monotonic()
        self._denied = {k: at for k, at in self._denied.items() if now - at < DENIED_EVERY_S}
        attempt = (caller.subject, command, tenant)
        if attempt in self._denied or len(self._denied) >= DENIED_A_MINUTE:
            return
        self._denied[attempt] = now
        known = region if region in self.cmk.regions else None
        task = asyncio.create_task(self._write_denial(caller, command, no.code, tenant, known))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write_denial(
        self, caller: Caller, command: str, reason: str, tenant: str | None, region: str | None
    ) -> None:
        order = self.cmk.own_order("_", "DenyAccess", secrets.token_hex(16))
        order = msgspec.structs.replace(order, actor=caller.actor)
        try:
            await self.cmk.registry.execute(
                ledger_aggregate(), LedgerEvents, order,
                lambda x: x.deny(caller.subject, command, reason, tenant=tenant, region=region),
            )  # fmt: skip
        except GovernanceError as bad:
            log.warning("a denial is not in the ledger: %s", bad)

    # --- what -------------------------------------------------------------------------------------------------------

    async def body(self, request: Req, kind: type[_T]) -> _T:
        """Return the request's JSON body.

        Raises:
            Invalid: Not JSON, or not what is asked for; the message names the field.
        """
        raw = await request.body()
        try:
            return msgspec.json.decode(raw or b"{}", type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
            raise Invalid(f"the body: {bad}") from bad

    async def write(
        self,
        request: Req,
        caller: Caller,
        work: Callable[[Asked], Awaitable[dict[str, Any]]],
        *,
        remembered: bool = True,
    ) -> Response[bytes]:
        """Run a command once per idempotency key, and answer 202.

        (1) the same key and content: the first answer again; another content: refused; (2) the answer is kept after the
        command is in the ledger; should that fail, the ledger itself knows the event by its id.

        Raises:
            KeyReused: The key came with other content.
            GovernanceError: As the command says.
        """
        raw = await request.body()
        given = request.headers.get("idempotency-key")
        if given is not None and _KEY.match(given) is None:
            raise Invalid("Idempotency-Key takes 1 to 128 printable characters")
        path = str(request.url.path)
        content = commands.content_hash(request.method.encode(), path.encode(), raw)
        asked = Asked(caller, given or secrets.token_hex(16), content, _if_match(request))
        place = (caller.subject, request.method, path, given or "")
        if given is None or not remembered:
            return _accepted(request, msgspec.json.encode(await work(asked)))
        earlier = self._earlier(place, content)  # (1)
        if earlier is not None:
            return _accepted(request, earlier)
        self._in_flight.add(place)
        try:
            answer = msgspec.json.encode(await work(asked))
        finally:
            self._in_flight.discard(place)
        await asyncio.to_thread(self._remember, place, content, answer)  # (2)
        return _accepted(request, answer)

    def _earlier(self, place: tuple[str, str, str, str], content: str) -> bytes | None:
        if place in self._in_flight:
            raise KeyReused("a request with this idempotency key is under way: wait for its answer")
        query = "SELECT body_hash, answer FROM request WHERE actor = ? AND method = ? AND path = ? AND key = ?"
        for body_hash, answer in self.cmk.views.reader.rows(query, place):
            if body_hash != content:
                raise KeyReused("this idempotency key came with another request: use a new one")
            return bytes(answer)
        return None

    def _remember(self, place: tuple[str, str, str, str], content: str, answer: bytes) -> None:
        now_ms = self.cmk.registry.now_ms
        actor, method, path, key = place
        row: dict[str, str | int | bytes] = {
            "actor": actor, "method": method, "path": path, "key": key, "body_hash": content, "status": 202,
            "answer": answer, "at_ms": now_ms, "forget_before_ms": now_ms - REMEMBER_MS,
        }  # fmt: skip
        self.cmk.writer.apply([("request", row)])

    async def recorded(self, resource: str, done: Sequence[Recorded], **more: Any) -> dict[str, Any]:
        """Return a write's answer, once the read model shows it."""
        answer: dict[str, Any] = {"resource": resource, **more}
        if done:
            last = done[-1]
            await self.cmk.projected(max(one.sequence for one in done))
            lane = parse_decree(last.subject).lane
            answer |= {"fence" if lane == "critical" else "generation": last.counter, "event": last.event}
            answer["events"] = [one.event for one in done]
        answer.setdefault("sync", f"{resource}/sync")
        return answer


def desk_of(request: Req) -> Desk:
    """Return the portal a request came to."""
    desk = request.app.state.desk
    assert isinstance(desk, Desk)
    return desk


def region_path(tenant: str, region: str) -> str:
    """Return where a tenant region is."""
    return f"/cmk/v1/tenants/{tenant}/regions/{region}"


def token_of(text: str, check: Callable[[str, str], str], what: str) -> str:
    """Return a name that fits its grammar.

    Raises:
        Invalid: It does not.
    """
    try:
        return check(text, what)
    except ContractError as bad:
        raise Invalid(str(bad)) from bad


def number(request: Req, name: str, default: int) -> int:
    """Return a number of the query.

    Raises:
        Invalid: It is none.
    """
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Invalid(f"{name} takes a number")
    return int(text)


def _if_match(request: Req) -> int | None:
    given = request.headers.get("if-match")
    if given is None or given.strip() == "*":
        return None
    found = _ETAG.match(given.strip())
    if found is None:
        raise Invalid('If-Match takes a generation in quotes, as in ETag: "12"')
    return int(found[1])


def _accepted(request: Req, answer: bytes) -> Response[bytes]:
    headers = {"Cache-Control": "no-store", "X-Request-Id": request_id(request)}
    return Response(answer, status_code=202, media_type="application/json", headers=headers)


def answered(request: Req, value: Any, *, etag: int | None = None, status: int = 200) -> Response[bytes]:
    """Return a reading's answer."""
    headers = {"Cache-Control": "no-store", "X-Request-Id": request_id(request)}
    if etag is not None:
        headers["ETag"] = f'"{etag}"'
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json", headers=headers)


def paged(request: Req, values: list[Any]) -> dict[str, Any]:
    """Return a list as the API shows it: `$top`, `$skip`; `count` is of all.

    Raises:
        Invalid: Not numbers.
    """
    numbers = {}
    for name, default in (("$top", 1000), ("$skip", 0)):
        text = request.query_params.get(name, str(default))
        if not text.isascii() or not text.isdigit():
            raise Invalid(f"{name} takes a number")
        numbers[name] = int(text)
    first = numbers["$skip"]
    return {"value": values[first : first + numbers["$top"]], "count": len(values)}
