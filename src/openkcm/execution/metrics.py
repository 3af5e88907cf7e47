"""A node's figures over plain HTTP on loopback: /healthz, /readyz, /metrics (Prometheus text). Shows no key, no name
of a person, no plaintext; answers GET and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Mapping
from typing import Final

from openkcm.contract.metrics import render
from openkcm.execution.configuration import MetricsListener

__all__ = ["Figures", "serve"]

Figures = Callable[[], Mapping[str, float]]
REQUEST_BYTES: Final = 8192
READ_S: Final = 5.0


async def serve(listener: MetricsListener, ready: Callable[[], bool], figures: Figures) -> tuple[asyncio.Server, int]:
    """Serve until the server is closed; return it and its port.

    Args:
        figures: Metric (with its labels) -> value.

    Raises:
        ValueError: The address is not loopback: plain HTTP goes nowhere else.
    """
    if not ipaddress.ip_address(listener.host).is_loopback:
        raise ValueError(f"metrics are plain HTTP and listen on loopback only, not on {listener.host}")

    def page(path: str) -> tuple[int, str]:
        if path == "/healthz":
            return 200, "ok\n"
        if path == "/readyz":
            return (200, "ready\n") if ready() else (503, "not ready\n")
        if path == "/metrics":
            return 200, render(figures())
        return 404, "not found\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(READ_S):
                head = await reader.readuntil(b"\r\n\r\n")
            method, _, rest = head.partition(b" ")
            path = rest.partition(b" ")[0].decode("ascii", "replace")
            status, body = page(path) if method == b"GET" else (405, "GET only\n")
            writer.write(
                f"HTTP/1.1 {status} .\r\nContent-Type: text/plain; version=0.0.4\r\n"
                f"Content-Length: {len(body.encode())}\r\nConnection: close\r\n\r\n{body}".encode()
            )
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, listener.host, listener.port, limit=REQUEST_BYTES)
    return server, server.sockets[0].getsockname()[1]
