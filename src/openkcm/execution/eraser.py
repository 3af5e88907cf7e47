"""Erases what updates have superseded in the region's vault, a little later and at a pace. Opens no key (ADR 0061).

An update that keeps an object's material is answered when its new revision is stored. What it superseded holds no key
that the newest revision does not hold too; it stays a while, an ordinary message that its subject still finds:

1. Destroy overwrites all of them before it is answered (`catalogue`). That is why none is removed without being
   overwritten while its key lives: bytes that no message has any more nobody can have overwritten.
2. One under the key version in force is overwritten here. Each costs the server a whole file, up to 8 MiB.
3. While a system's key rotates, its objects' older revisions wait: their version is about to be destroyed.
4. One under a destroyed version is removed without being overwritten: nobody can open it (cryptographic erasure,
   NIST SP 800-88).

What a process forgets when it dies, or has no room to remember, a listing of the vault finds: at the next start, and
every ten minutes for as long as there is any. Nodes of a region may do the same work: done already is done. The newest
revision is never among `Safe.older`, whatever anybody writes meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Final

from openkcm.bus.errors import BusError
from openkcm.contract.subjects import VaultSubject
from openkcm.execution.keyring import RingRecord
from openkcm.execution.records import ObjectRecord
from openkcm.execution.residence_state import State
from openkcm.execution.safe import Planted, Safe

__all__ = ["Eraser"]

_log: Final = logging.getLogger("openkcm.eraser")
SWEEP_S: Final = 5.0
LISTING_S: Final = 600.0  # from one listing to the next: each costs the server a second or so for a million objects
RING_S: Final = 30.0
#: Between two that are overwritten: 16 MiB/s of writes at most, some per cent of a disk; 170,000 updates a day.
PACE_S: Final = 0.5
SHARE: Final = 0.25  # of the time, for what writes little
PER_OBJECT: Final = 16  # superseded revisions of one object that may wait: Destroy waits for all of them, 9 ms each
MOST: Final = 20_000  # objects that are remembered, some 10 MB; a listing finds the others


class Eraser:
    """One node's part in it.

    Attributes:
        superseded: Older revisions in the region's vault when last asked, every few seconds.
    """

    def __init__(self, safe: Safe, state: Callable[[], State]) -> None:
        self._safe, self._state = safe, state
        self._due: dict[VaultSubject, int] = {}
        self._rings: dict[str, tuple[float, RingRecord | None]] = {}
        self._listed: dict[str, float] = {}
        self.superseded = 0

    def later(self, where: VaultSubject) -> bool:
        """Take on what an update of this object superseded; False: it has too many, erase them now."""
        if where in self._due or len(self._due) < MOST:
            self._due[where] = self._due.get(where, 0) + 1
        if self._due.get(where, 0) < PER_OBJECT:
            return True
        del self._due[where]
        return False

    async def run(self) -> None:
        """Look after the vault, for ever."""
        while True:
            try:
                await self.sweep()
            except BusError as later:  # what is forgotten by that the next listing finds
                _log.info("superseded revisions are erased later: %s", later)
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """Erase what is due, and from time to time what a listing finds."""
        await self._erase_due()
        self.superseded = await self._safe.superseded()
        tenants = [tenant for tenant, residence in self._state().residences.items() if not residence.destroyed]
        random.shuffle(tenants)  # another node begins with another one
        for tenant in tenants:
            if self.superseded and time.monotonic() >= self._listed.get(tenant, -LISTING_S) + LISTING_S:
                async for where in self._safe.repeated(tenant):
                    await self._erase(where)
                    await self._erase_due()
                self._listed[tenant] = time.monotonic()

    async def _erase_due(self) -> None:
        for where in list(self._due):
            if self._due.pop(where, 0):
                await self._erase(where)

    async def _erase(self, where: VaultSubject) -> None:
        """Erase an object's superseded revisions, as far as it is time."""
        ring = await self._ring(where.tenant)
        if ring is None or all(len(versions) > 1 for versions in ring.l3.values()):  # all wait, or the shredder has it
            return
        began = time.monotonic()
        for sequence in await self._safe.older(where):
            fate = _overwritten(await self._safe.peek(sequence, ObjectRecord), ring)
            if fate is not None:
                await self._safe.discard(where, sequence, overwrite=fate)
            await asyncio.sleep(PACE_S if fate else (time.monotonic() - began) / SHARE)
            began = time.monotonic()

    async def _ring(self, tenant: str) -> RingRecord | None:
        until, ring = self._rings.get(tenant, (0.0, None))
        if time.monotonic() >= until:
            try:
                found = await self._safe.get(self._safe.subject(tenant, "ring", tenant), RingRecord, self._state())
            except Planted:  # somebody else says so
                found = None
            ring = None if found is None else found[1]
            self._rings[tenant] = time.monotonic() + RING_S, ring
        return ring


def _overwritten(record: ObjectRecord | None, ring: RingRecord) -> bool | None:
    """Whether a superseded revision must be overwritten or may just go; None: it waits.

    A ring that was read a while ago is good enough: a version below its newest that it does not name is destroyed for
    good. Who plants a record that says so of itself keeps the bytes of nothing else.
    """
    versions = () if record is None else ring.l3.get(record.registration, {}).keys()
    if record is None or record.wrapped is None or not versions:
        return True
    if len(versions) > 1:
        return None
    return record.l3_version >= max(versions)
