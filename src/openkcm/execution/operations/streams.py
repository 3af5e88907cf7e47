"""Data that comes in parts: what has come so far, under a correlation value. Keeps data, never a cipher and no key.

Between two parts nothing of a key stays in memory: each part computes over everything so far (a stream is bounded, and
a megabyte takes well under a millisecond). A stream belongs to the system that began it and to the object it began
with, lives on one worker, and is forgotten at its end, after STREAM_S, or when too many are open. Source: KMIP 1.4,
sections 4.29 to 4.36 (Init Indicator, Final Indicator, Correlation Value).
"""

from __future__ import annotations

import os
from typing import Any, Final, Protocol

from openkcm.execution.operations.outcome import OperationFailed
from openkcm.kmip.enums import ResultReason

__all__ = ["MOST_STREAMS", "MOST_STREAM_BYTES", "Part", "part_of"]

MOST_STREAM_BYTES: Final = 1 << 20
MOST_STREAMS: Final = 64  # per worker; the oldest goes first
STREAM_S: Final = 300
CORRELATION_BYTES: Final = 16


class Partial(Protocol):
    """What requests that may be parts of a stream have in common."""

    @property
    def data(self) -> bytes | None: ...
    @property
    def correlation_value(self) -> bytes | None: ...
    @property
    def init_indicator(self) -> bool | None: ...
    @property
    def final_indicator(self) -> bool | None: ...


class Stream:
    """One stream so far. `first`: the request that began it, whose parameters hold throughout; `iv` as used."""

    __slots__ = ("began_s", "data", "first", "iv", "owner", "sent")

    def __init__(self, owner: tuple[Any, ...], first: Any, began_s: int) -> None:
        self.owner, self.first, self.began_s = owner, first, began_s
        self.data = b""
        self.iv: bytes | None = None
        self.sent = 0  # bytes of the result that the client has


class Part:
    """One request's place in its stream. Nothing changes until `done`: an operation may be started anew.

    Attributes:
        data: Everything so far, this part included.
        final: It is complete.
        whole: It is no stream at all: one request, complete.
        first: The request whose parameters hold.
    """

    __slots__ = ("_stream", "_value", "data", "final", "first", "whole")

    def __init__(self, data: bytes, final: bool, first: Any, stream: Stream | None, value: bytes | None) -> None:
        self.data, self.final, self.first, self._stream, self._value = data, final, first, stream, value
        self.whole = stream is None

    @property
    def iv(self) -> bytes | None:
        """The IV that an earlier part used."""
        return None if self._stream is None else self._stream.iv

    def fresh(self, result: bytes) -> bytes:
        """Return what of the result the client does not have yet."""
        return result if self._stream is None else result[self._stream.sent :]

    def done(self, call: Any, *, iv: bytes | None = None, result: bytes = b"") -> bytes | None:
        """Keep or forget the stream; return the correlation value to answer with."""
        stream, streams = self._stream, call.bench.streams
        if stream is None:
            return None
        if self.final:
            streams.pop(self._value, None)
            return None
        if self._value is None:
            self._value = os.urandom(CORRELATION_BYTES)
            _make_room(streams, call.now_s)
        stream.data, stream.iv, stream.sent = self.data, iv, len(result)
        streams[self._value] = stream
        return self._value


def _make_room(streams: dict[bytes, Stream], now_s: int) -> None:
    for value in [v for v, s in streams.items() if s.began_s + STREAM_S < now_s]:
        del streams[value]
    while len(streams) >= MOST_STREAMS:
        del streams[next(iter(streams))]


def part_of(call: Any, operation: int, uid: str | None, asked: Partial) -> Part:
    """Return the request's place in its stream.

    Raises:
        OperationFailed: A correlation value that names no stream of this system, object and operation; no data; too
            much data.
    """
    owner = (call.caller.tenant, call.caller.registration, operation, uid)
    data, value = asked.data, asked.correlation_value
    if data is None:
        if value is None or not asked.final_indicator:
            raise OperationFailed(ResultReason.INVALID_MESSAGE, "the data is missing")
        data = b""
    if value is None:
        if not asked.init_indicator or asked.final_indicator:
            return Part(data, True, asked, None, None)
        stream = Stream(owner, asked, call.now_s)
    else:
        found = call.bench.streams.get(value)
        if found is None or found.owner != owner or asked.init_indicator:
            raise OperationFailed(ResultReason.INVALID_FIELD, "the correlation value names no open stream")
        stream = found
    if len(stream.data) + len(data) > MOST_STREAM_BYTES:
        raise OperationFailed(ResultReason.INVALID_FIELD, f"a stream has at most {MOST_STREAM_BYTES} bytes")
    return Part(stream.data + data, bool(asked.final_indicator), stream.first, stream, value)
