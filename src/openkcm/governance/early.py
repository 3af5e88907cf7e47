"""Acknowledgements heard beside the stream that keeps them (ADR 0060). Believes none and sends nothing.

After a restart of the hub nats-server asks the regions for their reports again only some seconds later. What the stream
has not brought soon after it was said is taken in from here; the stream brings it again, which changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from openkcm.bus.messages import Stored

__all__ = ["MOST", "Early"]

WAIT_S: Final = 0.2
MOST: Final = 256  # in any `WAIT_S`, each a seal to verify: some 25 ms. The stream brings the others


class Early:
    """What was heard, for as long as the stream has not brought it."""

    def __init__(self) -> None:
        self._heard: dict[tuple[str, bytes], Stored] = {}

    def hear(self, ack: Stored) -> None:
        """Keep what was said just now, unless there is too much of it."""
        if len(self._heard) < MOST:
            self._heard[ack.subject, ack.body] = ack

    def brought(self, report: Stored) -> None:
        """Forget what the stream has brought."""
        self._heard.pop((report.subject, report.body), None)

    async def overdue(self) -> AsyncIterator[list[Stored]]:
        """Yield, for ever, what the stream has not brought within `WAIT_S`, in the order in which it was said."""
        while True:
            before = list(self._heard)
            await asyncio.sleep(WAIT_S)
            if late := [self._heard.pop(key) for key in before if key in self._heard]:
                yield late
