"""The ledger's Merkle trees: hashes, an incremental edge, inclusion and consistency proofs. Pure: opens nothing.

A tree of n leaves is never held: appending needs the `Edge` (at most log2(n) hashes), a proof asks `Nodes` for at most
2 log2(n) hashes of perfect subtrees. Hashes are SHA-256, 32 bytes. Source: RFC 9162, section 2.1.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Final, Protocol

import msgspec
from msgspec import Meta

from openkcm.contract import seal
from openkcm.contract.errors import ContractError

__all__ = [
    "EMPTY_ROOT", "HASH_BYTES", "Edge", "Growing", "Nodes", "ProofError", "consistency_proof", "inclusion_proof",
    "leaf_hash", "ledger_leaf", "node_hash", "root_at", "verify_consistency", "verify_inclusion",
]  # fmt: skip

HASH_BYTES: Final = 32
_SHA256: Final = hashlib.sha256
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
LEAF_DOMAIN: Final = "openkcm/leaf/1"
_SIZE: Final = struct.Struct(">I").pack
_LEAF: Final = b"\x00" + seal.canonical(LEAF_DOMAIN)
Hash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]


class ProofError(ContractError):
    """A proof that proves nothing: wrong length, or it leads to another root."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return _SHA256(b"\x01" + left + right).digest()


def ledger_leaf(epoch: int, sequence: int, subject: str, body: bytes) -> bytes:
    """Return the leaf hash of one stored event: where it stands in the ledger, and its very bytes."""
    # `leaf_hash` of `seal.canonical`, spelled out: an audit does it for every event, and this takes a third of it.
    n = b"%d" % sequence
    fields = (_LEAF, _field(epoch), _SIZE(len(n)), n, _field(subject), _SIZE(len(body)), body)
    return _SHA256(b"".join(fields)).digest()


@lru_cache(maxsize=16_384)  # a ledger has many more events than subjects
def _field(value: int | str) -> bytes:
    data = str(value).encode()
    return _SIZE(len(data)) + data


class Edge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The right edge of a tree: its size, and the roots of its perfect subtrees from the largest to the smallest.

    All that appending needs, and small enough to be stored with every batch: a restart reads no leaf again.
    """

    size: Annotated[int, Meta(ge=0)] = 0
    hashes: tuple[Hash, ...] = ()

    def append(self, leaf: bytes) -> Edge:
        """Return the edge with one leaf more."""
        hashes, size, carried = self.hashes, self.size, leaf
        while size & 1:
            carried, hashes, size = node_hash(hashes[-1], carried), hashes[:-1], size >> 1
        return Edge(self.size + 1, (*hashes, carried))

    def root(self) -> bytes:
        """Return the root of the whole tree."""
        if not self.hashes:
            return EMPTY_ROOT
        return _folded(self.hashes)

    def check(self) -> Edge:
        """Return the edge itself when it can be one.

        Raises:
            ProofError: The number of hashes is not the one of this size.
        """
        if len(self.hashes) != self.size.bit_count():
            raise ProofError(f"an edge of size {self.size} with {len(self.hashes)} hashes")
        return self


class Growing:
    """A tree's right edge that grows in place: for whoever appends a lot and keeps nothing."""

    def __init__(self) -> None:
        self.size = 0
        self._hashes: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Take one leaf more."""
        size, carried, hashes = self.size, leaf, self._hashes
        while size & 1:
            carried, size = _SHA256(b"\x01" + hashes.pop() + carried).digest(), size >> 1
        hashes.append(carried)
        self.size += 1

    def edge(self) -> Edge:
        """Return it as it is now."""
        return Edge(self.size, tuple(self._hashes))

    def root(self) -> bytes:
        """Return the root of the whole tree."""
        return _folded(self._hashes) if self._hashes else EMPTY_ROOT


class Nodes(Protocol):
    """Where the hashes of a tree are kept."""

    def node(self, level: int, index: int) -> bytes:
        """Return the root of the perfect subtree over leaves `index << level` up to `(index + 1) << level`."""


def root_at(nodes: Nodes, size: int) -> bytes:
    """Return the root that the tree had when it had `size` leaves."""
    return EMPTY_ROOT if size == 0 else _range_hash(nodes, 0, size)


def inclusion_proof(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """Return the proof that the leaf at `index` (from 0) is in the tree of `size` leaves.

    Raises:
        ProofError: There is no such leaf in it.
    """
    if not 0 <= index < size:
        raise ProofError(f"no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(_range_hash(nodes, middle, end))
            end = middle
        else:
            path.append(_range_hash(nodes, begin, middle))
            begin = middle
    return path[::-1]


def consistency_proof(nodes: Nodes, old: int, new: int) -> list[bytes]:
    """Return the proof that the tree of `new` leaves begins with the tree of `old` leaves; empty when it needs none.

    Raises:
        ProofError: The old one is larger.
    """
    if not 0 <= old <= new:
        raise ProofError(f"a tree of {new} leaves does not begin with {old}")
    if old in (0, new):
        return []
    path: list[bytes] = []
    begin, end, whole = 0, new, True
    while old != end:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append(_range_hash(nodes, middle, end))
            end = middle
        else:
            path.append(_range_hash(nodes, begin, middle))
            begin, whole = middle, False
    if not whole:
        path.append(_range_hash(nodes, begin, end))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf with this hash is at `index` of the tree of `size` leaves with this root.

    Source: RFC 9162, section 2.1.3.2, with the numbers of that procedure.

    Raises:
        ProofError: It is not shown.
    """
    if not 0 <= index < size:  # (1)
        raise ProofError(f"no leaf {index} in a tree of {size}")
    fn, sn, found = index, size - 1, leaf  # (2) (3)
    for part in proof:  # (4)
        if sn == 0:
            raise ProofError("the inclusion proof is too long")
        if fn & 1 or fn == sn:
            found = node_hash(part, found)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            found = node_hash(found, part)
        fn, sn = fn >> 1, sn >> 1
    if sn or found != root:  # (5)
        raise ProofError(f"leaf {index} is not shown to be under root {root.hex()} of size {size}")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree (new, new_root) begins with the tree (old, old_root).

    Source: RFC 9162, section 2.1.4.2, with the numbers of that procedure.

    Raises:
        ProofError: It is not shown.
    """
    if not 0 <= old <= new:
        raise ProofError(f"a tree of {new} leaves cannot begin with one of {old}")
    if old in (0, new):
        expected = EMPTY_ROOT if old == 0 else new_root
        if proof or old_root != expected:
            raise ProofError(f"trees of {old} and {new} leaves: the roots differ")
        return
    parts = [*([old_root] if old & (old - 1) == 0 else []), *proof]  # (2)
    if not parts:  # (1)
        raise ProofError("the consistency proof is empty")
    fn, sn = old - 1, new - 1  # (3)
    while fn & 1:  # (4)
        fn, sn = fn >> 1, sn >> 1
    fr = sr = parts[0]  # (5)
    for part in parts[1:]:  # (6)
        if sn == 0:
            raise ProofError("the consistency proof is too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(part, fr), node_hash(part, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, part)
        fn, sn = fn >> 1, sn >> 1
    if fr != old_root or sr != new_root or sn:  # (7)
        raise ProofError(f"the tree of {new} leaves is not shown to begin with the one of {old}")


def _split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    return 1 << (size - 1).bit_length() - 1


def _range_hash(nodes: Nodes, begin: int, end: int) -> bytes:
    """The root over leaves [begin, end); `begin` lies where a subtree of that size begins, as all of ours do."""
    perfect: list[bytes] = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        perfect.append(nodes.node(level, begin >> level))
        begin += 1 << level
    return _folded(perfect)


def _folded(perfect: Iterable[bytes]) -> bytes:
    hashes = list(perfect)
    found = hashes.pop()
    while hashes:
        found = node_hash(hashes.pop(), found)
    return found
