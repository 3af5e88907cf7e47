"""Which residences are used, and which are cold: served by the ledger's word, their keys not here. Pure: clock given.

A node may have more residences than key slots. Who has not been used for the longest time gives way, and comes back by
an unseal at its next use. Nothing here touches a key; `keychain` decides with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["Warmth"]

IDLE_S: Final = 15.0  # nobody gives way who was used within this time; workers say every 5 s whom they served


class Warmth:
    """Uses of residences on this node.

    Attributes:
        cold: Residences whose keys are not here though they may be served.
        demanded: Cold ones that somebody wants to use now.
        evicted: How often one gave way.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, idle_s: float | None = None) -> None:
        self._clock, self._idle_s = clock, IDLE_S if idle_s is None else idle_s
        self._used: dict[str, float] = {}
        self.cold: set[str] = set()
        self.demanded: set[str] = set()
        self.evicted = 0

    def use(self, tenants: Iterable[str]) -> None:
        """Note that these are in use."""
        self._used |= dict.fromkeys(tenants, self._clock())

    def demand(self, tenant: str) -> None:
        """Note that somebody waits for a residence's keys."""
        self.use((tenant,))
        self.demanded.add(tenant)

    def warm(self, tenant: str) -> None:
        """Note that its keys are in place."""
        self._used[tenant] = self._clock()
        self.cold.discard(tenant)

    def chill(self, tenant: str) -> None:
        """Note that it gave way."""
        self._used.pop(tenant, None)
        self.cold.add(tenant)
        self.evicted += 1

    def coldest(self, among: Iterable[str]) -> str | None:
        """Return who has not been used for the longest time, of those not used of late; None when there is nobody."""
        found = min(((self._used.get(tenant, 0.0), tenant) for tenant in among), default=None)
        return None if found is None or found[0] > self._clock() - self._idle_s else found[1]
