"""The HTTP application: routes, limits, headers. Default deny lies in the surface: each operation names its command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.types import Message, Scope

from openkcm.governance.portal.limits import fields
from openkcm.governance.portal.openapi import document
from openkcm.governance.portal.problems import HANDLERS
from openkcm.governance.portal.requests import Desk
from openkcm.governance.portal.routes import pages, site
from openkcm.governance.portal.surface import API, api_routes, methods_of, probe_routes
from openkcm.governance.service import Cmk

__all__ = ["create_app"]

MAX_BODY_BYTES: Final = 64 * 1024
#: Nothing leaves this host, nothing frames it, no script that is not a file of ours.
HEADERS: Final = (
    (
        b"content-security-policy",
        (
            b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
            b"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


async def _harden(message: Message, scope: Scope) -> None:
    if message["type"] == "http.response.start":
        headers = [*message["headers"], *HEADERS]
        rate = scope["state"].get("rate")
        if rate is not None:
            headers += fields(*rate)
        if scope.get("method") == "OPTIONS":  # litestar names the methods of one handler; a path here has several
            headers = [(name, value) for name, value in headers if name.lower() != b"allow"]
            headers.append((b"allow", ", ".join([*methods_of(scope["path"]), "OPTIONS"]).encode()))
        message["headers"] = headers


def create_app(cmk: Cmk) -> Litestar:
    """Return the application of a running CMK."""
    desk = Desk(cmk)
    document()  # a table that cannot be described fails here, not at the first reader; nor does the first one wait
    pages.prepare()

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        asking = asyncio.create_task(desk.issuer.prepare())
        try:
            yield
        finally:
            asking.cancel()
            await desk.close()

    return Litestar(
        [Router(API, route_handlers=api_routes()), *probe_routes(), *site.ROUTES, *pages.ROUTES],
        state=State({"desk": desk, "methods": methods_of}),
        exception_handlers=HANDLERS,
        before_send=[_harden],
        lifespan=[lifespan],
        request_max_body_size=MAX_BODY_BYTES,
        openapi_config=None,
        logging_config=None,
    )
