"""Trees, their notes and proofs without a server: a ledger's script folded into a read model."""

from __future__ import annotations

from pathlib import Path

from governance_ledger import CMK, EU, TRUST
from governance_ledger import Ledger as Script
from openkcm.contract import checkpoint as cp
from openkcm.contract import decrees as d
from openkcm.contract import merkle, resources, subjects
from openkcm.contract.seal import Signer
from openkcm.projector import open_writer
from openkcm.projector.ledger import Projection
from openkcm.projector.trees import StoredTree, heads

NAME = cp.ledger_name(TRUST.public_key)


def grown(script: Script, count: int, *, lease_s: int = 60) -> Script:
    for _ in range(count):
        tenant = f"t{len(script.messages)}"
        script.add(subjects.residence_aggregate(EU, tenant), d.TenantConfigurationUpdated(lease_s=lease_s))
    return script


class Folded:
    """A history, with a notary's pen."""

    def __init__(self, path: Path) -> None:
        self.writer = open_writer(path, resources.ROOT / "projections" / "cmk", synchronous="NORMAL")
        self.projection = Projection(self.writer, TRUST.public_key)

    def take(self, messages) -> None:
        self.projection.apply(messages)

    def point(self, tree: str = EU) -> cp.Checkpoint:
        head = next(h for h in heads(self.writer) if h.tree == tree)
        return cp.Checkpoint(
            origin=cp.origin_of(NAME, tree, head.epoch), size=head.edge.size, root=head.edge.root(), epoch=head.epoch,
            sequence=head.sequence,
        )  # fmt: skip

    def note(self, tree: str = EU, signer: Signer = CMK) -> cp.Note:
        return noted(self.point(tree), signer)

    def prove(self, tree: str, epoch: int, old: int, new: int) -> list[bytes]:
        return merkle.consistency_proof(StoredTree(self.writer, tree, epoch), old, new)


def noted(point: cp.Checkpoint, signer: Signer = CMK) -> cp.Note:
    return cp.Note(point.text(), (cp.sign(point.text(), point.origin, signer),))


def cosigned(note: cp.Note, key: cp.Verifier, signer: Signer, at_s: int = 1) -> cp.Note:
    return note.with_lines([cp.cosign(note.text, key.name, signer, at_s)])
