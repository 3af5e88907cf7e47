"""A root's circuit breaker: who does not answer is left alone for a while. Pure: clock and chance are arguments."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from openkcm.execution.roots.base import RootError

__all__ = ["Breaker"]

FAILURES_TO_OPEN: Final = 3
MAX_PAUSE_S: Final = 30.0
#: Answers that say nothing of the customer's will: only these open the breaker.
_INCONCLUSIVE: Final = frozenset({"Throttled", "Unreachable", "CredentialRejected", "Misconfigured"})


class Breaker:
    """One root's. After three inconclusive answers in a row it is left alone, at first about a second, doubling to half
    a minute, with full jitter; then one call may try. Any answer about the key itself closes it again.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._clock, self._uniform = clock, uniform
        self._failures, self._until = 0, 0.0
        self._last: RootError | None = None

    def check(self) -> None:
        """Pass when the root may be asked.

        Raises:
            RootError: Not yet; the root's last answer, again.
        """
        left = self._until - self._clock()
        if self._last is not None and left > 0:
            raise RootError(self._last.code, f"not asked again for {left:.1f} s: {self._last.detail}")

    def note(self, outcome: RootError | None) -> None:
        """Take note of an answer; None is a good one."""
        if outcome is None or outcome.code not in _INCONCLUSIVE:
            self._failures, self._until, self._last = 0, 0.0, None
            return
        self._failures, self._last = self._failures + 1, outcome
        if self._failures >= FAILURES_TO_OPEN:
            longest = min(2.0 ** (self._failures - FAILURES_TO_OPEN), MAX_PAUSE_S)
            self._until = self._clock() + self._uniform(longest / 2, longest)
