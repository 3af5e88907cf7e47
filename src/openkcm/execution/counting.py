"""Encrypt and Decrypt counted per key and workload, reported by the hour. Holds counts, no key.

Workers count answers that were given and hand their counts over every minute; the custodian adds them up and puts what
each key and workload had into sealed, numbered reports once an hour. They go into the region's own stream USAGE and
nowhere else; until that has them the outbox does. A custodian that is killed loses the counts of that hour.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import Final

from openkcm.contract.reports import MOST_COUNTED, KeyUsage
from openkcm.contract.reports import Used as UsedKey
from openkcm.execution.control import DECRYPTED, ENCRYPTED, Used
from openkcm.execution.outbox import Outbox
from openkcm.projector import ProjectorError

__all__ = ["Counting"]

REPORT_S: Final = 3600.0

_log: Final = logging.getLogger("openkcm.desk")


class Counting:
    """One node's counts since the last report."""

    def __init__(self, outbox: Outbox, wall_s: Callable[[], float] = time.time) -> None:
        self._outbox, self._wall_s = outbox, wall_s
        self._counts: dict[tuple[str, str, str, str], list[int]] = {}
        self._since_ms = int(wall_s() * 1000)

    def add(self, used: Used) -> None:
        """Add what a worker counted."""
        for uid, (encrypted, decrypted) in used.counts.items():
            key = (used.tenant, used.registration, used.workload, uid)
            count = self._counts.setdefault(key, [0, 0])
            count[ENCRYPTED] += max(0, encrypted)
            count[DECRYPTED] += max(0, decrypted)

    async def run(self) -> None:
        """Report every hour, for ever."""
        while True:
            await asyncio.sleep(REPORT_S)
            await self.flush()

    async def flush(self) -> None:
        """Report what there is; what cannot be sent stays, durably."""
        now = int(self._wall_s() * 1000)
        counts, self._counts = self._counts, {}
        try:
            await self._outbox.commit(self._reports(counts, now), [])
        except ProjectorError:
            _log.exception("the use of %d keys is not on disk; it is reported the next time", len(counts))
            self._add_back(counts)
            return
        self._since_ms = now
        await self._outbox.send()

    def _reports(self, counts: dict[tuple[str, str, str, str], list[int]], now: int) -> Iterator[KeyUsage]:
        used: dict[str, list[UsedKey]] = {}
        for (tenant, registration, workload, uid), (encrypted, decrypted) in counts.items():
            one = UsedKey(registration=registration, workload=workload, object_id=uid, encrypted=encrypted,
                          decrypted=decrypted)  # fmt: skip
            used.setdefault(tenant, []).append(one)
        for tenant, of in used.items():
            for start in range(0, len(of), MOST_COUNTED):
                part = tuple(of[start : start + MOST_COUNTED])
                yield KeyUsage(tenant=tenant, since_ms=self._since_ms, until_ms=now, used=part)

    def _add_back(self, counts: dict[tuple[str, str, str, str], list[int]]) -> None:
        for key, (encrypted, decrypted) in counts.items():
            count = self._counts.setdefault(key, [0, 0])
            count[ENCRYPTED] += encrypted
            count[DECRYPTED] += decrypted
