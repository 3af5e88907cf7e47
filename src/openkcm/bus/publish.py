"""One message into one stream, and what the server's answer means. Retries nothing; whoever calls knows when to."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from openkcm.bus.connection import Connection
from openkcm.bus.errors import BusError, Conflict, Refused, SameIdOtherMessage, TooLarge, Unavailable
from openkcm.bus.messages import Stored
from openkcm.contract import trace

__all__ = ["Appended", "api", "expecting", "publish", "raise_error"]

#: JetStream's error codes that mean something of their own; the rest goes by its HTTP-like code.
ERRORS: Final[dict[int, type[BusError]]] = {
    10071: Conflict,  # wrong last sequence
    10164: Conflict,  # wrong last sequence (no number given)
    10201: Conflict,  # the id is already there (atomic batch)
    10054: TooLarge,
    10047: Unavailable,  # storage exceeded
    10023: Unavailable,  # resources
    10077: Unavailable,  # the store failed: disk full, I/O error
    10158: Unavailable,  # the id is in process: an earlier try waits for the cluster's quorum
}
BY_STATUS: Final[dict[int, type[BusError]]] = {403: Refused, 408: Unavailable, 500: Unavailable, 503: Unavailable}


class Appended(msgspec.Struct, frozen=True):
    """It is in the stream, on the disk. `duplicate`: it was there before, and it is the very same message."""

    sequence: int
    duplicate: bool


class _Error(msgspec.Struct):
    code: int = 500
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


class Failure(msgspec.Struct):
    """The error part of any JetStream API answer."""

    error: _Error | None = None


_PUB_ACK: Final = msgspec.json.Decoder(_PubAck)


def raise_error(error: _Error, what: str) -> None:
    """Raise what a JetStream error means."""
    kind = ERRORS.get(error.err_code) or BY_STATUS.get(error.code, BusError)
    raise kind(f"{what}: {error.description} ({error.err_code})")


async def api(connection: Connection, subject: str, body: Any = None, *, timeout_s: float = 2.0) -> dict[str, Any]:
    """Return a JetStream API's answer as it came, its `error` included.

    Raises:
        Unavailable: No answer.
        Refused: Not permitted.
    """
    sent = b"" if body is None else msgspec.json.encode(body)
    answer = await connection.request(subject, sent, timeout_s=timeout_s)
    try:
        decoded = msgspec.json.decode(answer.body, type=dict[str, Any])
    except msgspec.MsgspecError as bad:
        raise BusError(f"{subject}: not an answer of JetStream's") from bad
    return decoded


def expecting(sequence: int | None, subject: str | None = None) -> dict[str, str]:
    """Return the headers that expect `sequence` (0: none yet) as the last of `subject`, else of the message's own."""
    if sequence is None:
        return {}
    headers = {"Nats-Expected-Last-Subject-Sequence": str(sequence)}
    return headers if subject is None else headers | {"Nats-Expected-Last-Subject-Sequence-Subject": subject}


async def publish(
    connection: Connection,
    subject: str,
    body: bytes,
    *,
    id: str,  # noqa: A002 -- the field's word
    tag: str,
    expected: dict[str, str],
    find: Callable[[int | None], Awaitable[Stored | None]],
    timeout_s: float,
) -> Appended:
    """Publish once.

    (1) the server checks the expectation before it looks for the id, and knows an id only within its window;
    (2) so on "duplicate" and on a conflict the message itself is read and compared before this answers.

    Args:
        find: Returns the message with this id, at the sequence the server named or (None) on this subject.

    Raises:
        Conflict: The expectation does not hold, and this very message is not why.
        SameIdOtherMessage: The id is taken by another message.
        Unavailable: No answer; it may still arrive.
        Refused, TooLarge: As they say.
    """
    headers = {"Nats-Msg-Id": id, "Kcm-Tag": tag, **expected}
    if (here := trace.current()) is not None:  # beside the message: no seal covers it, nobody decides by it
        headers[trace.HEADER] = str(here)
    answer = await connection.request(subject, body, timeout_s=timeout_s, headers=headers)
    try:
        ack = _PUB_ACK.decode(answer.body)
    except msgspec.MsgspecError as bad:
        raise BusError(f"{subject}: not an acknowledgement") from bad
    if ack.error is not None:
        if ERRORS.get(ack.error.err_code) is Conflict:  # (2)
            earlier = await find(None)
            if earlier is not None:
                return Appended(_same(earlier, subject, body, id), duplicate=True)
        raise_error(ack.error, subject)
    if ack.duplicate:  # (2)
        earlier = await find(ack.seq)
        if earlier is None or earlier.id != id:
            raise Unavailable(f"{subject}: said to be there at {ack.seq}, where it is not")
        return Appended(_same(earlier, subject, body, id), duplicate=True)
    return Appended(ack.seq, duplicate=False)


def _same(earlier: Stored, subject: str, body: bytes, id_: str) -> int:
    if earlier.subject == subject and hashlib.sha256(earlier.body).digest() == hashlib.sha256(body).digest():
        return earlier.sequence
    other = "body" if earlier.subject == subject else f"subject {earlier.subject}"
    raise SameIdOtherMessage(f"{id_} is at {earlier.sequence} with another {other}", earlier)
