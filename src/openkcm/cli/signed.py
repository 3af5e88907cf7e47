"""What was signed about a running stack's ledger: read with the auditor's own key, from the hub and over the API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from openkcm.audit.noted import Cosigner, NotBorneOut, Signed, Tree
from openkcm.audit.verify import AuditError, Event
from openkcm.bus import checkpoints as bus
from openkcm.bus.connection import connect
from openkcm.bus.ledger import Ledger
from openkcm.cli import endpoints
from openkcm.cli.sources import auditor_access, trust_root
from openkcm.cli.witness import history_of
from openkcm.client import Portal, Problem
from openkcm.contract import checkpoint as cp
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract.errors import ContractError
from openkcm.contract.published import CHECKPOINT_TAG, CheckpointPublished

__all__ = ["Claims", "claims_of", "missing", "pinned"]

MIRROR_LATE_S: Final = 10.0
Cosigned = tuple[cp.Verifier, cp.Note]


class Claims:
    """A listener of a verification: everything signed, and the nodes' keys as the ledger enrols them."""

    def __init__(self, ledger: str, notes: list[cp.Note], cosigned: list[Cosigned], unread: tuple[str, ...]) -> None:
        self._signed = Signed(ledger, notes, cosigned)
        self._nodes: dict[str, set[bytes]] = {}
        self._of_nodes = [key for key, _ in cosigned if key.name.startswith(f"{ledger}/")]
        self.unread = unread

    def take(self, event: Event, body: bytes) -> None:
        """Take the next event in."""
        self._signed.take(event.sequence, event.envelope.subject, body)
        if isinstance(event.decree, d.NodeEnrolled):
            self._nodes.setdefault(event.decree.node, set()).add(event.decree.public_key)

    def judge(self, keys: Iterable[bytes]) -> list[Tree]:
        """Return the trees, with what was signed of each.

        Raises:
            NotBorneOut: Something signed does not hold, or a node's line is by no key that was enrolled for it.
        """
        for key in self._of_nodes:
            if key.public_key not in self._nodes.get(key.name.rpartition("/")[2], ()):
                raise NotBorneOut(0, 0, f"a cosignature in the name of {key.name} is not by that node's key")
        return self._signed.judge(tuple(keys))

    def words(self) -> tuple[str, ...]:
        """Return what was signed and cannot be compared with this ledger, or could not be read."""
        closed = self._signed.closed
        if not closed:
            return self.unread
        newest = max(closed, key=lambda point: (point.epoch, point.size))
        said = f"{len(closed)} signed checkpoints are of epochs that the trust root closed, the newest {newest}"
        return (*self.unread, f"{said}: this ledger was made anew; its LedgerOpened says what was recovered and lost")


def pinned(keys: Iterable[str], histories: Iterable[Path]) -> tuple[list[cp.Verifier], list[Cosigned]]:
    """Return the witnesses somebody trusts, and what their own histories hold.

    Raises:
        AuditError: Not a witness's key, or a history of none of them.
    """
    try:
        witnesses = [cp.read_verifier(text) for text in keys]
    except ContractError as bad:
        raise AuditError(f"--witness: {bad}") from bad
    found: list[Cosigned] = []
    for path in histories:
        whose = [w for w in witnesses for _, note in history_of(path, w)[:1] if any(x.key == w.key for x in note.lines)]
        if not whose:
            raise AuditError(f"{path}: the history of no witness that --witness names")
        found += history_of(path, whose[0])
    return witnesses, found


def claims_of(state: Path, histories: list[Cosigned]) -> Claims:
    """Return everything signed about the stack's ledger, once the auditor's mirror has come to it, or does not.

    Raises:
        BusError: The hub does not answer.
        NotBorneOut: Something is signed that is of another ledger.
    """
    notes, outside = asyncio.run(_from_hub(state))
    nodes, unread = _from_api(state)
    return Claims(cp.ledger_name(trust_root(state)), notes, [*outside, *nodes, *histories], unread)


def missing(trees: list[Tree], witnesses: list[cp.Verifier]) -> list[str]:
    """Return which trees a trusted witness has not cosigned."""
    return [
        f"{tree.tree} is not cosigned by {w.name}" for tree in trees for w in witnesses
        if not any(_is(c, w) for c in tree.cosigners)
    ]  # fmt: skip


def _is(cosigner: Cosigner, witness: cp.Verifier) -> bool:
    return cosigner.verifier == str(witness)


async def _from_hub(state: Path) -> tuple[list[cp.Note], list[Cosigned]]:
    connection = await connect(auditor_access(state), name="auditor")
    try:
        stored = [one async for one in bus.history(connection)]
        kept = [bus.read_cosigned(one.body) for one in await bus.all_cosigned(connection)]
        notes = [_note(one.body) for one in stored]
        last = max((note.checkpoint().sequence for note in notes), default=0)
        deadline = time.monotonic() + MIRROR_LATE_S
        while (await Ledger(connection).info()).last < last and time.monotonic() < deadline:  # noqa: ASYNC110 -- polled
            await asyncio.sleep(0.05)
    finally:
        await connection.close()
    return notes, [(cp.read_verifier(key), cp.parse_note(text)) for key, text in kept]


def _note(body: bytes) -> cp.Note:
    try:
        sealed = env.decode(body)
        if sealed.tag != CHECKPOINT_TAG:
            raise cp.CheckpointError(f"{sealed.tag} among the checkpoints")
        return cp.parse_note(msgspec.json.decode(sealed.data, type=CheckpointPublished).note)
    except (ContractError, msgspec.MsgspecError) as bad:
        raise NotBorneOut(0, 0, f"no checkpoint: {bad}") from bad


def _from_api(state: Path) -> tuple[list[Cosigned], tuple[str, ...]]:
    """The nodes' cosignatures, which governance keeps; without it the verification goes on and says so."""
    try:
        stack = endpoints.load(state)
        with Portal(stack.cmk.url, stack.people["provider/operator"].token, ca=stack.cmk.ca) as portal:
            trees = portal.get("/checkpoints")["value"]
    except (OSError, KeyError, Problem, msgspec.MsgspecError) as bad:
        return [], (f"the nodes' cosignatures could not be read: {bad}",)
    found = [w for tree in trees for w in tree["witnesses"] if w["kind"] == "node"]
    return [(cp.read_verifier(w["verifier"]), cp.parse_note(w["note"])) for w in found], ()
