"""A read model that cannot be gone on with makes way, and is made anew from the ledger. Reads and renames one file.

One of an older version lacks what only the ledger's messages give (trees, heads). A restore begins the stream at
`epoch << 40`, beyond every sequence there ever was: what was read of the older epoch has other sequences. The file is
kept beside, for whoever wants to compare.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from openkcm.bus.checkpoints import Checkpoints
from openkcm.bus.ledger import Ledger
from openkcm.contract.checkpoint import epoch_of
from openkcm.governance.configuration import ConfigurationError
from openkcm.governance.errors import GovernanceError
from openkcm.governance.trees import Trees
from openkcm.projector import ProjectorError, open_reader
from openkcm.projector.ledger import LEDGER_TABLES

__all__ = ["check_epoch", "contradictions", "make_way", "put_aside"]

log = logging.getLogger(__name__)
FALSE: Final = "false"


async def make_way(registry: Path, ledger: Ledger, checkpoints: Checkpoints, trust_root: bytes) -> None:
    """Put the read model aside when it cannot be gone on with.

    (1) it is an older version's; (2) the ledger begins in a later epoch than its own; (3) its trees are not what was
    signed. What is made anew under (3) and still contradicts is the ledger's own fork: then it is gone on with, since
    revocations must be taken, and everybody is told.

    Raises:
        BusError: The hub does not answer.
        OSError: The file cannot be renamed.
    """
    cursor, complete = _read(registry)
    state = await ledger.info()
    if cursor == 0:
        return
    if not complete:  # (1)
        put_aside(registry, "older")
    elif state.messages and epoch_of(state.first) > epoch_of(cursor):  # (2)
        put_aside(registry, f"epoch{epoch_of(cursor)}")
    else:
        ours = await contradictions(registry, checkpoints, trust_root)
        if ours and ours != await contradictions(_beside(registry, FALSE), checkpoints, trust_root):  # (3)
            log.error("the read model is not what was signed: %s", ours)
            put_aside(registry, FALSE)


async def contradictions(registry: Path, checkpoints: Checkpoints, trust_root: bytes) -> list[dict[str, str]]:
    """Return the newest checkpoints that this read model does not bear out, each with what it has instead."""
    try:
        reader = open_reader(registry)
    except ProjectorError:  # there is none
        return []
    try:
        trees = await Trees(checkpoints, reader, trust_root).shown()
    except GovernanceError:
        return []  # nothing can be compared just now; whoever asks later is told
    finally:
        reader.close()
    return [tree["fork"] for tree in trees if tree["fork"] is not None]


def _beside(registry: Path, why: str) -> Path:
    return registry.with_name(f"{registry.stem}.{why}{registry.suffix}")


def put_aside(registry: Path, why: str) -> None:
    """Have a read model make way; it is kept under another name."""
    kept = _beside(registry, why)
    log.warning("the read model is made anew from the ledger; %s is kept", kept)
    for end in ("", "-wal", "-shm"):
        part = registry.with_name(registry.name + end)
        if part.exists():
            part.rename(kept.with_name(kept.name + end))


def check_epoch(cursor: int, sequence: int) -> None:
    """Go on only within an epoch.

    Raises:
        ConfigurationError: The ledger was restored meanwhile: start anew.
    """
    if cursor and epoch_of(sequence) != epoch_of(cursor):
        raise ConfigurationError(f"the ledger was restored (it goes on at {sequence}): this CMK starts anew")


def _read(registry: Path) -> tuple[int, bool]:
    """Return how far it was read, and whether it has all that this version folds."""
    if not registry.exists():
        return 0, True
    reader = open_reader(registry)
    try:
        tables = {name for (name,) in reader.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
        cursor = int(reader.rows("SELECT sequence FROM cursor")[0][0]) if "cursor" in tables else 0
    finally:
        reader.close()
    return cursor, tables >= set(LEDGER_TABLES)
