"""What workers count and everybody reads: ordinary shared memory, no secrets. Judges nothing."""

from __future__ import annotations

import os
from typing import Final

from openkcm.execution import secretmem

__all__ = ["BOARD_COUNTS", "BOARD_HISTOGRAM", "BOARD_PULSE", "BOARD_WORDS", "Board"]

BOARD_BYTES: Final = 4096  # per worker: workers never share a cache line, nor a page
BOARD_WORDS: Final = BOARD_BYTES // 8
BOARD_COUNTS: Final = 1  # words 1..62; word 0 is the drain counter
BOARD_PULSE: Final = 63  # raised every second by a worker whose loop goes round
BOARD_HISTOGRAM: Final = 64  # words 64..127


class Board:
    """Counters that workers write and everybody reads: ordinary shared memory, no secrets.

    Attributes:
        fd: To pass on to workers.
        words: `BOARD_WORDS` a worker: [0] the drain counter, odd from parsing a message until its answer is with the
            kernel and no key in the scratch page; [BOARD_COUNTS..63) counts; [BOARD_PULSE]; [BOARD_HISTOGRAM..128) the
            latency histogram.
    """

    __slots__ = ("_mapping", "fd", "size", "words", "workers")

    def __init__(self, workers: int, *, fd: int | None = None) -> None:
        """Make a board for `workers`, or, with `fd`, map the one behind it and close the descriptor."""
        self.workers, self.size = workers, workers * BOARD_BYTES
        self.fd = os.memfd_create("board", os.MFD_CLOEXEC) if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, self.size)
        self._mapping = secretmem.attach(self.fd, self.size, "memfd_secret", writable=True)  # mapped alike, not locked
        self.words = self._mapping.words
        if fd is not None:
            os.close(fd)
            self.fd = -1

    def counter(self, worker: int) -> int:
        """The worker's drain counter."""
        return self.words[self.start(worker)]

    def start(self, worker: int) -> int:
        """Index into `words` of the worker's first word, its drain counter."""
        if not 0 <= worker < self.workers:
            raise IndexError(f"worker {worker} of {self.workers}")
        return worker * BOARD_WORDS

    def reset(self, worker: int) -> None:
        """Make the counter of a dead worker even again, before its successor starts."""
        start = self.start(worker)
        self.words[start] += self.words[start] & 1
