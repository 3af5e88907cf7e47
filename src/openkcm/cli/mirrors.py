"""Whether each region's mirrors hold all that the hub has for them, and how one with holes is made anew.

The hub sends a mirror what follows the last thing that it acknowledged; what its disk lost of earlier things it never
asks for again. Its last sequence says nothing of that, the number of its messages does, once the server has read its
blocks: a flipped bit is noticed when somebody reads it.

1. The hub is counted first, then asked for its end, then the mirror: one that is past that end and holds less has
   holes, one that is not there yet is late, and is left alone.
2. So is one that goes on where the hub ends: the hub has lost something, of which this may be the only copy.
3. The region makes its mirror anew by itself, as its administrator: it may reset its own consumers on the hub. Without
   the hub's answer to that nothing is deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from openkcm.bus import copies, declare
from openkcm.bus.connection import Connection, connect
from openkcm.bus.errors import BusError, Unavailable
from openkcm.bus.ledger import last_at_leader, state_of
from openkcm.bus.publish import api
from openkcm.cli import orbital
from openkcm.cli.flow import wait_until_flowing
from openkcm.cli.layout import Layout
from openkcm.cli.orbital import HUB
from openkcm.contract.fleet import RegionConfiguration

__all__ = ["Count", "compare", "make_anew", "make_whole", "mend"]

TRIES: Final = 3
#: By mirror: the consumer on the hub that feeds it, and what that sends.
FED: Final[dict[str, tuple[str, tuple[str, str]]]] = {
    "LEDGER": ("mirror-{region}", ("kcm.decree.{region}.>", "kcm.decree.global._.>")),
    "LEDGER-CRITICAL": (
        "mirror-critical-{region}", ("kcm.decree.{region}.*.critical.>", "kcm.decree.global._.critical.>"),
    ),
}  # fmt: skip


class Count(msgspec.Struct, frozen=True):
    """Messages of one mirror, and of the hub for it. `level`: it ends where the hub does."""

    region: str
    stream: str
    hub: int
    mirror: int
    level: bool = True

    @property
    def is_short(self) -> bool:
        """Whether the mirror lacks something that will not come by itself."""
        return self.mirror < self.hub and self.level


async def compare(layout: Layout, regions: Sequence[str] | None = None, *, read: bool = True) -> list[Count]:
    """Return the counts of each mirror of these regions, or of all.

    Args:
        read: Read the mirrors through: a server counts what it cannot read any more. A million events take about half
            a minute of CPU.

    Raises:
        BusError: A server does not answer.
    """
    async with _at(layout, "ledger-admin", HUB) as hub:
        found: list[Count] = []
        for region in _chosen(layout, regions):
            async with _at(layout, f"{region.region}-admin", region.region) as leaf:
                found += [await _compared(hub, leaf, region.region, stream, read=read) for stream in FED]
        return found


async def make_whole(layout: Layout, regions: Sequence[str] | None = None) -> list[str]:
    """Wait until the mirrors flow, and make those anew that are short; return what was done.

    Raises:
        BusError: A server does not answer, or a mirror is short however often it is made.
    """
    done: list[str] = []
    for _ in range(TRIES):
        await wait_until_flowing(layout)
        made = [line for region in _chosen(layout, regions) for line in (await mend(layout, region.region))[0]]
        if not made:
            return done
        done += made
    raise BusError(f"still short: {', '.join(done)}")


async def mend(layout: Layout, region: str, *, read: bool = True) -> tuple[list[str], bool]:
    """Make those mirrors of a region anew that have holes; return what was done, and whether all is there now.

    Raises:
        BusError: A server does not answer, or refuses.
    """
    (configuration,) = _chosen(layout, [region])
    counts, done = await compare(layout, [region], read=read), []
    for count in counts:
        if count.is_short:
            async with _at(layout, f"{region}-admin", region) as leaf:
                await make_anew(leaf, configuration, count.stream)
            done.append(f"{region}: made {count.stream} anew, it had {count.mirror} of {count.hub} events")
    return done, all(count.mirror >= count.hub for count in counts)


def _chosen(layout: Layout, regions: Sequence[str] | None) -> list[RegionConfiguration]:
    return [r for r in layout.regions if regions is None or r.region in regions]


async def make_anew(leaf: Connection, region: RegionConfiguration, stream: str) -> None:
    """Delete a region's mirror and create it as declared, fed from the ledger's start.

    Raises:
        BusError: A server does not answer, or refuses. Unless the hub answers nothing is deleted.
    """
    consumer = f"$JS.ledger.API.CONSUMER.RESET.LEDGER.{FED[stream][0].format(region=region.region)}"
    await _ask(leaf, consumer, {"seq": 1})  # (3)
    if await copies.extent(leaf, stream) is not None:
        await copies.remove(leaf, stream)
    await _ask(leaf, consumer, {"seq": 1})  # what the old one acknowledged since
    await declare.apply(leaf, declare.declared("region", [region]))


async def _compared(hub: Connection, leaf: Connection, region: str, stream: str, *, read: bool) -> Count:
    filters = [f.format(region=region) for f in FED[stream][1]]
    total = sum([await _count(hub, "LEDGER", subject) for subject in filters])  # (1)
    ends = [await last_at_leader(hub, "LEDGER", subject) for subject in filters]
    told = await copies.extent(leaf, stream)
    if told is None:
        return Count(region, stream, total, 0)
    held = await copies.readable(leaf, stream, told.last) if read and told.messages >= total else told.messages
    late = any(end is not None and told.last < end.sequence for end in ends)
    ahead = told.last > state_of(await _ask(hub, "$JS.API.STREAM.INFO.LEDGER")).last  # (2)
    return Count(region, stream, total, held, not late and not ahead)


@contextlib.asynccontextmanager
async def _at(layout: Layout, user: str, server: str) -> AsyncIterator[Connection]:
    connection = await connect(orbital.access(layout.state, user, layout.server_ports[server]), name=user)
    try:
        yield connection
    finally:
        await connection.close()


async def _ask(connection: Connection, subject: str, body: Any = None) -> dict[str, Any]:
    answer = await api(connection, subject, body, timeout_s=10)
    if "error" in answer:
        raise Unavailable(f"{subject}: {answer['error'].get('description')}")
    return answer


async def _count(connection: Connection, stream: str, subject: str) -> int:
    """Count a stream's messages under a pattern: the server tells of subjects in pages."""
    total, offset = 0, 0
    while True:
        answer = await _ask(connection, f"$JS.API.STREAM.INFO.{stream}", {"subjects_filter": subject, "offset": offset})
        page: dict[str, int] = answer["state"].get("subjects") or {}
        total, offset = total + sum(page.values()), offset + len(page)
        if not page or offset >= answer.get("total", 0):
            return total
