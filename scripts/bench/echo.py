"""The floor: a TLS server on uvloop that answers so many bytes with so many, and does nothing else.

`python scripts/bench/echo.py PORT CERT KEY CLIENT_CA REQUEST_BYTES ANSWER_BYTES`. TLS as the worker has it; reads and
writes through the OpenSSL object itself, the least that Python can do.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from typing import Any

import uvloop

from openkcm.execution.worker import Listener, tls_context


async def main(port: int, cert: str, key: str, client_ca: str, request_bytes: int, answer_bytes: int) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    context = tls_context(Listener(host="127.0.0.1", port=port, cert=cert, key=key, client_ca=client_ca))
    buffer, answer = bytearray(1 << 16), bytes(answer_bytes)
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


if __name__ == "__main__":
    given = sys.argv[1:]
    uvloop.run(main(int(given[0]), given[1], given[2], given[3], int(given[4]), int(given[5])))
