"""Log lines that somebody else can cause are few, whatever that somebody does."""

from __future__ import annotations

import asyncio
import logging

from openkcm.execution import lines

LOG = logging.getLogger("openkcm.test-lines")


async def test_the_first_lines_of_a_kind_are_written_and_the_rest_is_a_count_and_so_each_minute(caplog, monkeypatch):
    monkeypatch.setattr(lines, "MINUTE_S", 0.02)
    few = lines.Lines(LOG, logging.ERROR)
    for minute in range(2):
        caplog.clear()
        for n in range(lines.FIRST + 5):
            few.say("refused", n)
        few.say("other", minute)
        async with asyncio.timeout(5):
            while len(caplog.messages) < lines.FIRST + 2:  # noqa: ASYNC110 -- a log has no event
                await asyncio.sleep(0.01)
        said = [f"refused: {n}" for n in range(lines.FIRST)]
        assert caplog.messages == [*said, f"other: {minute}", "refused: 5 more within 0 s"]
