"""One client's messages: framing, and the order in which they are answered. Knows no operation, opens no connection.

The drain counter is odd from before a message is parsed until its answer is with the kernel (`Bench.enter`, `leave`);
a session that waits, for the custodian or for a slow client to take its answer, is not inside. Before anything leaves
after such a wait, the gates it depends on are compared with what they were; a queued answer whose gate has changed is
dropped, and the connection reset with it. One message of a connection is answered at a time. What nearly every message
needs comes first: `_readable`, `_serve`, `_send`.
"""

from __future__ import annotations

import logging
import socket
import ssl
from typing import Any, Final

from openkcm.execution.connection import Connection, Floor
from openkcm.execution.exchange import Exchange
from openkcm.execution.operations import OPERATIONS
from openkcm.kmip import HEADER_BYTES, KMIP_1_4, KmipError, encode_item, encode_response, framing, http, message_length
from openkcm.kmip.enums import ResultReason, ResultStatus
from openkcm.kmip.errors import MessageTooLarge
from openkcm.kmip.requests import decode_request

__all__ = ["READ_BYTES", "Session"]

_log: Final = logging.getLogger("openkcm.worker")
IN_ONE_TURN: Final = 16  # messages of one connection that are answered before others have their turn
READ_BYTES: Final = 1 << 16  # four times a TLS record: what `Floor.buffer` has
REQUEST: Final = framing.REQUEST.to_bytes(4, "big")
FAREWELL: Final = "certificate is not enrolled"


class Session(Connection):
    """One connection's messages and answers."""

    __slots__ = ("_closing", "_exchange", "_output", "_partial", "_read", "_web", "_write")

    def __init__(self, floor: Floor, connection: ssl.SSLSocket) -> None:
        self._read: Any = connection.read  # 0.7 us less a message than recv_into and send (ADR 0024)
        self._write = connection.write
        self._exchange: Exchange | None = None  # waits, or owns the output that waits
        self._partial = bytearray()
        self._web: http.Web | None = None
        self._output: memoryview | None = None
        self._closing = False
        super().__init__(floor, connection)

    def _readable(self) -> None:
        try:
            n = self._read(READ_BYTES, self._floor.buffer)
        except ssl.SSLWantReadError:
            return
        except (OSError, ValueError):
            n = 0
        if not n:
            self.close()
            return
        self.seen = self._floor.tick
        data = bytes(self._floor.window[:n])
        if self._partial:
            self._partial += data
            self._floor.unfinished += n
            self._consume_partial()
        elif data[:4] == REQUEST and int.from_bytes(data[4:8], "big") + HEADER_BYTES == n and not n & 7:
            self._serve(data)  # one read, one message: nearly always
        else:
            self._consume(data)

    def _serve(self, message: bytes) -> None:
        """Answer one message, or begin to wait."""
        bench = self._bench
        bench.enter()
        try:
            caller = self._caller
            try:
                if self._web is not None:
                    message = self._web.opened(message)
                request = decode_request(message, limits=self._limits)
            except KmipError as bad:
                self._refuse(bad)
                return
            if caller is None:
                self._deny(request)
                return
            exchange = Exchange(bench, caller, OPERATIONS, request, self._ready)
            response = exchange.advance()
            if response is None:
                self._wait(exchange)
            else:
                self._send(response, exchange)
        except Exception as bad:  # never another connection's problem
            _log.error("a session ends: %s", type(bad).__name__, exc_info=bad)
            self.close()
        finally:
            bench.leave()

    def _send(self, response: bytes, exchange: Exchange | None) -> None:
        """Hand an answer to the kernel; what it does not take waits for the client, with the exchange's gates.

        A worker that leaves sends its last answer and the end of the connection in one piece: whoever looks before
        it sends again sees both.
        """
        leaving = self._floor.leaving and not self._closing
        if leaving:
            self._closing = True
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        if self._web is not None:
            response = self._web.replied(response)
        try:
            sent = self._write(response)
        except ssl.SSLWantWriteError:
            sent = 0
        except (OSError, ValueError):
            self.close()
            return
        if sent == len(response):
            if leaving:
                self._part()
            return
        self._output, self._exchange = memoryview(response)[sent:], exchange
        self._until = self._floor.tick + self._floor.limits.message_s
        self._floor.loop.remove_reader(self._fd)
        self._floor.loop.add_writer(self._fd, self._writable)

    def part_when_idle(self) -> None:
        """End the connection if nothing is under way in it."""
        if not (self._waiting or self._partial or self._output is not None or self._closing or self.closed):
            self._closing = True
            self._part()

    # --- messages in parts, or several at once ------------------------------------------------------------------------

    def _keep(self, rest: bytes) -> None:
        """Keep what is not answered yet, instead of what was kept before."""
        self._floor.unfinished += len(rest) - len(self._partial)
        self._partial = bytearray(rest)

    def _await_rest(self) -> None:
        """A message is not whole: it has its time, and all of them together have so much memory."""
        self._bench.let_go()
        if self._caller is not None and not self._until:
            self._until = self._floor.tick + self._floor.limits.message_s
        if self._floor.unfinished > self._floor.limits.unfinished_bytes:
            self._refuse(MessageTooLarge("too many unfinished messages are kept here: send it again, or in parts"))

    def _length(self, data: bytes | bytearray) -> int | None:
        """Return how long the message at the head of `data` is, plain or in HTTP; None when that is not known yet."""
        if self._web is None and data[0] == http.FIRST_BYTE:
            self._web = http.Web()
        return (self._web.length if self._web is not None else message_length)(
            data, limit=self._limits.max_message_bytes
        )

    def _consume_partial(self) -> None:
        """Go on with what has been kept; it is copied only once a message is whole."""
        try:
            size = self._length(self._partial)
        except KmipError as bad:
            self._refuse(bad)
            return
        if size is None or len(self._partial) < size:
            self._await_rest()
            return
        self._until = 0
        data = bytes(self._partial)
        self._keep(b"")
        self._consume(data)

    def _consume(self, data: bytes) -> None:
        """Answer the whole messages of `data`, IN_ONE_TURN at most, and keep the rest."""
        for _ in range(IN_ONE_TURN):
            if not data:
                return
            try:
                size = self._length(data)
            except KmipError as bad:
                self._refuse(bad)
                return
            if size is None or len(data) < size:
                self._keep(data)
                self._await_rest()
                return
            if len(data) == size:
                message, data = data, b""
            else:
                message, data = data[:size], data[size:]
            self._serve(message)
            if self._waiting or self._output is not None or self._closing or self.closed:
                self._keep(data)
                return
        if data:
            self._keep(data)
            self._wait(None)
            self._floor.loop.call_soon(self._resume)

    def _resume(self) -> None:
        """Others have had their turn."""
        if not self.closed:
            self._waiting = False
            self._floor.loop.add_reader(self._fd, self._readable)
            self._go_on()

    # --- waiting, for the custodian and for slow clients --------------------------------------------------------------

    def _wait(self, exchange: Exchange | None) -> None:
        if not self._waiting:
            self._waiting, self._exchange = True, exchange
            self._floor.loop.remove_reader(self._fd)

    def _ready(self) -> None:
        """The custodian answered what the exchange waits for."""
        exchange = self._exchange
        if self.closed or exchange is None or not self._waiting:
            return
        bench = self._bench
        bench.enter()
        try:
            response = exchange.advance()
            if response is not None:
                self._waiting, self._exchange = False, None
                self._floor.loop.add_reader(self._fd, self._readable)
                self._send(response, exchange)
        except Exception as bad:  # as above
            _log.error("a session ends: %s", type(bad).__name__, exc_info=bad)
            self.close()
        finally:
            bench.leave()
        self._go_on()

    def _go_on(self) -> None:
        """Answer what has been read meanwhile."""
        if self._partial and not (self._waiting or self._output is not None or self._closing or self.closed):
            self._consume_partial()

    def _writable(self) -> None:
        """Try the same bytes again: an operation of its own; enter, compare, send, leave."""
        bench = self._bench
        bench.enter()
        try:
            rest, exchange = self._output, self._exchange
            assert rest is not None
            if exchange is not None and not exchange.still_open():
                bench.count("outputs_dropped")
                self.close(reset=True)
                return
            try:
                rest = rest[self._write(rest) :]
            except ssl.SSLWantWriteError:
                return
            except (OSError, ValueError):
                self.close()
                return
            self._output = rest
            if rest:
                return
            self._output, self._exchange, self._until = None, None, 0
        finally:
            bench.leave()
        if self._closing:
            self._part()
            return
        self._floor.loop.remove_writer(self._fd)
        self._floor.loop.add_reader(self._fd, self._readable)
        self._go_on()

    def _forget(self) -> None:
        self._exchange, self._output = None, None
        self._keep(b"")

    # --- the last answer ----------------------------------------------------------------------------------------------

    def _refuse(self, bad: KmipError) -> None:
        """Answer what is no readable message, and end: what follows cannot be trusted to be one."""
        self._bench.count("messages_refused")
        self._keep(b"")
        item = encode_item(None, None, ResultStatus.OPERATION_FAILED, bad.reason, str(bad), None, KMIP_1_4)
        self._last(encode_response([item], KMIP_1_4, int(self._bench.wall_s())))

    def _deny(self, request: Any) -> None:
        """Answer a stranger with a certificate of the CA: every item fails, then the connection ends."""
        version = request.header.protocol_version
        reason = ResultReason.AUTHENTICATION_NOT_SUCCESSFUL
        items = [
            encode_item(
                i.operation, i.unique_batch_item_id, ResultStatus.OPERATION_FAILED, reason, FAREWELL, None, version
            )
            for i in request.items
        ]
        self._last(encode_response(items, version, int(self._bench.wall_s())))

    def _last(self, response: bytes) -> None:
        self._closing = True
        self._send(response, None)
        if self._output is None and not self.closed:
            self._part()
