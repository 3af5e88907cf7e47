"""W3C trace context: which request something belongs to. Pure. For people and their tools, never for a decision.

It travels beside messages, in a header that no seal covers: whoever may publish can write there what he likes.
Source: W3C Trace Context, sections 3.2 and 4.3. `tracestate` is not carried on, unknown flags neither.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

import msgspec

__all__ = ["HEADER", "Trace", "current", "fresh", "parse", "under"]

HEADER: Final = "traceparent"
SAMPLED: Final = 1
_GRAMMAR: Final = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Trace(msgspec.Struct, frozen=True):
    """A place in a trace: `trace_id` 32 hex digits, `span_id` of the caller's span 16, `sampled` if it is recorded."""

    trace_id: str
    span_id: str
    sampled: bool = False

    def __str__(self) -> str:
        """Return the header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"


_CURRENT: Final[ContextVar[Trace | None]] = ContextVar("trace", default=None)


def parse(header: str) -> Trace | None:
    """Return what a traceparent header says, None when it is not well formed. Later versions are read as this one."""
    found = _GRAMMAR.fullmatch(header)
    if found is None or (found[1] == "00" and found[5] is not None):
        return None
    return Trace(found[2], found[3], bool(int(found[4], 16) & SAMPLED))


def fresh() -> Trace:
    """Return the beginning of a new trace that nobody records."""
    return Trace(secrets.token_hex(16), secrets.token_hex(8))


def current() -> Trace | None:
    """Return where the running task is, None outside of every trace."""
    return _CURRENT.get()


@contextlib.contextmanager
def under(trace: Trace | None) -> Iterator[None]:
    """Have what the block publishes and logs belong to a trace, or to none."""
    token = _CURRENT.set(trace)
    try:
        yield
    finally:
        _CURRENT.reset(token)
