"""Key memory that the custodian shares with at most one process: its own cells (L2), and scratch pages for workers.

Knows no gate and no tenant.

ArenaError
├── ArenaFull      no slot (cell, workload word) left; nothing was taken
├── ArenaMismatch  what was attached is not an arena of this layout
├── TooLate        a key came after its generation was over (a revocation, a release): it is discarded
└── GateOpen       a slot was to be written or given back while its key is in use
"""

from __future__ import annotations

import os
from collections import deque
from typing import Final

from openkcm.execution import secretmem

__all__ = [
    "KEY_BYTES",
    "SCRATCH_BYTES",
    "ArenaError",
    "ArenaFull",
    "ArenaMismatch",
    "GateOpen",
    "KeyArena",
    "Scratch",
    "TooLate",
]

KEY_BYTES: Final = 32
SCRATCH_BYTES: Final = 4096


class ArenaError(Exception):
    """Root of the tree."""


class ArenaFull(ArenaError):
    """Nothing left to give; nothing was taken."""


class TooLate(ArenaError):
    """The generation a key was ordered under is over: it is discarded."""


class ArenaMismatch(ArenaError):
    """Not an arena of this layout."""


class GateOpen(ArenaError):
    """A slot is given back only behind a closed gate."""


class KeyArena:
    """The custodian's own keys (L2): 32-byte cells that nobody else maps."""

    __slots__ = ("_cells", "_free", "_generations", "_mapping", "mode")

    def __init__(self, *, cells: int, require_secretmem: bool = False, prefer: secretmem.Mode = "memfd_secret") -> None:
        size = secretmem.page_aligned(cells * KEY_BYTES)
        fd, self.mode = secretmem.create(size, require_secretmem=require_secretmem, prefer=prefer)
        try:
            self._mapping = secretmem.attach(fd, size, self.mode, writable=True, seal=True)
        finally:
            os.close(fd)
        self._cells, self._free, self._generations = cells, deque(range(cells)), [0] * cells

    def __repr__(self) -> str:
        return f"<key arena, {self._cells} cells, {len(self._free)} free, {self.mode}>"

    @property
    def free(self) -> int:
        """Cells left."""
        return len(self._free)

    def allocate(self) -> int:
        """Return a free cell.

        Raises:
            ArenaFull: None is left.
        """
        if not self._free:
            raise ArenaFull(f"all {self._cells} cells for tenant keys are taken: raise limits.key_slots")
        return self._free.popleft()

    def view(self, cell: int, generation: int | None = None) -> memoryview:
        """The cell's 32 bytes, writable; to write a key into it say under which generation it was ordered.

        Raises:
            TooLate: The generation is over.
        """
        if generation is not None and self.generation(cell) != generation:
            raise TooLate(f"cell {cell}: a key ordered under generation {generation} came too late")
        start = self._index(cell) * KEY_BYTES
        return self._mapping.view[start : start + KEY_BYTES]

    def generation(self, cell: int) -> int:
        """Raised by every `zeroize`: a key ordered under an older one is too late."""
        return self._generations[self._index(cell)]

    def zeroize(self, cell: int) -> None:
        """Overwrite the cell with zeros and raise its generation."""
        self._mapping.zeroize(self._index(cell) * KEY_BYTES, KEY_BYTES)
        self._generations[cell] += 1

    def release(self, cell: int) -> None:
        """Wipe the cell and give it back."""
        if cell in self._free:
            raise ArenaError(f"cell {cell} is free already")
        self.zeroize(cell)
        self._free.append(cell)

    def _index(self, cell: int) -> int:
        if not 0 <= cell < self._cells:
            raise IndexError(f"cell {cell} of {self._cells}")
        return cell


class Scratch:
    """One worker's page for keys in use. Made by the custodian, who can wipe it without the worker's help.

    Attributes:
        fd: To pass on to the worker; `hand_over` closes it here.
    """

    __slots__ = ("_mapping", "fd", "mode")

    def __init__(self, *, require_secretmem: bool = False, prefer: secretmem.Mode = "memfd_secret") -> None:
        self.fd, self.mode = secretmem.create(SCRATCH_BYTES, require_secretmem=require_secretmem, prefer=prefer)
        self._mapping = secretmem.attach(self.fd, SCRATCH_BYTES, self.mode, writable=True)

    @staticmethod
    def attach(fd: int, mode: secretmem.Mode) -> secretmem.Mapping:
        """The worker's side: the page read-write and sealed, the descriptor closed."""
        mapping = secretmem.attach(fd, SCRATCH_BYTES, mode, writable=True, seal=True)
        os.close(fd)
        return mapping

    def hand_over(self) -> None:
        """Close the descriptor once the worker holds its own."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def wipe(self) -> None:
        """Overwrite the page with zeros, whatever the worker is doing."""
        self._mapping.zeroize(0, SCRATCH_BYTES)

    def close(self) -> None:
        """Wipe and unmap, when the worker is dead."""
        self.hand_over()
        self._mapping.close()
