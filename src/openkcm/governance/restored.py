"""A read model that cannot be gone on with makes way, and is made anew from the ledger. Reads and renames one file.

One of an older version lacks what only the ledger's messages give (trees, heads). A restore begins the stream at
`epoch << 40`, beyond every sequence there ever was: what was read of the older epoch has other sequences. The file is
kept beside, for whoever wants to compare.
"""

from __future__ import annotations

import logging
from pathlib import Path

from openkcm.bus.ledger import Ledger
from openkcm.contract.checkpoint import epoch_of
from openkcm.governance.configuration import ConfigurationError
from openkcm.projector import open_reader
from openkcm.projector.ledger import LEDGER_TABLES

__all__ = ["check_epoch", "make_way"]

log = logging.getLogger(__name__)


async def make_way(registry: Path, ledger: Ledger) -> None:
    """Put the read model aside when it is an older version's, or the ledger begins in a later epoch than its own.

    Raises:
        BusError: The hub does not answer.
        OSError: The file cannot be renamed.
    """
    cursor, complete = _read(registry)
    state = await ledger.info()
    later = bool(state.messages) and epoch_of(state.first) > epoch_of(cursor)
    if cursor == 0 or (complete and not later):
        return
    kept = registry.with_name(f"{registry.stem}.{f'epoch{epoch_of(cursor)}' if later else 'older'}{registry.suffix}")
    log.warning("the read model is made anew from the ledger, which begins at %s; %s is kept", state.first, kept)
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
