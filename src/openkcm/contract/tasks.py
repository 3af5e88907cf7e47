"""Tasks that end for certain: `asyncio.wait_for` of Python 3.11 loses a cancellation that comes with its result.

And reading ahead in batches, in a task that ends so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final, TypeVar

__all__ = ["batches", "end_tasks"]

AGAIN_S: Final = 0.2
_T = TypeVar("_T")


async def end_tasks(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel, and say it again until each has ended; what they end with is theirs and is raised nowhere."""
    every = set(tasks)
    left = every
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    for task in every:
        if not task.cancelled():
            task.exception()


async def batches(source: AsyncIterator[_T], most: int) -> AsyncIterator[list[_T]]:
    """Yield what has come since the last batch was taken, at most so many at once: one transaction for many."""
    queue: asyncio.Queue[_T] = asyncio.Queue(2 * most)

    async def fill() -> None:
        async for one in source:
            await queue.put(one)

    filling = asyncio.create_task(fill())
    first: asyncio.Task[Any] = filling
    try:
        while True:
            first = asyncio.create_task(queue.get())
            await asyncio.wait({first, filling}, return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                filling.result()  # it ended: say why
                return
            batch = [first.result()]
            while len(batch) < most and not queue.empty():
                batch.append(queue.get_nowait())
            yield batch
    finally:
        await end_tasks([filling, first])
