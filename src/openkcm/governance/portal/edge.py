"""Where connections and requests arrive: asks `Admission`, and keeps the refused from costing much. Knows no tenant.

A refused request is answered out of ready bytes by the protocol itself, before there is a task for it; then nothing is
read from that connection for a second, so that whoever floods is slowed by its own connections. Connections that showed
nothing we recognised are kept to a number, and to fewer of an address that nobody we know came from: a new one puts the
oldest of them out, never one of somebody's we know. A request is here in its time and its size, or the connection ends.
"""

from __future__ import annotations

import asyncio
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final

from litestar.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from openkcm.governance.portal.admission import BUSY, Admission
from openkcm.governance.portal.limits import RETRY_AFTER_S
from openkcm.governance.portal.sessions import COOKIE

__all__ = ["Door", "Edge", "credential_of"]

STRANGE_CONNECTIONS: Final = 512
STRANGE_OF_ADDRESS: Final = 64
CONNECTIONS: Final = 8192
#: From the connection, or a request's first byte, to the request's last. A body has less once it is waited for.
REQUEST_S: Final = 15.0
MAX_HEAD_BYTES: Final = 32 * 1024
_COOKIE: Final = COOKIE.encode() + b"="


def credential_of(authorization: str, cookie: str) -> str:
    """Return what a request shows of its caller, one string for each caller; empty for none."""
    return f"a {authorization}" if authorization else f"c {cookie}" if cookie else ""


class Edge:
    """All connections of one portal."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self._strange: dict[Door, None] = {}
        self._of_address: dict[str, dict[Door, None]] = {}
        self._proven = 0

    def joined(self, door: Door) -> None:
        """Take a connection in; at a limit, the oldest that showed nothing makes way."""
        mine = {} if self.admission.knows(door.address) else self._of_address.get(door.address, {})
        crowd = mine if len(mine) >= STRANGE_OF_ADDRESS else self._strange
        if crowd is mine or len(crowd) >= STRANGE_CONNECTIONS:
            oldest = next(iter(crowd))
            self.left(oldest)
            self.admission.refused["connections"] += 1
            oldest.transport.abort()
        if self._proven >= CONNECTIONS:
            self.admission.refused["connections"] += 1
            door.transport.abort()
            return
        self._strange[door] = self._of_address.setdefault(door.address, {})[door] = None

    def left(self, door: Door) -> None:
        """Forget a connection."""
        self._no_stranger(door)
        if door.proven:
            door.proven = False
            self._proven -= 1

    def prove(self, door: Door, address: str) -> None:
        """Somebody we know came over it, from an address: it is not put out for others, and the address is known."""
        self.admission.vouch(address)
        if self._no_stranger(door):
            door.proven = True
            self._proven += 1

    def _no_stranger(self, door: Door) -> bool:
        """Return whether it was one."""
        if self._strange.pop(door, door) is door:
            return False
        others = self._of_address[door.address]
        del others[door]
        if not others:
            del self._of_address[door.address]
        return True

    def address_of(self, peer: str, forwarded: str) -> str:
        """Return where a request comes from: what the nearest proxy of ours saw."""
        return forwarded.rpartition(",")[2].strip() or peer if peer in self.admission.proxies else peer

    def guarded(self, app: ASGIApp) -> ASGIApp:
        """Return the application with only so many at work as there are places."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            kind = scope.get("state", {}).get("kind")  # none: the start and the end
            if kind is None:
                await app(scope, receive, send)
                return
            slots = self.admission.slots
            if not await slots.enter(kind):
                self.admission.refused["busy"] += 1
                await _busy(send)
                return
            inside = True

            async def sent(message: Message) -> None:
                nonlocal inside
                if inside and message["type"] == "http.response.start":  # the work is done; a stream may last
                    inside = False
                    slots.leave(scope["state"]["kind"])
                await send(message)

            try:
                await app(scope, receive, sent)
            except asyncio.CancelledError:  # the process ends, and this took longer than it waits: nothing is promised
                if not inside:
                    raise
                await _busy(send)
            finally:
                if inside:
                    slots.leave(scope["state"]["kind"])

        return answer

    def protocol(self, **given: Any) -> Door:
        """Return the protocol of a new connection, as uvicorn asks for it."""
        return Door(self, **given)


async def _busy(send: Send) -> None:
    await send({"type": "http.response.start", "status": BUSY.status, "headers": list(BUSY.headers)})
    await send({"type": "http.response.body", "body": BUSY.body, "more_body": False})


class Door(HttpToolsProtocol):
    """One connection."""

    def __init__(self, edge: Edge, **given: Any) -> None:
        super().__init__(**given)
        self._edge = edge
        self._refused = False
        self._paused: asyncio.TimerHandle | None = None
        self._due: asyncio.TimerHandle | None = None
        self._head_bytes: int | None = None
        self.proven = False

    @property
    def address(self) -> str:
        """Whose it is."""
        return self.client[0] if self.client else ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it."""
        super().connection_made(transport)
        self._due = self.loop.call_later(REQUEST_S, self._overdue)
        self._edge.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self._edge.left(self)
        if self._paused is not None:
            self._paused.cancel()
        self._is_here()
        super().connection_lost(exc)
        self.cycle = self.scope = None  # type: ignore[assignment]  # they refer to us: a flood's would be found by gc alone

    def data_received(self, data: bytes) -> None:
        """Read on; a head that does not end ends the connection."""
        super().data_received(data)
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._end(431, b"Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._refused = False
        self._head_bytes = 0
        if self._due is None:
            self._due = self.loop.call_later(REQUEST_S, self._overdue)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Let the request in, or answer it here."""
        self._head_bytes = None
        if self._paused is not None or self.transport.is_closing():  # sent more, unanswered, after it was refused
            self._refused = True
            self.transport.close()
            return
        method = self.parser.get_method().decode("ascii")
        found = dict(self.headers)
        cookie = _session_cookie(found.get(b"cookie", b""))
        credential = credential_of(found.get(b"authorization", b"").decode("latin-1"), cookie)
        address = self._edge.address_of(self.address, found.get(b"x-forwarded-for", b"").decode("latin-1"))
        path = self.url.partition(b"?")[0].decode("latin-1")
        kind, refusal = self._edge.admission.judge(method, path, credential, address)
        if refusal is None:
            state: dict[str, Any] = self.scope["state"]
            state["kind"], state["prove"] = kind, partial(self._prove, address)
            state["forged"] = partial(self._edge.admission.forged, address)
            super().on_headers_complete()
            return
        self._refused = True
        busy = self.cycle is not None and not self.cycle.response_complete
        close = busy or method != "GET" or b"content-length" in found or b"transfer-encoding" in found
        if not busy:  # an answer must not overtake the one before it
            self.transport.write(refusal.raw(close=close))
        if close or not self.parser.should_keep_alive():
            self.transport.close()
            return
        self.flow.pause_reading()
        self._paused = self.loop.call_later(RETRY_AFTER_S, self._go_on)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, unless nobody wants it."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._is_here()
        if not self._refused:
            super().on_message_complete()

    def _is_here(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _overdue(self) -> None:
        self._due = None
        self._end(408, b"Request Timeout")

    def _end(self, status: int, phrase: bytes) -> None:
        """Close a connection over which no whole request came."""
        if self.transport.is_closing():
            return
        self._edge.admission.refused["slow"] += 1
        if self.cycle is None or self.cycle.response_complete:  # an answer must not break into another one
            head = b"HTTP/1.1 %d %s\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            self.transport.write(head % (status, phrase))
        self.transport.close()

    def _go_on(self) -> None:
        self._paused = None
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _prove(self, address: str, state: dict[str, Any]) -> None:
        self._edge.prove(self, address)
        state["kind"] = self._edge.admission.slots.prove(state["kind"])


def _session_cookie(header: bytes) -> str:
    if _COOKIE not in header:
        return ""
    try:
        found = SimpleCookie(header.decode("latin-1")).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value
