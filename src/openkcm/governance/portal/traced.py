"""Which trace a request belongs to: its caller's, if it names one, else a new one. Orders are spans. Judges nobody."""

from __future__ import annotations

from typing import Final

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from openkcm import telemetry
from openkcm.contract import trace

__all__ = ["traced"]

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_NAME: Final = trace.HEADER.encode()


def traced(app: ASGIApp) -> ASGIApp:
    """Return the application with each request in its trace. A reading is no span: too many, and some last for ever."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        method = str(scope.get("method", ""))  # none: the start and the end
        if not method:
            await app(scope, receive, send)
            return
        named = [value for name, value in scope["headers"] if name == _NAME]
        parent = trace.parse(named[0].decode("latin-1")) if len(named) == 1 else None
        if method in READS:
            with trace.under(parent or trace.fresh()):
                await app(scope, receive, send)
            return
        with telemetry.span(method, "SERVER", parent, {"http.request.method": method}) as span:

            async def answered(message: Message) -> None:
                if message["type"] == "http.response.start":
                    route = scope.get("path_template", "")
                    told: dict[str, str | int] = {"http.response.status_code": message["status"], "http.route": route}
                    span.say(told, name=f"{method} {route}")
                await send(message)

            await app(scope, receive, answered)

    return answer
