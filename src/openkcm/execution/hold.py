"""One custodian a database: a lock on a file beside it, and how the next process asks the holder to make way.

The lock goes with the process, however it ends. The holder's pid stands in the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path
from typing import Final

__all__ = ["MAKE_WAY", "Hold", "InUse"]

#: Asks a custodian to let its workers finish, and to end.
MAKE_WAY: Final = signal.SIGUSR2
LOOK_S: Final = 0.01


class InUse(Exception):
    """Another process has this database."""


class Hold:
    """The lock of one database."""

    def __init__(self, database: str) -> None:
        path = Path(database).with_suffix(".lock")
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def ask_holder(self) -> None:
        """Ask whoever holds it to make way; nothing happens when nobody does."""
        raw = os.pread(self._fd, 32, 0)
        if raw.isdigit() and int(raw) != os.getpid() and not self._try():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(raw), MAKE_WAY)

    def take(self, timeout_s: float) -> None:
        """Return when it is ours. Blocks: nothing of this process may go on without it.

        Raises:
            InUse: Not within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while not self._try():
            if time.monotonic() > deadline:
                raise InUse(f"another custodian (pid {os.pread(self._fd, 32, 0).decode()}) has this database")
            time.sleep(LOOK_S)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Let go."""
        os.close(self._fd)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
