"""The ledger's Merkle trees in SQLite: folded with the read model, in its transaction; read for roots and proofs.

Every stored message is a leaf, good or bad: a tree says what the ledger holds, not what it means. Hashes lie in rows of
256 (`tile`), so a batch of any size rewrites at most one row a level, and a proof reads O(log n) rows.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from openkcm.contract import merkle
from openkcm.contract.checkpoint import epoch_of
from openkcm.contract.merkle import HASH_BYTES, Edge
from openkcm.contract.stored import Message
from openkcm.contract.subjects import tree_of
from openkcm.projector.database import Reader, Value

__all__ = ["StoredTree", "TreeFold", "TreeHead", "heads", "keys_in_force", "known_keys", "leaf_at"]

#: 2 to this power hashes a tile.
HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
LAST: Final = (WIDTH - 1) * HASH_BYTES  # what a tile holds before its last hash
_SEQUENCE: Final = struct.Struct(">Q").pack
_Row = tuple[str, Mapping[str, Value]]
_NOTHING: Final[Sequence[_Row]] = ()
_EDGE: Final = msgspec.json.Decoder(Edge)


class TreeHead(msgspec.Struct, frozen=True, kw_only=True):
    """One tree as far as it is folded. `sequence` is its last leaf's."""

    tree: str
    epoch: int
    sequence: int
    edge: Edge


class _Tile:
    """The last tile of a level while it fills."""

    def __init__(self, number: int, first_sequence: int, hashes: bytes = b"", sequences: bytes = b"") -> None:
        self.number, self.first_sequence = number, first_sequence
        self.hashes, self.sequences = bytearray(hashes), bytearray(sequences)


class _Tree:
    """One growing tree: its edge as a list, and the tile that each level is filling."""

    def __init__(self, head: TreeHead, tiles: dict[int, _Tile]) -> None:
        self.tree, self.epoch, self.sequence = head.tree, head.epoch, head.sequence
        self.size, self.hashes = head.edge.size, list(head.edge.hashes)
        self.tiles = tiles
        self.written: list[_Row] = []

    def add(self, sequence: int, leaf: bytes) -> None:
        size, carried, level = self.size, leaf, 0
        bottom = self.tiles.get(0)
        if bottom is not None and len(bottom.hashes) < LAST:
            bottom.hashes += leaf
            bottom.sequences += _SEQUENCE(sequence)
        else:
            self._keep(0, sequence, leaf)
        while size & 1:
            carried, size, level = merkle.node_hash(self.hashes.pop(), carried), size >> 1, level + 1
            if level % HEIGHT == 0:  # a tile below is full: its root is a hash of the level above
                self._keep(level // HEIGHT, sequence, carried)
        self.hashes.append(carried)
        self.size += 1
        self.sequence = sequence

    def _keep(self, level: int, sequence: int, found: bytes) -> None:
        tile = self.tiles.get(level)
        if tile is None or len(tile.hashes) == WIDTH * HASH_BYTES:
            tile = self.tiles[level] = _Tile(0 if tile is None else tile.number + 1, sequence)
        tile.hashes += found
        if level == 0:
            tile.sequences += _SEQUENCE(sequence)
        if len(tile.hashes) == WIDTH * HASH_BYTES:
            self.written.append(self._row(level, tile))

    def rows(self) -> list[_Row]:
        """Return what has changed since the last call."""
        partial = [
            self._row(level, tile) for level, tile in self.tiles.items() if len(tile.hashes) < WIDTH * HASH_BYTES
        ]
        edge = msgspec.json.encode(Edge(self.size, tuple(self.hashes)))
        head: _Row = (
            "tree",
            {"tree": self.tree, "epoch": self.epoch, "size": self.size, "sequence": self.sequence, "edge": edge},
        )
        rows, self.written = [*self.written, *partial, head], []
        return rows

    def _row(self, level: int, tile: _Tile) -> _Row:
        return "tile", {
            "tree": self.tree, "epoch": self.epoch, "level": level, "number": tile.number,
            "first_sequence": tile.first_sequence, "hashes": bytes(tile.hashes), "sequences": bytes(tile.sequences),
        }  # fmt: skip


class TreeFold:
    """All trees of one ledger, growing. Loads their edges, never their leaves."""

    def __init__(self, reader: Reader) -> None:
        self._trees = {head.tree: _Tree(head, _last_tiles(reader, head)) for head in heads(reader)}
        self._changed: set[str] = set()

    @property
    def size(self) -> int:
        """The number of leaves of all present trees."""
        return sum(tree.size for tree in self._trees.values())

    def add(self, message: Message) -> Sequence[_Row]:
        """Take the next message in; return the rows of a tree that it closes, for an epoch begins."""
        name, epoch = tree_of(message.subject), epoch_of(message.sequence)
        tree, closed = self._trees.get(name), _NOTHING
        if tree is None or tree.epoch != epoch:
            if tree is not None and name in self._changed:
                closed = tree.rows()
            fresh = TreeHead(tree=name, epoch=epoch, sequence=0, edge=Edge())
            tree = self._trees[name] = _Tree(fresh, {})
        leaf: bytes | None = getattr(message, "leaf", None)  # who verified it in this very program has computed it
        tree.add(message.sequence, leaf or merkle.ledger_leaf(epoch, message.sequence, message.subject, message.body))
        self._changed.add(name)
        return closed

    def rows(self) -> list[_Row]:
        """Return what has changed since the last call, for the transaction that moves the cursor."""
        rows = [row for name in sorted(self._changed) for row in self._trees[name].rows()]
        self._changed.clear()
        return rows


class StoredTree:
    """A tree's hashes as `merkle.Nodes`. Reads each row once."""

    def __init__(self, reader: Reader, tree: str, epoch: int) -> None:
        self._reader, self._tree, self._epoch = reader, tree, epoch
        self._tiles: dict[tuple[int, int], bytes] = {}

    def node(self, level: int, index: int) -> bytes:
        """Return the root of a perfect subtree.

        Raises:
            ProofError: The tree has not grown so far.
        """
        row, height = divmod(level, HEIGHT)
        first = index << height
        tile, offset = self._tile(row, first >> HEIGHT), first % WIDTH
        hashes = [tile[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at in range(offset, offset + (1 << height))]
        if not hashes[-1]:
            raise merkle.ProofError(f"tree {self._tree} has not grown so far")
        while len(hashes) > 1:
            hashes = [merkle.node_hash(*pair) for pair in zip(hashes[::2], hashes[1::2], strict=True)]
        return hashes[0]

    def _tile(self, row: int, number: int) -> bytes:
        if (row, number) not in self._tiles:
            found = self._reader.rows(
                "SELECT hashes FROM tile WHERE (tree, epoch, level, number) = (?, ?, ?, ?)",
                (self._tree, self._epoch, row, number),
            )
            self._tiles[row, number] = found[0][0] if found else b""
        return self._tiles[row, number]


def heads(reader: Reader) -> list[TreeHead]:
    """Return each tree's newest epoch."""
    rows = reader.rows("SELECT tree, max(epoch), sequence, edge FROM tree GROUP BY tree ORDER BY tree")
    return [
        TreeHead(tree=tree, epoch=epoch, sequence=sequence, edge=_EDGE.decode(edge).check())
        for tree, epoch, sequence, edge in rows
    ]


def known_keys(reader: Reader) -> tuple[dict[str, bytes], int]:
    """Return governance's keys, past ones too, by name, and the ledger's epoch, as far as it is folded."""
    keys = {key: _unbase64(public) for key, public in reader.rows("SELECT key, public_key FROM signing_key")}
    return keys, int(reader.rows("SELECT epoch FROM cursor")[0][0])


def keys_in_force(reader: Reader) -> set[str]:
    """Return the names of governance's keys that nobody retired, as far as it is folded."""
    return {key for (key,) in reader.rows("SELECT key FROM signing_key EXCEPT SELECT key FROM signing_key_retired")}


def leaf_at(reader: Reader, tree: str, sequence: int) -> int | None:
    """Return which leaf of its tree stands at a sequence, None when none does."""
    rows = reader.rows(
        "SELECT number, sequences FROM tile WHERE tree = ? AND epoch = ? AND level = 0 AND first_sequence <= ? "
        "ORDER BY first_sequence DESC LIMIT 1",
        (tree, epoch_of(sequence), sequence),
    )
    for number, packed in rows:
        sequences = struct.unpack(f">{len(packed) // 8}Q", packed)
        if sequence in sequences:
            return int(number) * WIDTH + sequences.index(sequence)
    return None


def _unbase64(text: str) -> bytes:
    return msgspec.json.decode(msgspec.json.encode(text), type=bytes)


def _last_tiles(reader: Reader, head: TreeHead) -> dict[int, _Tile]:
    rows: list[tuple[Any, ...]] = reader.rows(
        "SELECT level, max(number), first_sequence, hashes, sequences FROM tile WHERE tree = ? AND epoch = ? "
        "GROUP BY level",
        (head.tree, head.epoch),
    )
    return {level: _Tile(number, first, hashes, sequences) for level, number, first, hashes, sequences in rows}
