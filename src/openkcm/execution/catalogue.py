"""The objects of the region's tenants: from the vault into SQLite, from workers into the vault. Sees wrapped keys only.

The vault is the truth (compare-and-set); SQLite is this node's copy, which workers read. Whatever changes a record
raises its epoch word, so that no worker goes on with an older one. A change is on this node's disk when it is answered.
A new object need not be: the vault has it, and whatever the power took comes again from the vault's feed. So it is the
feed that brings it into SQLite, once, in one transaction with whatever else came; who made it waits for that.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, Protocol

import msgspec

from openkcm.bus.errors import BusError, Conflict
from openkcm.bus.messages import Stored
from openkcm.contract import subjects
from openkcm.contract.errors import ContractError
from openkcm.execution import terms
from openkcm.execution.keyring import RingRecord
from openkcm.execution.known import KEPT_AT_THE_END, Batch, Known
from openkcm.execution.lines import Lines
from openkcm.execution.records import ObjectRecord
from openkcm.execution.residence_state import Row, Rows, State
from openkcm.execution.safe import Found, Planted, Safe

__all__ = ["Catalogue", "PutRefused"]

_log: Final = logging.getLogger("openkcm.catalogue")
GROUP: Final = 256  # commits that share one transaction and one sync of the disk
FEED_S: Final = 0.25  # that a new object waits for the feed; then it is committed without, as all are until it is back
#: Records of these kinds are the keychain's: a change by another node may need a look.
KEY_KINDS: Final = frozenset({"ring", "l2", "l3", "fence"})


class PutRefused(Exception):
    """A record that is not stored. `code` goes to the worker."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class Commit(Protocol):
    """Commits rows in one transaction (`projector.Writer.apply`)."""

    def __call__(self, rows: Rows, /, *, synced: bool) -> None:
        """Return when they are there, and with `synced` on the disk."""


class Catalogue:
    """All objects of one node."""

    def __init__(
        self,
        safe: Safe,
        state: Callable[[], State],
        commit: Commit,
        bump: Callable[[str, str], None],
        disk: Executor,
        known: Known,
    ) -> None:
        self._safe, self._state, self._commit, self._bump, self._disk = safe, state, commit, bump, disk
        self._waiting: list[_Commit] = []
        self._committing: asyncio.Task[None] | None = None
        self._due: dict[int, asyncio.Future[None]] = {}  # sequences in the vault that somebody waits to see here
        self._late = 0  # the feed was too slow to bring this one
        self.on_key_record: Callable[[str, str], None] = lambda _tenant, _kind: None
        self.on_refused: Callable[[str], None] = lambda _subject: None
        self.erase_later: Callable[[subjects.VaultSubject], bool] = lambda _where: False
        self.planted = 0
        self._refused = Lines(_log, logging.ERROR)
        self.known = known
        self.cursor = known.cursor  # of the vault's feed: everything up to there is in SQLite

    async def take(self, batch: list[Stored]) -> None:
        """Bring what the vault's consumer delivered into SQLite, in one transaction with the cursor."""
        rows: Rows = []
        changed: list[tuple[str, str]] = []
        synced = False
        known = self.known.batch()
        for stored in batch:
            try:
                found = self._safe.open(stored, self._state(), known)
                synced |= not found.own
                await self._remember(known, found)
                if found.subject.kind == "object" and not self._destroyed(found.subject.tenant):
                    record = self._safe.read(found, ObjectRecord)
                    rows += _rows(found.subject.tenant, found.sequence, record, found.data)
                    changed.append((found.subject.tenant, record.uid))
                elif found.subject.kind in KEY_KINDS:
                    self.on_key_record(found.subject.tenant, found.subject.kind)
            except (Planted, ContractError) as bad:
                self.planted += 1
                self._refused.say("vault record refused", bad)
                self.on_refused(stored.subject)
        await self._store([*rows, *known.finish(batch[-1].sequence)], changed, synced=synced)
        known.done()
        self.cursor = batch[-1].sequence
        for stored in batch:
            if (waiting := self._due.pop(stored.sequence, None)) is not None and not waiting.done():
                waiting.set_result(None)

    async def _remember(self, known: Batch, found: Found) -> None:
        where = found.subject
        if where.kind == "ring":
            ring = self._safe.read(found, RingRecord)
            if ring.destroyed:
                for page in known.end(where.tenant, found.sequence):
                    await self._store(page, [], synced=False)
            else:
                known.follow(ring, found.sequence)
        if where.kind in KEPT_AT_THE_END or not self._destroyed(where.tenant):
            known.take(str(where), where.tenant, where.kind, found.sequence, found.revision, found.data)

    async def fetch(self, tenant: str, uid: str) -> tuple[int, ObjectRecord] | None:
        """Read one object through to the vault, keep it, and return it; None where there is none."""
        try:
            where = self._safe.subject(tenant, "object", uid)
            subjects.parse_vault(str(where))
        except ContractError:
            return None
        if self._destroyed(tenant):
            return None
        found = await self._safe.get(where, ObjectRecord, self._state())
        if found is not None:
            await self._keep(tenant, *found)
        return found

    def _destroyed(self, tenant: str) -> bool:
        residence = self._state().residences.get(tenant)
        return residence is not None and residence.destroyed

    async def put(self, tenant: str, record: ObjectRecord, *, expect: tuple[str, int] | None, own: int) -> int:
        """Store a worker's record; return its sequence once the vault and our SQLite have it.

        Args:
            expect: For a new object: the record of the key that wraps it. None for an update.
            own: For an update: the object's own sequence.

        Raises:
            PutRefused: `conflict` (somebody was first), `invalid`.
        """
        where = self._safe.subject(tenant, "object", record.uid)
        try:
            subjects.parse_vault(str(where))
        except ContractError as bad:
            raise PutRefused("invalid", str(bad)) from bad
        epoch = self._state().epoch
        try:
            sequence, _ = await self._safe.put(where, record, expect=expect or (str(where), own), epoch=epoch)
        except Conflict as lost:
            await self._look_again(tenant, record.uid)
            raise PutRefused("conflict", str(lost)) from lost
        if own:
            later = self.erase_later(where)
            if record.wrapped is None or not later:  # what Destroy ends is in no older revision when it is answered
                await self._safe.tidy(where)
        if own or not await self._fed(sequence):
            await self._keep(tenant, sequence, record, synced=own > 0)
        return sequence

    async def _fed(self, sequence: int) -> bool:
        """Wait until the feed has brought a record; False when it is late, and from then on until it has."""
        if self.cursor < self._late:
            return False
        if sequence <= self.cursor:
            return True
        waiting = self._due[sequence] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(FEED_S):
                await waiting
        except TimeoutError:
            self._late = max(self._late, sequence)
            return False
        finally:
            self._due.pop(sequence, None)
        return True

    async def _look_again(self, tenant: str, uid: str) -> None:
        """Read through to the vault what another node was first to write, so that who asks again sees it."""
        try:
            await self.fetch(tenant, uid)
        except (BusError, Planted) as bad:
            _log.warning("%s/%s was changed elsewhere and cannot be read: %s", tenant, uid, bad)

    async def _keep(self, tenant: str, sequence: int, record: ObjectRecord, *, synced: bool = True) -> None:
        rows = _rows(tenant, sequence, record, msgspec.json.encode(record))
        await self._store(rows, [(tenant, record.uid)], synced=synced)

    async def _store(self, rows: Rows, changed: list[tuple[str, str]], *, synced: bool) -> None:
        """Return when the rows are committed. Whoever comes while a commit is under way shares the next one."""
        mine = _Commit(rows, changed, synced, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        if self._committing is None:
            self._committing = asyncio.ensure_future(self._commit_all())
        await asyncio.shield(mine.done)

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                together, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
                if not await self._commit_group(together) and len(together) > 1:
                    for one in together:  # what one of them cannot do must not fail the others
                        await self._commit_group([one])
        finally:
            self._committing = None

    async def _commit_group(self, group: list[_Commit]) -> bool:
        """Commit in one transaction; False, and nobody told, when that failed for several."""
        rows = [row for one in group for row in one.rows]
        commit = functools.partial(self._commit, rows, synced=any(one.synced for one in group))
        try:
            await asyncio.get_running_loop().run_in_executor(self._disk, commit)
        except Exception as bad:  # whoever waits for it is told, and nobody else
            if len(group) == 1:
                group[0].done.set_exception(bad)
            return False
        for one in group:
            for tenant, uid in one.changed:
                self._bump(tenant, uid)
            one.done.set_result(None)
        return True


class _Commit:
    """Rows that wait for the disk, the objects they change, and who waits."""

    __slots__ = ("changed", "done", "rows", "synced")

    def __init__(self, rows: Rows, changed: list[tuple[str, str]], synced: bool, done: asyncio.Future[None]) -> None:
        self.rows, self.changed, self.synced, self.done = rows, changed, synced, done


def _rows(tenant: str, sequence: int, record: ObjectRecord, data: bytes) -> Rows:
    found, found_as = terms.index_of(tenant, record)
    row: Row = {
        "tenant": tenant, "registration": record.registration, "uid": record.uid, "sequence": sequence,
        "state": record.state, "found_as": found_as, "object_type": record.object_type, "record": data,
    }  # fmt: skip
    return [("object", row), *(("object_term", {**row, "term": term}) for term in found)]
