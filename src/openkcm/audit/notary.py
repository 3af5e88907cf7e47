"""The notary: signs what the read model's trees are, and never two histories. Folds nothing itself; runs beside a CMK.

Each second, tree by tree (`judge` decides, pure):

1. the newest checkpoint in the stream is read from its leader, whoever signed it;
2. it must be a root that our own tree had at that size; if not, or if the ledger ends before it, we sign nothing more
   of that tree and name both checkpoints;
3. when the tree has grown, or a minute has passed, ours is appended expecting that very one: a notary that was slower
   is told so, reads again and finds (2). So several notaries make one history;
4. the key's word over its own seals stands beside, while the read model, which checks each seal, has found none wrong:
   an auditor need not check them one by one then (ADR 0033).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

import msgspec

from openkcm.bus.checkpoints import Checkpoints
from openkcm.bus.errors import BusError, Conflict
from openkcm.bus.ledger import Ledger
from openkcm.contract import checkpoint as cp
from openkcm.contract import envelope as env
from openkcm.contract import merkle, seal
from openkcm.contract.checkpoint import Checkpoint
from openkcm.contract.errors import ContractError
from openkcm.contract.published import CHECKPOINT_TAG, Published, open_published, seal_published
from openkcm.projector import ProjectorError, Reader
from openkcm.projector.trees import StoredTree, TreeHead, heads, keys_in_force, known_keys

__all__ = ["Fork", "Notary", "judge"]

log = logging.getLogger(__name__)
EVERY_S: Final = 1.0
AT_LEAST_EVERY_S: Final = 60.0
TIME_SOURCE: Final = "cmk-clock"
#: What the read model refused because nobody who may sealed it; a leaf all the same.
UNSEALED: Final = "SELECT 1 FROM rejected WHERE reason IN ('malformed', 'bad-seal') LIMIT 1"


class Fork(Exception):
    """Two checkpoints of one tree, of which one is not true: `theirs` was signed, `ours` is what the ledger has."""

    def __init__(self, theirs: Checkpoint, ours: Checkpoint, why: str) -> None:
        super().__init__(f"{why}: signed is {theirs}; the ledger has {ours}")
        self.theirs, self.ours = theirs, ours


def checkpoint_of(ledger: str, head: TreeHead) -> Checkpoint:
    """Return a tree's checkpoint as it is folded."""
    return Checkpoint(
        origin=cp.origin_of(ledger, head.tree, head.epoch), size=head.edge.size, root=head.edge.root(),
        epoch=head.epoch, sequence=head.sequence,
    )  # fmt: skip


def judge(ours: Checkpoint, nodes: merkle.Nodes, last: Published | None, *, ledger_end: int, age_s: float) -> bool:
    """Return whether to publish `ours` now.

    Args:
        last: The newest in the stream, None before the first.
        ledger_end: The ledger's last sequence, read after `last`.
        age_s: How long ago `last` was first seen here.

    Raises:
        Fork: `last` cannot be true of this ledger.
    """
    if last is None or last.checkpoint.epoch < ours.epoch:
        return True
    theirs = last.checkpoint
    if theirs.sequence > ledger_end:
        raise Fork(theirs, ours, f"the ledger ends at {ledger_end}, before what was signed")
    if theirs.epoch > ours.epoch or theirs.size > ours.size:
        return False  # our read model is still on its way
    if merkle.root_at(nodes, theirs.size) != theirs.root:
        mine = msgspec.structs.replace(ours, size=theirs.size, root=merkle.root_at(nodes, theirs.size), sequence=0)
        raise Fork(theirs, mine, "the same size with another root")
    return ours.size > theirs.size or age_s >= AT_LEAST_EVERY_S


class Notary:
    """One notary.

    Args:
        reader: The CMK's read model, which folds the trees.
        signer: Gives the key to sign with, round by round: it may be rotated.
    """

    def __init__(
        self, ledger: Ledger, checkpoints: Checkpoints, reader: Reader, signer: Callable[[], seal.Signer],
        trust_root: bytes, *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._ledger, self._checkpoints, self._reader, self._signer = ledger, checkpoints, reader, signer
        self._name = cp.ledger_name(trust_root)
        self._now_ms, self._monotonic = now_ms, monotonic
        self._seen: dict[str, tuple[int, float]] = {}
        self.forks: dict[str, Fork] = {}

    async def run(self) -> None:
        """Publish, for ever."""
        while True:
            try:
                await self.round()
            except (BusError, ProjectorError) as away:
                log.info("no checkpoint now: %s", away)
            await asyncio.sleep(EVERY_S)

    async def round(self) -> list[Checkpoint]:
        """Go once through all trees; return what was published.

        Raises:
            BusError, ProjectorError: The bus or the read model does not answer.
        """
        published = []
        for head in heads(self._reader):
            try:
                point = await self._note(head)
            except Fork as fork:
                if head.tree not in self.forks:
                    log.error("FORK of tree %s; nothing more of it is signed. %s", head.tree, fork)  # noqa: TRY400
                self.forks[head.tree] = fork
            except Conflict:
                log.info("another notary published %s first", head.tree)
            except ContractError as bad:
                log.error("the newest checkpoint of %s is not governance's: %s", head.tree, bad)  # noqa: TRY400
            else:
                self.forks.pop(head.tree, None)
                published += [point] if point is not None else []
        return published

    async def _note(self, head: TreeHead) -> Checkpoint | None:
        keys, epoch = known_keys(self._reader)
        signer = self._signer()
        if signer.key_id not in keys_in_force(self._reader):
            return None  # nobody would believe it
        stored = await self._checkpoints.last(head.tree)  # (1)
        last = None if stored is None else open_published(stored.subject, stored.body, keys, self._name)
        ours = checkpoint_of(self._name, head)
        end = (await self._ledger.info()).last
        nodes = StoredTree(self._reader, head.tree, head.epoch)
        if not judge(ours, nodes, last, ledger_end=end, age_s=self._age_s(head.tree, last)):  # (2)
            return None
        counter = 1 if last is None else last.counter + 1
        e = seal_published(
            ours, signer, counter=counter, epoch=epoch, at_ms=self._now_ms(), time_source=TIME_SOURCE,
            vouched=not self._reader.rows(UNSEALED),  # (4) read after the head: what was refused under it is in there
        )  # fmt: skip
        after = 0 if stored is None else stored.sequence
        done = await self._checkpoints.append(  # (3)
            head.tree, env.encode(e), id=e.id, tag=CHECKPOINT_TAG, expected_last=after
        )
        self._seen[head.tree] = (counter, self._monotonic())
        return None if done.duplicate else ours  # another notary with our key had the very same words

    def _age_s(self, tree: str, last: Published | None) -> float:
        if last is None:
            return 0.0
        counter, since = self._seen.get(tree, (0, 0.0))
        if counter != last.counter:
            since = self._monotonic()
            self._seen[tree] = (last.counter, since)
        return self._monotonic() - since
