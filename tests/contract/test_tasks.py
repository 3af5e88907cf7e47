"""Tasks end, also when a cancellation is lost."""

from __future__ import annotations

import asyncio
import contextlib

from openkcm.contract.tasks import end_tasks


async def deaf(times: int) -> None:
    """Lose so many cancellations."""
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
    await asyncio.sleep(60)


async def test_a_task_that_loses_a_cancellation_is_told_again():
    tasks = [asyncio.ensure_future(deaf(times)) for times in (0, 1, 2)]
    await asyncio.sleep(0)
    await asyncio.wait_for(end_tasks(tasks), 5)
    assert all(task.cancelled() for task in tasks)


async def test_what_has_ended_already_is_no_hindrance_and_what_it_raised_is_raised_nowhere():
    async def fails() -> None:
        raise OSError

    failed = asyncio.ensure_future(fails())
    await asyncio.sleep(0)
    await end_tasks([failed])
    await end_tasks([])
    assert isinstance(failed.exception(), OSError)
