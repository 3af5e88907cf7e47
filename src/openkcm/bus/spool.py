"""A durable spool of messages that must not be forgotten before the ledger has them. Sends nothing, reads no body.

One file a message: written aside, fsynced, renamed, its directory fsynced; only then `put` returns. A crash leaves
either the whole message or a leftover that is dropped at opening. A damaged file is never passed over. What was removed
may be back after a loss of power: whoever sends it finds that the ledger has it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["Spool", "SpoolDamaged", "Spooled"]

RESERVE_BYTES: Final = 4 << 20  # room for some sixty messages of the largest size when the disk is full
_NAME: Final = re.compile(r"^(\d{12})-([0-9a-f-]{36})\.json\Z")


class SpoolDamaged(Exception):
    """A spooled message is unreadable: an operator must look at it before the process may start."""


class Spooled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message that waits. `at_ms` is a record for people."""

    id: str
    subject: str
    tag: str
    body: bytes
    at_ms: int = 0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str
    message: msgspec.Raw


class Spool:
    """The spool in one directory, used by one process. Calls block for an fsync; use a thread from an event loop."""

    def __init__(self, directory: Path) -> None:
        """Open it, drop what a crash left half-written, read the rest.

        Raises:
            SpoolDamaged: A message's file does not hold what was written.
            OSError: The directory cannot be used.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._files: dict[str, Path] = {}
        self._messages: dict[str, Spooled] = {}
        for leftover in directory.glob("*.new"):
            leftover.unlink()
        self._next = 1
        for file in sorted(directory.iterdir()):
            name = _NAME.match(file.name)
            if name is None:
                continue
            message = _read(file)
            self._next = int(name[1]) + 1
            self._files[message.id], self._messages[message.id] = file, message
        self._keep_reserve()

    def __len__(self) -> int:
        return len(self._messages)

    def get(self, id_: str) -> Spooled | None:
        """Return the message of this id that waits, if there is one."""
        return self._messages.get(id_)

    def entries(self) -> list[Spooled]:
        """Return what waits, oldest first."""
        return list(self._messages.values())

    def put(self, *messages: Spooled) -> None:
        """Keep messages; when this returns they survive a crash and a power cut. The same one again is kept once.

        Raises:
            ValueError: An id is taken by another message, or is no UUID; none is kept.
            OSError: One cannot be written, though the reserve was freed. None is kept.
        """
        new: dict[Path, Spooled] = {}
        for message in messages:
            kept = self._messages.get(message.id)
            if kept is not None and (kept.subject, kept.body) != (message.subject, message.body):
                raise ValueError(f"{message.id} is spooled with another subject or body")
            file = self._directory / f"{self._next + len(new):012d}-{message.id}.json"
            if _NAME.match(file.name) is None:
                raise ValueError(f"{message.id!r} is not an event id")
            if kept is None:
                new[file] = message
        try:
            self._write(new)
        except OSError as full:
            if full.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._reserve.unlink(missing_ok=True)  # this is what it is for
            self._write(new)
        self._next += len(new)
        for file, message in new.items():
            self._files[message.id], self._messages[message.id] = file, message

    def remove(self, id_: str) -> None:
        """Forget a message, because the ledger has it. Not there is fine."""
        file = self._files.pop(id_, None)
        if file is not None:
            file.unlink(missing_ok=True)
            del self._messages[id_]
            self._keep_reserve()

    @property
    def _reserve(self) -> Path:
        return self._directory / "reserve"

    def _write(self, messages: dict[Path, Spooled]) -> None:
        aside = {file.with_suffix(".new"): file for file in messages}
        try:
            for new, message in zip(aside, messages.values(), strict=True):
                encoded = msgspec.json.encode(message)
                with os.fdopen(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as opened:
                    opened.write(msgspec.json.encode(_File(hashlib.sha256(encoded).hexdigest(), msgspec.Raw(encoded))))
                    opened.flush()
                    os.fsync(opened.fileno())
            for new, file in aside.items():
                new.replace(file)
            _sync_directory(self._directory)
        except OSError:
            for left in (*aside, *messages):
                left.unlink(missing_ok=True)
            raise

    def _keep_reserve(self) -> None:
        """Hold blocks that a full disk cannot take; try again at the next chance when there are none."""
        if self._reserve.exists() and self._reserve.stat().st_size == RESERVE_BYTES:
            return
        with contextlib.suppress(OSError), self._reserve.open("wb") as reserve:
            os.posix_fallocate(reserve.fileno(), 0, RESERVE_BYTES)


def _read(file: Path) -> Spooled:
    try:
        whole = msgspec.json.decode(file.read_bytes(), type=_File)
        if hashlib.sha256(bytes(whole.message)).hexdigest() != whole.sha256:
            raise SpoolDamaged(f"{file}: the checksum does not hold")
        return msgspec.json.decode(whole.message, type=Spooled)
    except msgspec.MsgspecError as bad:
        raise SpoolDamaged(f"{file}: {bad}") from bad


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
