"""What a worker has handed out, in a mapped file that outlives worker and custodian. Holds names and counts, no key.

The worker writes an entry before it answers a Get; the custodian, later, turns entries into reports and releases them.
An entry in the mapping survives the death of every process; a power cut may take what the custodian had not read
(ADR 0028). A log that stays full refuses: the Get fails, nothing leaves unrecorded. One writer and one reader, no lock:
an entry counts once its number stands at its head, and is believed when its checksum fits.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["Entry", "HandOutLog", "LogFull", "path_of", "paths"]

SLOTS: Final = 16_384
SLOT_BYTES: Final = 320  # four names of 63 characters and what stands around them
HEADER_BYTES: Final = 4096
LOG_BYTES: Final = HEADER_BYTES + SLOTS * SLOT_BYTES  # 5 MiB a worker, allocated: a full disk must not kill it later
_HEAD: Final = struct.Struct("<QIH")  # an entry's number (from 1), CRC-32 of the body, bytes of the body
_NUMBER: Final = struct.Struct("<Q")  # at 0: entries up to this number are released
_NAME: Final = slice(16, 32)  # of the header: the file's random name: another file's numbers say nothing of this one


class LogFull(Exception):
    """The custodian has not taken earlier entries yet: nothing can be handed out."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One hand-out. `at_ms`: UTC, of the worker's clock: a record."""

    tenant: str
    registration: str
    workload: str
    object_id: str
    wrapped: bool
    at_ms: int


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Entry)


class HandOutLog:
    """A mapped log, from either end.

    Attributes:
        name: The file's own, random.
    """

    def __init__(self, fd: int) -> None:
        """Map the file behind `fd`, which has LOG_BYTES; the descriptor stays the caller's."""
        self._map = mmap.mmap(fd, LOG_BYTES)
        if not any(self._map[_NAME]):
            self._map[_NAME] = os.urandom(16)
        self.name = self._map[_NAME].hex()
        self.look_again()

    def look_again(self) -> None:
        """Find both ends: a worker of an earlier process may have written until it ended."""
        self._tail = _NUMBER.unpack_from(self._map)[0]
        self._head = self._tail
        while self._at(self._head + 1) is not None:  # what an earlier worker at this place has written
            self._head += 1

    @classmethod
    def open(cls, path: Path) -> tuple[HandOutLog, int]:
        """Open or make the file (0600); return the log and its descriptor, to hand on and close.

        Raises:
            OSError: No room on the disk for all of it, or no permission.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, LOG_BYTES)
            return cls(fd), fd
        except OSError:
            os.close(fd)
            raise

    # --- the worker's end -------------------------------------------------------------------------------------------

    def write(self, entry: Entry) -> bool:
        """Record a hand-out; return whether the log has just become half full.

        Raises:
            LogFull: Nothing was recorded.
        """
        waiting = self._waiting()
        body = _ENCODER.encode(entry)
        if waiting >= SLOTS or len(body) > SLOT_BYTES - _HEAD.size:
            raise LogFull
        number = self._head + 1
        place = _place(number)
        _HEAD.pack_into(self._map, place, 0, zlib.crc32(body), len(body))
        self._map[place + _HEAD.size : place + _HEAD.size + len(body)] = body
        _NUMBER.pack_into(self._map, place, number)  # last: from now on it counts
        self._head = number
        return bool(waiting + 1 == SLOTS // 2)

    @property
    def full(self) -> bool:
        """Whether there is no room for one more."""
        return self._waiting() >= SLOTS

    def _waiting(self) -> int:
        if self._head - self._tail >= SLOTS // 2:
            self._tail = _NUMBER.unpack_from(self._map)[0]
        return int(self._head - self._tail)

    # --- the custodian's end ----------------------------------------------------------------------------------------

    def read(self, after: int = 0) -> tuple[int, list[Entry]]:
        """Return the number of the newest entry, and all after `after` that are not released.

        What is no entry ends the reading: a worker under an attacker's control can only fill its own log with it.
        """
        number, found = max(self._tail, after), []
        while number - self._tail < SLOTS and (entry := self._at(number + 1)) is not None:
            found.append(entry)
            number += 1
        return number, found

    def release(self, number: int) -> None:
        """Give the worker the room of the entries up to `number`: they are durable elsewhere."""
        if number > self._tail:
            self._tail = number
            _NUMBER.pack_into(self._map, 0, number)

    def close(self) -> None:
        """Unmap."""
        self._map.close()

    def _at(self, number: int) -> Entry | None:
        place = _place(number)
        said, checksum, size = _HEAD.unpack_from(self._map, place)
        if said != number or size > SLOT_BYTES - _HEAD.size:
            return None
        body = self._map[place + _HEAD.size : place + _HEAD.size + size]
        if zlib.crc32(body) != checksum:
            return None
        try:
            return _DECODER.decode(body)
        except msgspec.MsgspecError:
            return None


def _place(number: int) -> int:
    return HEADER_BYTES + number % SLOTS * SLOT_BYTES


def path_of(database: str, worker: int) -> Path:
    """Return where the log of the worker at a place lies: beside the node's database."""
    return Path(f"{database}-handed-{worker}")


def paths(database: str) -> list[Path]:
    """Return the logs there are, whoever wrote them."""
    base = Path(database)
    return sorted(base.parent.glob(f"{base.name}-handed-*"))
