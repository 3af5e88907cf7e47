"""Crypto-shredding of a destroyed residence, on this node and in its region's vault. Holds no key: all are zeroized.

ContextDestroyed has closed every gate, zeroized L2 and L3, and is in the vault's fence record before it is
acknowledged; from then on nothing can be opened. What follows is erasure, and may be repeated after any crash:

1. the ring is tombstoned: no node makes or reads a key of this residence again;
2. this node's own copies go: rows with secure_delete, then the write-ahead log is truncated;
3. every revision of its keys' records (L3, L2) is overwritten (MSG.DELETE); then all objects are removed, which nobody
   can open any more (cryptographic erasure, NIST SP 800-88): their bytes, names and attributes in clear among them,
   leave the disk when the server compacts the files they lie in (ADR 0061); then what came here meanwhile goes too;
4. a sealed report says what was removed where. What it does not say is not claimed: objects' sealed bytes until that
   compaction, blocks that the server's disk has remapped, raft logs until their compaction, backups until they expire.
   Certain it is when the customer destroys L1.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Final

from msgspec.structs import replace

from openkcm.bus.errors import BusError
from openkcm.contract import reports
from openkcm.execution.keyring import RingRecord
from openkcm.execution.residence_state import State
from openkcm.execution.safe import Planted, Safe
from openkcm.projector import Writer

__all__ = ["Shredder"]

_log: Final = logging.getLogger("openkcm.shredder")
SWEEP_S: Final = 1.0
#: Tombstones that must outlive the residence: a vault restored from a backup finds them.
KEPT: Final = frozenset({"ring", "fence"})
TABLES: Final = ("objects", "object_terms")
#: Rows of a table that go in one transaction: tenths of a second in which no other one is committed. An index has its
#: rows in another order, so that each transaction writes much of it: with fewer rows each, the disk writes more in all.
PAGE: Final = 5_000
LOG_TRIES: Final = 20
_PAGE_OF: Final = "SELECT count(*) FROM (SELECT 1 FROM {} WHERE tenant = :tenant LIMIT :page)"


class Shredder:
    """One node's part in erasing what was destroyed."""

    def __init__(
        self,
        safe: Safe,
        state: Callable[[], State],
        database: Writer,
        disk: Executor,
        report: Callable[[str, reports.Report], Awaitable[None]],
    ) -> None:
        self._safe, self._state, self._database, self._disk, self._report = safe, state, database, disk, report
        self._done: set[str] = set()

    async def run(self) -> None:
        """Look after every destroyed residence, for ever; each once a start of this process."""
        while True:
            await asyncio.sleep(SWEEP_S)
            state = self._state()
            for tenant in [t for t, r in state.residences.items() if r.destroyed and t not in self._done]:
                try:
                    await self._shred(tenant)
                except (BusError, Planted) as later:
                    _log.warning("%s is not shredded yet: %s", tenant, later)
                else:
                    self._done.add(tenant)

    async def _shred(self, tenant: str) -> None:
        await self._tombstone(tenant)  # (1)
        rows, truncated = await self._forget(tenant)  # (2)
        removed: dict[str, int] = {}
        while found := await self._safe.erase_all(tenant, KEPT):  # (3) until nothing new turns up
            removed = {kind: removed.get(kind, 0) + found.get(kind, 0) for kind in removed.keys() | found}
        late, still = await self._forget(tenant)
        if not removed and not rows + late:
            return  # another start of this process, or another node, has said it
        gone = reports.ResidenceShredded(
            tenant=tenant, vault=dict(sorted(removed.items())), rows=rows + late, log_truncated=truncated and still,
            kept=tuple(sorted(KEPT)),
        )  # fmt: skip
        await self._report(tenant, gone)  # (4)
        _log.info("%s is shredded: %s in the vault, %d rows here", tenant, removed, rows + late)

    async def _forget(self, tenant: str) -> tuple[int, bool]:
        """Overwrite all rows here; return how many there were, and whether the log is truncated."""
        loop, rows = asyncio.get_running_loop(), 0
        while some := await loop.run_in_executor(self._disk, self._forget_some, tenant):
            rows += some
        for _ in range(LOG_TRIES):
            if await loop.run_in_executor(self._disk, self._database.truncate_log):
                return rows, True
            await asyncio.sleep(SWEEP_S / 4)
        return rows, False

    def _forget_some(self, tenant: str) -> int:
        """Overwrite a page of each table; return how many rows that were."""
        page: dict[str, str | int] = {"tenant": tenant, "page": PAGE}
        some = sum(self._database.rows(_PAGE_OF.format(table), page)[0][0] for table in TABLES)
        self._database.apply([("shred", page)], synced=False)  # the log's end syncs
        return int(some)

    async def _tombstone(self, tenant: str) -> None:
        where, state = self._safe.subject(tenant, "ring", tenant), self._state()
        found = await self._safe.get(where, RingRecord, state)
        if found is not None and not found[1].destroyed:
            sequence, ring = found
            gone = replace(ring, destroyed=True, l2={}, l3={}, released={})
            await self._safe.put(where, gone, expect=(str(where), sequence), epoch=state.epoch, replaces=sequence)
        await self._safe.tidy(where)
