"""One connection to a NATS server: mutual TLS 1.3, nkey, reconnecting for ever. Parses no body.

nats-py reports a refused publish or subscription on its error callback only; here a refusal reaches whoever asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import secrets
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from openkcm.bus.access import Access, tls_of
from openkcm.bus.errors import BusError, Refused, TooLarge, Unavailable
from openkcm.bus.messages import Message

__all__ = ["Connection", "connect"]

log = logging.getLogger(__name__)
# nats-py's reader answers True to every end of stream, which asyncio calls useless over TLS, once a connection.
logging.getLogger("asyncio").addFilter(lambda record: "eof_received() has no effect" not in str(record.msg))
#: Noticing a dead peer takes at most (outstanding + 1) intervals; the autonomy lease starts at 30 s.
PING_INTERVAL_S: Final = 2
OUTSTANDING_PINGS: Final = 2
STALE_S: Final = 10  # by then a connection whose pings nobody answers is another one
RECONNECT_WAIT_S: Final = 0.2
_REFUSAL: Final = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"", re.IGNORECASE)
_BATCH_ENDS: Final = frozenset({"204", "404"})  # end of batch; nothing there
_NOBODY: Final = "503"


class _Client(Client):  # type: ignore[misc]  # nats-py has no types
    """nats-py's client, which reads certificate, key and CA anew for each handshake: renewed ones need no restart."""

    def __init__(self, access: Access) -> None:
        super().__init__()
        self._access = access
        self._tls = tls_of(access)

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """What the files say now; while they do not fit one another, what they said before."""
        try:
            self._tls = tls_of(self._access)
        except OSError as bad:  # SSLError is one; half of a renewal is on the disk
            log.warning("the certificates for %s cannot be read, the earlier ones are shown: %s", self._access.url, bad)
        return self._tls


class Connection:
    """A live connection. Made by `connect`."""

    def __init__(self, client: Client, name: str, inbox: str, secret: bytes) -> None:
        self._client = client
        self._inbox = inbox
        self._secret = secret
        self._closing = False
        self._answers = f"{inbox}.{secrets.token_hex(11)}"
        #: What waits for an answer, by the last token of where that must come: None says that the question is refused.
        self._asked: dict[str, asyncio.Future[Msg | None]] = {}
        #: Done when the connection breaks: what was asked over it is never answered, for the server has let it go.
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refusals: dict[str, set[asyncio.Future[Msg | None]]] = {}
        self._calls_on_reconnect: list[Callable[[], None]] = []
        self.name = name
        self.permission_errors = 0
        self.reconnects = 0
        self.last_error: Exception | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the server is reachable right now, as far as is known."""
        return bool(self._client.is_connected)

    @property
    def is_closed(self) -> bool:
        """Whether it is closed for good (by us, or by a server's error that reconnecting does not heal)."""
        return bool(self._client.is_closed)

    def on_reconnect(self, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` made after each reconnect; return what takes it back."""
        self._calls_on_reconnect.append(call)
        return lambda: self._calls_on_reconnect.remove(call)

    async def request(
        self, subject: str, body: bytes = b"", *, timeout_s: float = 2.0, headers: Mapping[str, str] | None = None
    ) -> Message:
        """Send, and return the first answer.

        Raises:
            Unavailable: Not connected, nobody there, or no answer within `timeout_s`; it may still arrive.
            Refused: The server does not permit it.
            TooLarge: Larger than the server takes.
        """
        self._check_connected()
        token = secrets.token_hex(8)  # who hears the question and can have the server answer knows no other's place
        answer: asyncio.Future[Msg | None] = asyncio.get_running_loop().create_future()
        self._asked[token] = answer
        try:
            with self._watched(subject, answer):
                async with asyncio.timeout(timeout_s):
                    await self._publish(subject, body, headers=headers, reply=f"{self._answers}.{token}")
                    msg = await answer
        except TimeoutError as bad:
            raise Unavailable(f"no answer on {subject} within {timeout_s} s") from bad
        except ConnectionError as bad:
            raise Unavailable(f"the connection broke before {subject} answered") from bad
        finally:
            del self._asked[token]
        if msg is None:
            raise Refused(f"{self.name} may not publish on {subject}")
        if msg.headers and msg.headers.get("Status") == _NOBODY:
            raise Unavailable(f"nobody answers on {subject}")
        return message_of(msg)

    async def request_batch(self, subject: str, body: bytes, *, timeout_s: float = 5.0) -> list[Message]:
        """Send, and return all answers up to the server's end-of-batch (a status message, not returned).

        Raises:
            Unavailable: Not connected, nobody there, or no end within `timeout_s`.
            Refused: The server does not permit it.
        """
        self._check_connected()
        lost = self._lost
        answers: list[Message] = []
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def hear(msg: Msg) -> None:
            message = message_of(msg)
            status = message.headers.get("Status")
            if status is None:
                answers.append(message)
            elif not ended.done():
                ended.set_result(status)

        inbox = self.inbox()
        heard = await self._client.subscribe(inbox, cb=hear)
        try:
            with self._watched(subject) as refused:
                await self._publish(subject, body, reply=inbox)
                ways: list[asyncio.Future[Any]] = [ended, refused, lost]
                await asyncio.wait(ways, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if refused.done():
                    raise Refused(f"{self.name} may not publish on {subject}")
        finally:
            with contextlib.suppress(nats.errors.Error):
                await heard.unsubscribe()
        if not ended.done():
            raise Unavailable(f"no end of the answer on {subject} within {timeout_s} s")
        if ended.result() not in _BATCH_ENDS:
            raise Unavailable(f"{subject} answers with status {ended.result()}")
        return answers

    async def publish(
        self, subject: str, body: bytes = b"", *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send without waiting for anything: core NATS, lost when nobody listens.

        Raises:
            Unavailable: Not connected.
            TooLarge: Larger than the server takes.
        """
        self._check_connected()
        await self._publish(subject, body, headers=headers, reply=reply)

    async def publish_checked(
        self,
        subject: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        reply: str = "",
        timeout_s: float = 2.0,
    ) -> None:
        """Send, and return when the server has taken it.

        Raises:
            Unavailable: Not connected, or the server did not answer.
            Refused: The server does not permit it.
        """
        self._check_connected()
        with self._watched(subject) as refused:
            await self._publish(subject, body, headers=headers, reply=reply)
            await self.flush(timeout_s=timeout_s)
            if refused.done():
                raise Refused(f"{self.name} may not publish on {subject}")

    async def flush(self, *, timeout_s: float = 2.0) -> None:
        """Return when the server has processed all that was sent before.

        nats-py writes a ping straight to the socket, ahead of what still waits for its flusher. By the first pong the
        flusher has run; only the second ping is behind everything. Neither is ever cancelled: a pong that came for a
        cancelled one would end nats-py's reading, and the connection would be deaf until it is found stale.

        Raises:
            Unavailable: It did not answer in time.
        """
        asked = asyncio.ensure_future(self._round_trips())
        asked.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be left to look at it
        done, _ = await asyncio.wait([asked], timeout=timeout_s)
        bad = asked.exception() if done else None
        if not done or bad is not None:
            raise Unavailable(f"{self.name}: the server did not answer within {timeout_s} s") from bad

    async def _round_trips(self) -> None:
        for _ in range(2):
            await self._client.rtt(timeout=STALE_S)

    async def subscribe(
        self, subject: str, heard: Callable[[Message], Awaitable[None]]
    ) -> Callable[[], Awaitable[None]]:
        """Call `heard` for each message; return what ends it. Survives reconnects (and misses what came between).

        Raises:
            Refused: The server does not permit it.
            Unavailable: Not connected.
        """
        self._check_connected()

        async def call(msg: Msg) -> None:
            await heard(message_of(msg))

        with self._watched(subject) as refused:
            subscription = await self._client.subscribe(subject, cb=call)
            await self.flush()
            if refused.done():
                raise Refused(f"{self.name} may not subscribe to {subject}")

        async def end() -> None:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

        return end

    def inbox(self) -> str:
        """Return a fresh subject of this user's own."""
        return str(self._client.new_inbox())

    def own_inbox(self, purpose: str) -> str:
        """Return a subject of this user's own that is the same after a restart, and that nobody else can guess."""
        return f"{self._inbox}.{hashlib.sha256(self._secret + purpose.encode()).hexdigest()[:32]}"

    async def close(self) -> None:
        """Close for good."""
        self._closing = True
        await self._client.close()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _check_connected(self) -> None:
        if not self._client.is_connected:
            raise Unavailable(f"{self.name}: {'closed' if self._client.is_closed else 'not connected'}")

    async def _listen(self) -> None:
        """Hear the answers to what is asked: one subscription for all, which outlives reconnects."""

        async def hear(msg: Msg) -> None:
            answer = self._asked.get(msg.subject.rpartition(".")[2])
            if answer is not None and not answer.done():
                answer.set_result(msg)

        await self._client.subscribe(f"{self._answers}.*", cb=hear)

    async def _publish(
        self, subject: str, body: bytes, *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        try:
            await self._client.publish(subject, body, reply=reply, headers=dict(headers) if headers else None)
        except nats.errors.MaxPayloadError as bad:
            raise TooLarge(f"{len(body)} bytes on {subject}") from bad
        except (nats.errors.Error, OSError) as bad:
            raise Unavailable(f"cannot send on {subject}: {bad}") from bad

    @contextlib.contextmanager
    def _watched(
        self, subject: str, told: asyncio.Future[Msg | None] | None = None
    ) -> Iterator[asyncio.Future[Msg | None]]:
        """Have a future (a new one, or the one that is told) done with None when the server refuses a subject."""
        refused = told or asyncio.get_running_loop().create_future()
        subject = subject.lower()  # as nats-py gives it back
        watchers = self._refusals.setdefault(subject, set())
        watchers.add(refused)
        try:
            yield refused
        finally:
            watchers.discard(refused)
            if not watchers:
                self._refusals.pop(subject, None)
            if not refused.done():
                refused.cancel()
            elif not refused.cancelled():
                refused.exception()  # seen: whoever asked may have failed otherwise, and waits no more

    async def _on_error(self, error: Exception) -> None:
        self.last_error = error
        refusal = _REFUSAL.search(str(error))
        if refusal is None:
            log.info("%s: %s", self.name, error or type(error).__name__)
            return
        self.permission_errors += 1
        log.warning("%s: the server refuses %s on %s", self.name, refusal[1], refusal[2])
        for watcher in self._refusals.get(refusal[2].lower(), ()):
            if not watcher.done():
                watcher.set_result(None)

    async def _on_disconnect(self) -> None:
        lost, self._lost = self._lost, asyncio.get_running_loop().create_future()
        if not lost.done():
            lost.set_result(None)
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError())

    async def _on_reconnect(self) -> None:
        self.reconnects += 1
        for call in list(self._calls_on_reconnect):
            call()

    async def _on_closed(self) -> None:
        if not self._closing:
            log.error("%s: the connection closed for good: %s", self.name, self.last_error)


def message_of(msg: Msg) -> Message:
    """Return nats-py's message as ours."""
    return Message(msg.subject, msg.data, msg.headers or {}, msg.reply)


async def connect(access: Access, *, name: str, timeout_s: float = 10.0) -> Connection:
    """Return a connection; from then on it reconnects for ever.

    Raises:
        Unavailable: No server within `timeout_s`, or the certificates do not fit; the message has the last error.
        Refused: The server does not know the user.
        BusError: A file that `access` names cannot be read.
    """
    try:
        client, seed = _Client(access), _seed(access)
    except OSError as bad:  # SSLError is one
        raise BusError(f"{name}: cannot read the access files: {bad}") from bad
    secret = hashlib.sha256(b"openkcm/inbox/1" + seed.encode()).digest()
    connection = Connection(client, name, access.inbox, secret)
    trying = asyncio.ensure_future(
        client.connect(
            access.url,
            name=name,
            nkeys_seed_str=seed,
            inbox_prefix=access.inbox,
            error_cb=connection._on_error,  # noqa: SLF001 -- the callbacks of our own class, made in one piece with it
            disconnected_cb=connection._on_disconnect,  # noqa: SLF001
            reconnected_cb=connection._on_reconnect,  # noqa: SLF001
            closed_cb=connection._on_closed,  # noqa: SLF001
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT_S,
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=OUTSTANDING_PINGS,
            connect_timeout=2,
            pending_size=0,  # while disconnected nothing is queued: the caller learns it and keeps its own order
        )
    )
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not trying.done():
        await asyncio.wait({trying}, timeout=0.05)
        unknown = isinstance(connection.last_error, nats.errors.AuthorizationError) or "Authorization" in str(
            connection.last_error
        )
        if not trying.done() and (unknown or asyncio.get_running_loop().time() > deadline):
            trying.cancel()
            await asyncio.gather(trying, return_exceptions=True)
            await connection.close()
            if unknown:
                raise Refused(f"{name}: the server does not know this user")
            raise Unavailable(f"{name}: no connection to {access.url} within {timeout_s} s: {connection.last_error}")
    trying.result()
    await connection._listen()  # noqa: SLF001
    return connection


def _seed(access: Access) -> str:
    return Path(access.nkey).read_text().strip()
