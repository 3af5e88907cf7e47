"""Has the running stack's mirrors made anew when they have holes. Starts and ends no process.

A thread of its own: the supervisor waits for no server. It looks soon after anything was started, and reads the mirrors
through then (a disk may have been damaged while nobody looked); it counts each minute, and reads each hour. Whatever is
not whole is looked at again soon.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from openkcm.bus.errors import BusError
from openkcm.cli import mirrors
from openkcm.cli.layout import Layout

__all__ = ["Mender"]

log = logging.getLogger("openkcm.mirrors")
FIRST_S: Final = 1.0
LOOK_S: Final = 60.0
READ_S: Final = 3600.0


class Mender:
    """Looks after the mirrors of every region.

    Args:
        layout: The stack as it is now.

    Attributes:
        at_work: Held while something is mended; whoever holds it has nothing mended meanwhile.
    """

    def __init__(self, layout: Callable[[], Layout]) -> None:
        self._layout = layout
        self._pids: list[int] = []
        self._started = threading.Event()
        self.at_work = threading.Lock()

    def start(self) -> None:
        """Begin; the thread ends with the process."""
        threading.Thread(target=self._run, name="mender", daemon=True).start()

    def runs(self, pids: list[int]) -> None:
        """Take in which processes run: one that was not there before may have found another disk, or nothing."""
        if set(pids) - set(self._pids):
            self._started.set()
        self._pids = pids

    def _run(self) -> None:
        pause_s, read_at = FIRST_S, 0.0
        while True:
            if self._started.wait(pause_s):
                self._started.clear()
                pause_s, read_at = FIRST_S, 0.0
                time.sleep(FIRST_S)  # it is on its way up
            read = time.monotonic() >= read_at
            with self.at_work:
                whole = asyncio.run(self._look(read=read))
            if whole:
                pause_s, read_at = LOOK_S, time.monotonic() + READ_S if read else read_at
            else:
                pause_s = min(2 * pause_s, LOOK_S)

    async def _look(self, *, read: bool) -> bool:
        """Return whether all was there."""
        layout = self._layout()
        return all(await asyncio.gather(*(_mended(layout, region.region, read=read) for region in layout.regions)))


async def _mended(layout: Layout, region: str, *, read: bool) -> bool:
    """Look after one region; one that does not answer holds up no other."""
    try:
        done, whole = await mirrors.mend(layout, region, read=read)
    except (BusError, OSError) as away:
        log.info("%s: its mirrors were not looked at: %s", region, away)
        return False
    for line in done:
        log.warning("%s", line)
    return whole
