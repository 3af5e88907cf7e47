"""Messages as they came over the bus. Parses no body."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from openkcm.contract import trace

__all__ = ["Message", "Stored", "stored_of"]


class Message(msgspec.Struct, frozen=True):
    """An answer as it came."""

    subject: str
    body: bytes
    headers: Mapping[str, str]
    reply: str = ""


class Stored(msgspec.Struct, frozen=True):
    """A message of a stream. `sequence` is a cursor (0 when not known), never an order; `id` is its Nats-Msg-Id.

    `trace` is its traceparent header as it came: nobody's word.
    """

    sequence: int
    subject: str
    body: bytes
    id: str
    trace: str = ""


def stored_of(message: Message) -> Stored:
    """Return what a direct get or a republish carries, by the server's own headers (they come last and win)."""
    headers = message.headers
    return Stored(
        int(headers.get("Nats-Sequence", 0)),
        headers.get("Nats-Subject", message.subject),
        message.body,
        headers.get("Nats-Msg-Id", ""),
        headers.get(trace.HEADER, ""),
    )
