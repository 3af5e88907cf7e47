"""What just happened, to whoever listens: pages and event streams. Remembers nothing; a slow listener is cut off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import msgspec

__all__ = ["Item", "News", "TooManyListeners"]

BACKLOG: Final = 1000
LISTENERS: Final = 1000


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One piece of news, in users' words: an event, its priority, a tenant region."""

    kind: str
    tenant: str
    region: str | None = None
    event: str | None = None
    priority: str | None = None
    sequence: int | None = None
    node: str | None = None
    at_ms: int | None = None


#: An item, and its bytes: encoded once, whoever listens.
Told = tuple[Item, bytes]


class TooManyListeners(Exception):
    """The server holds as many open streams as it may."""


class News:
    """A fan-out."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[Told | None]] = set()

    def tell(self, item: Item) -> None:
        """Give it to all who listen now."""
        told = (item, msgspec.json.encode(item))
        for queue in list(self._listeners):
            try:
                queue.put_nowait(told)
            except asyncio.QueueFull:
                self._end(queue)

    def close(self) -> None:
        """End all streams."""
        for queue in list(self._listeners):
            self._end(queue)

    def _end(self, queue: asyncio.Queue[Told | None]) -> None:
        self._listeners.discard(queue)
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(None)

    @contextlib.contextmanager
    def listening(self) -> Iterator[asyncio.Queue[Told | None]]:
        """Yield a queue of what happens from now on; None in it means: cut off, come back and catch up.

        Raises:
            TooManyListeners: As it says.
        """
        if self.full:
            raise TooManyListeners
        queue: asyncio.Queue[Told | None] = asyncio.Queue(BACKLOG)
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    @property
    def full(self) -> bool:
        """Whether no further listener is taken."""
        return len(self._listeners) >= LISTENERS
