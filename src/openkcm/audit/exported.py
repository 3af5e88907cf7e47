"""An export read back: its files against their hashes, its events as a ledger hands them out, its proofs. Trusts none.

ExportError
└── Tampered    a file, a line or a proof is not what it says; names which
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from openkcm.audit.export import FORMAT
from openkcm.audit.replay import Line
from openkcm.audit.verify import AuditError, Event
from openkcm.contract import checkpoint as cp
from openkcm.contract import merkle, subjects
from openkcm.contract.errors import ContractError

__all__ = ["Export", "ExportError", "Tampered", "Trees", "check_signed"]


class ExportError(AuditError):
    """No export, or one that cannot be read."""


class Tampered(ExportError):
    """Something in it is not what it says."""


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


class _Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sequence: int
    tree: str
    epoch: int
    index: int
    size: int
    path: tuple[bytes, ...]


class _Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """What of the stored envelope the record repeats."""

    id: str
    subject: str
    tag: str
    counter: int
    data: Any


_LINES: msgspec.json.Decoder[_Record] = msgspec.json.Decoder(_Record)
_SEALED: msgspec.json.Decoder[_Sealed] = msgspec.json.Decoder(_Sealed)


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
        except (OSError, KeyError, msgspec.MsgspecError) as bad:
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
            with (self.folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise Tampered(f"{name} is not the file that was exported")

    def events(self) -> Iterator[Line]:
        """Yield the events as stored.

        Raises:
            Tampered: A line says something else than the stored bytes in it; a line is cut off or missing at the end.
        """
        count = last = 0
        with (self.folder / "events.ndjson").open("rb") as lines:
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
            e = _SEALED.decode(record.original)
            said = (record.id, record.subject, record.type, record.counter, msgspec.json.decode(record.data))
            sequence = int(record.sequence)
        except (msgspec.MsgspecError, ValueError) as bad:
            raise Tampered(f"events.ndjson, line {number}: {bad}") from bad
        if said != (e.id, e.subject, f"openkcm.{e.tag}", str(e.counter), e.data):
            raise Tampered(f"events.ndjson, line {number}, sequence {sequence}: the record and the stored event differ")
        return Line(sequence=sequence, subject=record.subject, body=record.original, id=record.id)

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

    def proofs(self) -> Iterator[_Proof]:
        """Yield the inclusion proofs.

        Raises:
            Tampered: A line is none.
        """
        with (self.folder / "proofs.ndjson").open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                try:
                    yield msgspec.json.decode(raw, type=_Proof)
                except msgspec.MsgspecError as bad:
                    raise Tampered(f"proofs.ndjson, line {number}: {bad}") from bad


class Trees:
    """The trees of an export, from its events: a listener of `examine`, then `check`."""

    def __init__(self, export: Export) -> None:
        self._export, self._whole = export, export.manifest.whole
        self._notes = export.checkpoints()
        self._wanted = {(tree, epoch, note.checkpoint().size) for (tree, epoch), note in self._notes.items()}
        self._edges: dict[tuple[str, int], merkle.Edge] = {}
        self._roots: dict[tuple[str, int, int], bytes] = {}
        self._leaves: dict[int, tuple[str, int, bytes]] = {}

    def take(self, event: Event, body: bytes) -> None:
        """Take the next event in."""
        sequence, subject = event.sequence, event.envelope.subject
        tree, epoch = subjects.tree_of(subject), cp.epoch_of(sequence)
        leaf = merkle.ledger_leaf(epoch, sequence, subject, body)
        if not self._whole:
            self._leaves[sequence] = tree, epoch, leaf
            return
        edge = self._edges[tree, epoch] = self._edges.get((tree, epoch), merkle.Edge()).append(leaf)
        if (tree, epoch, edge.size) in self._wanted:
            self._roots[tree, epoch, edge.size] = edge.root()

    def check(self, keys: Iterable[bytes]) -> int:
        """Check checkpoints against the events; return how many events are proven.

        Args:
            keys: Governance's public keys, from the verified events.

        Raises:
            Tampered: A checkpoint is not signed, or the events are not what was signed.
        """
        known = tuple(keys)
        for note in self._notes.values():
            check_signed(note, known)
        return self._check_roots() if self._whole else self._check_proofs()

    def _check_roots(self) -> int:
        for (tree, epoch), note in self._notes.items():
            point = note.checkpoint()
            if point.size and self._roots.get((tree, epoch, point.size)) != point.root:
                raise Tampered(f"the events do not give the root that was signed: {point}")
        return sum(note.checkpoint().size for note in self._notes.values())

    def _check_proofs(self) -> int:
        proven, notes = set[int](), self._notes
        for proof in self._export.proofs():
            note, found = notes.get((proof.tree, proof.epoch)), self._leaves.get(proof.sequence)
            if note is None or found is None or found[:2] != (proof.tree, proof.epoch):
                raise Tampered(f"a proof of {proof.sequence}, which is not in here")
            point = note.checkpoint()
            try:
                merkle.verify_inclusion(found[2], proof.index, point.size, proof.path, point.root)
            except ContractError as bad:
                raise Tampered(f"sequence {proof.sequence}: {bad}") from bad
            proven.add(proof.sequence)
        for sequence in sorted(self._leaves.keys() - proven):
            tree, epoch, _ = self._leaves[sequence]
            if (tree, epoch) in notes and sequence <= notes[tree, epoch].checkpoint().sequence:
                raise Tampered(f"sequence {sequence} is without its proof")
        return len(proven)


def check_signed(note: cp.Note, keys: Iterable[bytes]) -> None:
    """Check that one of governance's keys signed a checkpoint.

    Raises:
        Tampered: None did, or its signature does not hold.
    """
    point = note.checkpoint()
    verifiers = {(v.name, v.key): v for v in (cp.verifier_key(point.origin, key) for key in keys)}
    signed = [verifiers[line.name, line.key] for line in note.lines if (line.name, line.key) in verifiers]
    if not signed:
        raise Tampered(f"{point}: signed by no key of this ledger")
    try:
        for verifier in signed:
            cp.verify(note, verifier)
    except ContractError as bad:
        raise Tampered(f"{point}: {bad}") from bad
