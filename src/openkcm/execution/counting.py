"""Encrypt and Decrypt counted per key and workload, reported by the hour. Holds counts, no key; sends what it is given.

Workers count answers that were given and hand their counts over every minute; the custodian adds them up and reports
each key and workload once an hour, sealed by the node: the report is kept in the region's own stream. A count that the
bus does not take waits for the next time; a custodian that is killed loses what it had not reported.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from openkcm.bus.errors import BusError
from openkcm.contract.reports import KeyUsage
from openkcm.execution.control import DECRYPTED, ENCRYPTED, Used

__all__ = ["Counting"]

REPORT_S: Final = 3600.0

Report = Callable[[str, KeyUsage], Awaitable[None]]
_log: Final = logging.getLogger("openkcm.desk")


class Counting:
    """One node's counts since the last report."""

    def __init__(self, report: Report, wall_s: Callable[[], float] = time.time) -> None:
        self._report, self._wall_s = report, wall_s
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
        """Report what there is; what cannot be sent stays."""
        since, self._since_ms = self._since_ms, int(self._wall_s() * 1000)
        counts, self._counts = self._counts, {}
        for key in list(counts):
            tenant, registration, workload, uid = key
            encrypted, decrypted = counts[key]
            report = KeyUsage(
                tenant=tenant, registration=registration, workload=workload, object_id=uid,
                encrypted=encrypted, decrypted=decrypted, since_ms=since,
            )  # fmt: skip
            try:
                await self._report(tenant, report)
            except BusError as away:
                _log.warning("the use of %d keys is not reported yet: %s", len(counts), away)
                self._since_ms = since
                self._add_back(counts)
                return
            del counts[key]

    def _add_back(self, counts: dict[tuple[str, str, str, str], list[int]]) -> None:
        for key, (encrypted, decrypted) in counts.items():
            count = self._counts.setdefault(key, [0, 0])
            count[ENCRYPTED] += encrypted
            count[DECRYPTED] += decrypted
