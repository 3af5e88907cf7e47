"""What was signed about a ledger, against the ledger: checkpoints, and who cosigned them. Pure; opens nothing.

`Signed` is a listener of a pass over the ledger. Give it beforehand everything that anybody signed (the notary's
stream, cosignatures, a witness's own history); it keeps the roots at those sizes and no leaf. `judge` then names the
first checkpoint that the ledger does not bear out:

1. its note is signed by a key that the ledger's trust root introduced, or by the witness who handed it over;
2. the tree has that many leaves: else the ledger is shorter than the signer knew;
3. its root at that size is the signed one: else an event in between is not what it was, or was put in or left out.

A ledger that was made anew after a loss begins in a later epoch; what was signed of the epochs before is `closed`: the
trust root's opening of the new one says what became of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from openkcm.audit.verify import AuditError
from openkcm.contract import checkpoint as cp
from openkcm.contract import merkle
from openkcm.contract.errors import ContractError
from openkcm.contract.subjects import tree_of

__all__ = ["Cosigner", "NotBorneOut", "Shorter", "Signed", "Tree"]


class NotBorneOut(AuditError):
    """The ledger is not what was signed. `epoch`, `sequence`: the first place that can be the wrong one."""

    def __init__(self, epoch: int, sequence: int, why: str) -> None:
        super().__init__(f"epoch {epoch}, from sequence {sequence}: {why}")
        self.epoch, self.sequence, self.code, self.why = epoch, sequence, "root", why


class Shorter(NotBorneOut):
    """The ledger ends before what somebody knew of it."""


class Cosigner(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody's newest word on a tree. `behind`: leaves that came after it."""

    name: str
    verifier: str
    size: int
    at_s: int
    behind: int


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """One tree after the pass. `signed`: the size that the newest checkpoint covers; above it nothing is signed yet."""

    tree: str
    epoch: int
    size: int
    sequence: int
    root: bytes
    checkpoints: int
    signed: int
    cosigners: tuple[Cosigner, ...]


class _Claim(msgspec.Struct, frozen=True):
    """One signed checkpoint; `witness` None: the notary's own."""

    note: cp.Note
    point: cp.Checkpoint
    witness: cp.Verifier | None


class Signed:
    """The claims, and the trees as they go by.

    Args:
        ledger: The ledger's name (its trust root's).
        notes: Signed by the notary.
        cosigned: (key, note) of witnesses and nodes; a key is believed to be whose it says.

    Raises:
        NotBorneOut: A cosignature does not hold, or is of another ledger's tree.
    """

    def __init__(
        self, ledger: str, notes: Iterable[cp.Note], cosigned: Iterable[tuple[cp.Verifier, cp.Note]] = ()
    ) -> None:
        self._ledger = ledger
        self._claims = [self._claim(note, None) for note in notes]
        self._claims += [self._claim(note, key) for key, note in cosigned]
        self._wanted = {(c.point.tree, c.point.epoch, c.point.size) for c in self._claims}
        self._edges: dict[tuple[str, int], tuple[merkle.Growing, int]] = {}
        self._roots: dict[tuple[str, int, int], tuple[bytes, int]] = {}
        self._first_epoch = 0

    def _claim(self, note: cp.Note, witness: cp.Verifier | None) -> _Claim:
        try:
            point = note.checkpoint()
            if point.origin != cp.origin_of(self._ledger, point.tree, point.epoch):
                raise cp.CheckpointError(f"it is of {point.origin}, another ledger's")
            if witness is not None:
                cp.verify(note, witness)
        except ContractError as bad:
            raise NotBorneOut(0, 0, f"not a signed checkpoint of this ledger: {bad}") from bad
        return _Claim(note, point, witness)

    def take(self, sequence: int, subject: str, body: bytes) -> None:
        """Take the ledger's next stored message in."""
        key = tree_of(subject), cp.epoch_of(sequence)
        self._first_epoch = self._first_epoch or key[1]
        tree, _ = self._edges.get(key) or (merkle.Growing(), 0)
        tree.append(merkle.ledger_leaf(key[1], sequence, subject, body))
        self._edges[key] = tree, sequence
        if (*key, tree.size) in self._wanted:
            self._roots[*key, tree.size] = tree.root(), sequence

    def judge(self, keys: Sequence[bytes]) -> list[Tree]:
        """Return the trees, each with what was signed of it.

        Args:
            keys: Every public key that governance ever had, from the verified events.

        Raises:
            Shorter, NotBorneOut: The first claim that does not hold, in the order of the ledger.
        """
        agreed: dict[tuple[str, int], int] = {}  # sequence up to which a tree is borne out
        for claim in sorted(self._judged(), key=lambda c: (c.point.epoch, c.point.sequence, c.point.size)):
            key = claim.point.tree, claim.point.epoch
            self._check(claim, keys, agreed.get(key, 0))
            agreed[key] = max(claim.point.sequence, agreed.get(key, 0))
        return [self._shown(key) for key in sorted(self._edges)]

    @property
    def closed(self) -> tuple[cp.Checkpoint, ...]:
        """What was signed of epochs before this ledger's first."""
        return tuple(c.point for c in self._claims if c.point.epoch < self._first_epoch)

    def _judged(self) -> list[_Claim]:
        return [c for c in self._claims if c.point.epoch >= self._first_epoch]

    def _check(self, claim: _Claim, keys: Sequence[bytes], agreed: int) -> None:
        point, who = claim.point, "the notary" if claim.witness is None else f"witness {claim.witness.name}"
        if claim.witness is None and not _signed_by_any(claim.note, keys):  # (1)
            raise NotBorneOut(point.epoch, point.sequence, f"{point} is signed by no key of the ledger's")
        grown, sequence = self._edges.get((point.tree, point.epoch)) or (merkle.Growing(), 0)
        size = grown.size
        if size < point.size and sequence < point.sequence:  # (2)
            have = f"the ledger has {size} events of {point.tree}, up to {sequence}"
            raise Shorter(point.epoch, sequence + 1, f"shorter than {who} knew: {point}; {have}")
        root, at = self._roots.get((point.tree, point.epoch, point.size), (merkle.EMPTY_ROOT, 0))
        if (root, at) != (point.root, point.sequence):  # (3)
            have = (
                f"the ledger has there root {root.hex()[:16]} sequence {at}" if at else f"the ledger has {size} events"
            )
            span = f"an event of {point.tree} from {agreed + 1} to {point.sequence} is not what it was"
            raise NotBorneOut(point.epoch, agreed + 1, f"{who} signed {point}; {have}: {span}")

    def _shown(self, key: tuple[str, int]) -> Tree:
        grown, sequence = self._edges[key]
        size = grown.size
        mine = [c for c in self._claims if (c.point.tree, c.point.epoch) == key]
        notary = [c.point.size for c in mine if c.witness is None]
        newest: dict[str, _Claim] = {}
        for claim in mine:
            if claim.witness is not None:
                known = newest.get(str(claim.witness))
                if known is None or known.point.size <= claim.point.size:
                    newest[str(claim.witness)] = claim
        return Tree(
            tree=key[0], epoch=key[1], size=size, sequence=sequence, root=grown.root(),
            checkpoints=len(notary), signed=max(notary, default=0),
            cosigners=tuple(_cosigner(c, size) for _, c in sorted(newest.items())),
        )  # fmt: skip


def _cosigner(claim: _Claim, size: int) -> Cosigner:
    assert claim.witness is not None
    at_s = cp.cosigned_at(cp.verify(claim.note, claim.witness))
    return Cosigner(
        name=claim.witness.name, verifier=str(claim.witness), size=claim.point.size, at_s=at_s,
        behind=size - claim.point.size,
    )  # fmt: skip


def _signed_by_any(note: cp.Note, keys: Sequence[bytes]) -> bool:
    origin = note.checkpoint().origin
    verifiers: Mapping[bytes, cp.Verifier] = {v.key: v for v in (cp.verifier_key(origin, key) for key in keys)}
    for line in note.lines:
        verifier = verifiers.get(line.key)
        if line.name == origin and verifier is not None:
            try:
                cp.verify(note, verifier)
            except ContractError:
                return False
            return True
    return False
