"""A backup of the ledger as one file: a header, a JSON line an event with its very bytes, a trailer that ends it.

Holds nothing secret. Seals inside prove the events; the trailer only proves that the file is whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from openkcm.audit.recovery import CannotRestore, Kept
from openkcm.contract.stored import Identified

__all__ = ["Header", "read", "write"]

FORMAT: Final = "openkcm-ledger-backup/1"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: whose ledger, and when it was read."""

    format: str
    ledger: str
    made_at: str


class _Line(msgspec.Struct, frozen=True):
    """One event; `body` in base64."""

    sequence: int
    subject: str
    id: str
    body: bytes


class _Trailer(msgspec.Struct, frozen=True, kw_only=True):
    """The last line."""

    events: int
    sha256: str


_LINE: Final = msgspec.json.Decoder(_Line)


def write(path: Path, header: Header, messages: Iterable[Identified]) -> int:
    """Write a backup beside `path` and put it in its place when it is whole and on the disk; return the events.

    Raises:
        OSError: It cannot be written; what was at `path` is still there.
    """
    aside, count, digest = path.with_name(path.name + ".part"), 0, hashlib.sha256()
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:

        def put(value: object) -> None:
            raw = msgspec.json.encode(value) + b"\n"
            digest.update(raw)
            file.write(raw)

        put(header)
        for message in messages:
            put(_Line(message.sequence, message.subject, message.id, message.body))
            count += 1
        put(_Trailer(events=count, sha256=digest.hexdigest()))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    return count


def read(path: Path, ledger: str) -> list[Kept]:
    """Return the events of a whole backup of this ledger.

    Raises:
        CannotRestore: It is not whole, or another ledger's.
        OSError: It cannot be read.
    """
    lines = path.read_bytes().split(b"\n")
    if len(lines) < 3 or lines[-1]:
        raise CannotRestore(f"{path}: not a whole backup")
    try:
        header = msgspec.json.decode(lines[0], type=Header)
        trailer = msgspec.json.decode(lines[-2], type=_Trailer)
        events = [_LINE.decode(line) for line in lines[1:-2]]
    except msgspec.MsgspecError as bad:
        raise CannotRestore(f"{path}: {bad}") from bad
    digest = hashlib.sha256(b"".join(line + b"\n" for line in lines[:-2])).hexdigest()
    if header.format != FORMAT or trailer != _Trailer(events=len(events), sha256=digest):
        raise CannotRestore(f"{path}: not a whole backup of format {FORMAT}")
    if header.ledger != ledger:
        raise CannotRestore(f"{path}: a backup of {header.ledger}, not of {ledger}")
    return [Kept(e.sequence, e.subject, e.body, e.id) for e in events]
