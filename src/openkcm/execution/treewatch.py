"""Feeds the region's tree from the node's mirror and from governance's checkpoints; cosigns what it computed itself.

`mirrored` judges. One node a region cosigns each minute: whose turn it is follows from the minute and the nodes
enrolled, so when one is dead, another signs a minute later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from openkcm.bus.errors import BusError
from openkcm.bus.messages import Stored
from openkcm.contract import checkpoint as cp
from openkcm.contract import reports
from openkcm.contract.errors import ContractError
from openkcm.contract.published import Published, open_published
from openkcm.contract.seal import Signer
from openkcm.contract.tasks import end_tasks
from openkcm.execution.inputs import ForkSeen, MirrorShort
from openkcm.execution.mirrored import Agreed, Forked, Kept, Mirrored
from openkcm.execution.residence_state import State
from openkcm.execution.rows import Named

__all__ = ["STREAM", "TreeWatch", "turn"]

_log: Final = logging.getLogger("openkcm.tree")
STREAM: Final = "LEDGER"
BATCH: Final = 256
TURN: Final = 16  # leaves at one go
REST_S: Final = 0.001  # after them: about as long as they took
WAIT_S: Final = 5.0
RETRY_S: Final = 0.2
#: How long a mirror that lacks events is left alone before it is read again: at first, and at most, doubling.
AGAIN_S: Final = 2.0
AGAIN_MAX_S: Final = 300.0
#: How often the place in the mirror is written down; what came after it is read again at a restart.
KEEP_EVERY_S: Final = 1.0


class Reader(Protocol):
    """The unfiltered consumer of the node's own mirror."""

    async def reset(self, sequence: int) -> None:
        """Go on behind a sequence."""

    async def fetch(self, batch: int, wait_s: float) -> list[Stored]:
        """Return what has come."""

    async def ack(self, upto: list[Stored]) -> None:
        """Tell the server how far we are."""


def turn(nodes: list[str], at_ms: int) -> str | None:
    """Return the node whose turn it is to cosign in the minute of `at_ms`."""
    return sorted(nodes)[at_ms // 60_000 % len(nodes)] if nodes else None


def _words(lacks: cp.Checkpoint | None) -> str | None:
    return None if lacks is None else f"signed is {lacks}"


class TreeWatch:
    """One node's view of its region's tree.

    Args:
        state: The node's state: keys, nodes, name.
        take: Told once of a fork, and of each change of what the mirror lacks, before anything else follows.
        keep: Writes rows down; done when they are on the disk.
        send: Sends a report.
    """

    def __init__(
        self,
        reader: Reader,
        signer: Signer,
        kept: Kept,
        *,
        state: Callable[[], State],
        take: Callable[[ForkSeen | MirrorShort], object],
        keep: Callable[[list[Named]], Awaitable[None]],
        send: Callable[[reports.CheckpointCosigned], Awaitable[None]],
    ) -> None:
        self._reader, self._signer, self._state = reader, signer, state
        self._take, self._keep, self._send = take, keep, send
        self._ledger = cp.ledger_name(state().trust_root)
        self.tree = Mirrored(self._ledger, state().region, kept)
        self._written = kept
        self._lacks = kept.lacks
        self._cosigned_minute = 0
        self._sending: set[asyncio.Task[None]] = set()
        self.refused = 0

    async def run(self) -> None:
        """Read the mirror, for ever."""
        if self.tree.kept.fork is not None and self.tree.kept.epoch >= self._state().epoch:
            self._take(ForkSeen(self.tree.kept.fork))
        self._take(MirrorShort(_words(self._lacks)))
        kept_at, pause_s = 0.0, AGAIN_S
        while True:
            try:
                await self._reader.reset(self.tree.kept.sequence)
                lacking_at: float | None = None
                while lacking_at is None or asyncio.get_running_loop().time() < lacking_at + pause_s:
                    batch = await self._reader.fetch(BATCH, WAIT_S)
                    for count, stored in enumerate(batch, 1):
                        for outcome in self.tree.leaf(stored.sequence, stored.subject, stored.body):
                            self._obey(outcome)
                        self._look()
                        if count % TURN == 0:
                            await asyncio.sleep(REST_S)  # whatever lane0 brought meanwhile goes first
                    now = asyncio.get_running_loop().time()
                    if batch and now - kept_at >= KEEP_EVERY_S:
                        await self._write_down()
                        kept_at = now
                        await self._reader.ack(batch)
                    if self.tree.lacking:
                        lacking_at = lacking_at or now
                pause_s = min(2 * pause_s, AGAIN_MAX_S)
                self.tree.again()
            except BusError as away:
                _log.warning("mirror: %s", away)
                pause_s = AGAIN_S
                if self.tree.lacking:  # it may be another mirror that comes back
                    self.tree.again()
                await asyncio.sleep(RETRY_S)

    async def hear(self, stored: Stored) -> None:
        """Take a checkpoint from the bus; drop and count what governance did not sign."""
        keys = {key: public for key, (public, who) in self._state().keys.items() if who == "cmk"}
        try:
            published = open_published(stored.subject, stored.body, keys, self._ledger)
        except ContractError as bad:
            self.refused += 1
            _log.warning("dropped a checkpoint: %s", bad)
            return
        outcome = self.tree.heard(published)
        self._look()
        if outcome is not None:
            self._obey(outcome)

    async def close(self) -> None:
        """Write our place down."""
        await end_tasks(self._sending)
        await self._write_down()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        lacks = self.tree.kept.lacks
        if lacks != self._lacks:
            self._lacks = lacks
            self._take(MirrorShort(_words(lacks)))
            self._spawn(self._write_down())

    def _obey(self, outcome: Agreed | Forked) -> None:
        if isinstance(outcome, Forked):
            _log.error("FORK of the ledger: %s. Nothing is enabled any more; revocations are obeyed", outcome.why)
            self._take(ForkSeen(outcome.why))
            self._spawn(self._write_down())
            return
        published, state = outcome.published, self._state()
        minute = published.at_ms // 60_000
        nodes = [node for node, region in state.nodes.items() if region == state.region]
        if minute > self._cosigned_minute and turn(nodes, published.at_ms) == state.node:
            self._cosigned_minute = minute
            self._spawn(self._cosign(published))

    async def _cosign(self, published: Published) -> None:
        name, text = f"{self._ledger}/{self._state().node}", published.note.text
        line = cp.cosign(text, name, self._signer, published.at_ms // 1000)
        verifier = cp.verifier_key(name, self._signer.public_key, witness=True)
        report = reports.CheckpointCosigned(verifier=str(verifier), note=str(cp.Note(text, (line,))))
        try:
            await self._send(report)
        except BusError as away:  # the next minute's turn is another node's, or ours again
            _log.info("not cosigned: %s", away)

    async def _write_down(self) -> None:
        kept = self.tree.kept
        if kept != self._written:
            await self._keep([("mirror_tree", {"sequence": kept.sequence, "body": msgspec.json.encode(kept)})])
            self._written = kept

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
