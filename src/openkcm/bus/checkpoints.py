"""Checkpoints and cosignatures on the hub, and how regions hear of them. Moves bytes; verifies none.

CHECKPOINTS keeps one subject a tree, each checkpoint appended expecting the one before: of two notaries one is told
that it was slower. COSIGNATURES keeps the newest of each outside witness.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec

from openkcm.bus import feed
from openkcm.bus.connection import Connection
from openkcm.bus.errors import BusError
from openkcm.bus.ledger import last_at_leader
from openkcm.bus.messages import Message, Stored, stored_of
from openkcm.bus.publish import Appended, expecting, publish
from openkcm.contract import subjects

__all__ = [
    "MOST_WITNESSES",
    "Checkpoints",
    "Cosigned",
    "all_cosigned",
    "history",
    "read_cosigned",
    "subscribe_checkpoints",
]

GET_COSIGNATURES: Final = "$JS.API.DIRECT.GET.COSIGNATURES"
MOST_WITNESSES: Final = 64


class Checkpoints:
    """Both streams through one connection of governance's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def last(self, tree: str) -> Stored | None:
        """Return the newest checkpoint of a tree, from the stream's leader.

        Raises:
            Unavailable, Refused: As they say.
        """
        return await last_at_leader(self._connection, "CHECKPOINTS", subjects.checkpoint(tree))

    async def append(self, tree: str, body: bytes, *, id: str, tag: str, expected_last: int) -> Appended:  # noqa: A002 -- the field's word
        """Publish one checkpoint behind the one at `expected_last` (0: the tree's first).

        Raises:
            Conflict: Another notary was faster: read again, compare, decide again.
            Unavailable: No answer in time; it may still arrive.
            Refused, TooLarge: As they say.
        """
        subject = subjects.checkpoint(tree)

        async def find(_: int | None) -> Stored | None:
            found = await self.last(tree)
            return found if found is not None and found.id == id else None

        return await publish(
            self._connection, subject, body, id=id, tag=tag, expected=expecting(expected_last), find=find, timeout_s=2.0
        )

    async def cosigned(self, tree: str) -> list[Stored]:
        """Return the newest cosignature of each outside witness.

        Raises:
            Unavailable, Refused: As they say.
        """
        return await feed.page(
            self._connection, GET_COSIGNATURES, after=0, subject=f"kcm.cosignature.{tree}.*", limit=MOST_WITNESSES
        )

    async def cosign(self, tree: str, witness: str, body: bytes, *, id: str) -> Appended:  # noqa: A002 -- the field's word
        """Keep a witness's cosignature in the place of its older one.

        Raises:
            Unavailable, Refused, TooLarge: As they say.
        """
        subject = subjects.cosignature(tree, witness)

        async def find(_: int | None) -> Stored | None:
            return Stored(0, subject, body, id)  # the id is made of the body

        return await publish(
            self._connection, subject, body, id=id, tag="Cosigned.1", expected={}, find=find, timeout_s=2.0
        )


class Cosigned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of an outside witness: its key as signed-note spells it, and the note with its line."""

    verifier: str
    note: str


_COSIGNED: Final = msgspec.json.Decoder(Cosigned)


def read_cosigned(body: bytes) -> tuple[str, str]:
    """Return (verifier, note) of a kept cosignature.

    Raises:
        BusError: It is none.
    """
    try:
        kept = _COSIGNED.decode(body)
    except msgspec.MsgspecError as bad:
        raise BusError(f"not a cosignature: {bad}") from bad
    return kept.verifier, kept.note


async def history(connection: Connection) -> AsyncIterator[Stored]:
    """Yield every checkpoint that is kept, of all trees (auditor).

    Raises:
        Unavailable, Refused: As they say.
    """
    async for stored in feed.pages(connection, "$JS.ledger.API.DIRECT.GET.CHECKPOINTS", after=0, until=None):
        yield stored


async def all_cosigned(connection: Connection) -> list[Stored]:
    """Return the newest cosignature of each outside witness, of all trees (auditor).

    Raises:
        Unavailable, Refused: As they say.
    """
    return [s async for s in feed.pages(connection, "$JS.ledger.API.DIRECT.GET.COSIGNATURES", after=0, until=None)]


async def subscribe_checkpoints(
    connection: Connection, tree: str, heard: Callable[[Stored], Awaitable[None]]
) -> Callable[[], Awaitable[None]]:
    """Call `heard` with each checkpoint of a tree once it is stored, under its own subject (node); return what ends it.

    One that is missed is made up for by the next, a minute later at most: it covers all before it.

    Raises:
        Refused: Another region's.
        Unavailable: Not connected.
    """

    async def hear(message: Message) -> None:
        stored = stored_of(message)
        await heard(Stored(stored.sequence, subjects.checkpoint(tree), stored.body, stored.id))

    return await connection.subscribe(subjects.noted(tree), hear)
