"""Waits until every mirror and source of a running bus flows. Asks; changes nothing.

A server that has just created or recovered a mirror asks for its origin again only after some seconds. Whatever is
ordered before waits for that, so a stack is ready when nothing does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from openkcm.bus.connection import Connection, connect
from openkcm.bus.errors import BusError
from openkcm.cli import orbital
from openkcm.cli.layout import Layout
from openkcm.cli.orbital import HUB

__all__ = ["wait_until_flowing"]

LOOK_S: Final = 0.05
FLOW_S: Final = 45.0


async def wait_until_flowing(layout: Layout, *, timeout_s: float = FLOW_S) -> None:
    """Return when every mirror and every source has heard from its origin.

    Raises:
        BusError: Not within `timeout_s`; names those that have not.
    """
    wanted: list[tuple[str, str, Sequence[str]]] = [
        ("reports-admin", HUB, ("REPORTS",)),
        ("audit-admin", HUB, ("LEDGER",)),
        *((f"{r.region}-admin", r.region, ("LEDGER", "LEDGER-CRITICAL")) for r in layout.regions),
    ]
    deadline = time.monotonic() + timeout_s
    for user, server, streams in wanted:
        access = orbital.access(layout.state, user, layout.server_ports[server])
        connection = await connect(access, name=user)
        try:
            for stream in streams:
                while dry := await _dry(connection, stream):
                    if time.monotonic() > deadline:
                        raise BusError(f"{server}: {stream} hears nothing from {', '.join(dry)} after {timeout_s} s")
                    await asyncio.sleep(LOOK_S)
        finally:
            await connection.close()


async def _dry(connection: Connection, stream: str) -> list[str]:
    """Name the origins that a stream has not heard from."""
    answer = await connection.request(f"$JS.API.STREAM.INFO.{stream}", timeout_s=5)
    told: dict[str, Any] = msgspec.json.decode(answer.body)
    if "error" in told:
        raise BusError(f"{stream}: {told['error'].get('description')}")
    origins = [*told.get("sources", ()), *([told["mirror"]] if "mirror" in told else ())]
    return [origin["name"] for origin in origins if origin["active"] < 0]  # -1: never, or not since the start
