"""What just happened, to whoever listens: pages and event streams. Remembers nothing; a slow listener is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

__all__ = ["Item", "News"]

BACKLOG: Final = 1000
LISTENERS: Final = 500


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One piece of news, in users' words: an event, its priority, a tenant region."""

    kind: str
    tenant: str
    region: str | None = None
    event: str | None = None
    priority: str | None = None
    sequence: int | None = None
    node: str | None = None


class TooManyListeners(Exception):
    """The server holds as many open streams as it may."""


class News:
    """A fan-out."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[Item | None]] = set()

    def tell(self, item: Item) -> None:
        """Give it to all who listen now."""
        for queue in list(self._listeners):
            try:
                queue.put_nowait(item)
            except asyncio.QueueFull:
                self._listeners.discard(queue)
                queue.get_nowait()
                queue.put_nowait(None)

    def close(self) -> None:
        """End all streams."""
        for queue in list(self._listeners):
            self._listeners.discard(queue)
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)

    async def listen(self, keep_alive_s: float) -> AsyncIterator[Item | None]:
        """Yield what happens from now on; None when nothing did for `keep_alive_s`.

        Raises:
            TooManyListeners: As it says.
        """
        if len(self._listeners) >= LISTENERS:
            raise TooManyListeners
        queue: asyncio.Queue[Item | None] = asyncio.Queue(BACKLOG)
        self._listeners.add(queue)
        try:
            while True:
                try:
                    item = await asyncio.wait_for(queue.get(), keep_alive_s)
                except TimeoutError:
                    yield None
                    continue
                if item is None:
                    return
                yield item
        finally:
            self._listeners.discard(queue)
