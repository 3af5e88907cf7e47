"""A residence's keys between the vault, the customer's root and the arena. Never holds a key outside an arena view.

Bringing a residence to its desired state (`provision`) goes in this order, and every await may be overtaken by a
revocation, which the `ticket` shows:

1. read the fence record: a revocation that we do not know as lifted forbids everything (a lost disk, an old backup);
2. read the ring (the residence's pointer record) or make it, bound to the hash of the first approvers;
3. unseal L2 through the customer's root into the custodian's own arena, or make it;
4. for each system read L3, or make it;
5. compare the ticket, then put the L3s into their slots and open the gates, all without an await.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from openkcm.bus.errors import Conflict
from openkcm.contract.decrees import RootReference
from openkcm.execution import keyring
from openkcm.execution.arena import Gate
from openkcm.execution.fences import Fences
from openkcm.execution.gates import Gates
from openkcm.execution.keyring import KeyContext, KeyringError, L2Record, L3Record, RingRecord
from openkcm.execution.residence_state import CLOSED, Residence, State, verdict
from openkcm.execution.roots.base import Canary, RootError
from openkcm.execution.safe import Planted, Safe
from openkcm.execution.unseal import Unsealer

__all__ = ["Keychain", "Loaded", "Overtaken"]

_log: Final = logging.getLogger("openkcm.keychain")
MAX_RACES: Final = 5
USABLE: Final = frozenset({Gate.OPEN, Gate.SUSPENDED, Gate.DECRYPT_ONLY})


class Overtaken(Exception):
    """The residence was closed while its keys were on their way: they were thrown away."""


class Loaded:
    """What is unsealed of one residence: the records, whose keys lie in the arenas."""

    def __init__(self) -> None:
        self.ring: tuple[int, RingRecord] | None = None
        self.l2: tuple[int, L2Record] | None = None
        self.l3: dict[str, dict[int, tuple[int, L3Record]]] = {}
        self.ticket = -1
        self.open = False


class Keychain:
    """All residences' keys. `state` is read anew after each await."""

    def __init__(
        self, node_region: str, state: Callable[[], State], gates: Gates, safe: Safe, unsealer: Unsealer
    ) -> None:
        self._region, self._state, self._gates, self._safe, self._unsealer = node_region, state, gates, safe, unsealer
        self._fences = Fences(safe, state)
        self.loaded: dict[str, Loaded] = {}
        self.on_keys: Callable[[str], None] = lambda _tenant: None

    async def write_fence(self, tenant: str) -> None:
        """Have the residence's revocations in the vault."""
        await self._fences.write(tenant)

    # --- provision --------------------------------------------------------------------------------------------------

    async def provision(self, tenant: str) -> tuple[str | None, tuple[str, ...]]:
        """Bring the residence's keys to what ledger and root want; return why not (a code), and finished rotations."""
        for _ in range(MAX_RACES):
            try:
                return await self._provision(tenant)
            except (Conflict, Overtaken):
                continue
            except RootError as no:
                if no.code == "Overtaken":
                    continue
                return no.code, ()
            except (Planted, KeyringError) as bad:
                _log.error("%s", bad)
                return "VaultRecordRefused", ()
        return "Contended", ()

    async def _provision(self, tenant: str) -> tuple[str | None, tuple[str, ...]]:
        state = self._state()
        residence = state.residences[tenant]
        if state.behind_mark:
            return "SmallerThanMark", ()
        said = verdict(residence)
        if residence.root is None or (said in CLOSED and said not in ("linked", "locked")):
            return None, ()
        if residence.first_approvers_hash is None:
            return "NoApprovers", ()
        ticket = self._gates.ticket(tenant)
        loaded = self.loaded.get(tenant)
        if loaded is None or loaded.ticket != ticket or loaded.l2 is None or loaded.l2[1].root != residence.root:
            loaded = Loaded()
            loaded.ticket = ticket
        await self._fences.check(tenant)  # (1)
        await self._ring(residence, loaded)  # (2)
        await self._l2_record(residence, loaded)
        if (
            said == "locked"
        ):  # the watch needs the canary to see when the customer lets us in again; nothing is unsealed
            self.loaded[tenant] = loaded
            return None, ()
        await self._l2(residence, loaded)  # (3)
        for registration in residence.serving_systems():  # (4)
            await self._l3(residence, loaded, registration)
        self._open(tenant, loaded, ticket)  # (5)
        return None, ()

    async def _ring(self, residence: Residence, loaded: Loaded) -> None:
        where = self._safe.subject(residence.tenant, "ring", residence.tenant)
        found = await self._safe.get(where, RingRecord, self._state())
        if found is None:
            ring = RingRecord(
                tenant=residence.tenant, region=self._region, approvers_hash=residence.first_approvers_hash or ""
            )
            sequence, _ = await self._safe.put(where, ring, expect=(str(where), 0), epoch=self._state().epoch)
            found = sequence, ring
        if found[1].approvers_hash != residence.first_approvers_hash:
            raise RootError("WrongContext", "the ring is bound to other approvers")
        loaded.ring = found

    async def _update_ring(self, loaded: Loaded, ring: RingRecord) -> None:
        assert loaded.ring is not None
        where = self._safe.subject(ring.tenant, "ring", ring.tenant)
        old = loaded.ring[0]
        sequence, _ = await self._safe.put(
            where, ring, expect=(str(where), old), epoch=self._state().epoch, replaces=old
        )
        loaded.ring = sequence, ring

    def _ring_place(self, loaded: Loaded) -> tuple[str, int]:
        assert loaded.ring is not None
        tenant = loaded.ring[1].tenant
        return str(self._safe.subject(tenant, "ring", tenant)), loaded.ring[0]

    async def _l2_record(self, residence: Residence, loaded: Loaded) -> None:
        assert loaded.ring is not None
        ring = loaded.ring[1]
        if not ring.l2:
            return
        version = max(ring.l2)
        found = await self._safe.get(
            self._safe.subject(residence.tenant, "l2", ring.l2[version]), L2Record, self._state()
        )
        if found is None:
            raise RootError("VaultRecordLost", f"L2 version {version} of {residence.tenant} is not in the vault")
        loaded.l2 = found

    async def _l2(self, residence: Residence, loaded: Loaded) -> None:
        assert loaded.ring is not None
        assert residence.root is not None
        tenant, ring = residence.tenant, loaded.ring[1]
        if loaded.l2 is not None:
            if self._gates.cell(tenant, loaded.l2[1].version) is None:
                await self._unseal_l2(residence, loaded.l2[1], loaded.ticket)
            return
        record_id = secrets.token_hex(16)
        cells = self._gates.cells
        cell, kek = cells.allocate(), cells.allocate()
        try:
            context = keyring.l2_context(tenant, self._region, 1, record_id, residence.root, ring.approvers_hash)
            wrapped = await self._unsealer.wrap_new_kek(tenant, residence.root, context, cells.view(kek))
            keyring.generate(cells.view(cell))
            record = keyring.seal_l2(
                cells.view(cell), cells.view(kek), context, residence.root, wrapped, version=1, record_id=record_id
            )
            where = self._safe.subject(tenant, "l2", record_id)
            sequence, _ = await self._safe.put(
                where, record, expect=self._ring_place(loaded), epoch=self._state().epoch
            )
            try:
                await self._update_ring(loaded, replace(ring, l2={1: record_id}))
            except Conflict:  # another node was first: its L2 is the one, ours was never used
                await self._safe.discard(where, sequence)
                raise
            if self._gates.ticket(tenant) != loaded.ticket:
                raise Overtaken
            loaded.l2 = sequence, record
            self._gates.keep(tenant, 1, cell)
            cell = -1
        finally:
            for one in (cell, kek):
                if one >= 0:
                    cells.release(one)

    async def _unseal_l2(self, residence: Residence, record: L2Record, ticket: int) -> None:
        tenant, cells = residence.tenant, self._gates.cells
        assert residence.root is not None
        context = self._l2_context(residence, record)
        cell, kek = cells.allocate(), cells.allocate()
        try:
            await self._unsealer.unwrap(tenant, record.root, record.wrapped, context, cells.view(kek))
            if self._gates.ticket(tenant) != ticket:  # closed meanwhile: the key is thrown away (S11)
                raise Overtaken
            keyring.unseal_l2(record, cells.view(kek), context, cells.view(cell))
            self._gates.keep(tenant, record.version, cell)
            cell = -1
        finally:
            for one in (cell, kek):
                if one >= 0:
                    cells.release(one)

    async def _l3(self, residence: Residence, loaded: Loaded, registration: str) -> None:
        assert loaded.ring is not None
        assert loaded.l2 is not None
        tenant, ring = residence.tenant, loaded.ring[1]
        versions = loaded.l3.setdefault(registration, {})
        for version, record_id in ring.l3.get(registration, {}).items():
            if version in versions:
                continue
            found = await self._safe.get(self._safe.subject(tenant, "l3", record_id), L3Record, self._state())
            if found is None:
                raise RootError("VaultRecordLost", f"L3 of {registration} version {version} is not in the vault")
            versions[version] = found
        if versions:
            return
        record_id = secrets.token_hex(16)
        l2_sequence, l2 = loaded.l2
        cell = self._gates.cells.allocate()
        try:
            keyring.generate(self._gates.cells.view(cell))
            l2_cell = self._gates.cell(tenant, l2.version)
            if l2_cell is None:
                raise Overtaken
            record = keyring.seal_l3(
                self._gates.cells.view(cell), self._gates.cells.view(l2_cell), self._l3_context(tenant, registration, 1, record_id),
                registration=registration, version=1, record_id=record_id, l2_version=l2.version,
            )  # fmt: skip
        finally:
            self._gates.cells.release(cell)
        where = self._safe.subject(tenant, "l3", record_id)
        place = str(self._safe.subject(tenant, "l2", l2.id)), l2_sequence
        sequence, _ = await self._safe.put(where, record, expect=place, epoch=self._state().epoch)
        try:
            await self._update_ring(loaded, replace(ring, l3={**ring.l3, registration: {1: record_id}}))
        except Conflict:
            await self._safe.discard(where, sequence)
            raise
        versions[1] = sequence, record

    def _l3_context(self, tenant: str, registration: str, version: int, record_id: str) -> KeyContext:
        return keyring.l3_context(tenant, self._region, registration, version, record_id)

    def _open(self, tenant: str, loaded: Loaded, ticket: int) -> None:
        """Step 5: synchronous from the comparison to the last gate."""
        state = self._state()
        residence = state.residences[tenant]
        said = verdict(residence)
        if self._gates.ticket(tenant) != ticket:
            raise Overtaken
        self.loaded[tenant] = loaded
        if said in CLOSED:
            return
        assert loaded.l2 is not None
        l2_cell = self._gates.cell(tenant, loaded.l2[1].version)
        if l2_cell is None:
            raise Overtaken
        gates: dict[tuple[str, int], Gate] = {}
        until = state.lease_until(residence)
        for registration in residence.serving_systems():
            versions = loaded.l3[registration]
            for version, (_, record) in versions.items():
                slot = self._gates.slot(tenant, registration, version)
                if self._gates.arena.gate(slot) not in USABLE:
                    keyring.unseal_l3(
                        record,
                        self._gates.cells.view(l2_cell),
                        self._l3_context(tenant, registration, version, record.id),
                        self._gates.arena.slot_view(slot),
                    )
                self._gates.arena.set_lease(slot, until)
                newest = version == max(versions)
                floor = residence.floors.get(f"L3/{registration}", 0)
                gate = Gate.OPEN if newest else Gate.DECRYPT_ONLY
                gates[registration, version] = (
                    Gate.LOCKED if version < floor else Gate.SUSPENDED if said == "suspended" else gate
                )
        self._gates.open(tenant, gates)
        loaded.open = True
        self.on_keys(tenant)

    def is_open(self, tenant: str) -> bool:
        """Whether the residence's keys are in their slots, unless it was closed since."""
        loaded = self.loaded.get(tenant)
        return loaded is not None and loaded.open and loaded.ticket == self._gates.ticket(tenant)

    def place_of(self, tenant: str, registration: str, version: int) -> tuple[str, int] | None:
        """Return (subject, sequence) of the L3 record under which new objects are wrapped; None when it is not it."""
        loaded = self.loaded.get(tenant)
        versions = {} if loaded is None else loaded.l3.get(registration, {})
        if not versions or version != max(versions):
            return None
        sequence, record = versions[version]
        return str(self._safe.subject(tenant, "l3", record.id)), sequence

    # --- the customer's own rotation --------------------------------------------------------------------------------

    async def rewrap(self, tenant: str, root_version: str) -> bool:
        """Wrap L2's KEK by the root's new version; return whether this node did it (another may have been first)."""
        loaded = self.loaded.get(tenant)
        residence = self._state().residences.get(tenant)
        if loaded is None or loaded.l2 is None or residence is None or residence.root is None:
            return False
        where = self._safe.subject(tenant, "l2", loaded.l2[1].id)
        found = await self._safe.get(where, L2Record, self._state())
        if found is None or found[1].wrapped.root_version == root_version:
            loaded.l2 = found or loaded.l2
            return False
        sequence, record = found
        context = self._l2_context(residence, record)
        wrapped = await self._unsealer.rewrap(tenant, record.root, record.wrapped, context)
        renewed = replace(record, wrapped=wrapped)
        try:
            stored, _ = await self._safe.put(
                where, renewed, expect=(str(where), sequence), epoch=self._state().epoch, replaces=sequence
            )
        except Conflict:
            return False
        loaded.l2 = stored, renewed
        return True

    def probe_of(self, tenant: str) -> tuple[RootReference, Canary, KeyContext] | None:
        """Return what the watch needs: the root, the canary it wrapped with L2's KEK, and their context."""
        loaded, residence = self.loaded.get(tenant), self._state().residences.get(tenant)
        if loaded is None or loaded.l2 is None or residence is None:
            return None
        record = loaded.l2[1]
        if record.wrapped.canary is None:
            return None
        return record.root, record.wrapped.canary, self._l2_context(residence, record)

    def root_version(self, tenant: str) -> str | None:
        """Return which version of the root wraps L2, or None while that is not known."""
        loaded = self.loaded.get(tenant)
        return None if loaded is None or loaded.l2 is None else loaded.l2[1].wrapped.root_version

    def version(self, tenant: str) -> int:
        """Return L2's version, 0 while there is none."""
        loaded = self.loaded.get(tenant)
        return 0 if loaded is None or loaded.l2 is None else loaded.l2[1].version

    def _l2_context(self, residence: Residence, record: L2Record) -> KeyContext:
        return keyring.l2_context(
            residence.tenant,
            self._region,
            record.version,
            record.id,
            record.root,
            residence.first_approvers_hash or "",
        )
