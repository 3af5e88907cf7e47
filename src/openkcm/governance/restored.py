"""A read model meets a restored ledger: it makes way, and is made anew from it. Reads and renames one file; decides so.

A restore begins the stream at `epoch << 40`, beyond every sequence there ever was. What was read of the older epoch has
other sequences, so it cannot be gone on with; it is kept beside, for whoever wants to compare.
"""

from __future__ import annotations

import logging
from pathlib import Path

from openkcm.bus.ledger import Ledger
from openkcm.contract.checkpoint import epoch_of
from openkcm.governance.configuration import ConfigurationError
from openkcm.projector import open_reader

__all__ = ["check_epoch", "make_way"]

log = logging.getLogger(__name__)


async def make_way(registry: Path, ledger: Ledger) -> None:
    """Put the read model aside when the ledger begins in a later epoch than it was read in.

    Raises:
        BusError: The hub does not answer.
        OSError: The file cannot be renamed.
    """
    cursor = _cursor(registry)
    state = await ledger.info()
    if cursor == 0 or not state.messages or epoch_of(state.first) <= epoch_of(cursor):
        return
    kept = registry.with_name(f"{registry.stem}.epoch{epoch_of(cursor)}{registry.suffix}")
    log.warning("the ledger was restored and begins at %s: the read model is made anew, %s is kept", state.first, kept)
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


def _cursor(registry: Path) -> int:
    if not registry.exists():
        return 0
    reader = open_reader(registry)
    try:
        found = reader.rows("SELECT sequence FROM cursor") if reader.rows("SELECT 1 FROM sqlite_master LIMIT 1") else []
    finally:
        reader.close()
    return int(found[0][0]) if found else 0
