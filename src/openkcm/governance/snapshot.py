"""A CMK without tables of its own starts from a snapshot that lies beside them. Reads, copies, renames; signs nothing.

A snapshot is the folder `snapshot/` with `read-model.sqlite` and `snapshot.txt`, its signed note. Whatever fails,
numbered as in the code: it is refused with its reason, and the ledger is read from its beginning. What is behind it is
read from the ledger as ever; then every newest checkpoint, which covers its trees, is compared once more.

1. its note is signed by a key of governance's that the trust root has in force in the ledger as it is now;
2. it is of this version's schema, of the ledger's open epoch, and not ahead of the ledger;
3. the file is the one that was signed;
4. the trees in it are the signed ones, and no newest checkpoint contradicts them.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from openkcm.bus.checkpoints import Checkpoints
from openkcm.bus.ledger import Ledger
from openkcm.contract import checkpoint as cp
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import seal, subjects
from openkcm.contract.checkpoint import epoch_of
from openkcm.contract.errors import ContractError
from openkcm.contract.snapshot import Snapshot, SnapshotError, opened
from openkcm.governance import restored
from openkcm.projector import ProjectorError
from openkcm.projector.copying import described, schema_version

__all__ = ["FILE", "NOTE", "folder_of", "install", "refuse"]

log = logging.getLogger(__name__)
FILE: Final = "read-model.sqlite"
NOTE: Final = "snapshot.txt"
#: A refused one is kept under this name, and not tried again.
REFUSED: Final = "snapshot.refused"


def folder_of(registry: Path) -> Path:
    """Return where a CMK looks for a snapshot: beside its own tables."""
    return registry.with_name("snapshot")


async def install(registry: Path, ledger: Ledger, checkpoints: Checkpoints, trust_root: bytes) -> bool:
    """Put a snapshot in the place of a read model that is not there; return whether one was.

    Raises:
        BusError: The hub does not answer.
    """
    folder, aside = folder_of(registry), registry.with_name(f"{registry.name}.new")
    if not await asyncio.to_thread(_offered, registry, folder):
        return False
    name = cp.ledger_name(trust_root)
    try:
        text, found = await asyncio.to_thread(_unpacked, folder, aside, name)
        said = opened(text, name, await _keys(ledger, trust_root))  # (1)
        await _check(said, found, ledger)
        _agree(await restored.contradictions(aside, checkpoints, trust_root))  # (4)
        await asyncio.to_thread(aside.replace, registry)
    except (SnapshotError, ProjectorError, OSError, UnicodeDecodeError) as bad:
        await asyncio.to_thread(aside.unlink, missing_ok=True)
        refuse(registry, str(bad))
        return False
    return True


def refuse(registry: Path, why: str) -> None:
    """Say why, and put a snapshot where it is not tried again."""
    log.error("the snapshot is REFUSED: %s; the ledger is read from its beginning", why)
    kept = registry.with_name(REFUSED)
    shutil.rmtree(kept, ignore_errors=True)
    folder_of(registry).rename(kept)


def _offered(registry: Path, folder: Path) -> bool:
    return not registry.exists() and (folder / NOTE).exists()


def _unpacked(folder: Path, aside: Path, ledger: str) -> tuple[str, Snapshot]:
    """Copy the file, for it will be written to; return the note and what the copy is."""
    shutil.copyfile(folder / FILE, aside)
    aside.chmod(0o600)
    return (folder / NOTE).read_text(encoding="utf-8"), described(aside, ledger)


async def _check(said: Snapshot, found: Snapshot, ledger: Ledger) -> None:
    state = await ledger.info()  # (2)
    if said.schema != schema_version():
        raise SnapshotError(f"it is at schema {said.schema}, this software at {schema_version()}: make a new one")
    if epoch_of(said.sequence) != epoch_of(state.last) or said.sequence > state.last:
        raise SnapshotError(f"it goes up to {said.sequence}, the ledger from {state.first} to {state.last}")
    if found.sha256 != said.sha256:  # (3)
        raise SnapshotError(f"{FILE} is not the file that was signed")
    if found != said:  # (4)
        raise SnapshotError("its trees are not what was signed")


def _agree(contradictions: Sequence[object]) -> None:
    if contradictions:
        raise SnapshotError(f"it is not what was signed of the ledger: {contradictions}")


async def _keys(ledger: Ledger, trust_root: bytes) -> Mapping[str, bytes]:
    """Return governance's keys in force, on the trust root's word, as the ledger holds it now."""
    where = str(subjects.ledger_aggregate("critical"))
    root = {seal.key_id(trust_root): trust_root}
    keys: dict[str, bytes] = {}
    retired: set[str] = set()
    after = 0
    while page := await ledger.read(where, after=after):
        for message in page:
            after = message.sequence
            try:
                e = env.decode(message.body)
                env.verify(e, where, root)
                decree = d.read(e.tag, e.data)
            except ContractError:
                continue  # nobody's word: the projection will say so
            if isinstance(decree, d.SigningKeyRotated):
                keys[decree.key] = decree.public_key
                retired |= set(decree.retires)
    return {key: public for key, public in keys.items() if key not in retired and seal.key_id(public) == key}
