"""Double entry: folds the ledger anew, with governance's own SQL, and compares row for row. Writes no file that stays.

The replay lives in a throw-away database; governance's tables are only read. A row that differs means that its tables
say something the ledger does not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from openkcm.audit.verify import AuditError
from openkcm.contract.resources import ROOT
from openkcm.projector import open_reader, open_writer
from openkcm.projector.ledger import LEDGER_TABLES, Message, Projection

__all__ = ["Difference", "Tables", "compare", "folded", "tables_of"]

SNAPSHOTS: Final = 20
Tables = dict[str, list[tuple[Any, ...]]]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One table that is not what the ledger makes of it. Rows as text, at most ten a side."""

    table: str
    missing: tuple[str, ...]
    surplus: tuple[str, ...]


class Unsteady(AuditError):
    """Governance wrote faster than its tables could be read: try again."""


def folded(messages: Iterable[Message], trust_root: bytes) -> Tables:
    """Return the tables that the ledger makes: the same SQL, the same rules, an empty database.

    Raises:
        ProjectorError: The shipped SQL does not fit.
    """
    with tempfile.TemporaryDirectory(prefix="openkcm-replay-") as directory:
        path = Path(directory) / "replay.sqlite"
        writer = open_writer(path, ROOT / "projections" / "cmk", synchronous="NORMAL")
        try:
            Projection(writer, trust_root).apply(list(messages))
            return {table: writer.rows(f"SELECT * FROM {table}") for table in LEDGER_TABLES}
        finally:
            writer.close()


def tables_of(registry: Path) -> tuple[int, Tables]:
    """Return governance's own tables, and the sequence up to which they were folded.

    Raises:
        Unsteady: They changed at every attempt to read them all at one point.
        StorageFailed: No such database.
    """
    reader = open_reader(registry)
    try:
        for _ in range(SNAPSHOTS):
            before = reader.rows("SELECT sequence FROM cursor")
            tables: Tables = {table: reader.rows(f"SELECT * FROM {table}") for table in LEDGER_TABLES}
            if reader.rows("SELECT sequence FROM cursor") == before:
                return int(before[0][0]), tables
    finally:
        reader.close()
    raise Unsteady(f"the tables moved on during each of {SNAPSHOTS} readings")


def compare(ledger: Tables, governance: Tables) -> list[Difference]:
    """Return the tables in which the two differ. The order of rows says nothing."""
    found = []
    for table in LEDGER_TABLES:
        ours, theirs = {repr(row) for row in ledger[table]}, {repr(row) for row in governance[table]}
        if ours != theirs or len(ledger[table]) != len(governance[table]):
            found.append(
                Difference(
                    table=table,
                    missing=tuple(sorted(ours - theirs)[:10]),
                    surplus=tuple(sorted(theirs - ours)[:10]),
                )
            )
    return found
