"""Reports on their way: a node hands them to its own leaf, governance follows them on the hub. Parses none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from openkcm.bus import feed
from openkcm.bus.connection import Connection
from openkcm.bus.messages import Message, Stored, stored_of
from openkcm.bus.publish import Appended, publish

__all__ = ["Reports", "send", "subscribe_acks", "usage"]

#: The hub's account REPORTS as governance sees it from the ledger's.
SOURCE: Final = feed.Source(get="$JS.reports.API.DIRECT.GET.REPORTS", live="kcm.reported.>")


class Reports:
    """The stream REPORTS on the hub, for governance."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def follow(self, after: int = 0) -> AsyncIterator[Stored]:
        """Yield what is behind the cursor `after` and then what comes, over any outage, each once and in order.

        Raises:
            Refused: Not permitted.
            Unavailable: The connection was closed.
        """
        async for stored in feed.follow(self._connection, SOURCE, after=after):
            yield stored


async def subscribe_acks(connection: Connection, heard: Callable[[Stored], None]) -> Callable[[], Awaitable[None]]:
    """Call `heard` with each SyncAck as it is said, beside the stream; return what ends it (governance).

    Raises:
        Refused, Unavailable: As they say.
    """

    async def hear(message: Message) -> None:  # not from a stream: the subject is the one it came on, the cursor none
        told = stored_of(message)
        heard(Stored(0, message.subject, message.body, told.id, told.trace))

    return await connection.subscribe("kcm.report.*.*.*.sync-ack", hear)


async def send(
    connection: Connection,
    subject: str,
    body: bytes,
    *,
    id: str,  # noqa: A002 -- the field's word
    tag: str = "",
    timeout_s: float = 2.0,
) -> Appended:
    """Hand a report to the node's own leaf; when this returns it is on the leaf's disk, and the hub will have it.

    A second report under the same id is taken for the first one again: ids are the node's own.

    Raises:
        Unavailable: No answer in time; retry with the same id.
        Refused: Not this node's subject.
        TooLarge: Over 64 KiB.
    """

    async def find(sequence: int | None) -> Stored | None:
        # A node may not read the outbox back; the id is its own, so what is there is its own report.
        return None if sequence is None else Stored(sequence, subject, body, id)

    return await publish(connection, subject, body, id=id, tag=tag, expected={}, find=find, timeout_s=timeout_s)


async def usage(connection: Connection, region: str, tenant: str) -> list[tuple[str, bytes]]:
    """Return (subject, bytes) of all that a region holds of the use of a tenant's keys. For the region's auditor.

    Raises:
        Unavailable, Refused: As they say.
    """
    found: list[tuple[str, bytes]] = []
    after, pattern = 0, f"kcm.report.{region}.*.{tenant}.key-usage"
    while page := await feed.page(connection, "$JS.API.DIRECT.GET.USAGE", after=after, subject=pattern):
        found += [(stored.subject, stored.body) for stored in page]
        after = page[-1].sequence
    return found
