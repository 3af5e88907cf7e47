"""The floor: a TLS server on uvloop that answers so many bytes with so many, and does nothing else.

`python scripts/bench/echo.py PORT CERT KEY CLIENT_CA REQUEST_BYTES ANSWER_BYTES floor|protocol`. TLS as the worker has
it. `floor` reads and writes through the OpenSSL object itself, the least that Python can do; `protocol` is the server
that one writes with uvloop: `create_server` with TLS and a protocol.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from typing import Any

import uvloop

from openkcm.execution.worker import Listener, tls_context


class Echo(asyncio.Protocol):
    """A connection of uvloop's own TLS."""

    def __init__(self, request_bytes: int, answer: bytes) -> None:
        self._want, self._answer, self._have = request_bytes, answer, 0

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        """Answer what is whole."""
        self._have += len(data)
        if self._have == self._want:
            self._have = 0
            self._write(self._answer)


async def protocol(port: int, context: ssl.SSLContext, request_bytes: int, answer: bytes) -> None:
    """Serve until killed, as uvloop does it."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(request_bytes, answer), "127.0.0.1", port, ssl=context, backlog=256)
    await server.serve_forever()


async def floor(port: int, context: ssl.SSLContext, request_bytes: int, answer: bytes) -> None:
    """Serve until killed, with as little as possible."""
    loop = asyncio.get_running_loop()
    buffer = bytearray(1 << 16)
    listening = socket.create_server(("127.0.0.1", port), backlog=256)
    listening.setblocking(False)

    def accept() -> None:
        raw, _ = listening.accept()
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        loop.add_reader(connection.fileno(), shake_hands, connection)

    def shake_hands(connection: ssl.SSLSocket) -> None:
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            return
        except OSError:
            close(connection)
            return
        inner: Any = connection._sslobj  # noqa: SLF001 -- the floor is as low as it can be
        loop.add_reader(connection.fileno(), serve, connection, inner.read, inner.write, [0])

    def serve(connection: ssl.SSLSocket, read: Any, write: Any, have: list[int]) -> None:
        try:
            n = read(1 << 16, buffer)
        except ssl.SSLWantReadError:
            return
        except OSError:
            n = 0
        if not n:
            close(connection)
            return
        if n == request_bytes:
            write(answer)
            return
        have[0] += n
        if have[0] == request_bytes:
            have[0] = 0
            write(answer)

    def close(connection: ssl.SSLSocket) -> None:
        loop.remove_reader(connection.fileno())
        connection.close()

    loop.add_reader(listening.fileno(), accept)
    await asyncio.Event().wait()


def main(port: str, cert: str, key: str, client_ca: str, request_bytes: str, answer_bytes: str, how: str) -> None:
    """Serve until killed."""
    context = tls_context(Listener(host="127.0.0.1", port=int(port), cert=cert, key=key, client_ca=client_ca))
    serve = {"floor": floor, "protocol": protocol}[how]
    uvloop.run(serve(int(port), context, int(request_bytes), bytes(int(answer_bytes))))


if __name__ == "__main__":
    main(*sys.argv[1:])
