"""Whether each region's mirrors hold all that the hub has for them, by count; and how a short one is made anew.

A mirror that is created, or joins a ledger with events, may pass over the first of them: its last sequence says nothing
of that, the number of its messages does. The hub is counted first, so a mirror that holds more is no shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from openkcm.bus import copies
from openkcm.bus.connection import Connection, connect
from openkcm.bus.errors import BusError
from openkcm.bus.publish import api
from openkcm.cli import orbital
from openkcm.cli.flow import wait_until_flowing
from openkcm.cli.layout import Layout
from openkcm.cli.orbital import HUB

__all__ = ["Count", "compare", "make_whole"]

TRIES: Final = 3
#: What the hub sends to each mirror of a region, as its consumers filter it.
FILTERS: Final[dict[str, tuple[str, str]]] = {
    "LEDGER": ("kcm.decree.{region}.>", "kcm.decree.global._.>"),
    "LEDGER-CRITICAL": ("kcm.decree.{region}.*.critical.>", "kcm.decree.global._.critical.>"),
}


class Count(msgspec.Struct, frozen=True):
    """Messages of one mirror, and of the hub for it."""

    region: str
    stream: str
    hub: int
    mirror: int

    @property
    def is_short(self) -> bool:
        """Whether the mirror lacks something."""
        return self.mirror < self.hub


async def compare(layout: Layout, regions: Sequence[str] | None = None) -> list[Count]:
    """Return the counts of each mirror of these regions, or of all.

    Raises:
        BusError: A server does not answer.
    """
    found = []
    for region in regions if regions is not None else [r.region for r in layout.regions]:
        for stream, filters in FILTERS.items():
            hub = await _at(layout, "ledger-admin", HUB, "LEDGER", [f.format(region=region) for f in filters])
            mirror = await _at(layout, f"{region}-admin", region, stream, [">"])
            found.append(Count(region, stream, hub, mirror))
    return found


async def make_whole(layout: Layout, regions: Sequence[str] | None = None) -> list[str]:
    """Wait until the mirrors flow, and make those anew that are short; return what was done.

    Raises:
        BusError: A server does not answer, or a mirror is short however often it is made.
    """
    done: list[str] = []
    short: list[Count] = []
    for _ in range(TRIES):
        await wait_until_flowing(layout)
        short = [count for count in await compare(layout, regions) if count.is_short]
        if not short:
            return done
        for count in short:
            user = f"{count.region}-admin"
            connection = await connect(orbital.access(layout.state, user, layout.server_ports[count.region]), name=user)
            try:
                await copies.remove(connection, count.stream)
            finally:
                await connection.close()
            done.append(f"{count.region}: made {count.stream} anew, it had {count.mirror} of {count.hub} events")
        await orbital.apply_streams(layout.state, layout.regions, layout.server_ports)
    raise BusError(f"still short: {', '.join(f'{c.region} {c.stream} ({c.mirror} of {c.hub})' for c in short)}")


async def _at(layout: Layout, user: str, server: str, stream: str, filters: list[str]) -> int:
    connection = await connect(orbital.access(layout.state, user, layout.server_ports[server]), name=user)
    try:
        return sum([await _count(connection, stream, subject) for subject in filters])
    finally:
        await connection.close()


async def _count(connection: Connection, stream: str, subject: str) -> int:
    """Count a stream's messages under a pattern: the server tells of subjects in pages."""
    total, offset = 0, 0
    while True:
        body = {"subjects_filter": subject, "offset": offset}
        answer = await api(connection, f"$JS.API.STREAM.INFO.{stream}", body, timeout_s=10)
        if "error" in answer:
            raise BusError(f"{stream}: {answer['error'].get('description')}")
        page: dict[str, int] = answer["state"].get("subjects") or {}
        total, offset = total + sum(page.values()), offset + len(page)
        if not page or offset >= answer.get("total", 0):
            return total
