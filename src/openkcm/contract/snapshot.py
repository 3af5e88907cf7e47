"""What is signed about a snapshot of the read model: up to where, which trees, which file. Pure; opens nothing.

A signed note of governance's sealing key, as a checkpoint is one:

    openkcm-5f0c.../snapshot               whose ledger
    57                                     the last sequence that is folded
    tu1k...=                               SHA-256 of the SQLite file, base64
    openkcm epoch 1 schema 7               the ledger's epoch, the last migration in the file
    eu-frankfurt 1 42 9vGm...=             each tree: its epoch, its leaves, its root
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from openkcm.contract import checkpoint as cp
from openkcm.contract import seal
from openkcm.contract.errors import ContractError
from openkcm.contract.merkle import HASH_BYTES

__all__ = ["Snapshot", "SnapshotError", "SnapshotTree", "opened", "signed"]

_PLACE: Final = re.compile(r"openkcm epoch (0|[1-9][0-9]{0,9}) schema ([1-9][0-9]{0,5})\Z")
_TREE: Final = re.compile(r"([a-z0-9-]{1,63}) ([1-9][0-9]{0,9}) ([1-9][0-9]{0,18}) ([A-Za-z0-9+/]{43}=)\Z")
_DECIMAL: Final = re.compile(r"(0|[1-9][0-9]{0,18})\Z")


class SnapshotError(ContractError):
    """Not a snapshot's note, or not signed by a key in force."""


class SnapshotTree(msgspec.Struct, frozen=True, order=True):
    """One tree as far as the snapshot goes."""

    tree: str
    epoch: int
    size: int
    root: bytes


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What the note says. `sha256`: of the file, 32 bytes."""

    ledger: str
    sequence: int
    sha256: bytes
    epoch: int
    schema: int
    trees: tuple[SnapshotTree, ...]

    def text(self) -> str:
        """Return the words that are signed."""
        place = f"openkcm epoch {self.epoch} schema {self.schema}"
        trees = [f"{t.tree} {t.epoch} {t.size} {_base64(t.root)}" for t in self.trees]
        return "\n".join((_name(self.ledger), str(self.sequence), _base64(self.sha256), place, *trees, ""))


def signed(snapshot: Snapshot, signer: seal.Signer) -> str:
    """Return the note's text, signed."""
    text = snapshot.text()
    return str(cp.Note(text, (cp.sign(text, _name(snapshot.ledger), signer),)))


def opened(text: str, ledger: str, keys: Mapping[str, bytes]) -> Snapshot:
    """Return what a note says, once it is known to be of this ledger and signed by one of `keys`.

    Raises:
        SnapshotError: It is not.
    """
    try:
        note = cp.parse_note(text)
        found = _read(note.text, ledger)
        for key in keys.values():
            verifier = cp.verifier_key(_name(ledger), key)
            if any(line.key == verifier.key for line in note.lines):
                cp.verify(note, verifier)
                return found
    except cp.CheckpointError as bad:
        raise SnapshotError(str(bad)) from bad
    raise SnapshotError("signed by no key that is in force")


def _read(text: str, ledger: str) -> Snapshot:
    lines = text.split("\n")
    if len(lines) < 5 or lines[-1]:
        raise SnapshotError("not the note of a snapshot")
    origin, sequence, digest, place, *trees = lines[:-1]
    where, found = _PLACE.match(place), [_TREE.match(line) for line in trees]
    if origin != _name(ledger):
        raise SnapshotError(f"a snapshot of {origin[:80]!r}, not of {ledger}")
    if where is None or not _DECIMAL.match(sequence) or None in found:
        raise SnapshotError("not the note of a snapshot")
    return Snapshot(
        ledger=ledger, sequence=int(sequence), sha256=_hash(digest), epoch=int(where[1]), schema=int(where[2]),
        trees=tuple(SnapshotTree(t[1], int(t[2]), int(t[3]), _hash(t[4])) for t in found if t is not None),
    )  # fmt: skip


def _name(ledger: str) -> str:
    return f"{ledger}/snapshot"


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _hash(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as bad:
        raise SnapshotError("not the note of a snapshot") from bad
    if len(raw) != HASH_BYTES:
        raise SnapshotError("a hash has 32 bytes")
    return raw
