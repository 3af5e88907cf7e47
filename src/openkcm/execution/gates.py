"""A residence's places in the arena, and steps (1) to (3) of the kill switch on them. Synchronous; speaks to nobody.

Every registration that counts has a slot for each live version of its L3, and every enrolment a word of its own. A
residence's `ticket` rises with each closing: whoever began to unseal before it finds another ticket and throws the key
away (S11).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from openkcm.contract.reports import Verdict
from openkcm.execution.arena import Gate, RegionArena
from openkcm.execution.cells import KeyArena
from openkcm.execution.clock import boottime_ns

__all__ = ["GATE_OF", "Gates"]

_log: Final = logging.getLogger("openkcm.gates")
#: What a worker finds in the gate word under each verdict that serves nobody.
GATE_OF: Final[dict[Verdict, Gate]] = {
    "revoked": Gate.REVOKED,
    "frozen": Gate.LOCKED,
    "locked": Gate.LOCKED,
    "destroyed": Gate.DESTROYED,
    "unlinked": Gate.COLD,
    "linked": Gate.COLD,
    "expired": Gate.COLD,
    "active": Gate.COLD,  # cold until its keys are in place
    "suspended": Gate.COLD,
}


class Gates:
    """The arena's bookkeeping by tenant."""

    def __init__(
        self,
        arena: RegionArena,
        cells: KeyArena,
        drain: Callable[[], None],
        cancel: Callable[[str], None],
        announce_cut: Callable[[str], None],
        drained: Callable[[], bool] = lambda: True,
    ) -> None:
        """Tie the arenas together.

        Args:
            drain: Step (3) for the workers: returns when none is inside an operation begun before.
            cancel: Step (3) for a tenant's unseal children: kills and reaps them.
            announce_cut: Tells the workers to end an enrolment's sessions.
            drained: As `drain`, with less patience, and nobody is killed: False when one still is inside.
        """
        self.arena, self.cells = arena, cells
        self._drain, self._cancel, self._announce_cut, self._drained = drain, cancel, announce_cut, drained
        self._slots: dict[str, dict[tuple[str, int], int]] = {}
        self._states: dict[str, Verdict] = {}
        self._words: dict[str, int] = {}
        self._cells: dict[str, dict[int, int]] = {}
        self._tickets: dict[str, int] = {}
        self.closed_boottime_ns: dict[str, int] = {}

    # --- the kill switch --------------------------------------------------------------------------------------------

    def close(self, tenant: str, state: Verdict) -> None:
        """Close the residence: gates, keys, drain; in this order. Idempotent."""
        self._tickets[tenant] = self.ticket(tenant) + 1
        self._states[tenant] = state
        slots = list(self._slots.get(tenant, {}).values())
        self.arena.close_gates(slots, GATE_OF[state])  # (1) ends with the membarrier
        self.closed_boottime_ns[tenant] = boottime_ns()
        for cell in self._cells.pop(tenant, {}).values():  # (2)
            self.cells.release(cell)
        for slot in slots:
            self.arena.zeroize(slot)
            self.arena.raise_generation(slot)
        self._drain()  # (3)
        self._cancel(tenant)

    def cut(self, tenant: str, enrolments: Iterable[str]) -> None:
        """Close single enrolments, or the slots of single registrations, for ever."""
        gone = set(enrolments)
        words = [self._words[e] for e in gone if e in self._words]
        slots = [slot for (reg, _), slot in self._slots.get(tenant, {}).items() if reg in gone]
        self.arena.close_workloads(words)
        self.arena.close_gates(slots, Gate.REMOVED)
        for slot in slots:
            self.arena.zeroize(slot)
            self.arena.raise_generation(slot)
        self._drain()
        for enrolment in gone & self._words.keys():
            self._announce_cut(enrolment)

    def withdraw(self, tenant: str, floors: dict[str, int]) -> None:
        """Close the versions below these floors ("L3/<registration>", "L2/") at once; other versions serve on.

        An L2 below its floor takes every L3 with it: they are under it, until they are rewrapped under a newer one.
        """
        cells = [v for v in self._cells.get(tenant, {}) if v < floors.get("L2/", 0)]
        slots = [slot for (reg, version), slot in self._slots.get(tenant, {}).items()
                 if cells or version < floors.get(f"L3/{reg}", 0)]  # fmt: skip
        if cells:
            self._tickets[tenant] = self.ticket(tenant) + 1
        self.arena.close_gates(slots, Gate.LOCKED)  # (1)
        for version in cells:  # (2)
            self.forget(tenant, version)
        for slot in slots:
            self.arena.zeroize(slot)
            self.arena.raise_generation(slot)
        self._drain()  # (3)

    # --- room for others --------------------------------------------------------------------------------------------

    def reclaim(self) -> None:
        """Give back the slots of residences that are closed: their keys are gone, and workers were drained since."""
        for tenant in self._slots.keys() & self._states.keys():
            for slot in self._slots.pop(tenant).values():
                self.arena.release(slot)

    def evict(self, tenant: str) -> bool:
        """Take an open residence's keys away and give its places back; False, and all is as before, when in use.

        What is under way ends first: an answer that was computed and not yet compared with its gate is computed anew.
        """
        slots = self._slots.get(tenant, {}).values()
        before = {slot: self.arena.gate(slot) for slot in slots}
        self.arena.close_gates(slots, Gate.COLD)
        if not self._drained():
            for slot, gate in before.items():
                self.arena.set_gate(slot, gate)
            return False
        self._tickets[tenant] = self.ticket(tenant) + 1
        for version in list(self._cells.get(tenant, {})):
            self.forget(tenant, version)
        for slot in self._slots.pop(tenant, {}).values():
            self.arena.release(slot)
        return True

    # --- what is open -----------------------------------------------------------------------------------------------

    def ticket(self, tenant: str) -> int:
        """Return the number of closings so far; compare before a key is put in place."""
        return self._tickets.get(tenant, 0)

    def state(self, tenant: str) -> Verdict | None:
        """Return the verdict under which the residence was last closed, or None while it is open."""
        return self._states.get(tenant)

    def slot(self, tenant: str, registration: str, version: int) -> int:
        """Return the slot of one version of a registration's L3, a new and closed one when there is none.

        Raises:
            ArenaFull: No slot is left; nothing has changed.
        """
        slots = self._slots.setdefault(tenant, {})
        key = (registration, version)
        if key not in slots:
            slots[key] = self.arena.allocate()
            self.arena.set_gate(slots[key], GATE_OF[self._states.get(tenant, "active")])
        return slots[key]

    def slots(self, tenant: str) -> dict[tuple[str, int], int]:
        """Return all slots of a residence: (registration, version) -> slot."""
        return self._slots.get(tenant, {})

    def open(self, tenant: str, gates: dict[tuple[str, int], Gate]) -> None:
        """Open the named slots, whose keys are in place; drain where that narrows what was allowed."""
        self._states.pop(tenant, None)
        narrowed: dict[Gate, list[int]] = {}
        for key, gate in gates.items():
            slot = self._slots[tenant][key]
            if gate is Gate.OPEN:
                self.arena.open_gate(slot, self.arena.generation(slot))  # the key is visible before the gate is
            elif gate is not self.arena.gate(slot):
                narrowed.setdefault(gate, []).append(slot)
        for gate, slots in narrowed.items():
            self.arena.close_gates(slots, gate)
        for slot in narrowed.get(Gate.LOCKED, ()):  # a version under an emergency floor: its key goes, too
            self.arena.zeroize(slot)
            self.arena.raise_generation(slot)
        if narrowed:
            self._drain()

    def drop_version(self, tenant: str, registration: str, version: int) -> None:
        """Release the slot of a version that is no more: closed, zeroized, drained, then free for others."""
        slot = self._slots.get(tenant, {}).pop((registration, version), None)
        if slot is None:
            return
        self.arena.close_gates([slot], Gate.EMPTY)
        self.arena.zeroize(slot)
        self._drain()
        self.arena.release(slot)

    def word(self, enrolment: str) -> int:
        """Return the enrolment's word, a new and open one when there is none."""
        if enrolment not in self._words:
            self._words[enrolment] = self.arena.allocate_workload()
            self.arena.set_workload(self._words[enrolment], Gate.OPEN)
        return self._words[enrolment]

    def cell(self, tenant: str, version: int) -> int | None:
        """Return the cell in the custodian's own arena that holds this version of L2, or None."""
        return self._cells.get(tenant, {}).get(version)

    def keep(self, tenant: str, version: int, cell: int) -> None:
        """Remember a cell as the tenant's L2 of this version; an older cell of the same version is released."""
        old = self._cells.setdefault(tenant, {}).pop(version, None)
        if old is not None:
            self.cells.release(old)
        self._cells[tenant][version] = cell

    def keeps(self, cell: int) -> bool:
        """Whether the cell is some tenant's L2."""
        return any(cell in versions.values() for versions in self._cells.values())

    def forget(self, tenant: str, version: int) -> None:
        """Wipe and give back the cell of an L2 version that is no more."""
        cell = self._cells.get(tenant, {}).pop(version, None)
        if cell is not None:
            self.cells.release(cell)

    def set_lease(self, tenant: str, until_boottime_ns: int) -> None:
        """Write the deadline beside every key of the residence."""
        for slot in self._slots.get(tenant, {}).values():
            self.arena.set_lease(slot, until_boottime_ns)
