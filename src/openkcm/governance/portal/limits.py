"""How often: a bucket of tokens per subject, per tenant, per kind of request. Pure but for the clock that comes in.

A revocation has a budget of its own, by subject alone: nobody's reading or writing uses it up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from openkcm.governance.errors import TooMany

__all__ = ["BUDGETS", "Budget", "Limits"]

Kind = Literal["anonymous", "read", "write", "revoke"]
MAX_BUCKETS: Final = 50_000


class Budget(NamedTuple):
    """`burst` requests at once, then `rate` a second."""

    burst: float
    rate: float


#: By (whose, kind). A tenant's budget is shared by its people, so that one tenant's crowd leaves room for others.
BUDGETS: Final[dict[tuple[str, Kind], Budget]] = {
    ("address", "anonymous"): Budget(100, 20),
    ("subject", "read"): Budget(600, 100),
    ("subject", "write"): Budget(200, 20),
    ("subject", "revoke"): Budget(60, 2),
    ("tenant", "read"): Budget(3000, 500),
    ("tenant", "write"): Budget(1000, 100),
}


class Limits:
    """The buckets of one CMK."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str, str], tuple[float, float]] = {}

    def spend(self, whose: str, name: str, kind: Kind) -> None:
        """Take one request out of a budget; a kind without one is free.

        Raises:
            TooMany: It is empty. The message says when to come back.
        """
        budget = BUDGETS.get((whose, kind))
        if budget is None:
            return
        now, key = self._clock(), (whose, kind, name)
        left, at = self._buckets.pop(key, (budget.burst, now))
        left = min(budget.burst, left + (now - at) * budget.rate)
        if len(self._buckets) >= MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]  # the one that was longest not used: it is full again by now
        self._buckets[key] = (max(left - 1, 0.0) if left >= 1 else left, now)
        if left < 1:
            raise TooMany(f"too many {kind} requests of this {whose}: {budget.rate:g} a second are answered")
