"""How often: a bucket of tokens per subject, per tenant, per address, per kind. Pure but for the clock that comes in.

A revocation has budgets of its own, by identity, and nobody's reading, writing or guessing uses them up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from openkcm.governance.errors import TooMany

__all__ = ["BUDGETS", "RETRY_AFTER_S", "Budget", "Kind", "Limits", "fields"]

Kind = Literal["read", "write", "revoke", "probe", "refused", "stranger", "strange-revoke", "connection", "forged"]
MAX_BUCKETS: Final = 50_000
RETRY_AFTER_S: Final = 1


class Budget(NamedTuple):
    """`burst` requests at once, then `rate` a second."""

    burst: float
    rate: float


#: By (whose, kind). A tenant's budget is shared by its people, so that one tenant's crowd leaves room for others.
#: A stranger is whoever shows nothing that was recognised lately; each may cost us the check of a signature.
BUDGETS: Final[dict[tuple[str, Kind], Budget]] = {
    ("subject", "read"): Budget(300, 100),
    ("subject", "write"): Budget(200, 20),
    ("subject", "revoke"): Budget(2000, 50),
    ("subject", "refused"): Budget(30, 1),  # of revocations that were not theirs to order, by path
    ("tenant", "read"): Budget(3000, 500),
    ("tenant", "write"): Budget(1000, 100),
    ("address", "probe"): Budget(60, 20),
    ("address", "stranger"): Budget(200, 40),
    ("address", "strange-revoke"): Budget(60, 10),
    ("all", "stranger"): Budget(200, 60),
    ("all", "strange-revoke"): Budget(100, 40),
    ("address", "connection"): Budget(60, 10),
    ("all", "connection"): Budget(200, 60),
    ("known", "connection"): Budget(200, 100),  # each address that somebody we know came from
    ("known", "stranger"): Budget(30, 5),
    ("known", "strange-revoke"): Budget(30, 5),
    ("address", "forged"): Budget(60, 0.2),  # credentials that did not hold: no request is refused for it
    ("rare", "connection"): Budget(200, 20),  # all addresses that asked little of late
    ("rare", "stranger"): Budget(150, 40),
    ("rare", "strange-revoke"): Budget(200, 40),
}


class Limits:
    """The buckets of one CMK."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str, str], tuple[float, float]] = {}

    def left(self, whose: str, name: str, kind: Kind) -> float:
        """Return how many requests a budget has left, infinity where there is none. Takes nothing."""
        budget = BUDGETS.get((whose, kind))
        if budget is None:
            return math.inf
        left, at = self._buckets.get((whose, kind, name), (budget.burst, 0.0))
        return min(budget.burst, left + (self._clock() - at) * budget.rate)

    def take(self, whose: str, name: str, kind: Kind) -> bool:
        """Take one request out of a budget; False, and nothing taken, when it is empty. A kind without one is free."""
        left = self.left(whose, name, kind)
        if left < 1:
            return False
        if left != math.inf:
            key = (whose, kind, name)
            self._buckets.pop(key, None)
            if len(self._buckets) >= MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]  # longest not used: it is full again by now
            self._buckets[key] = (left - 1, self._clock())
        return True

    def spend(self, whose: str, name: str, kind: Kind) -> None:
        """Take one request out of a budget.

        Raises:
            TooMany: It is empty. The message says when to come back.
        """
        if not self.take(whose, name, kind):
            rate = BUDGETS[whose, kind].rate
            raise TooMany(f"too many {kind} requests of this {whose}: {rate:g} a second are answered")


def fields(kind: Kind, left: float) -> list[tuple[bytes, bytes]]:
    """Return what a subject is told of its budget (draft-ietf-httpapi-ratelimit-headers-10): quota, window, rest."""
    budget = BUDGETS.get(("subject", kind))
    if budget is None:
        return []
    window, full = math.ceil(budget.burst / budget.rate), math.ceil((budget.burst - left) / budget.rate)
    return [
        (b"ratelimit-policy", f'"{kind}";q={int(budget.burst)};w={window}'.encode()),
        (b"ratelimit", f'"{kind}";r={int(left)};t={full}'.encode()),
    ]
