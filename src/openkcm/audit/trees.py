"""The events of an audit against signed checkpoints. Pure.

A whole ledger comes with the list of its leaves. The list itself is trusted only when it gives the signed root; then
every event is compared with its leaf before anything else is asked of it, so that the first one that was changed,
moved, added or left out is named by its sequence. A slice comes with an inclusion proof for each event.

AuditError
└── Tampered    the events are not those that were signed; `sequence` names the first, where it can be known
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Annotated, Any

import msgspec

from openkcm.audit.examine import Message
from openkcm.audit.verify import AuditError, Event
from openkcm.contract import checkpoint as cp
from openkcm.contract import merkle, subjects
from openkcm.contract.errors import ContractError

__all__ = ["Leaf", "Proof", "SignedTrees", "Slice", "Tampered", "check_signed"]

Notes = Mapping[tuple[str, int], cp.Note]
Hash = Annotated[bytes, msgspec.Meta(min_length=merkle.HASH_BYTES, max_length=merkle.HASH_BYTES)]


class Tampered(AuditError):
    """Something is not what was signed."""

    def __init__(self, why: str, sequence: int | None = None) -> None:
        super().__init__(why if sequence is None else f"sequence {sequence}: {why}")
        self.sequence = sequence


class Leaf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which leaf an event is, and its hash."""

    sequence: int
    tree: str
    epoch: int
    index: int
    leaf: Hash


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which leaf an event is in the tree of that size, and the way to its root."""

    sequence: int
    tree: str
    epoch: int
    index: int
    size: int
    path: tuple[Hash, ...]


class SignedTrees:
    """A whole ledger's events against the leaves under its checkpoints.

    Args:
        notes: The checkpoints, by tree and epoch.
        leaves: In the ledger's order. They may go on behind the checkpoints; what is behind proves nothing.

    Raises:
        Tampered: The leaves do not give the signed roots.
    """

    def __init__(self, notes: Notes, leaves: Iterable[Leaf]) -> None:
        self._notes = notes
        self._signed: dict[int, bytes] = {}
        edges: dict[tuple[str, int], merkle.Edge] = {}
        for one in leaves:
            place = (one.tree, one.epoch)
            edge = edges.get(place, merkle.Edge())
            size = notes[place].checkpoint().size if place in notes else 0
            if edge.size >= size:
                continue
            if (one.index, one.epoch) != (edge.size, cp.epoch_of(one.sequence)) or one.sequence in self._signed:
                raise Tampered("the list of leaves is out of order", one.sequence)
            self._signed[one.sequence] = one.leaf
            edges[place] = edge.append(one.leaf)
        for place, note in notes.items():
            point = note.checkpoint()
            if edges.get(place, merkle.Edge()).root() != point.root:
                raise Tampered(f"the leaves do not give the root that was signed: {point}")
        self._order = iter(sorted(self._signed))
        self._next = next(self._order, None)

    @property
    def signed(self) -> Container[int]:
        """The sequences whose bytes are held to what was signed."""
        return self._signed.keys()

    def see(self, message: Message) -> None:
        """Compare the next event with its leaf.

        Raises:
            Tampered: It is not what was signed there.
        """
        sequence = message.sequence
        if self._next is not None and sequence > self._next:
            raise Tampered(f"missing: it was signed; the next is {sequence}", self._next)
        signed = self._signed.get(sequence)
        if signed is None:
            if self._next is not None and sequence < self._next:
                raise Tampered(f"was not there when {self._next} was signed", sequence)
            return
        if sequence != self._next:
            raise Tampered("out of order", sequence)
        leaf = merkle.ledger_leaf(cp.epoch_of(sequence), sequence, message.subject, message.body)
        if leaf != signed:
            raise Tampered("not the event that was signed there", sequence)
        self._next = next(self._order, None)

    def check(self, keys: Iterable[bytes]) -> int:
        """Check that all was seen and that governance signed it; return how many events are proven.

        Args:
            keys: Governance's public keys, from the verified events.

        Raises:
            Tampered: The ledger ends too early, or a checkpoint is not signed.
        """
        if self._next is not None:
            raise Tampered("the ledger ends before it, and it was signed", self._next)
        _check_all_signed(self._notes, keys)
        return len(self._signed)


class Slice:
    """A tenant's events against their inclusion proofs: `hear` each, then `check`."""

    def __init__(self, notes: Notes, proofs: Iterable[Proof]) -> None:
        self._notes, self._proofs = notes, proofs
        self._leaves: dict[int, tuple[str, int, bytes]] = {}

    def hear(self, event: Event, body: bytes) -> None:
        """Take the next event in."""
        sequence, subject = event.sequence, event.envelope.subject
        tree, epoch = subjects.tree_of(subject), cp.epoch_of(sequence)
        self._leaves[sequence] = tree, epoch, merkle.ledger_leaf(epoch, sequence, subject, body)

    def check(self, keys: Iterable[bytes]) -> int:
        """Check every proof, and that none is missing; return how many events are proven.

        Raises:
            Tampered: One does not hold or is missing, or a checkpoint is not signed.
        """
        _check_all_signed(self._notes, keys)
        proven = set[int]()
        for proof in self._proofs:
            note, found = self._notes.get((proof.tree, proof.epoch)), self._leaves.get(proof.sequence)
            if note is None or found is None or found[:2] != (proof.tree, proof.epoch):
                raise Tampered("a proof of an event that is not in here", proof.sequence)
            point = note.checkpoint()
            try:
                merkle.verify_inclusion(found[2], proof.index, point.size, proof.path, point.root)
            except ContractError as bad:
                raise Tampered(str(bad), proof.sequence) from bad
            proven.add(proof.sequence)
        for sequence in sorted(self._leaves.keys() - proven):
            tree, epoch, _ = self._leaves[sequence]
            if (tree, epoch) in self._notes and sequence <= self._notes[tree, epoch].checkpoint().sequence:
                raise Tampered("without its proof", sequence)
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


def _check_all_signed(notes: Mapping[Any, cp.Note], keys: Iterable[bytes]) -> None:
    known = tuple(keys)
    for note in notes.values():
        check_signed(note, known)
