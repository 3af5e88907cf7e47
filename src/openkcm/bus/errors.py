"""What can go wrong on the bus. Pure values.

BusError
├── Unavailable        no connection, no answer in time, no quorum, disk full: may still arrive, retry with the same id
├── Refused            the server's permissions say no: never retry
├── Conflict           the expected last sequence differs: read, decide again
├── SameIdOtherMessage that id is stored with another subject or body
├── TooLarge           larger than the stream takes
└── Drift              a live stream or consumer is not what streams/ declares
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openkcm.bus.messages import Stored

__all__ = ["BusError", "Conflict", "Drift", "Refused", "SameIdOtherMessage", "TooLarge", "Unavailable"]


class BusError(Exception):
    """Root of the tree."""


class Unavailable(BusError):
    """No answer. A message sent may still arrive: a retry carries the same id."""


class Refused(BusError):
    """The server does not permit it to this user."""


class Conflict(BusError):
    """Somebody else was first: the last sequence is not the expected one."""


class SameIdOtherMessage(BusError):
    """The id is taken by a message with another subject or body, which is `stored`."""

    def __init__(self, message: str, stored: Stored | None = None) -> None:
        super().__init__(message)
        self.stored = stored


class TooLarge(BusError):
    """The message is larger than its stream takes."""


class Drift(BusError):
    """Live configuration differs from the declared one; `differences` names each."""

    def __init__(self, differences: Sequence[str]) -> None:
        super().__init__("live streams differ from the declared ones: " + "; ".join(differences))
        self.differences = tuple(differences)
