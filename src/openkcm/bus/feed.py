"""Reading a stream in its order, with a cursor and without a consumer. Keeps no state on the server.

Pages come by direct get; a core subscription on the stream's subjects only says "look now". So nothing depends on what
the subscription missed: after an outage the next page goes on behind the cursor, without gap or duplicate. Each page is
read from one replica, whose copy is a prefix of the stream; a filter list is therefore read under one pattern that
covers it, and applied here: several requests two replicas could answer from different prefixes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import msgspec

from openkcm.bus.connection import Connection
from openkcm.bus.errors import Unavailable
from openkcm.bus.messages import Message, Stored, stored_of

__all__ = ["Source", "covering", "follow", "matches", "page", "pages"]

PAGE: Final = 1000
TURN: Final = 100  # messages that a follower takes in at one go: a page is read from the socket in one piece, some 5 ms
FIRST_LOOK_S: Final = 0.0005  # the subscription hears a message a moment before the stream has stored it
LAST_LOOK_S: Final = 1.0


class Source(msgspec.Struct, frozen=True):
    """Where a stream is read. `get`: its direct-get subject; `live`: where its messages are heard as they come."""

    get: str
    live: str


def matches(pattern: str, subject: str) -> bool:
    """Return whether a subject falls under a NATS pattern."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > index
        if index >= len(tokens) or token not in ("*", tokens[index]):
            return False
    return len(tokens) == len(wanted)


def covering(patterns: Sequence[str]) -> str:
    """Return one pattern that whatever falls under one of these falls under too."""
    covered: list[str] = []
    for tokens in itertools.zip_longest(*(pattern.split(".") for pattern in patterns)):
        if None in tokens or ">" in tokens:
            return ".".join([*(covered[:-1] if None in tokens else covered), ">"])
        covered.append(tokens[0] if len(set(tokens)) == 1 else "*")
    return ".".join(covered)


async def page(
    connection: Connection,
    get: str,
    *,
    after: int,
    subject: str | None = None,
    limit: int = PAGE,
    timeout_s: float = 5.0,
) -> list[Stored]:
    """Return up to `limit` messages behind the cursor `after`, of one subject pattern or of all.

    Raises:
        Unavailable: No complete answer.
        Refused: Not permitted.
    """
    asked: dict[str, object] = {"seq": after + 1, "batch": limit}
    if subject is not None:
        asked["next_by_subj"] = subject
    answers = await connection.request_batch(get, msgspec.json.encode(asked), timeout_s=timeout_s)
    return [stored_of(answer) for answer in answers]


async def pages(connection: Connection, get: str, *, after: int, until: int | None) -> AsyncIterator[Stored]:
    """Yield everything behind `after`, up to and with `until` or to the end as it is when reached.

    Raises:
        Unavailable: A page could not be read; go on behind the last one yielded.
    """
    cursor = after
    while until is None or cursor < until:
        found = await page(connection, get, after=cursor)
        if not found:
            return
        for stored in found:
            if until is not None and stored.sequence > until:
                return
            yield stored
        cursor = found[-1].sequence


async def follow(
    connection: Connection, source: Source, *, after: int, filters: Sequence[str] | None = None
) -> AsyncIterator[Stored]:
    """Yield everything behind `after` and then what comes, for ever, over any outage, each once and in order.

    Raises:
        Refused: Not permitted to listen or to read.
        Unavailable: The connection was closed for good.
    """
    woken = asyncio.Event()

    async def wake(_: Message) -> None:
        woken.set()

    within = None if filters is None else covering(filters)
    ends = [await _listening(connection, subject, wake) for subject in (filters or [source.live])]
    forget = connection.on_reconnect(woken.set)
    cursor, look_s = after, FIRST_LOOK_S
    try:
        while True:
            woken.clear()
            try:
                found = await page(connection, source.get, after=cursor, subject=within, limit=TURN)
            except Unavailable:
                if connection.is_closed:
                    raise
                found, look_s = [], max(look_s, 0.1)
            for stored in found:
                if filters is None or any(matches(f, stored.subject) for f in filters):
                    yield stored
                cursor = stored.sequence
            if found:
                look_s = FIRST_LOOK_S
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), look_s)
            look_s = FIRST_LOOK_S if woken.is_set() else min(2 * look_s, LAST_LOOK_S)
    finally:
        forget()
        for end in ends:
            await end()


async def _listening(
    connection: Connection, subject: str, wake: Callable[[Message], Awaitable[None]]
) -> Callable[[], Awaitable[None]]:
    """Subscribe, waiting for a connection if there is none just now."""
    while True:
        try:
            return await connection.subscribe(subject, wake)
        except Unavailable:
            if connection.is_closed:
                raise
            await asyncio.sleep(0.1)
