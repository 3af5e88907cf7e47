"""Log lines of a kind: in each minute the first ones as they are, and how many more there were. Figures count them all.

What somebody in the region can cause at will, a record planted in the vault for one, must not fill a node's disk.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

__all__ = ["FIRST", "Lines"]

FIRST: Final = 10
MINUTE_S: Final = 60.0


class Lines:
    """Writes to one log, from the event loop's thread."""

    def __init__(self, log: logging.Logger, level: int) -> None:
        self._log, self._level = log, level
        self._said: dict[str, int] = {}

    def say(self, kind: str, line: object) -> None:
        """Write `<kind>: <line>`, or count it as one more of its kind."""
        said = self._said.get(kind, 0)
        self._said[kind] = said + 1
        if not said:
            asyncio.get_running_loop().call_later(MINUTE_S, self._count, kind)
        if said < FIRST:
            self._log.log(self._level, "%s: %s", kind, line)

    def _count(self, kind: str) -> None:
        more = self._said.pop(kind) - FIRST
        if more > 0:
            self._log.log(self._level, "%s: %d more within %d s", kind, more, MINUTE_S)
