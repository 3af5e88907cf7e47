"""The region's Merkle tree as this node computes it from its own mirror, against what was signed. Pure; opens nothing.

`Mirrored.leaf` takes every stored message of the mirror in order, `Mirrored.heard` every signed checkpoint. Both return
nothing, `Agreed` (we computed that very root), or `Forked`, which names the two checkpoints. A fork is one of

1. as many leaves as were signed with another root, or more of them: the ledger has two histories;
2. a later checkpoint that is smaller than one before it: the ledger shrank;
3. two different checkpoints under one number.

After a fork nothing is agreed any more until a new epoch begins a new tree.

Fewer leaves than were signed, though the mirror is past the signed sequence, are no fork yet: the mirror has a hole, or
somebody keeps events from us. `Kept.lacks` names that checkpoint until we agree with one that covers it: after `again`,
in a mirror that was mended meanwhile (ADR 0059).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec
from msgspec.structs import replace

from openkcm.contract import merkle
from openkcm.contract.checkpoint import EPOCH_SHIFT, Checkpoint, epoch_of, origin_of
from openkcm.contract.merkle import Edge
from openkcm.contract.published import Published
from openkcm.contract.subjects import tree_of

__all__ = ["Agreed", "Forked", "Kept", "Mirrored"]

#: Sizes whose edge is kept, to compare a checkpoint that comes later than the events it covers.
SIZES_KEPT: Final = 8192
#: Checkpoints ahead of our mirror that wait for it; only the newest matter, since each covers all before it.
WAITING_KEPT: Final = 64
NUMBERS_KEPT: Final = 256


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What outlives a restart: where we are in the mirror, the tree's edge, the newest checkpoint we agreed with."""

    sequence: int = 0
    epoch: int = 1
    leaf_sequence: int = 0
    edge: Edge = Edge()
    counter: int = 0
    agreed: Checkpoint | None = None
    lacks: Checkpoint | None = None
    fork: str | None = None


class Agreed(msgspec.Struct, frozen=True):
    """We computed this checkpoint's root ourselves."""

    published: Published


class Forked(msgspec.Struct, frozen=True):
    """Two checkpoints that cannot both be true of one ledger."""

    why: str


Outcome = Agreed | Forked | None


class Mirrored:
    """One region's tree on one node.

    Args:
        ledger: The ledger's name, which its checkpoints bear.
        kept: What was kept at the last stop.
    """

    def __init__(self, ledger: str, region: str, kept: Kept) -> None:
        self._ledger, self._region = ledger, region
        self.kept = kept
        self._edges: OrderedDict[int, tuple[Edge, int]] = OrderedDict({kept.edge.size: (kept.edge, kept.leaf_sequence)})
        self._waiting: dict[int, Published] = {}
        self._numbers: OrderedDict[int, str] = OrderedDict()
        self.lacking = False
        if kept.lacks is not None:
            self.again()

    def again(self) -> None:
        """Begin the epoch's tree anew, from `kept.sequence` on: what the mirror lacked may be there now."""
        begin = (self.kept.epoch << EPOCH_SHIFT) - 1 if self.kept.epoch > 1 else 0
        self.kept, self.lacking = replace(self.kept, sequence=begin, leaf_sequence=0, edge=Edge()), False
        self._edges = OrderedDict({0: (Edge(), 0)})

    def leaf(self, sequence: int, subject: str, body: bytes) -> list[Agreed | Forked]:
        """Take the mirror's next message in; what is at or below our place changes nothing."""
        kept = self.kept
        if sequence <= kept.sequence:
            return []
        if tree_of(subject) != self._region:
            self.kept = replace(kept, sequence=sequence)
            return self._judge_waiting()
        epoch = epoch_of(sequence)
        if epoch != kept.epoch:  # the ledger was restored: another tree, under another origin
            self._edges.clear()
            self._waiting.clear()
            self._numbers.clear()
            kept, self.lacking = Kept(epoch=epoch), False
        edge = kept.edge.append(merkle.ledger_leaf(epoch, sequence, subject, body))
        self._edges[edge.size] = (edge, sequence)
        if len(self._edges) > SIZES_KEPT:
            self._edges.popitem(last=False)
        self.kept = replace(kept, sequence=sequence, leaf_sequence=sequence, edge=edge)
        return self._judge_waiting()

    def heard(self, published: Published) -> Outcome:
        """Take a verified checkpoint of our region's tree in."""
        point, kept = published.checkpoint, self.kept
        if kept.fork is not None or point.epoch < kept.epoch:
            return None
        if point.epoch > kept.epoch:  # of an epoch whose first event is still on its way to our mirror
            self._wait(published)
            return None
        known = self._numbers.setdefault(published.counter, published.note.text)
        if len(self._numbers) > NUMBERS_KEPT:
            self._numbers.popitem(last=False)
        if known != published.note.text:  # (3)
            return self._fork(point, f"number {published.counter} was also {known.splitlines()[:3]}")
        if published.counter <= kept.counter:
            return None
        if kept.agreed is not None and point.size < kept.agreed.size:  # (2)
            return self._fork(point, f"it is later and smaller than {kept.agreed}")
        if self.lacking:
            self._wait(published)
            return None
        return self._compare(published)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _compare(self, published: Published) -> Outcome:
        point, kept = published.checkpoint, self.kept
        edge, sequence = self._edges.get(point.size, (Edge(), 0))
        if point.size > kept.edge.size or sequence > point.sequence:
            if kept.sequence >= point.sequence:
                self.kept, self.lacking = replace(kept, lacks=point), True
            self._wait(published)
            return None
        if point.size not in self._edges:
            return None  # too old to say; the next one covers it
        if edge.root() != point.root or sequence != point.sequence:  # (1)
            return self._fork(point, f"this node's mirror gives {self._own(point.size)}")
        lacks = None if kept.lacks is None or kept.lacks.size <= point.size else kept.lacks
        self.kept = replace(kept, counter=published.counter, agreed=point, lacks=lacks)
        return Agreed(published)

    def _wait(self, published: Published) -> None:
        self._waiting[published.counter] = published
        while len(self._waiting) > WAITING_KEPT:
            del self._waiting[min(self._waiting)]

    def _judge_waiting(self) -> list[Agreed | Forked]:
        found: list[Agreed | Forked] = []
        for counter in () if self.lacking else sorted(self._waiting):
            point = self._waiting[counter].checkpoint
            if self.kept.epoch >= point.epoch and (
                self.kept.edge.size >= point.size or self.kept.sequence >= point.sequence
            ):
                outcome = self.heard(self._waiting.pop(counter))
                found += [] if outcome is None else [outcome]
        return found

    def _fork(self, point: Checkpoint, why: str) -> Forked:
        forked = Forked(f"signed is {point}; {why}")
        self.kept = replace(self.kept, fork=forked.why)
        return forked

    def _own(self, size: int) -> Checkpoint:
        edge, sequence = self._edges[size]
        return Checkpoint(
            origin=origin_of(self._ledger, self._region, self.kept.epoch), size=size, root=edge.root(),
            epoch=self.kept.epoch, sequence=sequence,
        )  # fmt: skip
