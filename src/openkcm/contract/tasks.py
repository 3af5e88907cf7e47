"""Ending tasks for certain: `asyncio.wait_for` of Python 3.11 loses a cancellation that comes with its result."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["end_tasks"]

AGAIN_S: Final = 0.2


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
