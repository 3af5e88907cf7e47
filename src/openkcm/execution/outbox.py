"""Reports that count something: numbered, sealed, kept in SQLite until the region's own server has them.

A tenant's reports of one kind carry the series of this database and a number without a gap: whoever receives them
counts none twice, however often it comes, and sees when one is missing. A report is sealed once and sent, with the
same id and bytes, until it is acknowledged; a tenant's go in order, one at a time.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor
from typing import Final

from msgspec.structs import replace

from openkcm.bus.errors import BusError
from openkcm.contract.envelope import Envelope, decode, encode
from openkcm.contract.reports import Counted, Report
from openkcm.execution.residence_state import Rows
from openkcm.projector import Writer

__all__ = ["Outbox"]

_log: Final = logging.getLogger("openkcm.outbox")
AT_ONCE: Final = 16  # places whose reports are under way together

Seal = Callable[[str, Report], Envelope]
Place = tuple[str, str]  # a tenant, and a kind of report: those go in order, and no kind waits for another


class Outbox:
    """One node's reports under way. All methods belong to the event loop's thread."""

    def __init__(
        self, database: Writer, disk: Executor, seal: Seal, send: Callable[[Envelope], Awaitable[None]]
    ) -> None:
        self._database, self._disk, self._seal, self._send = database, disk, seal, send
        self._waiting: dict[Place, list[Envelope]] = {}
        for tenant, body in database.rows("SELECT tenant, body FROM outbox ORDER BY place"):
            self._add(tenant, decode(body))
        self._place: int = database.rows("SELECT coalesce(max(place), 0) FROM outbox")[0][0]
        found = database.rows("SELECT tenant, kind, series, number FROM report_series")
        self._series = {(tenant, kind): (series, number) for tenant, kind, series, number in found}
        self._sending: dict[Place, asyncio.Task[None]] = {}
        self._storing = asyncio.Lock()

    def _add(self, tenant: str, e: Envelope) -> None:
        self._waiting.setdefault((tenant, e.name), []).append(e)

    def holds(self, tenant: str, kind: type[Counted]) -> bool:
        """Whether reports of this kind of the tenant wait for the bus."""
        return (tenant, kind.__name__) in self._waiting

    async def commit(self, reports: Iterable[Counted], rows: Rows) -> None:
        """Number, seal and store reports, in one transaction with `rows`.

        Raises:
            StorageFailed: Nothing was stored, no number is spent.
        """
        async with self._storing:
            series, made, stored = dict(self._series), [], list(rows)
            for report in reports:
                kind = type(report).__name__
                name, number = series.get((report.tenant, kind), (str(uuid.uuid4()), 0))
                series[report.tenant, kind] = (name, number + 1)
                e = self._seal(report.tenant, replace(report, series=name, number=number + 1))
                made.append((report.tenant, e))
                stored += [
                    ("report_series", {"tenant": report.tenant, "kind": kind, "series": name, "number": number + 1}),
                    ("outbox", {"id": e.id, "place": self._place + len(made), "tenant": report.tenant,
                                "body": encode(e)}),
                ]  # fmt: skip
            await asyncio.get_running_loop().run_in_executor(self._disk, self._database.apply, stored)
            self._series = series
            self._place += len(made)
            for tenant, e in made:
                self._add(tenant, e)

    async def send(self, tenant: str | None = None) -> None:
        """Send what waits, of one tenant or of all; what the bus does not take stays for the next time."""
        places = [place for place in self._waiting if tenant in (None, place[0])]
        for start in range(0, len(places), AT_ONCE):
            await asyncio.gather(*map(self._send_of, places[start : start + AT_ONCE]))

    async def _send_of(self, place: Place) -> None:
        """Send a tenant's reports of a kind in order; who comes while that is under way waits for it."""
        task = self._sending.get(place)
        if task is None:
            task = self._sending[place] = asyncio.ensure_future(self._send_in_order(place))
            task.add_done_callback(lambda _: self._sending.pop(place))
        await asyncio.shield(task)

    async def _send_in_order(self, place: Place) -> None:
        while waiting := self._waiting.get(place):
            e = waiting[0]
            try:
                await self._send(e)
            except BusError as away:
                _log.warning("%d reports %s of %s wait for the bus: %s", len(waiting), e.name, place[0], away)
                return
            await asyncio.get_running_loop().run_in_executor(
                self._disk, self._database.apply, [("outbox_sent", {"id": e.id})]
            )
            del waiting[0]
            if not waiting:
                del self._waiting[place]
