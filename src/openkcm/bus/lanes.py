"""How decrees reach a node: pulled lane by lane (the guarantee), and heard on lane0 (the signal). Parses no decree.

A reader's place is its caller's own cursor, never the server's: a durable's ack floor outlives a lost disk. So it is
reset to the cursor at the start, and after each reconnect to what was last handed out: what the server sent into a
broken connection would otherwise come again only after ack_wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec

from openkcm.bus.connection import Connection
from openkcm.bus.errors import BusError, Unavailable
from openkcm.bus.ledger import get_at_leader, state_of
from openkcm.bus.messages import Message, Stored, stored_of
from openkcm.bus.publish import api
from openkcm.contract import trace
from openkcm.contract.errors import NameError_
from openkcm.contract.subjects import decree_of_lane0, parse_decree

__all__ = ["LaneReader", "held", "mirror_head", "repeat", "subscribe_lane0"]

log = logging.getLogger(__name__)
PULL_S: Final = 10.0  # a long poll; the server ends it with a status message
PULL_GRACE_S: Final = 2.0  # beyond it the pull counts as lost
AGAIN_S: Final = 0.003  # between two resets, while older deliveries are still on their way
NEXT: Final = "$JS.API.CONSUMER.MSG.NEXT"
FENCE: Final = "fence"
FENCE_S: Final = 2.0
_DELETED: Final = "Consumer Deleted"


class LaneReader:
    """One pre-created pull consumer of the node's, of LEDGER, LEDGER-CRITICAL or VAULT. One task reads it."""

    def __init__(self, connection: Connection, stream: str, consumer: str) -> None:
        self._connection = connection
        self._name = f"{stream}.{consumer}"
        self._arrived: deque[Stored] = deque()
        self._news = asyncio.Event()
        self._replies: dict[int, str] = {}
        self._inbox = connection.own_inbox(self._name)
        self._fenced = asyncio.Event()
        self._end: Callable[[], Awaitable[None]] | None = None
        self._cursor: int | None = None
        self._heard = 0
        self._delivered = 0
        self._left = 0
        self._pulls = 0
        self._pull_ends_at = 0.0
        self._stale = False
        self._failed: BusError | None = None
        self._forget = connection.on_reconnect(self._on_reconnect)

    async def reset(self, sequence: int) -> None:
        """Go on behind `sequence` (0: from the beginning), exactly; what was fetched and not acknowledged comes again.

        A pull cannot be taken back, not even that of a process that was killed: a server with leaf nodes fills it
        for two seconds more. So (1) the inbox is the same over restarts, and nothing is delivered past this reader;
        (2) where an older delivery could be taken for the first of this reset, all of them are awaited first;
        (3) anything but the next delivery number, which a reset starts again at 1, makes the reader start over.

        Raises:
            Unavailable, Refused: As they say; the reader is as unusable as before, call again.
            BusError: The consumer is gone.
        """
        ambiguous = self._end is None or (self._left > 0 and self._delivered == 0 and sequence < self._heard)
        self._stale = True
        if self._end is None:  # (1)
            self._end = await self._connection.subscribe(f"{self._inbox}.*", self._hear)
        if ambiguous:  # (2)
            await self._reset_consumer(sequence)
            await self._fence()
        self._arrived.clear()
        self._replies.clear()
        self._cursor = self._heard = sequence
        self._delivered = 0  # (3)
        self._failed = None
        self._stale = False  # from here on what comes counts: the first may be here before the answer is
        try:
            await self._reset_consumer(sequence)
        except BaseException:
            self._stale = True
            self._arrived.clear()
            raise

    async def _reset_consumer(self, sequence: int) -> None:
        answer = await api(self._connection, f"$JS.API.CONSUMER.RESET.{self._name}", {"seq": sequence + 1})
        if "error" in answer:
            raise BusError(f"{self._name} is not reset: {answer['error'].get('description')}")

    async def caught_up(self) -> bool:
        """Return whether the server has nothing for this reader that it was not given and has not acknowledged.

        Raises:
            Unavailable, Refused: As they say.
            BusError: The consumer is gone.
        """
        answer = await api(self._connection, f"$JS.API.CONSUMER.INFO.{self._name}", timeout_s=5)
        if "error" in answer:
            raise BusError(f"{self._name}: {answer['error'].get('description')}")
        return not answer["num_pending"] and not answer["num_ack_pending"]

    async def _fence(self) -> None:
        """Return when all that the consumer sent before is here: a malformed pull is refused in the same queue."""
        self._fenced.clear()
        await self._connection.publish_checked(f"{NEXT}.{self._name}", b"{", reply=f"{self._inbox}.{FENCE}")
        try:
            await asyncio.wait_for(self._fenced.wait(), FENCE_S)
        except TimeoutError as late:
            raise Unavailable(f"{self._name}: no answer within {FENCE_S} s") from late

    async def fetch(self, batch: int, wait_s: float) -> list[Stored]:
        """Return up to `batch` messages as soon as there is one, in order; none when none came within `wait_s`.

        Raises:
            Unavailable: No connection within `wait_s`. The next call goes on where this one was.
            BusError: The consumer is gone, or was never reset.
        """
        if self._cursor is None:
            raise BusError(f"{self._name}: reset it to the cursor first")
        deadline = _now() + wait_s
        while not self._arrived:
            if self._failed is not None:
                failed, self._failed = self._failed, None
                raise failed
            if _now() >= deadline:
                if self._connection.is_connected:
                    return []
                raise Unavailable(f"{self._name}: not connected")
            if not self._connection.is_connected:
                await self._wait_for_news(deadline)
            elif self._stale:
                await self.reset(self._cursor)
                await asyncio.sleep(AGAIN_S)
            elif self._left <= 0 or _now() > self._pull_ends_at:
                await self._pull(batch)
            else:
                await self._wait_for_news(min(deadline, self._pull_ends_at))
        taken = [self._arrived.popleft() for _ in range(min(batch, len(self._arrived)))]
        self._cursor = taken[-1].sequence
        return taken

    async def ack(self, upto: Iterable[Stored]) -> None:
        """Tell the server that everything up to the last of these is committed. Lost without harm.

        Raises:
            Unavailable: No connection.
        """
        last = max((stored.sequence for stored in upto), default=0)
        reply = self._replies.get(last)
        if reply is not None:
            await self._connection.publish(reply)
        self._replies = {sequence: kept for sequence, kept in self._replies.items() if sequence > last}

    async def close(self) -> None:
        """Stop listening."""
        self._forget()
        self._cursor = None
        if self._end is not None:
            await self._end()
            self._end = None

    async def _wait_for_news(self, until: float) -> None:
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(until - _now(), 0.001)):
                await self._news.wait()

    async def _pull(self, batch: int) -> None:
        self._pulls += 1
        body = msgspec.json.encode({"batch": batch, "expires": int(PULL_S * 1e9)})
        self._left = batch
        self._pull_ends_at = _now() + PULL_S + PULL_GRACE_S
        try:
            await self._connection.publish_checked(f"{NEXT}.{self._name}", body, reply=f"{self._inbox}.{self._pulls}")
        except BusError:
            self._left = 0
            raise

    async def _hear(self, message: Message) -> None:
        status = message.headers.get("Status")
        if not message.subject.startswith(self._inbox):
            self._hear_stored(message)
        elif message.subject == f"{self._inbox}.{FENCE}":
            self._fenced.set()
        elif status is not None and message.subject == f"{self._inbox}.{self._pulls}":
            self._hear_status(status, message.headers.get("Description", ""))
        self._news.set()

    def _hear_status(self, status: str, description: str) -> None:
        self._left = 0
        if status == "503" or (status == "409" and description != _DELETED):
            self._stale = True  # the server restarts, or another leads: what it sent last may not have come
        elif status == "409":
            self._failed = BusError(f"{self._name}: the consumer is gone")
        elif status not in ("404", "408"):
            self._failed = Unavailable(f"{self._name}: {status} {description}")

    def _hear_stored(self, message: Message) -> None:
        try:
            sequence, delivery = _place(message.reply, self._name)
        except ValueError:
            log.warning("%s: dropped a message that is not from its consumer", self._name)
            return
        self._left -= 1
        if self._stale or delivery != self._delivered + 1:
            self._stale = True  # one in between did not come
            return
        self._delivered = delivery
        if sequence <= self._heard:
            return  # a redelivery of what was handed out
        self._heard = sequence
        self._replies[sequence] = message.reply
        id_, traced = (message.headers.get(name, "") for name in ("Nats-Msg-Id", trace.HEADER))
        self._arrived.append(Stored(sequence, message.subject, message.body, id_, traced))

    def _on_reconnect(self) -> None:
        self._stale = True
        self._left = 0  # the server may have forgotten the pull
        self._news.set()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _place(reply: str, consumer: str) -> tuple[int, int]:
    """Return (stream sequence, delivery number) from `$JS.ACK.<stream>.<consumer>.<times>.<sequence>.<number>...`.

    Raises:
        ValueError: Not from that consumer: somebody made the server answer onto this inbox.
    """
    tokens = reply.split(".")
    if tokens[:2] != ["$JS", "ACK"] or ".".join(tokens[2:4]) != consumer or len(tokens) < 9:
        raise ValueError(reply)
    return int(tokens[5]), int(tokens[6])


async def subscribe_lane0(
    connection: Connection, region: str, heard: Callable[[Stored], Awaitable[None]]
) -> Callable[[], Awaitable[None]]:
    """Call `heard` with each critical decree of the region and of all, under its own subject; return what ends it.

    Give it a connection of its own, so that no backlog is ahead of it.

    Raises:
        Refused: Not this region's node.
        Unavailable: Not connected.
    """

    async def hear(message: Message) -> None:
        try:
            subject = str(decree_of_lane0(message.subject))
        except NameError_:
            log.warning("lane0: dropped a message on %s", message.subject[:200])
            return
        await heard(msgspec.structs.replace(stored_of(message), subject=subject))

    ends = [await connection.subscribe(f"kcm.lane0.{token}.>", hear) for token in (region, "global._")]

    async def end() -> None:
        for one in ends:
            await one()

    return end


async def repeat(connection: Connection, decree: Stored, *, tag: str) -> None:
    """Say a critical decree again on lane0 (governance, while it is not acknowledged).

    Raises:
        Unavailable, Refused: As they say.
    """
    headers = {"Nats-Msg-Id": decree.id, "Kcm-Tag": tag, "Nats-Sequence": str(decree.sequence)}
    await connection.publish_checked(parse_decree(decree.subject).lane0, decree.body, headers=headers)


async def mirror_head(connection: Connection, stream: str) -> int:
    """Return the last sequence of one of the own leaf's mirrors.

    Raises:
        Unavailable, Refused: As they say.
    """
    return state_of(await api(connection, f"$JS.API.STREAM.INFO.{stream}")).last


async def held(connection: Connection, stream: str, subject: str, after: int = 0) -> list[Stored]:
    """Return all that one of the own leaf's mirrors holds under an exact subject after a sequence, in order.

    Raises:
        Unavailable, Refused: As they say.
    """
    found: list[Stored] = []
    while (one := await get_at_leader(connection, stream, {"seq": after + 1, "next_by_subj": subject})) is not None:
        found.append(one)
        after = one.sequence
    return found
