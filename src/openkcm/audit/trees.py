"""The events of an audit against signed checkpoints. Pure.

A whole ledger comes with the list of its leaves. The list itself is trusted only when it gives the signed root; then
every event is compared with its leaf before anything else is asked of it, so that the first one that was changed,
moved, added or left out is named by its sequence. A slice comes with an inclusion proof for each event.

AuditError
└── Tampered    the events are not those that were signed; `sequence` names the first, where it can be known
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec

from openkcm.audit.verify import AuditError, Event
from openkcm.contract import checkpoint as cp
from openkcm.contract import merkle, seal, subjects
from openkcm.contract.errors import ContractError
from openkcm.contract.stored import Message

__all__ = ["Leaf", "Proof", "SignedTrees", "Slice", "Tampered", "check_signed"]

Notes = Mapping[tuple[str, int], cp.Note]
_UNSIGNED = (merkle.Growing(), 0)
Hash = Annotated[bytes, msgspec.Meta(min_length=merkle.HASH_BYTES, max_length=merkle.HASH_BYTES)]


class Tampered(AuditError):
    """Something is not what was signed."""

    def __init__(self, why: str, sequence: int | None = None) -> None:
        super().__init__(why if sequence is None else f"sequence {sequence}: {why}")
        self.sequence = sequence


class Leaf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which leaf an event is, and its hash."""

    sequence: Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]
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
        leaves: In the ledger's order. They may go on behind the checkpoints; what is behind proves nothing. Of each
            that is signed 40 bytes are kept.
        keys: Governance's keys by name, as somebody says: who may have vouched for its own seals. A name is its key's
            hash, so it cannot be another one's.

    Raises:
        Tampered: The leaves do not give the signed roots.
    """

    def __init__(self, notes: Notes, leaves: Iterable[Leaf], keys: Mapping[str, bytes] | None = None) -> None:
        self._notes = notes
        grown = {place: (merkle.Growing(), note.checkpoint().size) for place, note in notes.items()}
        self._sequences, self._leaves, self._seen, last = array("Q"), bytearray(), 0, 0
        for one in leaves:
            tree, size = grown.get((one.tree, one.epoch), _UNSIGNED)
            if tree.size >= size:
                continue
            if one.index != tree.size or one.sequence <= last or one.epoch != cp.epoch_of(one.sequence):
                raise Tampered("the list of leaves is out of order", one.sequence)
            last = one.sequence
            self._sequences.append(last)
            self._leaves += one.leaf
            tree.append(one.leaf)
        whole = last - len(self._sequences) + 1  # where they begin if none is missing, for they rise
        self._run = range(whole, last + 1) if self._sequences and self._sequences[0] == whole else range(0)
        for place, note in notes.items():
            point = note.checkpoint()
            if grown[place][0].root() != point.root:
                raise Tampered(f"the leaves do not give the root that was signed: {point}")
        known = {key: public for key, public in (keys or {}).items() if seal.key_id(public) == key}
        self._vouching = {
            place: frozenset(key for key, public in known.items() if cp.vouches(note, public))
            for place, note in notes.items()
        }
        self._words: dict[tuple[str, str, int], bool] = {}  # many events share one

    def vouched(self, sequence: int, subject: str, key: str) -> bool:
        """Return whether the key that an event names gave its word for it, over the tree in which `see` finds it."""
        asked = subject, key, sequence >> cp.EPOCH_SHIFT
        word = self._words.get(asked)
        if word is None:
            place = subjects.tree_of(subject), cp.epoch_of(sequence)
            word = self._words[asked] = key in self._vouching.get(place, ())
        return word and (sequence in self._run or self.signed(sequence))

    def signed(self, sequence: int) -> bool:
        """Return whether an event with this sequence is under a checkpoint."""
        kept = self._sequences
        at = sequence - kept[0] if kept else 0  # where it is while none is missing
        if not (0 <= at < len(kept) and kept[at] == sequence):
            at = bisect_left(kept, sequence)
        return at < len(kept) and kept[at] == sequence

    def see(self, message: Message, leaf: bytes) -> None:
        """Compare the next event, whose hash as a leaf this is, with what was signed there.

        Raises:
            Tampered: It is not what was signed there.
        """
        sequence, at = message.sequence, self._seen
        if at == len(self._sequences):
            if self.signed(sequence):
                raise Tampered("out of order", sequence)
            return
        signed = self._sequences[at]
        if sequence > signed:
            raise Tampered(f"missing: it was signed; the next is {sequence}", signed)
        if sequence < signed:
            why = "out of order" if self.signed(sequence) else f"was not there when {signed} was signed"
            raise Tampered(why, sequence)
        if leaf != self._leaves[at * merkle.HASH_BYTES : (at + 1) * merkle.HASH_BYTES]:
            raise Tampered("not the event that was signed there", sequence)
        self._seen += 1

    def check(self, keys: Iterable[bytes]) -> int:
        """Check that all was seen and that governance signed it; return how many events are proven.

        Args:
            keys: Governance's public keys, from the verified events.

        Raises:
            Tampered: The ledger ends too early, or a checkpoint is not signed.
        """
        if self._seen < len(self._sequences):
            raise Tampered("the ledger ends before it, and it was signed", self._sequences[self._seen])
        _check_all_signed(self._notes, keys)
        return len(self._sequences)


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
