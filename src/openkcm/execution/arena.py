"""Where keys lie: the region arena (L3, shared with workers). The front door of `cells` (L2, scratch) and `board` too.

Knows slots, gates and generations; not whose key it is, nor why a gate closes. The custodian's single thread is the
only writer of an arena, which is what makes check-then-set here atomic.

Region arena, native 64-bit words (64-byte slots, so a gate and its lease share a cache line with the key):
    header  4096 bytes: magic, alive deadline, number of slots, of workload words, of epoch words
    slots   key 32 bytes | gate = generation << 8 | state | lease deadline, CLOCK_BOOTTIME ns | 16 spare bytes
    words   one per workload: generation << 8 | state
    epochs  one per bucket of object names: raised whenever a catalogue record in the bucket changes

The errors are drawn in `cells`.
"""

from __future__ import annotations

import enum
import os
import zlib
from collections import deque
from collections.abc import Iterable
from typing import Final

from openkcm.execution import secretmem
from openkcm.execution.board import BOARD_COUNTS, BOARD_HISTOGRAM, BOARD_WORDS, Board
from openkcm.execution.cells import (
    KEY_BYTES,
    SCRATCH_BYTES,
    ArenaError,
    ArenaFull,
    ArenaMismatch,
    GateOpen,
    KeyArena,
    Scratch,
    TooLate,
)

__all__ = [
    "ALIVE_WORD",
    "BOARD_COUNTS",
    "BOARD_HISTOGRAM",
    "BOARD_WORDS",
    "DEFAULT_EPOCHS",
    "GATE_OFFSET",
    "KEY_BYTES",
    "LEASE_OFFSET",
    "SCRATCH_BYTES",
    "SLOTS_WORD",
    "SLOT_WORDS",
    "STATE_MASK",
    "ArenaError",
    "ArenaFull",
    "ArenaMismatch",
    "Board",
    "Gate",
    "GateOpen",
    "KeyArena",
    "RegionArena",
    "Scratch",
    "TooLate",
    "WorkerArena",
]

HEADER_BYTES: Final = 4096
SLOT_BYTES: Final = 64
SLOT_WORDS: Final = SLOT_BYTES // 8
_ZEROS: Final = bytes(KEY_BYTES)
MAGIC: Final = 0x4F4B_434D_0000_0001  # "OKCM", layout 1
ALIVE_WORD: Final = 1  # until when (CLOCK_BOOTTIME ns) the custodian counts as alive
SLOTS_WORD: Final = HEADER_BYTES // 8  # slot i starts at word SLOTS_WORD + i * SLOT_WORDS
GATE_OFFSET: Final = 4  # words from the slot's start
LEASE_OFFSET: Final = 5
STATE_MASK: Final = 0xFF
DEFAULT_EPOCHS: Final = 1 << 14  # two unrelated objects share a bucket rarely; sharing costs one look-up, no more


class Gate(enum.IntEnum):
    """The low byte of a gate word. Everything but OPEN refuses something; what it refuses is the worker's table."""

    EMPTY = 0
    OPEN = 1
    SUSPENDED = 2  # decrypt-side only
    REVOKED = 3
    LOCKED = 4  # the customer's root says no
    COLD = 5  # not unsealed, lease over, or the lane's head not applied yet
    DESTROYED = 6
    DECRYPT_ONLY = 7  # an old version
    REMOVED = 8  # a workload that counts no more


#: States in which a slot's key must never be used: only from these may it be given back.
SHUT: Final = frozenset({Gate.EMPTY, Gate.REVOKED, Gate.LOCKED, Gate.COLD, Gate.DESTROYED, Gate.REMOVED})


class RegionArena:
    """The custodian's side: writes keys, gates and leases that workers read.

    Attributes:
        fd: To pass on to workers; stays open for workers started later.
        words: The arena as 64-bit words.
    """

    __slots__ = ("_epoch_start", "_epochs", "_free", "_free_workloads", "_mapping", "_slots", "_taken",
                 "_taken_workloads", "_workload_start", "_workloads", "fd", "mode", "size", "words")  # fmt: skip

    def __init__(
        self,
        *,
        slots: int,
        workloads: int,
        epochs: int = DEFAULT_EPOCHS,
        require_secretmem: bool = False,
        prefer: secretmem.Mode = "memfd_secret",
    ) -> None:
        """Make an empty arena.

        Args:
            slots: Keys it can hold (64 bytes each); `limits.key_slots`.
            workloads: Enrolments it can hold (8 bytes each).
            epochs: Buckets of object names (8 bytes each).

        Raises:
            SecretMemoryError: See `secretmem`.
        """
        if min(slots, workloads, epochs) < 1:
            raise ValueError("an arena has at least one slot, one workload word and one epoch word")
        secretmem.membarrier_register()
        self._slots, self._workloads, self._epochs = slots, workloads, epochs
        self._workload_start = SLOTS_WORD + slots * SLOT_WORDS
        self._epoch_start = self._workload_start + workloads
        self.size = secretmem.page_aligned(8 * (self._epoch_start + epochs))
        self.fd, self.mode = secretmem.create(self.size, require_secretmem=require_secretmem, prefer=prefer)
        self._mapping = secretmem.attach(self.fd, self.size, self.mode, writable=True)
        self.words = self._mapping.words
        self.words[2], self.words[3], self.words[4] = slots, workloads, epochs
        self.words[0] = MAGIC
        self._free = deque(range(slots))  # first in, first out: a slot rests before it is used again
        self._free_workloads = deque(range(workloads))
        self._taken, self._taken_workloads = bytearray(slots), bytearray(workloads)

    def __repr__(self) -> str:
        return f"<region arena, {self._slots} slots, {len(self._free)} free, {self.mode}>"

    @property
    def slots(self) -> int:
        """Slots in all."""
        return self._slots

    @property
    def free(self) -> int:
        """Slots left."""
        return len(self._free)

    def allocate(self) -> int:
        """Return a free slot, its gate EMPTY.

        Raises:
            ArenaFull: None is left.
        """
        return self.allocate_many(1)[0]

    def allocate_many(self, count: int) -> list[int]:
        """Return `count` free slots, or none at all.

        Raises:
            ArenaFull: Fewer are left; nothing was taken.
        """
        if count > len(self._free):
            raise ArenaFull(
                f"{count} key slots wanted, {len(self._free)} of {self._slots} free: raise limits.key_slots"
            )
        taken = [self._free.popleft() for _ in range(count)]
        for slot in taken:
            self._taken[slot] = 1
        return taken

    def slot_view(self, slot: int, generation: int | None = None) -> memoryview:
        """The slot's 32 key bytes, writable, to put a key in; say under which generation it was ordered.

        Get the view in the same step in which the key is written: between two awaits the generation may be raised.

        Raises:
            TooLate: The generation is over. Nothing may be written.
            GateOpen: A key is in use here, and a key in use is never written over.
        """
        if generation is not None and self.generation(slot) != generation:
            raise TooLate(f"slot {slot}: a key ordered under generation {generation} came too late")
        if self.gate(slot) not in SHUT:
            raise GateOpen(f"slot {slot} is {self.gate(slot).name}: a key in use is never written over")
        return self._key(slot)

    def generation(self, slot: int) -> int:
        """The slot's generation: raised whenever its key goes, so a key on its way to it is known to be too late."""
        return self.words[self._gate(slot)] >> 8

    def gate(self, slot: int) -> Gate:
        """The slot's state."""
        return Gate(self.words[self._gate(slot)] & STATE_MASK)

    def set_gate(self, slot: int, state: Gate) -> None:
        """Store the gate word, the generation as it is.

        Opening makes the key visible to every worker first. Closing is not ordered against workers: that is what
        `close_gates` does.

        Raises:
            ArenaError: It would open a slot of zeros: nothing must ever be encrypted under them. Nothing was changed.
        """
        word = self._gate(slot)
        if state not in SHUT and self.words[word] & STATE_MASK in SHUT:
            if self._key(slot) == _ZEROS:
                raise ArenaError(f"slot {slot} holds no key: its gate stays {self.gate(slot).name}")
            secretmem.membarrier()
        self.words[word] = self.words[word] & ~STATE_MASK | state

    def open_gate(self, slot: int, generation: int, state: Gate = Gate.OPEN) -> bool:
        """Open the gate for a key that was ordered under `generation`; False, and nothing done, when that is over.

        Raises:
            ArenaError: As `set_gate`.
        """
        if self.generation(slot) != generation:
            return False
        self.set_gate(slot, state)
        return True

    def close_gates(self, slots: Iterable[int], state: Gate = Gate.REVOKED) -> None:
        """Store the closed words, then one membarrier: no worker that reads a gate afterwards finds it open."""
        if state not in SHUT and state is not Gate.SUSPENDED and state is not Gate.DECRYPT_ONLY:
            raise ValueError(f"{state!r} closes nothing")
        for slot in slots:
            self.set_gate(slot, state)
        secretmem.membarrier()

    def zeroize(self, slot: int) -> None:
        """Overwrite the slot's key with zeros. Its gate and generation stay."""
        self._mapping.zeroize(self._byte(slot), KEY_BYTES)

    def raise_generation(self, slot: int) -> int:
        """Raise the slot's generation by one, its state as it is, and return it."""
        word = self._gate(slot)
        self.words[word] += 1 << 8
        return self.words[word] >> 8

    def release(self, slot: int) -> None:
        """Wipe the slot, raise its generation and give it back. Workers must have been drained since the gate closed.

        Raises:
            GateOpen: The gate is not shut; nothing was changed.
        """
        if self.gate(slot) not in SHUT:
            raise GateOpen(f"slot {slot} is {self.gate(slot).name}: close its gate and drain before it is given back")
        if not self._taken[slot]:
            raise ArenaError(f"slot {slot} is free already")
        self.zeroize(slot)
        self.raise_generation(slot)
        self.words[self._gate(slot) + LEASE_OFFSET - GATE_OFFSET] = 0
        self.set_gate(slot, Gate.EMPTY)
        self._taken[slot] = 0
        self._free.append(slot)

    def set_lease(self, slot: int, boottime_ns: int) -> None:
        """Until when (CLOCK_BOOTTIME ns) the slot may be served; 0: not at all."""
        self.words[self._gate(slot) + LEASE_OFFSET - GATE_OFFSET] = boottime_ns

    def set_alive(self, boottime_ns: int) -> None:
        """Until when (CLOCK_BOOTTIME ns) workers may take the custodian for alive."""
        self.words[ALIVE_WORD] = boottime_ns

    def allocate_workload(self) -> int:
        """Return a free workload word, its state EMPTY.

        Raises:
            ArenaFull: None is left.
        """
        if not self._free_workloads:
            raise ArenaFull(f"all {self._workloads} workload words are taken: raise limits.key_slots")
        index = self._free_workloads.popleft()
        self._taken_workloads[index] = 1
        return index

    def workload(self, index: int) -> Gate:
        """The workload's state."""
        return Gate(self.words[self._workload(index)] & STATE_MASK)

    def set_workload(self, index: int, state: Gate) -> None:
        """Store the workload's word, its generation as it is."""
        word = self._workload(index)
        self.words[word] = self.words[word] & ~STATE_MASK | state

    def close_workloads(self, indexes: Iterable[int], state: Gate = Gate.REMOVED) -> None:
        """Store the closed words, then one membarrier."""
        if state not in SHUT:
            raise ValueError(f"{state!r} closes nothing")
        for index in indexes:
            self.set_workload(index, state)
        secretmem.membarrier()

    def release_workload(self, index: int) -> None:
        """Raise the word's generation and give it back; a session that still holds the old word is refused.

        Raises:
            GateOpen: It is not shut; nothing was changed.
        """
        if self.workload(index) not in SHUT:
            raise GateOpen(f"workload word {index} is {self.workload(index).name}")
        if not self._taken_workloads[index]:
            raise ArenaError(f"workload word {index} is free already")
        word = self._workload(index)
        self.words[word] = ((self.words[word] >> 8) + 1) << 8 | Gate.EMPTY
        self._taken_workloads[index] = 0
        self._free_workloads.append(index)

    def bump_epoch(self, tenant: str, uid: str) -> None:
        """Tell workers that this object's record, or one in its bucket, has changed."""
        word = self._epoch_start + _bucket(tenant, uid, self._epochs)
        self.words[word] = self.words[word] + 1 & 0xFFFF_FFFF_FFFF_FFFF

    def _key(self, slot: int) -> memoryview:
        start = self._byte(slot)
        return self._mapping.view[start : start + KEY_BYTES]

    def _byte(self, slot: int) -> int:
        return self._gate(slot) * 8 - GATE_OFFSET * 8

    def _gate(self, slot: int) -> int:
        if not 0 <= slot < self._slots:  # a negative index would reach the header
            raise IndexError(f"slot {slot} of {self._slots}")
        return SLOTS_WORD + slot * SLOT_WORDS + GATE_OFFSET

    def _workload(self, index: int) -> int:
        if not 0 <= index < self._workloads:
            raise IndexError(f"workload word {index} of {self._workloads}")
        return self._workload_start + index


class WorkerArena:
    """A worker's side: the region arena read-only, and sealed so where the kernel has mseal.

    The hot path needs no method: `words[gate_index(slot)]` with the index kept, `words[ALIVE_WORD]`, and the key view.

    Attributes:
        words: The arena as 64-bit words, read-only.
        sealed: mseal holds: this process cannot make the arena writable.
    """

    __slots__ = ("_epoch_start", "_epochs", "_mapping", "_slots", "_workload_start", "_workloads", "sealed", "words")

    def __init__(self, fd: int, size: int, mode: secretmem.Mode) -> None:
        """Map the arena behind `fd`, register for membarrier, and close the descriptor.

        Raises:
            ArenaMismatch: Not an arena of this layout and size.
            SecretMemoryError: See `secretmem`.
        """
        secretmem.membarrier_register()
        self._mapping = secretmem.attach(fd, size, mode, writable=False, seal=True)
        os.close(fd)
        self.words, self.sealed = self._mapping.words, self._mapping.sealed
        magic, self._slots, self._workloads, self._epochs = (self.words[i] for i in (0, 2, 3, 4))
        self._workload_start = SLOTS_WORD + self._slots * SLOT_WORDS
        self._epoch_start = self._workload_start + self._workloads
        if magic != MAGIC or secretmem.page_aligned(8 * (self._epoch_start + self._epochs)) != size:
            raise ArenaMismatch(f"{size} bytes with magic {magic:#x} are not a region arena of layout {MAGIC:#x}")

    def __repr__(self) -> str:
        return f"<region arena of {self._slots} slots, read-only{', sealed' if self.sealed else ''}>"

    def key(self, slot: int) -> memoryview:
        """The slot's 32 key bytes, read-only. Keep the view, never its bytes."""
        start = 8 * (self.gate_index(slot) - GATE_OFFSET)
        return self._mapping.view[start : start + KEY_BYTES]

    def gate_index(self, slot: int) -> int:
        """Index into `words` of the slot's gate; the lease deadline is the word after it."""
        if not 0 <= slot < self._slots:
            raise IndexError(f"slot {slot} of {self._slots}")
        return SLOTS_WORD + slot * SLOT_WORDS + GATE_OFFSET

    def workload_index(self, index: int) -> int:
        """Index into `words` of a workload's word."""
        if not 0 <= index < self._workloads:
            raise IndexError(f"workload word {index} of {self._workloads}")
        return self._workload_start + index

    def epoch_index(self, tenant: str, uid: str) -> int:
        """Index into `words` of the object's bucket."""
        return self._epoch_start + _bucket(tenant, uid, self._epochs)


def _bucket(tenant: str, uid: str, count: int) -> int:
    return zlib.crc32(f"{tenant}/{uid}".encode()) % count
