"""The API's surface: each operation with its role, shapes and budget, declared where it is answered. Default deny.

`@operation` puts a handler into `SURFACE`; routes, OpenAPI and the tests' matrix of roles are all made from that table.
Before a handler runs: (1) who asks; (2) how often; (3) whether it is theirs: no command of the table, no passage;
(4) whether the tenant region is there; (5) whether the person was there just now, where that is asked; (6) the query
and the body, within their caps. What is refused on the way goes into the ledger.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Literal
from urllib.parse import urlencode

import msgspec
from litestar import HttpMethod, Request, Response
from litestar.handlers import HTTPRouteHandler

from openkcm.governance import commands
from openkcm.governance.commands import Asked, Caller
from openkcm.governance.errors import GovernanceError, Invalid, StepUpRequired, WrongMediaType
from openkcm.governance.lists import Listing, Page, Rows
from openkcm.governance.portal.limits import Kind
from openkcm.governance.portal.requests import Desk, Req, answered, desk_of

__all__ = [
    "API", "SURFACE", "Call", "Operation", "Param", "api_routes", "following", "methods_of", "operation",
    "probe_routes",
]  # fmt: skip

API: Final = "/cmk/v1"
#: Rows of a list in one answer: nothing else happens in the process while they are put together.
SOME, MOST = 100, 250
MAX_DEPTH: Final = 32
#: A place is held while a body comes in.
BODY_S: Final = 10.0
_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')
_FILTER: Final = re.compile(r"\s*(\w{1,40}) eq '([^']{0,200})'\s*(?:and(?=\s)|\Z)")
_BOOLEANS: Final = {"true": True, "false": False}


class Param(msgspec.Struct, frozen=True):
    """A query parameter. `most`: of a number, its bound; of text, its length."""

    name: str
    kind: Literal["integer", "boolean", "string"]
    says: str
    default: int | bool | str | None = None
    most: int = 10**15
    least: int = 0

    def read(self, text: str) -> int | bool | str:
        """Return the value.

        Raises:
            Invalid: It is none.
        """
        if self.kind == "boolean" and text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        if self.kind == "integer" and text.isascii() and text.isdigit() and len(text) <= 18:
            if self.least <= int(text) <= self.most:
                return int(text)
            raise Invalid(f"{self.name} takes {self.least} to {self.most}")
        if self.kind == "string" and len(text) <= self.most:
            return text
        raise Invalid(f"{self.name} takes a {self.kind}")


PAGE: Final = (
    Param("$top", "integer", "How many.", SOME, MOST, 1),
    Param("$skip", "integer", "How many are left out first.", 0),
    Param("$after", "string", "Where the page before ended: its `Link` says so.", None, 1000),
    Param("$filter", "string", "`field eq 'value'`, more of them joined by `and`.", None, 1000),
)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    Attributes:
        command: What of `commands.MAY` the caller must be allowed; None: whoever is known.
        public: Asks nobody who it is.
        fresh: The person must have signed in just now.
        outside: It lies beside the API's prefix: probes, which machines ask.
        of_queried: It is about the tenant that the query names.
        body, answer: Shapes; `answer` None means another media type.
    """

    method: str
    path: str
    name: str
    command: str | None
    handler: Callable[[Call], Awaitable[Response[Any]]]
    says: str
    body: Any = None
    answer: Any = None
    media_type: str = "application/json"
    status: int = 200
    query: tuple[Param, ...] = ()
    budget: Kind = "read"
    public: bool = False
    fresh: bool = False
    of_queried: bool = False
    outside: bool = False
    example: Any = None

    @property
    def writes(self) -> bool:
        """Whether it may change something."""
        return self.method != "GET"

    @property
    def of_tenant(self) -> bool:
        """Whether it is about one tenant."""
        return "{tenant}" in self.path


class Call(msgspec.Struct, frozen=True):
    """One request that may pass."""

    operation: Operation
    desk: Desk
    request: Req
    caller: Caller
    query: dict[str, Any]
    body: Any = None

    @property
    def tenant(self) -> str:
        """Whose."""
        return str(self.request.path_params["tenant"])

    @property
    def region(self) -> str:
        """Where."""
        return str(self.request.path_params["region"])

    def part(self, name: str) -> str:
        """Return a part of the path."""
        return str(self.request.path_params[name])

    def answer(self, value: Any, *, etag: int | None = None) -> Response[bytes]:
        """Answer a reading."""
        return answered(self.request, value, etag=etag)

    def page(self, listing: Listing, *, many: Iterable[str] = ()) -> Page:
        """Return the part of a list that was asked for.

        Raises:
            Invalid: `$filter` or `$after` says nothing we could do.
        """
        path, query = self.request.path_params, self.query
        return self.desk.cmk.views.page(
            listing, path.get("tenant", ""), path.get("region", ""), wanted=_filter(query["$filter"] or ""),
            top=query["$top"], skip=query["$skip"], after=query["$after"], many=many,
        )  # fmt: skip

    def listed(self, page: Page, values: Rows | None = None) -> Response[bytes]:
        """Answer a list, its rows as they are shown; Link names the next part."""
        answer = self.answer({"value": page.rows if values is None else values, "count": page.count})
        if page.after is not None:
            answer.headers["Link"] = following(self.request, "$after", page.after, without="$skip")
        return answer

    async def write(self, work: Callable[[Asked], Awaitable[Any]], *, remembered: bool = True) -> Response[bytes]:
        """Run a command once per idempotency key, and answer 202."""
        return await self.desk.write(self.request, self.caller, work, remembered=remembered)


def following(request: Req, name: str, value: str | int, *, without: str = "") -> str:
    """Return the Link to what comes next: the same question, from there on."""
    asked = {key: said for key, said in request.query_params.items() if key != without}
    return f'<{request.url.path}?{urlencode({**asked, name: value})}>; rel="next"'


SURFACE: Final[list[Operation]] = []
Handler = Callable[[Call], Awaitable[Response[Any]]]


def operation(method: str, path: str, command: str | None, **more: Any) -> Callable[[Handler], Handler]:
    """Declare how a handler is reached; its docstring says what it does."""

    def declare(handler: Handler) -> Handler:
        default = 200 if method == "GET" else 202
        query = (*more.pop("query", ()), *(PAGE if more.pop("paged", False) else ()))
        SURFACE.append(
            Operation(
                method=method, path=path, command=command, handler=handler, query=query,
                name=more.pop("name", handler.__name__), status=more.pop("status", default),
                budget=more.pop("budget", "read" if method == "GET" else "write"),
                says=(handler.__doc__ or "").strip(), **more,
            )
        )  # fmt: skip
        return handler

    return declare


def api_routes() -> list[HTTPRouteHandler]:
    """Return the table as litestar takes it, to be put under the API's prefix."""
    return [_route(one) for one in SURFACE if not one.outside]


def probe_routes() -> list[HTTPRouteHandler]:
    """Return what is asked by machines that know nobody."""
    return [_route(one) for one in SURFACE if one.outside]


def methods_of(path: str) -> list[str]:
    """Return what can be asked at a path of the API, or of a page."""
    patterns = {one.method + (" " if one.outside else f" {API}") + one.path for one in SURFACE}
    found = [
        pattern.split(" ", 1)
        for pattern in patterns
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", pattern.split(" ", 1)[1]), path)
    ]
    fewest = min((pattern.count("{") for _, pattern in found), default=0)  # a word goes before a name
    return sorted(method for method, pattern in found if pattern.count("{") == fewest) or ["GET"]


def _route(one: Operation) -> HTTPRouteHandler:
    async def answer(request: Request[Any, Any, Any]) -> Response[Any]:
        return await _answer(one, request)

    path = re.sub(r"\{(\w+)\}", r"{\1:str}", one.path)
    return HTTPRouteHandler(path, http_method=HttpMethod(one.method), status_code=one.status, name=one.name)(answer)


async def _answer(one: Operation, request: Req) -> Response[Any]:
    desk = desk_of(request)
    tenant, region = request.path_params.get("tenant"), request.path_params.get("region")
    if one.of_queried:
        tenant = request.query_params.get("tenant")
    caller: Caller | None = None
    try:
        if one.public:
            return await one.handler(Call(one, desk, request, Caller("", ""), _query(one, request)))
        caller, fresh = await desk.caller(request)  # (1)
        if one.budget != "revoke":
            desk.spend(request, caller, one.budget)  # (2)
        if caller.kind == "service" or one.command is not None:
            commands.allow(desk.cmk, caller, one.command or one.name, tenant)  # (3)
        if one.budget == "revoke":
            desk.spend(request, caller, one.budget)
        elif tenant is not None:
            desk.limits.spend("tenant", tenant, one.budget)
        if tenant is not None and region is not None:
            commands.tenant_region(desk.cmk, tenant, region)  # (4)
        query = _query(one, request)
        if one.fresh and not fresh and not query.get("dryRun"):
            raise StepUpRequired("sign in again: this is asked for only from somebody who was there just now")  # (5)
        if one.writes:
            desk.idempotency_key(request)
        body = await _body(one, request)  # (6)
        return await one.handler(Call(one, desk, request, caller, query, body))
    except GovernanceError as no:
        if no.refusal and caller is not None and one.budget == "revoke":
            desk.limits.take("subject", f"{caller.subject} {request.url.path}", "refused")
        if no.refusal:
            actor = caller.actor if caller is not None else None
            desk.denials.note(actor, one.command or one.name, no, tenant=tenant, region=region)
        raise


def _query(one: Operation, request: Req) -> dict[str, Any]:
    known = {param.name: param for param in one.query}
    found: dict[str, Any] = {name: param.default for name, param in known.items()}
    for name, text in request.query_params.multi_items():
        if name not in known:
            raise Invalid(f"unknown query parameter {name[:40]}: {', '.join(known) or 'none'} can be given")
        found[name] = known[name].read(text)
    return found


async def _body(one: Operation, request: Req) -> Any:
    if not one.writes:
        return None
    try:
        raw = await asyncio.wait_for(request.body(), BODY_S)
    except TimeoutError as slow:
        raise Invalid(f"the body did not come within {BODY_S:g} s") from slow
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if raw and media_type not in {"application/json", "application/merge-patch+json"}:
        raise WrongMediaType("the body is JSON")
    if one.body is None:
        if raw.strip() not in {b"", b"{}"}:
            raise Invalid("this takes no body")
        return None
    depth = deepest = 0
    for token in _BRACKETS.findall(raw):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token, 0)
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise Invalid(f"the body is nested deeper than {MAX_DEPTH}")
    try:
        return msgspec.json.decode(raw or b"{}", type=one.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise Invalid(f"the body: {bad}") from bad


def _filter(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(text):
        match = _FILTER.match(text, at)
        if match is None:
            raise Invalid("$filter takes field eq 'value', joined by and")
        found.append((match[1], match[2]))
        at = match.end()
    return found
