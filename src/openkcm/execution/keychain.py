"""Brings residences' keys to what ledger and root want, and knows which are in place. Holds no key outside an arena.

`provision` goes in this order, and every await may be overtaken by a revocation, which the `ticket` shows:

1. read the fence record: a revocation that we do not know as lifted forbids everything (a lost disk, an old backup);
2. read the key records; the ring is bound to the hash of the first approvers; have room for the keys, or stay cold;
3. unseal L2 through the customer's root into the custodian's own arena, or make it;
4. make what is missing or ordered: L3 of new systems, new versions, rewraps;
5. compare the ticket, then put the L3s into their slots and open the gates, all without an await.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from openkcm.bus.errors import Conflict
from openkcm.contract.decrees import RootReference
from openkcm.execution import keyring
from openkcm.execution.arena import ArenaFull, Gate
from openkcm.execution.fences import Fences
from openkcm.execution.gates import Gates
from openkcm.execution.keyrecords import KeyRecords, Loaded, Overtaken
from openkcm.execution.keyring import KeyContext, KeyringError
from openkcm.execution.residence_state import CLOSED, Residence, State, verdict
from openkcm.execution.roots.base import Canary, RootError
from openkcm.execution.safe import Planted, Safe
from openkcm.execution.unseal import Unsealer
from openkcm.execution.warmth import Warmth

__all__ = ["Keychain"]

_log: Final = logging.getLogger("openkcm.keychain")
MAX_RACES: Final = 5
LENT_CELLS: Final = 8  # cells that stay free for what is lent for a moment
#: Residences of one provider whose keys are brought at once: thousands come together after a start, and those that wait
#: for their root must not hold the cells of those that are there. A KMS that hangs delays its own customers.
MAKERS: Final = 8
USABLE: Final = frozenset({Gate.OPEN, Gate.SUSPENDED, Gate.DECRYPT_ONLY})
Done = tuple[str | None, tuple[str, ...]]


class Keychain:
    """All residences' keys. `state` is read anew after each await."""

    def __init__(self, region: str, state: Callable[[], State], gates: Gates, safe: Safe, unsealer: Unsealer) -> None:
        self._state, self._gates, self._safe = state, gates, safe
        self._fences = Fences(safe, state)
        self.records = KeyRecords(region, state, gates, safe, unsealer)
        self.warmth = Warmth()
        self._reserved: dict[str, int] = {}  # slots for keys that are on their way
        self._makers: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(MAKERS))
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.loaded: dict[str, Loaded] = {}
        self.on_keys: Callable[[str], None] = lambda _tenant: None
        self.on_rotation: Callable[[str, str, str | None, str, int], None] = lambda *_: None

    async def write_fence(self, tenant: str) -> None:
        """Have the residence's revocations in the vault."""
        await self._fences.write(tenant)

    def turn(self, tenant: str) -> asyncio.Lock:
        """Whoever changes the residence's key records on this node holds it."""
        return self._turns[tenant]

    async def provision(self, tenant: str) -> Done:
        """Bring the residence's keys to what ledger and root want; return why not (a code), and finished rotations."""
        async with self.turn(tenant):
            demanded = tenant in self.warmth.demanded
            self.warmth.demanded.discard(tenant)
            try:
                return await self._attempts(tenant, demanded)
            finally:
                self._reserved.pop(tenant, None)

    async def _attempts(self, tenant: str, demanded: bool) -> Done:
        for _ in range(MAX_RACES):
            try:
                return await self._provision(tenant, demanded)
            except (Conflict, Overtaken):
                continue
            except RootError as no:
                if no.code != "Overtaken":
                    return no.code, ()
            except (Planted, KeyringError) as bad:
                _log.error("%s", bad)
                return "VaultRecordRefused", ()
            except ArenaFull as full:
                _log.error("%s", full)
                return "KeySlotsFull", ()
        return "Contended", ()

    def _needless(self, tenant: str) -> Done | None:
        """Return what there is to say where no key is wanted; None where one is."""
        state = self._state()
        residence = state.residences[tenant]
        said = verdict(residence)
        if state.behind_mark:
            return "SmallerThanMark", ()
        if state.halted is not None and not self._gates.slots(tenant):
            return state.halted, ()  # what serves goes on under its lease; nothing is opened anew
        if residence.root is None or (said in CLOSED and said not in ("linked", "locked")):
            return None, ()
        if residence.first_approvers_hash is None:
            return "NoApprovers", ()
        return None

    async def _provision(self, tenant: str, demanded: bool) -> Done:
        done, root = self._needless(tenant), self._state().residences[tenant].root
        if done is not None or root is None:
            return done or (None, ())
        async with self._makers[root.provider]:
            return self._needless(tenant) or await self._make(tenant, demanded)

    async def _make(self, tenant: str, demanded: bool) -> Done:
        residence = self._state().residences[tenant]
        said = verdict(residence)
        loaded = Loaded(self._gates.ticket(tenant))
        await self._fences.check(tenant)  # (1)
        await self.records.read(residence, loaded)  # (2)
        if loaded.ring is not None and not self.is_open(
            tenant
        ):  # the watch has its canary from here on, also when the root then refuses
            self.loaded[tenant] = loaded
        if said == "locked":  # it opens when the watch sees that the customer lets us in again; nothing is unsealed
            return None, ()
        if not self._room(residence, loaded, needed=demanded or self._unfinished(residence, loaded)):
            return None, ()
        if loaded.ring is None:
            await self.records.make_ring(residence, loaded)
        await self.records.unseal_l2(residence, loaded)  # (3)
        if max(loaded.l2, default=0) < max(1, residence.floor("L2")):
            await self.records.make_l2(residence, loaded)
            self._say_new(tenant, "L2", None, max(loaded.l2))
        for registration in residence.serving_systems():  # (4)
            if max(loaded.l3.get(registration, {}), default=0) < max(1, residence.floor("L3", registration)):
                await self.records.make_l3(residence, loaded, registration)
                self._say_new(tenant, "L3", registration, max(loaded.l3[registration]))
            await self.records.retire_l3(tenant, loaded, registration)
        done = await self._rotate(residence, loaded)
        await self.records.retire_l2(tenant, loaded)
        self._open(tenant, loaded)  # (5)
        return None, done

    def _say_new(self, tenant: str, level: str, registration: str | None, version: int) -> None:
        """Report a version that an emergency had this node make; the first one of a key is no news."""
        if version > 1:
            self.on_rotation(tenant, level, registration, "", version)

    # --- room -------------------------------------------------------------------------------------------------------

    def _unfinished(self, residence: Residence, loaded: Loaded) -> bool:
        """Whether there is work to do on the keys themselves, whoever uses them: made, rotated, an older one to go."""
        if loaded.ring is None:
            return True
        systems = residence.serving_systems()
        return (
            max(loaded.l2, default=0) < max(1, residence.floor("L2"))
            or any(max(loaded.l3.get(r, {}), default=0) < max(1, residence.floor("L3", r)) for r in systems)
            or loaded.rotating
            or any(rotation not in loaded.ring[1].rotations for _, _, rotation in residence.rotations)
        )

    def _room(self, residence: Residence, loaded: Loaded, *, needed: bool) -> bool:
        """Have room for a residence's keys: who is coldest gives way to one that is needed. False: it stays cold.

        Raises:
            ArenaFull: It is needed, and everybody else is in use; names the limit. Nothing was changed.
        """
        tenant, here = residence.tenant, self._gates.slots(residence.tenant)
        wanted = {(r, v) for r in residence.serving_systems() for v in loaded.l3.get(r, ()) or (1,)}
        self._reserved.pop(tenant, None)
        slots = len(wanted - here.keys())
        if not self._fits(slots):
            self._gates.reclaim()
        while not self._fits(slots):
            if not needed:
                self.warmth.cold.add(tenant)
                return False
            victim = self.warmth.coldest(t for t in self.loaded if t != tenant and self._may_give_way(t))
            if victim is None or not self._gates.evict(victim):
                free, all_ = self._gates.arena.free, self._gates.arena.slots
                raise ArenaFull(f"{len(wanted)} key slots wanted for {tenant}, {free} of {all_} free and nobody idle: "
                                "raise limits.key_slots in node.toml")  # fmt: skip
            self.warmth.chill(victim)
            _log.info("%s gives way to %s", victim, tenant)
        if slots:
            self._reserved[tenant] = slots
        return True

    def _fits(self, slots: int) -> bool:
        if not slots:
            return True
        left = self._gates.arena.free - sum(self._reserved.values())
        return slots <= left and self._gates.cells.free - len(self._reserved) > LENT_CELLS

    def _may_give_way(self, tenant: str) -> bool:
        """Whether nothing is under way with its keys: nobody provides them, no version is on its way out."""
        return self.is_open(tenant) and not self.loaded[tenant].rotating and not self._turns[tenant].locked()

    async def _rotate(self, residence: Residence, loaded: Loaded) -> tuple[str, ...]:
        """Carry out the ordered rotations; return the ids of all that are done, by whichever node."""
        tenant = residence.tenant
        for level, registration, rotation in residence.rotations:
            assert loaded.ring is not None
            if rotation in loaded.ring[1].rotations:
                continue
            if level == "L2":
                await self.records.make_l2(residence, loaded, rotation)
            elif registration in residence.serving_systems() and registration is not None:
                await self.records.make_l3(residence, loaded, registration, rotation)
            else:
                continue  # of a system that is no more: nothing to do, and done
            self.on_rotation(tenant, level, registration, rotation, self._newest(loaded, registration))
        return tuple(rotation for _, _, rotation in residence.rotations)

    @staticmethod
    def _newest(loaded: Loaded, registration: str | None) -> int:
        return max(loaded.l2 if registration is None else loaded.l3[registration])

    def _open(self, tenant: str, loaded: Loaded) -> None:
        """Step 5: synchronous from the comparison to the last gate."""
        state = self._state()
        residence = state.residences[tenant]
        said = verdict(residence)
        if self._gates.ticket(tenant) != loaded.ticket:
            raise Overtaken
        self.loaded[tenant] = loaded
        if said in CLOSED:
            return
        assert loaded.ring is not None
        if not residence.serving_systems().keys() <= loaded.l3.keys():
            raise Overtaken  # a system was registered meanwhile: it gets its key in another round
        gates: dict[tuple[str, int], Gate] = {}
        until = state.lease_until(residence)
        for registration in residence.serving_systems():
            versions = loaded.l3[registration]
            floor = residence.floor("L3", registration)
            for version, (_, record) in versions.items():
                if state.node in loaded.ring[1].released.get(f"L3/{registration}/{version}", ()):
                    continue
                slot = self._gates.slot(tenant, registration, version)
                if version >= floor and self._gates.arena.gate(slot) not in USABLE:
                    context = self.records.l3_context(tenant, registration, version, record.id)
                    l2 = self.records.l2_view(tenant, record.l2_version)
                    keyring.unseal_l3(record, l2, context, self._gates.arena.slot_view(slot))
                self._gates.arena.set_lease(slot, until)
                gates[registration, version] = (
                    Gate.LOCKED
                    if version < floor
                    else Gate.SUSPENDED
                    if said == "suspended"
                    else Gate.OPEN
                    if version == max(versions)
                    else Gate.DECRYPT_ONLY
                )
        self._gates.open(tenant, gates)
        for registration, version in [k for k in self._gates.slots(tenant) if k not in gates]:
            if registration in residence.serving_systems():  # destroyed, or released by this node
                self._gates.drop_version(tenant, registration, version)
        loaded.open = True
        self.warmth.warm(tenant)
        self.on_keys(tenant)

    # --- what others ask --------------------------------------------------------------------------------------------

    def is_open(self, tenant: str) -> bool:
        """Whether the residence's keys are in their slots, and it was not closed since."""
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

    def probe_of(self, tenant: str) -> tuple[RootReference, Canary, KeyContext] | None:
        """Return what the watch needs: the root, the canary it wrapped with L2's KEK, and their context."""
        loaded, residence = self.loaded.get(tenant), self._state().residences.get(tenant)
        if loaded is None or loaded.current is None or residence is None:
            return None
        record = loaded.current[1]
        if record.wrapped.canary is None:
            return None
        return record.root, record.wrapped.canary, self.records.l2_context(residence, record)

    def root_version(self, tenant: str) -> str | None:
        """Return which version of the root wraps L2, or None while that is not known."""
        loaded = self.loaded.get(tenant)
        return None if loaded is None or loaded.current is None else loaded.current[1].wrapped.root_version

    def version(self, tenant: str) -> int:
        """Return L2's version, 0 while there is none."""
        loaded = self.loaded.get(tenant)
        return 0 if loaded is None or loaded.current is None else loaded.current[1].version

    async def rewrap(self, tenant: str) -> bool:
        """Wrap L2's KEK by the root's present version; return whether this node did it (another may have been first).

        Raises:
            RootError, BusError, Planted: As they say; the next probe tries again.
        """
        async with self.turn(tenant):
            return await self._rewrap(tenant)

    async def _rewrap(self, tenant: str) -> bool:
        loaded, residence = self.loaded.get(tenant), self._state().residences.get(tenant)
        if loaded is None or loaded.current is None or residence is None:
            return False
        sequence, record = loaded.current
        try:
            renewed = await self.records.rewrap_l2(residence, sequence, record)
        except Conflict:  # somebody else did, or the ring has moved: read again
            fresh = Loaded(loaded.ticket)
            await self.records.read(residence, fresh)
            loaded.ring, loaded.l2 = fresh.ring, fresh.l2
            return False
        loaded.l2[record.version] = renewed
        return True
