"""The ledger's trees as governance shows them: checkpoints, proofs, cosignatures. Signs nothing; knows no notary."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Awaitable, Container
from typing import Any, TypeVar

import msgspec

from openkcm.bus.checkpoints import MOST_WITNESSES, Checkpoints, Cosigned, read_cosigned
from openkcm.bus.errors import BusError
from openkcm.contract import checkpoint as cp
from openkcm.contract import merkle
from openkcm.contract.errors import ContractError
from openkcm.contract.published import Published, open_published
from openkcm.contract.subjects import cosignature
from openkcm.governance.errors import Conflicting, Invalid, LedgerUnavailable, NotFound
from openkcm.projector import Reader
from openkcm.projector.trees import StoredTree, heads, known_keys, leaf_at

__all__ = ["Trees"]

_T = TypeVar("_T")
log = logging.getLogger(__name__)


class Trees:
    """Reads the read model's trees and the two streams of what was signed about them."""

    def __init__(self, checkpoints: Checkpoints, reader: Reader, trust_root: bytes) -> None:
        self._checkpoints, self._reader = checkpoints, reader
        self.ledger = cp.ledger_name(trust_root)

    async def newest(self, tree: str) -> Published | None:
        """Return the newest checkpoint of a tree; None while there is none that is governance's.

        Raises:
            LedgerUnavailable: The hub does not answer.
        """
        stored = await _answered(self._checkpoints.last(tree))
        if stored is None:
            return None
        try:
            return open_published(stored.subject, stored.body, known_keys(self._reader)[0], self.ledger)
        except ContractError as bad:
            log.warning("the newest checkpoint of %s is not governance's: %s", tree, bad)
            return None

    async def shown(self, trees: Container[str] | None = None) -> list[dict[str, Any]]:
        """Return these trees, or all: what the ledger has, what was signed, who cosigned, whether the two contradict.

        Raises:
            LedgerUnavailable: The hub does not answer.
        """
        found = []
        for head in heads(self._reader):
            if trees is not None and head.tree not in trees:
                continue
            newest = await self.newest(head.tree)
            signed = None if newest is None else self._signed(newest)
            found.append(
                {
                    "tree": head.tree,
                    "epoch": head.epoch,
                    "size": head.edge.size,
                    "root": _base64(head.edge.root()),
                    "sequence": head.sequence,
                    "checkpoint": signed,
                    "fork": None if newest is None else self._contradiction(newest.checkpoint),
                    "witnesses": [] if newest is None else await self._witnesses(newest),
                }
            )
        return found

    def inclusion(self, sequence: int, tree: str, size: int | None) -> dict[str, Any]:
        """Return the proof that what stands at `sequence` is a leaf of its tree, at `size` or at its present size.

        Raises:
            NotFound: Nothing of this tree stands there.
            Invalid: The tree had fewer leaves at that size.
        """
        epoch, index = cp.epoch_of(sequence), leaf_at(self._reader, tree, sequence)
        if index is None:
            raise NotFound(f"no event of {tree} at {sequence}")
        wanted = self._size(tree, epoch) if size is None else size
        nodes = StoredTree(self._reader, tree, epoch)
        try:
            proof, root = merkle.inclusion_proof(nodes, index, wanted), merkle.root_at(nodes, wanted)
            leaf = nodes.node(0, index)
        except merkle.ProofError as bad:
            raise Invalid(str(bad)) from bad
        return {
            "tree": tree, "epoch": epoch, "sequence": sequence, "index": index, "size": wanted, "root": _base64(root),
            "leaf": _base64(leaf), "proof": [_base64(part) for part in proof],
        }  # fmt: skip

    def consistency(self, tree: str, epoch: int, old: int, new: int) -> dict[str, Any]:
        """Return the proof that a tree at size `new` begins with itself at size `old`.

        Raises:
            NotFound: No such tree.
            Invalid: It never had that size.
        """
        if new > self._size(tree, epoch):
            raise Invalid(f"{tree} has not had {new} leaves in epoch {epoch}")
        try:
            proof = merkle.consistency_proof(StoredTree(self._reader, tree, epoch), old, new)
        except merkle.ProofError as bad:
            raise Invalid(str(bad)) from bad
        return {"tree": tree, "epoch": epoch, "old": old, "new": new, "proof": [_base64(part) for part in proof]}

    async def cosign(self, tree: str, verifier: str, text: str) -> dict[str, Any]:
        """Keep a witness's cosignature.

        (1) its key is a witness's, and its line in the note holds; (2) the note is a checkpoint of this tree; (3) that
        the tree really had: a cosigned note that it never had is a fork, and is named.

        Raises:
            Invalid: (1) or (2) does not hold.
            Conflicting: There are as many witnesses as are kept; or (3) does not hold.
            LedgerUnavailable: The hub does not take it.
        """
        try:
            key, note = cp.read_verifier(verifier), cp.parse_note(text)
            line = cp.verify(note, key)  # (1)
            at_s = cp.cosigned_at(line)
            point = note.checkpoint()
        except ContractError as bad:
            raise Invalid(f"not a cosignature: {bad}") from bad
        if point.tree != tree or point.origin != cp.origin_of(self.ledger, tree, point.epoch):  # (2)
            raise Invalid(f"a checkpoint of {point.origin}, not of {self.ledger}/{tree}")
        contradiction = self._contradiction(point)
        if contradiction is not None:  # (3)
            log.error("FORK: witness %s cosigned %s; the ledger has %s", key.name, point, contradiction["ours"])
            raise Conflicting(f"{key.name} cosigned {point}; the ledger has {contradiction['ours']}")
        kept = msgspec.json.encode(Cosigned(verifier=str(key), note=str(cp.Note(note.text, (line,)))))
        witness = hashlib.sha256(verifier.encode()).hexdigest()[:32]
        others = {s.subject for s in await _answered(self._checkpoints.cosigned(tree))} - {cosignature(tree, witness)}
        if len(others) >= MOST_WITNESSES:  # a flood of keys must not hide those that somebody pins
            raise Conflicting(f"{tree} has {MOST_WITNESSES} witnesses already")
        await _answered(self._checkpoints.cosign(tree, witness, kept, id=hashlib.sha256(kept).hexdigest()))
        return {"tree": tree, "witness": key.name, "size": point.size, "at_s": at_s}

    # --- inside -----------------------------------------------------------------------------------------------------

    def _signed(self, newest: Published) -> dict[str, Any]:
        point, keys = newest.checkpoint, known_keys(self._reader)[0]
        return {
            "counter": newest.counter, "origin": point.origin, "epoch": point.epoch, "size": point.size,
            "root": _base64(point.root), "sequence": point.sequence, "note": str(newest.note),
            "published_ms": newest.at_ms, "verifier": str(cp.verifier_key(point.origin, keys[newest.key])),
        }  # fmt: skip

    def _size(self, tree: str, epoch: int) -> int:
        found = self._reader.rows("SELECT size FROM tree WHERE tree = ? AND epoch = ?", (tree, epoch))
        if not found:
            raise NotFound(f"no tree {tree} in epoch {epoch}")
        return int(found[0][0])

    def _contradiction(self, point: cp.Checkpoint) -> dict[str, str] | None:
        """Return both checkpoints when this one was never the ledger's, as far as it is folded."""
        found = self._reader.rows("SELECT size FROM tree WHERE tree = ? AND epoch = ?", (point.tree, point.epoch))
        if not found or found[0][0] < point.size:
            return None  # not folded so far: nothing can be said yet
        root = merkle.root_at(StoredTree(self._reader, point.tree, point.epoch), point.size)
        if root == point.root:
            return None
        return {"signed": str(point), "ours": str(msgspec.structs.replace(point, root=root))}

    async def _witnesses(self, newest: Published) -> list[dict[str, Any]]:
        """Return who cosigned what last: the region's nodes, and those outside."""
        tree = newest.checkpoint.tree
        rows = self._reader.rows("SELECT verifier, note FROM node_cosignature WHERE tree = ? ORDER BY node", (tree,))
        notes = [("node", verifier, note) for verifier, note in rows]
        outside = await _answered(self._checkpoints.cosigned(tree))
        notes += [("witness", *read_cosigned(stored.body)) for stored in outside]
        found = []
        for kind, verifier, text in notes:
            try:
                key, note = cp.read_verifier(verifier), cp.parse_note(text)
                line, point = cp.verify(note, key), note.checkpoint()
            except ContractError as bad:
                log.warning("a kept cosignature does not hold: %s", bad)
                continue
            found.append(
                {
                    "name": key.name, "kind": kind, "verifier": verifier, "epoch": point.epoch, "size": point.size,
                    "at_s": cp.cosigned_at(line), "note": text, "line": str(line),
                    "newest": point == newest.checkpoint, "fork": self._contradiction(point),
                }
            )  # fmt: skip
        return found


async def _answered(asked: Awaitable[_T]) -> _T:
    try:
        return await asked
    except BusError as away:
        raise LedgerUnavailable("the hub does not answer: try again") from away


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
