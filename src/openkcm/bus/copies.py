"""Streams read and made by their administrator: for a backup's restore, never at run time. Parses no decree."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from openkcm.bus.connection import Connection
from openkcm.bus.errors import BusError, Conflict
from openkcm.bus.lanes import LaneReader
from openkcm.bus.ledger import StreamState, get_at_leader, state_of
from openkcm.bus.messages import Stored
from openkcm.bus.publish import Failure as _Failure
from openkcm.bus.publish import api, raise_error

__all__ = ["copy_of", "create_at", "extent", "readable", "refill", "remove"]

NO_STREAM: Final = 10059
BATCH: Final = 128
READ: Final = 1000  # at one go, headers alone
REST_S: Final = 0.02  # after them, about as long as they took: nobody waits for it
READ_S: Final = 2.0  # nothing for so long: there is no more


class Message(Protocol):
    """One stored event."""

    @property
    def subject(self) -> str:
        """Where it belongs."""

    @property
    def body(self) -> bytes:
        """Its bytes."""

    @property
    def id(self) -> str:
        """Its id in the stream."""


async def extent(connection: Connection, stream: str) -> StreamState | None:
    """Return a stream's extent, None when there is no such stream.

    Raises:
        Unavailable, Refused: As they say.
    """
    answer = await api(connection, f"$JS.API.STREAM.INFO.{stream}", timeout_s=5)
    if answer.get("error", {}).get("err_code") == NO_STREAM:
        return None
    return state_of(answer)


async def copy_of(connection: Connection, stream: str, *, after: int) -> list[Stored]:
    """Return what a stream (a mirror with its gaps, too) holds behind `after`, by its administrator.

    Raises:
        Unavailable, Refused: As they say.
    """
    found: list[Stored] = []
    while True:
        stored = await get_at_leader(connection, stream, {"seq": after + 1, "next_by_subj": ">"})
        if stored is None:
            return found
        found.append(stored)
        after = stored.sequence


async def readable(connection: Connection, stream: str, end: int) -> int:
    """Return how many messages up to `end` a stream can give: its state counts those whose bytes are damaged, too.

    Raises:
        Unavailable, Refused: As they say.
    """
    name = f"read-{secrets.token_hex(4)}"
    config = {"ack_policy": "none", "headers_only": True, "mem_storage": True, "inactive_threshold": 10**11}
    subject = f"$JS.API.CONSUMER.CREATE.{stream}.{name}"
    created = await api(connection, subject, {"stream_name": stream, "config": {"name": name, **config}})
    if "error" in created:
        raise BusError(f"{stream} is not read: {created['error'].get('description')}")
    reader, found = LaneReader(connection, stream, name), 0
    try:
        await reader.reset(0)
        while batch := await reader.fetch(READ, READ_S):
            found += sum(stored.sequence <= end for stored in batch)
            if batch[-1].sequence >= end:
                break
            await asyncio.sleep(REST_S)
        return found
    finally:
        await reader.close()
        await api(connection, f"$JS.API.CONSUMER.DELETE.{stream}.{name}")


async def create_at(connection: Connection, body: dict[str, Any], first_sequence: int) -> None:
    """Create a stream whose first message will have `first_sequence`.

    Raises:
        BusError: The server refuses.
    """
    answer = await api(
        connection, f"$JS.API.STREAM.CREATE.{body['name']}", {**body, "first_seq": first_sequence}, timeout_s=10
    )
    if "error" in answer:
        raise BusError(f"{body['name']} is not created: {answer['error'].get('description')}")


async def remove(connection: Connection, stream: str) -> None:
    """Delete a stream with all that is in it.

    Raises:
        BusError: The server refuses.
    """
    answer = await api(connection, f"$JS.API.STREAM.DELETE.{stream}", timeout_s=10)
    if "error" in answer:
        raise BusError(f"{stream} is not removed: {answer['error'].get('description')}")


async def refill(connection: Connection, messages: Sequence[tuple[Message, str]], *, first_sequence: int) -> int:
    """Publish stored events again, in their order, into the new stream, and nothing between them; return the last.

    Args:
        messages: (event, tag).

    Raises:
        Conflict: Somebody else writes into the stream: it holds what it should not, and must be removed.
        BusError: The server refuses one.
    """
    for begin in range(0, len(messages), BATCH):
        batch = messages[begin : begin + BATCH]
        await asyncio.gather(
            *(_put(connection, message, tag, first_sequence + begin + n) for n, (message, tag) in enumerate(batch))
        )
    return first_sequence + len(messages) - 1


async def _put(connection: Connection, message: Message, tag: str, sequence: int) -> None:
    headers = {"Nats-Msg-Id": message.id, "Kcm-Tag": tag, "Nats-Expected-Last-Sequence": str(sequence - 1)}
    answer = await connection.request(message.subject, message.body, timeout_s=30, headers=headers)
    ack = msgspec.json.decode(answer.body, type=_Ack)
    if ack.error is not None:
        raise_error(ack.error, message.subject)
    if ack.seq != sequence:
        raise Conflict(f"{message.subject} is at {ack.seq}, not at {sequence}: another one writes into the ledger")


class _Ack(_Failure):
    seq: int = 0
