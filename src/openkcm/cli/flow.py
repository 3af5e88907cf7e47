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
    """Return when every mirror and source has heard from its origin, and the regions hold what the hub has for them.

    Raises:
        BusError: Not within `timeout_s`; names those that have not.
    """
    wanted: list[tuple[str, str, Sequence[str]]] = [
        ("reports-admin", HUB, ("REPORTS",)),
        ("audit-admin", HUB, ("LEDGER",)),
        *((f"{r.region}-admin", r.region, ("LEDGER", "LEDGER-CRITICAL")) for r in layout.regions),
    ]
    deadline = time.monotonic() + timeout_s
    ends = await _ends(layout)
    for user, server, streams in wanted:
        access = orbital.access(layout.state, user, layout.server_ports[server])
        connection = await connect(access, name=user)
        try:
            for stream in streams:
                while dry := await _dry(connection, stream, ends.get((server, stream), 0)):
                    if time.monotonic() > deadline:
                        raise BusError(f"{server}: {stream} hears nothing from {', '.join(dry)} after {timeout_s} s")
                    await asyncio.sleep(LOOK_S)
        finally:
            await connection.close()


async def _ends(layout: Layout) -> dict[tuple[str, str], int]:
    """Return the last sequence that each mirror must hold: having heard of the hub is not having its events."""
    access = orbital.access(layout.state, "ledger-admin", layout.server_ports[HUB])
    connection = await connect(access, name="ledger-admin")
    try:
        return {
            (region.region, stream): max([await _last(connection, subject) for subject in subjects])
            for region in layout.regions
            for stream, subjects in (
                ("LEDGER", (f"kcm.decree.{region.region}.>", "kcm.decree.global._.>")),
                ("LEDGER-CRITICAL", (f"kcm.decree.{region.region}.*.critical.>", "kcm.decree.global._.critical.>")),
            )
        }
    finally:
        await connection.close()


async def _last(connection: Connection, subject: str) -> int:
    body = msgspec.json.encode({"last_by_subj": subject})
    answer = await connection.request("$JS.API.STREAM.MSG.GET.LEDGER", body, timeout_s=5)
    told: dict[str, Any] = msgspec.json.decode(answer.body)
    return int(told["message"]["seq"]) if "message" in told else 0


async def _dry(connection: Connection, stream: str, end: int) -> list[str]:
    """Name the origins that a stream has not heard from, or of which it lacks events up to `end`."""
    answer = await connection.request(f"$JS.API.STREAM.INFO.{stream}", timeout_s=5)
    told: dict[str, Any] = msgspec.json.decode(answer.body)
    if "error" in told:
        raise BusError(f"{stream}: {told['error'].get('description')}")
    origins = [*told.get("sources", ()), *([told["mirror"]] if "mirror" in told else ())]
    short = told["state"]["last_seq"] < end
    return [origin["name"] for origin in origins if short or origin["active"] < 0]  # -1: never, or not since the start
