"""An export read back: its files against their hashes, its events as a ledger hands them out, its proofs. Trusts none.

AuditError
├── ExportError    no export, or one that cannot be read
└── Tampered       a file, a line or a proof is not what it says; names which
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec

from openkcm.audit.export import FORMAT
from openkcm.audit.replay import Line
from openkcm.audit.trees import Leaf, Proof, SignedTrees, Slice, Tampered
from openkcm.audit.verify import AuditError
from openkcm.contract import checkpoint as cp
from openkcm.contract import envelope
from openkcm.contract.errors import ContractError

__all__ = ["Export", "ExportError"]


class ExportError(AuditError):
    """No export, or one that cannot be read."""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    subject: str
    type: str
    counter: str
    sequence: str
    data: msgspec.Raw
    original: bytes


class _Tree(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tree: str
    epoch: int
    size: int
    checkpoint: str


class _Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: str
    ledger: str
    tenant: str | None
    whole: bool
    made_at: str
    events: int
    last: int
    trees: tuple[_Tree, ...]
    clock: str
    limits: tuple[str, ...]
    files: dict[str, str]


HASHED_BYTES: Final = 8 << 20
READ_BYTES: Final = 1 << 20  # at a time: a line that two reads share is copied
_P = TypeVar("_P", Leaf, Proof)
_JSON: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_LINES: msgspec.json.Decoder[_Record] = msgspec.json.Decoder(_Record)


class Export:
    """An export's folder.

    Raises:
        ExportError: It is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=_Manifest)
            keys = msgspec.json.decode((folder / "keys.json").read_bytes(), type=dict[str, Any])
            self.trust_root = msgspec.convert(keys["trust_root"], bytes)
            #: Governance's keys by name, as the export says: whose word over its own seals may spare checking them.
            self.governance = {
                str(one["key"]): msgspec.convert(one["public_key"], bytes) for one in keys.get("governance", ())
            }
        except (OSError, KeyError, TypeError, msgspec.MsgspecError) as bad:
            raise ExportError(f"{folder} is no export: {bad}") from bad
        if self.manifest.format != FORMAT:
            raise ExportError(f"{folder} is of format {self.manifest.format!r}: use a newer version to check it")

    def check_files(self) -> None:
        """Compare each file with its hash.

        Raises:
            Tampered: One differs, is missing, or was added.
        """
        there = {p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file()}
        for name in sorted(there ^ {*self.manifest.files, "manifest.json"}):
            raise Tampered(f"{name} is {'not in the manifest' if name in there else 'missing'}")
        for name, digest in self.manifest.files.items():
            with (self.folder / name).open("rb", 0) as file:
                if _sha256(file) != digest:
                    raise Tampered(f"{name} is not the file that was exported")

    def events(self) -> Iterator[Line]:
        """Yield the events as stored.

        Raises:
            Tampered: A line says something else than the stored bytes in it; a line is cut off or missing at the end.
        """
        count = last = 0
        with (self.folder / "events.ndjson").open("rb", READ_BYTES) as lines:
            for raw in lines:
                line = self._line(raw, count + 1)
                count, last = count + 1, line.sequence
                yield line
        if (count, last) != (self.manifest.events, self.manifest.last):
            raise Tampered(f"events.ndjson ends after {count} events at {last}, the manifest says "
                           f"{self.manifest.events} and {self.manifest.last}")  # fmt: skip

    @staticmethod
    def _line(raw: bytes, number: int) -> Line:
        try:
            record = _LINES.decode(raw)
            sequence = int(record.sequence)
        except (msgspec.MsgspecError, ValueError) as bad:
            raise Tampered(f"events.ndjson, line {number}: {bad}") from bad
        try:
            e = envelope.decode(record.original)
        except ContractError:  # no envelope: the audit says so in its place
            return Line(sequence, record.subject, record.original, record.id)
        if (
            record.id != e.id or record.subject != e.subject or record.type != f"openkcm.{e.tag}"
            or record.counter != str(e.counter) or not _same(record.data, e.data)
        ):  # fmt: skip
            raise Tampered(f"events.ndjson, line {number}: the record and the stored event differ", sequence)
        return Line(sequence, record.subject, record.original, record.id, e)

    def checkpoints(self) -> dict[tuple[str, int], cp.Note]:
        """Return the notes by tree and epoch, no signature verified yet.

        Raises:
            Tampered: One is no note.
        """
        found = {}
        for tree in self.manifest.trees:
            try:
                note = cp.parse_note((self.folder / tree.checkpoint).read_text(encoding="utf-8"))
                point = note.checkpoint()
            except (ContractError, OSError) as bad:
                raise Tampered(f"{tree.checkpoint}: {bad}") from bad
            if (point.origin, point.size) != (cp.origin_of(self.manifest.ledger, tree.tree, tree.epoch), tree.size):
                raise Tampered(f"{tree.checkpoint} is of {point.origin}, size {point.size}")
            found[tree.tree, tree.epoch] = note
        return found

    def trees(self) -> SignedTrees | Slice:
        """Return the checkpoints with what ties the events to them.

        Raises:
            Tampered: The leaves do not give the signed roots, or a line is none.
        """
        if self.manifest.whole:
            return SignedTrees(self.checkpoints(), _Proofs(self.folder, Leaf), self.governance)
        return Slice(self.checkpoints(), _Proofs(self.folder, Proof))


def _sha256(file: FileIO) -> str:
    """Return a file's hash, in steps so large that the thread which takes them rarely waits for another one."""
    found, step = hashlib.sha256(), memoryview(bytearray(HASHED_BYTES))
    while count := file.readinto(step):
        found.update(step[:count])
    return found.hexdigest()


def _same(one: msgspec.Raw, other: msgspec.Raw) -> bool:
    """Whether two texts are the same JSON."""
    try:
        return bool(_JSON.decode(one) == _JSON.decode(other))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False


class _Proofs(Generic[_P]):
    """The lines of proofs.ndjson, as often as they are asked for."""

    def __init__(self, folder: Path, kind: type[_P]) -> None:
        self._file = folder / "proofs.ndjson"
        self._decoder: msgspec.json.Decoder[_P] = msgspec.json.Decoder(kind)

    def __iter__(self) -> Iterator[_P]:
        with self._file.open("rb", READ_BYTES) as lines:
            for number, raw in enumerate(lines, 1):
                try:
                    yield self._decoder.decode(raw)
                except msgspec.MsgspecError as bad:
                    raise Tampered(f"proofs.ndjson, line {number}: {bad}") from bad
