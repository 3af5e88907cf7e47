"""A witness of somebody else's ledger: signs what grows, and never two histories. Pure but for its own history's file.

What it trusts is the ledger's trust root, pinned, and its own memory; the API that brings it checkpoints may lie.
`Witness.see`, tree by tree:

1. the note is of this ledger and signed by a key that the trust root introduced and has not retired;
2. a new epoch is one that the trust root opened; what it says of the loss is kept;
3. the tree is not smaller than the one signed before, and begins with it: shown by a consistency proof;
4. the checkpoint is in the own history, on the disk, before its cosignature leaves. A fork is written there too, and
   of that tree nothing is signed any more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from openkcm.audit.verify import AuditError
from openkcm.contract import checkpoint as cp
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import merkle, seal
from openkcm.contract.errors import ContractError

__all__ = ["Entry", "Fork", "History", "NotGenuine", "TrustEvents", "Witness"]


class NotGenuine(AuditError):
    """What was shown is not of this ledger, or not signed by who may. It proves nothing against the ledger."""


class Fork(AuditError):
    """The ledger signed two histories. The two checkpoints are in the message and in the witness's history."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a witness's history. `fork`: the note that contradicts `note`, which was signed before."""

    at_s: int
    note: str
    fork: str | None = None
    opened: tuple[str, ...] = ()


_ENTRY: Final = msgspec.json.Decoder(Entry)


class History:
    """An append-only file, a JSON line each. What is in it was on the disk before anybody was told.

    Raises:
        AuditError: The file is damaged; a last line that was never finished is left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: list[Entry] = []
        raw = path.read_bytes() if path.exists() else b""
        whole, _, rest = raw.rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
            try:
                self.entries.append(_ENTRY.decode(line))
            except msgspec.MsgspecError as bad:
                raise AuditError(f"{path}, line {number}: {bad}") from bad
        if rest:  # its cosignature never left, since the line was not finished
            with path.open("r+b") as file:
                file.truncate(len(raw) - len(rest))

    def append(self, entry: Entry) -> None:
        """Write one entry down, synced."""
        fresh = not self._path.exists()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(msgspec.json.encode(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            folder = os.open(self._path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        self.entries.append(entry)


class TrustEvents:
    """What the trust root said: governance's keys and the ledger's epochs. Believes its seal alone."""

    def __init__(self, trust_root: bytes, events: Iterable[bytes]) -> None:
        self._root = {seal.key_id(trust_root): trust_root}
        self._keys: dict[str, bytes] = {}
        self._retired: set[str] = set()
        self.opened: dict[int, tuple[str, ...]] = {}
        for body in events:
            self._take(body)

    def _take(self, body: bytes) -> None:
        try:
            sealed = env.decode(body)
            env.verify(sealed, sealed.subject, self._root)
            decree = d.read(sealed.tag, sealed.data)
        except ContractError as bad:
            raise NotGenuine(f"an event that is not the trust root's: {bad}") from bad
        if isinstance(decree, d.SigningKeyRotated):
            self._keys[decree.key] = decree.public_key
            self._retired |= set(decree.retires)
        elif isinstance(decree, d.LedgerOpened):
            self.opened[decree.epoch] = decree.closes

    @property
    def keys(self) -> Sequence[bytes]:
        """Governance's keys in force."""
        return [public for key, public in self._keys.items() if key not in self._retired]


class Witness:
    """One witness of one ledger.

    Args:
        name: Its own, as it stands in its signature lines.
        prove: Asks for the consistency proof (tree, epoch, old size, new size).
        now_s: POSIX time.
    """

    def __init__(
        self, name: str, signer: seal.Signer, trust_root: bytes, history: History, *,
        prove: Callable[[str, int, int, int], Sequence[bytes]], now_s: Callable[[], int],
    ) -> None:  # fmt: skip
        self.verifier = cp.verifier_key(name, signer.public_key, witness=True)
        self._signer, self._history, self._prove, self._now_s = signer, history, prove, now_s
        self._trust_root, self._ledger = trust_root, cp.ledger_name(trust_root)

    def known(self, tree: str) -> cp.Checkpoint | None:
        """Return the newest checkpoint of a tree that this witness signed."""
        points = [cp.parse_note(e.note).checkpoint() for e in self._history.entries if e.fork is None]
        mine = [p for p in points if p.tree == tree]
        return max(mine, key=lambda p: (p.epoch, p.size), default=None)

    def forks(self) -> Mapping[str, str]:
        """Return, by origin, the forks it has seen."""
        found = {}
        for entry in self._history.entries:
            if entry.fork is not None:
                signed, other = (cp.parse_note(text).checkpoint() for text in (entry.note, entry.fork))
                found[other.origin] = f"signed before is {signed}; shown now is {other}"
        return found

    def see(self, text: str, trust: TrustEvents) -> cp.Note | None:
        """Return the note with our cosignature, None when we have signed this very checkpoint before.

        Raises:
            NotGenuine: Not a checkpoint of this ledger, or not provably its successor; nothing was signed.
            Fork: It contradicts what we signed; nothing was signed, and nothing of this tree will be.
        """
        note, point = self._genuine(text, trust)  # (1)
        if point.origin in self.forks():
            raise Fork(f"{point.origin} has forked before: {self.forks()[point.origin]}")
        known = self.known(point.tree)
        if known is not None and known.epoch == point.epoch:
            if known == point:
                return None
            self._check_successor(known, point, note)  # (3)
        elif known is not None and known.epoch > point.epoch:
            raise NotGenuine(f"{point} is of a closed epoch; signed before is {known}")
        opened: tuple[str, ...] = ()
        if point.epoch > 1 and (known is None or known.epoch < point.epoch):  # (2)
            if point.epoch not in trust.opened:
                raise NotGenuine(f"the trust root has not opened epoch {point.epoch}")
            opened = trust.opened[point.epoch]
        at_s = self._now_s()
        line = cp.cosign(note.text, self.verifier.name, self._signer, at_s)
        signed = cp.Note(note.text, (*note.lines, line))
        self._history.append(Entry(at_s=at_s, note=str(signed), opened=opened))  # (4)
        return signed

    def _genuine(self, text: str, trust: TrustEvents) -> tuple[cp.Note, cp.Checkpoint]:
        try:
            note = cp.parse_note(text)
            point = note.checkpoint()
        except ContractError as bad:
            raise NotGenuine(f"not a checkpoint: {bad}") from bad
        if point.origin != cp.origin_of(self._ledger, point.tree, point.epoch):
            raise NotGenuine(f"a checkpoint of {point.origin}, not of {self._ledger}")
        for key in trust.keys:
            verifier = cp.verifier_key(point.origin, key)
            if any(line.key == verifier.key for line in note.lines):
                try:
                    cp.verify(note, verifier)
                except ContractError as bad:
                    raise NotGenuine(str(bad)) from bad
                return note, point
        raise NotGenuine(f"{point} is signed by no key that the trust root has in force")

    def _check_successor(self, known: cp.Checkpoint, point: cp.Checkpoint, note: cp.Note) -> None:
        if point.size < known.size:
            self._fork(known, note, f"the ledger shrank: signed before is {known}; shown now is {point}")
        if point.size == known.size:
            self._fork(known, note, f"two roots of one size: signed before is {known}; shown now is {point}")
        proof = self._prove(point.tree, point.epoch, known.size, point.size)
        try:
            merkle.verify_consistency(known.size, point.size, known.root, point.root, proof)
        except merkle.ProofError as bad:
            # A wrong proof may be the API's alone: it proves no fork, and nothing is signed on it.
            raise NotGenuine(f"not shown to follow: signed before is {known}; shown now is {point}: {bad}") from bad

    def _fork(self, known: cp.Checkpoint, note: cp.Note, why: str) -> None:
        signed = next(
            e.note for e in reversed(self._history.entries)
            if e.fork is None and cp.parse_note(e.note).checkpoint() == known
        )  # fmt: skip
        self._history.append(Entry(at_s=self._now_s(), note=signed, fork=str(note)))
        raise Fork(why)
