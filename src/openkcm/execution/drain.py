"""Wait until no worker is inside an operation it began before the gate closed. Kills nobody: it names who must go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

__all__ = ["DRAIN_DEADLINE_S", "Counters", "Worker", "drain"]

DRAIN_DEADLINE_S: Final = 0.5  # 50 ms named healthy workers on a loaded machine
_PAUSE_S: Final = 10e-6  # an operation takes tens of microseconds


class Counters(Protocol):
    """Where drain counters are read (`arena.Board`)."""

    def counter(self, worker: int, /) -> int:
        """Odd while the worker is inside an operation; every operation moves it."""


class Worker(Protocol):
    """A worker as the drain sees it."""

    @property
    def index(self) -> int:
        """Its place on the board."""

    def is_dead(self) -> bool:
        """The process has ended (asked without waiting)."""


def drain(
    board: Counters,
    workers: Iterable[Worker],
    deadline_s: float = DRAIN_DEADLINE_S,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> list[int]:
    """Return the indexes of workers that are still where they were when the deadline came: kill and replace these.

    Call it after the closed words are stored and `membarrier` has returned. Then a worker that is even now, or whose
    counter has moved since, reads the closed gate in whatever it does next; a dead one does nothing.

    Args:
        deadline_s: Seconds, the same for each worker and counted together: they drain side by side.
    """
    inside = [(w, count) for w in workers if (count := board.counter(w.index)) & 1]
    until = clock() + deadline_s
    while inside := [(w, count) for w, count in inside if board.counter(w.index) == count and not w.is_dead()]:
        if clock() >= until:
            return [w.index for w, _ in inside]
        pause(_PAUSE_S)
    return []
