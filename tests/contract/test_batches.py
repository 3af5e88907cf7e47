"""What comes one by one is taken in batches; nothing of the reading outlives whoever took them."""

from __future__ import annotations

import asyncio

import pytest

from openkcm.contract.tasks import batches


async def source(count: int, *, then: Exception | None = None):
    for n in range(count):
        yield n
    if then is not None:
        raise then
    await asyncio.Event().wait()


@pytest.mark.parametrize("cancelled", [True, False])
async def test_nothing_goes_on_when_the_taker_is_gone(cancelled):
    taken = []

    async def take() -> None:
        async for batch in batches(source(5, then=None if cancelled else ValueError("ended")), 2):
            taken.extend(batch)

    taking, before = asyncio.ensure_future(take()), asyncio.all_tasks()
    while cancelled and len(taken) < 5:  # noqa: ASYNC110 -- turns of the loop, no time
        await asyncio.sleep(0)
    if cancelled:
        taking.cancel()
    with pytest.raises(asyncio.CancelledError if cancelled else ValueError):
        await taking
    assert asyncio.all_tasks() == before - {taking}
    assert taken == list(range(len(taken)))  # what its end leaves is read again, from the cursor
