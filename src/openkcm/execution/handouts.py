"""Hand-outs from the workers' logs into sealed reports, many in one. Holds names and counts, no key.

Every second, and at once when a log is half full, when a revocation is about to be acknowledged and when the node
stops: (1) read the logs; (2) add up per key, workload and form; (3) commit: to the outbox as reports or, while earlier
ones of the tenant wait for the bus, as counts that go on growing; (4) release the logs' entries; (5) send. Memory and
disk are bounded by the number of keys, not of Gets: when that is too much nothing is released, the logs fill, and Gets
are refused (ADR 0028). A Get that finds its log full waits for (4).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from openkcm.contract.reports import MOST_COUNTED, Handed, HandedOut
from openkcm.execution.handoutlog import Entry, HandOutLog
from openkcm.execution.outbox import Outbox
from openkcm.execution.residence_state import Rows
from openkcm.projector import ProjectorError, Writer

__all__ = ["HandOuts"]

_log: Final = logging.getLogger("openkcm.handouts")
EVERY_S: Final = 1.0
REST: Final = 10  # the reporting takes at most a tenth of the custodian's time
MOST_OPEN: Final = 200_000  # keys, by workload and form, that no report carries yet: about 60 MiB

Key = tuple[str, str, str, str, bool]


class HandOuts:
    """One node's hand-outs under way. All methods belong to the event loop's thread."""

    def __init__(
        self,
        database: Writer,
        outbox: Outbox,
        logs: Callable[[], Iterable[HandOutLog]],
        knows: Callable[[str, str], bool],
        alarm: Callable[[str], None],
    ) -> None:
        """Take up what an earlier life of the node has left.

        Args:
            logs: The workers' logs that there are.
            knows: Whether a tenant has, or had, a registration here: a worker may be under an attacker's control.
        """
        self._outbox, self._logs, self._knows, self._alarm = outbox, logs, knows, alarm
        self._read: dict[str, int] = dict(database.rows("SELECT name, number FROM handed_log"))
        self._open: dict[Key, list[int]] = {  # -> [times, first_ms, last_ms]
            (tenant, registration, workload, uid, bool(wrapped)): list(counts)
            for tenant, registration, workload, uid, wrapped, *counts in database.rows(
                "SELECT tenant, registration, workload, object_id, wrapped, times, first_ms, last_ms FROM handed_out"
            )
        }
        for log in logs():  # should a power cut have taken what says so in the log
            log.release(self._read.get(log.name, 0))
        self._taking = asyncio.Lock()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """A log is half full: do not wait for the next second."""
        self._wake.set()

    async def run(self) -> None:
        """Report, for ever."""
        pause = EVERY_S
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
            self._wake.clear()
            began = time.monotonic()
            await self.flush()
            pause = max(EVERY_S, REST * (time.monotonic() - began))

    async def flush(self, tenant: str | None = None) -> None:
        """Take what the logs hold and send what there is, of one tenant or of all; what cannot go stays, durably."""
        await self.take()
        await self._outbox.send(tenant)

    async def take(self) -> None:
        """Make durable what the logs hold, and give their room back; what cannot be stored stays in them."""
        try:
            await self._take()
        except ProjectorError:
            _log.exception("hand-outs are not on disk; they stay in the workers' logs")
            self._alarm("hand-outs-not-stored")

    async def _take(self) -> None:
        async with self._taking:
            counts, ends = dict(self._open), []
            touched: dict[Key, list[int]] = {}
            for log in self._logs():
                end, entries = log.read(self._read.get(log.name, 0))  # (1)
                if end > self._read.get(log.name, 0):
                    ends.append((log, end))
                for entry in entries:  # (2)
                    self._add(entry, counts, touched)
            if len(counts) > MOST_OPEN:
                _log.error("hand-outs of %d keys wait for the bus; no more are taken", len(self._open))
                self._alarm("hand-outs-too-many")
                return
            tenants = dict.fromkeys(key[0] for key in counts if not self._outbox.holds(key[0], HandedOut))
            if not ends and not tenants:
                return
            rows: Rows = [("handed_log", {"name": log.name, "number": end}) for log, end in ends]
            rows += [_row(key, count) for key, count in touched.items() if key[0] not in tenants]
            rows += [("handed_out_reported", {"tenant": tenant}) for tenant in tenants]
            await self._outbox.commit(_reports(counts, tenants), rows)  # (3)
            self._open = {key: count for key, count in counts.items() if key[0] not in tenants}
            for log, end in ends:  # (4)
                self._read[log.name] = end
                log.release(end)

    def _add(self, entry: Entry, counts: dict[Key, list[int]], touched: dict[Key, list[int]]) -> None:
        key = (entry.tenant, entry.registration, entry.workload, entry.object_id, entry.wrapped)
        count = touched.get(key)
        if count is None:
            if not self._knows(entry.tenant, entry.registration):
                _log.error("a worker names a hand-out of %s/%s, which is not here", entry.tenant, entry.registration)
                self._alarm("hand-out-unknown")
                return
            times, first, last = counts.get(key, (0, entry.at_ms, 0))
            count = touched[key] = counts[key] = [times, first, last]
        count[0] += 1
        count[2] = max(count[2], entry.at_ms)


def _row(key: Key, count: list[int]) -> tuple[str, dict[str, str | int | float | bytes | None]]:
    names = ("tenant", "registration", "workload", "object_id", "wrapped", "times", "first_ms", "last_ms")
    return "handed_out", dict(zip(names, (*key[:4], int(key[4]), *count), strict=True))


def _reports(counts: dict[Key, list[int]], tenants: Iterable[str]) -> list[HandedOut]:
    handed: dict[str, list[Handed]] = {tenant: [] for tenant in tenants}
    for (tenant, registration, workload, uid, wrapped), (times, first_ms, last_ms) in counts.items():
        if tenant in handed:
            one = Handed(registration=registration, workload=workload, object_id=uid, wrapped=wrapped, times=times,
                         first_ms=first_ms, last_ms=last_ms)  # fmt: skip
            handed[tenant].append(one)
    return [
        HandedOut(tenant=tenant, handed=tuple(of[start : start + MOST_COUNTED]))
        for tenant, of in handed.items()
        for start in range(0, len(of), MOST_COUNTED)
    ]
