"""The records of one residence's keys: read, made, rotated, rewrapped. Keys themselves stay in arena views.

Who wins a race is decided by the ring (the residence's pointer record): a key counts from the moment the ring names it,
and every change of the ring is compare-and-set. A record that lost is overwritten; it was never used.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from msgspec.structs import replace

from openkcm.bus.errors import Conflict
from openkcm.contract.subjects import VaultSubject
from openkcm.execution import keyring
from openkcm.execution.gates import Gates
from openkcm.execution.keyring import KeyContext, L2Record, L3Record, RingRecord
from openkcm.execution.residence_state import Residence, State
from openkcm.execution.roots.base import RootError
from openkcm.execution.safe import Safe
from openkcm.execution.unseal import Unsealer
from openkcm.execution.vaultcheck import tidy

__all__ = ["KeyRecords", "Loaded", "Overtaken"]

ROTATIONS_KEPT: Final = 64
_R = TypeVar("_R", L2Record, L3Record)


class Overtaken(Exception):
    """The residence was closed while its keys were on their way: they were thrown away."""


class Loaded:
    """What is known of one residence's key records. `ticket`: of the gates, when this attempt began."""

    def __init__(self, ticket: int) -> None:
        self.ticket = ticket
        self.open = False
        self.ring: tuple[int, RingRecord] | None = None
        self.l2: dict[int, tuple[int, L2Record]] = {}
        self.l3: dict[str, dict[int, tuple[int, L3Record]]] = {}

    @property
    def current(self) -> tuple[int, L2Record] | None:
        """The newest L2: (sequence, record)."""
        return self.l2[max(self.l2)] if self.l2 else None

    @property
    def rotating(self) -> bool:
        """Whether an older version of a key is still on its way out."""
        return len(self.l2) > 1 or any(len(versions) > 1 for versions in self.l3.values())


class KeyRecords:
    """Works on a `Loaded`; whoever calls holds the residence's turn."""

    def __init__(self, region: str, state: Callable[[], State], gates: Gates, safe: Safe, unsealer: Unsealer) -> None:
        self._region, self._state, self._gates, self._safe, self._unsealer = region, state, gates, safe, unsealer

    # --- reading ----------------------------------------------------------------------------------------------------

    async def read(self, residence: Residence, loaded: Loaded) -> None:
        """Read ring, L2 and L3 records; without a ring there is nothing yet.

        Raises:
            RootError: `WrongContext` (bound to other approvers), `VaultRecordLost`, `Destroyed`.
        """
        tenant, state = residence.tenant, self._state()
        where = self._safe.subject(tenant, "ring", tenant)
        found = await self._safe.get(where, RingRecord, state)
        if found is None:
            if self._safe.knows(where):  # a new one would hide that all keys are lost
                raise RootError("VaultRecordLost", f"the ring of {tenant} is not in the vault")
            return
        if found[1].destroyed:
            raise RootError("Destroyed", "the residence's ring is tombstoned")
        if found[1].approvers_hash != residence.first_approvers_hash:
            raise RootError("WrongContext", "the ring is bound to other approvers")
        loaded.ring = found
        loaded.l2 = await self._versions(loaded, "L2", "l2", found[1].l2, L2Record)
        loaded.l3 = {
            registration: await self._versions(loaded, f"L3/{registration}", "l3", versions, L3Record)
            for registration, versions in found[1].l3.items()
        }

    async def make_ring(self, residence: Residence, loaded: Loaded) -> None:
        """Store the residence's first record.

        Raises:
            Conflict: Another node was first.
        """
        tenant, epoch = residence.tenant, self._state().epoch
        where = self._safe.subject(tenant, "ring", tenant)
        ring = RingRecord(tenant=tenant, region=self._region, approvers_hash=residence.first_approvers_hash or "")
        sequence, _ = await self._safe.put(where, ring, expect=(str(where), 0), epoch=epoch)
        loaded.ring = sequence, ring

    async def _versions(
        self, loaded: Loaded, name: str, kind: str, ids: dict[int, str], of: type[_R]
    ) -> dict[int, tuple[int, _R]]:
        """Read the records of a key's versions. One that every node has released may be gone, the ring not yet."""
        assert loaded.ring is not None
        sequence, ring = loaded.ring
        found: dict[int, tuple[int, _R]] = {}
        for version, record_id in ids.items():
            record = await self._safe.get(self._safe.subject(ring.tenant, kind, record_id), of, self._state())
            if record is not None:
                found[version] = record
            elif not self.released_by_all(ring, f"{name}/{version}"):
                where = self._safe.subject(ring.tenant, "ring", ring.tenant)
                now = await self._safe.get(where, RingRecord, self._state())
                if now is not None and now[0] != sequence:
                    raise Overtaken  # another node has moved the ring meanwhile: read it all anew
                raise RootError("VaultRecordLost", f"{kind} record {record_id} of {ring.tenant} is not in the vault")
        return found

    # --- L2 ---------------------------------------------------------------------------------------------------------

    async def unseal_l2(self, residence: Residence, loaded: Loaded) -> None:
        """Have the newest L2, and each that still wraps an L3, in the custodian's own arena, through the root."""
        children = {record.l2_version for versions in loaded.l3.values() for _, record in versions.values()}
        for version, (_, record) in loaded.l2.items():
            if version in children | {max(loaded.l2)} and self._gates.cell(residence.tenant, version) is None:
                await self._unseal(residence, record, loaded.ticket)

    async def _unseal(self, residence: Residence, record: L2Record, ticket: int) -> None:
        tenant, context = residence.tenant, self.l2_context(residence, record)
        with self.lend(2) as (cell, kek):
            cells = self._gates.cells
            await self._unsealer.unwrap(tenant, record.root, record.wrapped, context, cells.view(kek))
            if self._gates.ticket(tenant) != ticket:  # closed meanwhile: the key is thrown away (S11)
                raise Overtaken
            keyring.unseal_l2(record, cells.view(kek), context, cells.view(cell))
            self._keep(tenant, record.version, cell)

    async def make_l2(self, residence: Residence, loaded: Loaded, rotation: str | None = None) -> None:
        """Make the next version of L2, its KEK wrapped by the root as it is linked now."""
        assert loaded.ring is not None
        assert residence.root is not None
        tenant, ring = residence.tenant, loaded.ring[1]
        version, record_id = max(max(ring.l2, default=0) + 1, residence.floor("L2")), secrets.token_hex(16)
        context = keyring.l2_context(tenant, self._region, version, record_id, residence.root, ring.approvers_hash)
        with self.lend(2) as (cell, kek):
            cells = self._gates.cells
            wrapped = await self._unsealer.wrap_new_kek(tenant, residence.root, context, cells.view(kek))
            if self._gates.ticket(tenant) != loaded.ticket:
                raise Overtaken
            keyring.generate(cells.view(cell))
            record = keyring.seal_l2(
                cells.view(cell),
                cells.view(kek),
                context,
                residence.root,
                wrapped,
                version=version,
                record_id=record_id,
            )
            where, place = self._safe.subject(tenant, "l2", record_id), self._ring_place(loaded)
            sequence, _ = await self._safe.put(where, record, expect=place, epoch=self._state().epoch)
            named = replace(ring, l2={**ring.l2, version: record_id}, rotations=_noted(ring, rotation))
            await self._name(loaded, named, where, sequence)
            if self._gates.ticket(tenant) != loaded.ticket:
                raise Overtaken
            loaded.l2[version] = sequence, record
            self._keep(tenant, version, cell)

    # --- L3 ---------------------------------------------------------------------------------------------------------

    async def make_l3(
        self, residence: Residence, loaded: Loaded, registration: str, rotation: str | None = None
    ) -> None:
        """Make the next version of a system's L3 under the newest L2; nothing new comes under the older ones then."""
        assert loaded.ring is not None
        assert loaded.current is not None
        tenant, ring = residence.tenant, loaded.ring[1]
        versions = ring.l3.get(registration, {})
        floor = residence.floor("L3", registration)
        version, record_id = max(max(versions, default=0) + 1, floor), secrets.token_hex(16)
        l2_sequence, l2 = loaded.current
        with self.lend(1) as (cell,):
            keyring.generate(self._gates.cells.view(cell))
            record = keyring.seal_l3(
                self._gates.cells.view(cell),
                self.l2_view(tenant, l2.version),
                self.l3_context(tenant, registration, version, record_id),
                registration=registration,
                version=version,
                record_id=record_id,
                l2_version=l2.version,
            )
        where = self._safe.subject(tenant, "l3", record_id)
        place = str(self._safe.subject(tenant, "l2", l2.id)), l2_sequence
        sequence, _ = await self._safe.put(where, record, expect=place, epoch=self._state().epoch)
        named = {**ring.l3, registration: {**versions, version: record_id}}
        await self._name(loaded, replace(ring, l3=named, rotations=_noted(ring, rotation)), where, sequence)
        loaded.l3.setdefault(registration, {})[version] = sequence, record
        await self.retire_l3(tenant, loaded, registration)

    async def retire_l3(self, tenant: str, loaded: Loaded, registration: str) -> None:
        """Rewrite the records of a system's older L3 versions as retired. Done already is done."""
        versions = loaded.l3.get(registration, {})
        for version, (sequence, record) in list(versions.items()):
            if version != max(versions) and not record.retired:
                versions[version] = await self._renew(tenant, "l3", sequence, replace(record, retired=True))

    async def retire_l2(self, tenant: str, loaded: Loaded) -> None:
        """Rewrap every L3 under the newest L2, wipe the older ones here, and drop those that no node needs."""
        assert loaded.ring is not None
        if len(loaded.ring[1].l2) < 2 or loaded.current is None:
            return
        newest = loaded.current[1].version
        for versions in loaded.l3.values():
            for version, (sequence, record) in list(versions.items()):
                if record.l2_version != newest:
                    versions[version] = await self._rewrap_l3(tenant, sequence, record, newest)
        for version in [v for v in loaded.ring[1].l2 if v != newest]:  # no child is left under it
            self._gates.forget(tenant, version)
            await self.release(loaded, f"L2/{version}")

    # --- older versions go: released by each node, then destroyed by whichever sees that all have ------------------

    def released_by_all(self, ring: RingRecord, name: str) -> bool:
        """Whether every node enrolled in the region has said that it needs this version no more."""
        state = self._state()
        required = {node for node, region in state.nodes.items() if region == self._region}
        return bool(required) and required <= set(ring.released.get(name, ()))

    async def release(self, loaded: Loaded, name: str) -> bool:
        """Say that this node needs a version no more; destroy it when all have said so. Return whether it is gone.

        (1) this node's name in the ring; (2) once all are there, every revision of the record is erased; (3) the ring
        forgets it. A crash between (2) and (3) leaves a name in the ring that every reader knows to be gone.

        Raises:
            Conflict: Another node has moved the ring: read it anew.
        """
        assert loaded.ring is not None
        ring, own = loaded.ring[1], self._state().node
        nodes = ring.released.get(name, ())
        if own not in nodes:  # (1)
            await self._update_ring(loaded, replace(ring, released={**ring.released, name: (*nodes, own)}))
            ring = loaded.ring[1]
        if not self.released_by_all(ring, name):
            return False
        level, _, rest = name.partition("/")
        registration, _, number = rest.rpartition("/")
        version = int(number)
        ids = ring.l2 if level == "L2" else ring.l3[registration]
        await tidy(self._safe, ring)
        await self._safe.shred(self._safe.subject(ring.tenant, level.lower(), ids[version]))  # (2)
        left = {v: i for v, i in ids.items() if v != version}
        released = {n: who for n, who in ring.released.items() if n != name}
        if level == "L2":
            ring = replace(ring, l2=left, released=released)
            loaded.l2.pop(version, None)
        else:
            ring = replace(ring, l3={**ring.l3, registration: left}, released=released)
            loaded.l3[registration].pop(version, None)
        await self._update_ring(loaded, ring)  # (3)
        return True

    async def _renew(self, tenant: str, kind: str, sequence: int, record: _R) -> tuple[int, _R]:
        where = self._safe.subject(tenant, kind, record.id)
        stored, _ = await self._safe.put(
            where, record, expect=(str(where), sequence), epoch=self._state().epoch, replaces=sequence
        )
        return stored, record

    async def _rewrap_l3(self, tenant: str, sequence: int, record: L3Record, newest: int) -> tuple[int, L3Record]:
        context = self.l3_context(tenant, record.registration, record.version, record.id)
        with self.lend(1) as (cell,):
            view = self._gates.cells.view(cell)
            keyring.unseal_l3(record, self.l2_view(tenant, record.l2_version), context, view)
            renewed = keyring.seal_l3(
                view,
                self.l2_view(tenant, newest),
                context,
                registration=record.registration,
                version=record.version,
                record_id=record.id,
                l2_version=newest,
            )
        return await self._renew(tenant, "l3", sequence, replace(renewed, retired=record.retired))

    # --- L1, rotated by the customer --------------------------------------------------------------------------------

    async def rewrap_l2(self, residence: Residence, sequence: int, record: L2Record) -> tuple[int, L2Record]:
        """Wrap L2's KEK by the root's present version, inside the unsealer: the KEK never comes here.

        Raises:
            Conflict: Another node was first.
        """
        context = self.l2_context(residence, record)
        wrapped = await self._unsealer.rewrap(residence.tenant, record.root, record.wrapped, context)
        return await self._renew(residence.tenant, "l2", sequence, replace(record, wrapped=wrapped))

    # --- contexts and places ----------------------------------------------------------------------------------------

    def l2_context(self, residence: Residence, record: L2Record) -> KeyContext:
        """Return what an L2 record's key is for."""
        first = residence.first_approvers_hash or ""
        return keyring.l2_context(residence.tenant, self._region, record.version, record.id, record.root, first)

    def l3_context(self, tenant: str, registration: str, version: int, record_id: str) -> KeyContext:
        """Return what an L3 record's key is for."""
        return keyring.l3_context(tenant, self._region, registration, version, record_id)

    def l2_view(self, tenant: str, version: int) -> memoryview:
        """Return the cell of an unsealed L2.

        Raises:
            Overtaken: It is not unsealed any more.
        """
        cell = self._gates.cell(tenant, version)
        if cell is None:
            raise Overtaken
        return self._gates.cells.view(cell)

    def _ring_place(self, loaded: Loaded) -> tuple[str, int]:
        assert loaded.ring is not None
        sequence, ring = loaded.ring
        return str(self._safe.subject(ring.tenant, "ring", ring.tenant)), sequence

    async def _update_ring(self, loaded: Loaded, ring: RingRecord) -> None:
        place, old = self._ring_place(loaded)
        where = self._safe.subject(ring.tenant, "ring", ring.tenant)
        sequence, _ = await self._safe.put(where, ring, expect=(place, old), epoch=self._state().epoch, replaces=old)
        loaded.ring = sequence, ring

    async def _name(self, loaded: Loaded, ring: RingRecord, where: VaultSubject, sequence: int) -> None:
        try:
            await self._update_ring(loaded, ring)
        except Conflict:  # another node was first: its key is the one, ours was never used
            await self._safe.discard(where, sequence)
            raise

    @contextlib.contextmanager
    def lend(self, count: int) -> Iterator[list[int]]:
        """Lend cells; what is not kept is wiped and given back."""
        lent = [self._gates.cells.allocate() for _ in range(count)]
        try:
            yield lent
        finally:
            for cell in lent:
                if not self._gates.keeps(cell):
                    self._gates.cells.release(cell)

    def _keep(self, tenant: str, version: int, cell: int) -> None:
        self._gates.keep(tenant, version, cell)


def _noted(ring: RingRecord, rotation: str | None) -> tuple[str, ...]:
    return ring.rotations if rotation is None else (*ring.rotations, rotation)[-ROTATIONS_KEPT:]
