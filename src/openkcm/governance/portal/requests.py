"""What all routes share: who asks, what the body says, whether it was asked before, and the shape of an answer."""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec
from litestar import Request, Response

from openkcm.contract.subjects import parse_decree
from openkcm.governance import commands
from openkcm.governance.commands import Asked, Caller
from openkcm.governance.errors import BadCredential, CrossSite, Invalid, KeyReused, Unauthenticated
from openkcm.governance.portal.admission import Admission
from openkcm.governance.portal.auth import SERVICE_TOKEN, Identity, Issuer, service_identity
from openkcm.governance.portal.denials import Denials
from openkcm.governance.portal.edge import credential_of
from openkcm.governance.portal.known import Known
from openkcm.governance.portal.limits import Kind, Limits
from openkcm.governance.portal.problems import request_id
from openkcm.governance.portal.sessions import COOKIE, Session, Sessions, csrf_of
from openkcm.governance.registry import Recorded
from openkcm.governance.service import Cmk

__all__ = ["COOKIE", "Desk", "Req", "answered", "desk_of", "region_path"]

Req = Request[Any, Any, Any]
_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}\Z")
_ETAG: Final = re.compile(r'(?:W/)?"(\d{1,18})"\Z')
REMEMBER_MS: Final = 7 * 86_400_000


class Desk:
    """One portal: the CMK, the issuer it trusts, the sessions of its pages, budgets, and what was refused."""

    def __init__(self, cmk: Cmk) -> None:
        self.cmk = cmk
        self.known = Known()
        self.issuer = Issuer(cmk.configuration.oidc, other_keys=self.known.forget_all)
        self.sessions = Sessions(cmk.views.reader, cmk.writer)
        self.limits = Limits()
        self.admission = Admission(self.limits, self.recognise, cmk.configuration.proxies)
        self.denials = Denials(cmk)
        self.challenge_secret = secrets.token_bytes(32)
        self.operators = frozenset(cmk.configuration.operators)
        self._in_flight: set[tuple[str, str, str, str]] = set()

    async def close(self) -> None:
        """Close what is open."""
        await self.denials.close()
        await self.issuer.close()

    # --- who --------------------------------------------------------------------------------------------------------

    async def caller(self, request: Req) -> tuple[Caller, bool]:
        """Return who asks, and whether the person was there just now (a service always is).

        By bearer token, by a service's token, or by the pages' session; the session orders only from its own pages.

        Raises:
            Unauthenticated: None of them holds.
            CrossSite: A session's cookie without the page's token.
        """
        shown = credential_of(request.headers.get("authorization", ""), request.cookies.get(COOKIE, ""))
        try:
            identity = await self._identity(request, shown)
        except Unauthenticated as bad:
            self.known.forget(shown)
            if isinstance(bad, BadCredential):
                request.scope["state"].get("forged", lambda: None)()
            raise
        roles = self.cmk.views.roles(identity.subject)
        operator = identity.subject in self.operators and identity.kind != "service"
        if roles or operator:
            self.known.keep(shown, identity)
            state = request.scope["state"]
            state.get("prove", lambda _: None)(state)
        fresh = identity.kind == "service" or self.fresh_until_s(identity.auth_time_s) > time.time()
        return Caller(identity.issuer, identity.subject, roles, operator, identity.kind), fresh

    def fresh_until_s(self, auth_time_s: int) -> int:
        """Until when a sign-in at `auth_time_s` counts as just now."""
        return auth_time_s + self.cmk.configuration.oidc.step_up_s

    def recognise(self, shown: str) -> Identity | None:
        """Return whose a credential is, as long as that takes no signature: somebody with a role, else nobody."""
        known = self.known.find(shown)
        if known is not None:
            return known
        kind, _, credential = shown.partition(" ")
        token = credential.partition(" ")[2].strip()
        found: Identity | None = None
        if kind == "a" and SERVICE_TOKEN.match(token):
            found = service_identity(token)
        elif kind == "c" and (session := self.sessions.find(credential)) is not None:
            found = _of_session(session)
        if found is None or not (found.subject in self.operators or self.cmk.views.roles(found.subject)):
            return None
        self.known.keep(shown, found)
        return found

    def spend(self, request: Req, caller: Caller, kind: Kind) -> None:
        """Take one request out of the caller's budget; the answer will say what is left.

        Raises:
            TooMany: It is empty.
        """
        self.limits.spend("subject", caller.subject, kind)
        request.scope["state"]["rate"] = (kind, self.limits.left("subject", caller.subject, kind))

    async def _identity(self, request: Req, shown: str) -> Identity:
        header = request.headers.get("authorization", "")
        if not header:
            session = self.session(request)
            if session is None:
                raise Unauthenticated("sign in, or send a bearer token")
            if request.method not in {"GET", "HEAD"}:
                self.check_own_page(request)
            return _of_session(session)
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("Authorization takes a bearer token")
        if SERVICE_TOKEN.match(token.strip()):
            return service_identity(token.strip())
        known = self.known.find(shown)
        return known if known is not None else await self.issuer.identify(token.strip())

    def session(self, request: Req) -> Session | None:
        """Return the session of the pages, if there is one."""
        return self.sessions.find(request.cookies.get(COOKIE, ""))

    def check_own_page(self, request: Req, given: str | None = None) -> None:
        """Let pass what one of our own pages sends.

        Raises:
            CrossSite: It is not, or does not show that it is.
        """
        wanted = csrf_of(request.cookies.get(COOKIE, ""))
        shown = given if given is not None else request.headers.get("x-csrf-token", "")
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin", self.origin(request))
        if (
            not hmac.compare_digest(wanted.encode(), shown.encode())
            or site != "same-origin"
            or origin != self.origin(request)
        ):
            raise CrossSite("this did not come from a page of ours: reload the page and try again")

    def origin(self, request: Req) -> str:
        """Return where the pages are, as browsers spell it."""
        return self.cmk.configuration.origin or str(request.base_url).rstrip("/")

    # --- what -------------------------------------------------------------------------------------------------------

    def idempotency_key(self, request: Req) -> str | None:
        """Return the caller's key, if there is one.

        Raises:
            Invalid: It does not fit its grammar.
        """
        given = request.headers.get("idempotency-key")
        if given is not None and _KEY.match(given) is None:
            raise Invalid("Idempotency-Key takes 1 to 128 printable characters")
        return given

    async def write(
        self,
        request: Req,
        caller: Caller,
        work: Callable[[Asked], Awaitable[Any]],
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
        given = self.idempotency_key(request)
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


def _of_session(session: Session) -> Identity:
    return Identity(session.issuer, session.person, session.expires_s, session.auth_time_s, "session")


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
