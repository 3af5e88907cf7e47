"""Double entry: folds the ledger anew, with governance's own SQL, and compares row for row. Writes no file that stays.

The replay lives in a throw-away database; governance's tables are only read. A row that differs means that its tables
say something the ledger does not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from openkcm.audit.seals import checked
from openkcm.audit.verify import AuditError
from openkcm.contract.resources import ROOT
from openkcm.projector import Reader, open_reader, open_writer
from openkcm.projector.ledger import LEDGER_TABLES, Message, Projection

__all__ = ["Difference", "Line", "Replay", "Tables", "compare", "folded", "tables_of"]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One stored event, out of a replay or an export."""

    sequence: int
    subject: str
    body: bytes
    id: str


SNAPSHOTS: Final = 20
Tables = dict[str, list[tuple[Any, ...]]]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One table that is not what the ledger makes of it. Rows as text, at most ten a side."""

    table: str
    missing: tuple[str, ...]
    surplus: tuple[str, ...]


class Unsteady(AuditError):
    """Governance wrote faster than its tables could be read: try again."""


class Replay:
    """A ledger folded anew, in a throw-away database. Use as a context manager, or `close` it.

    Args:
        path: Keep the database there; None throws it away.
    """

    def __init__(self, trust_root: bytes, path: Path | None = None) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="openkcm-replay-")
        file = path or Path(self._directory.name) / "replay.sqlite"
        self.writer = open_writer(file, ROOT / "projections" / "cmk", synchronous="NORMAL")
        self.projection = Projection(self.writer, trust_root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, messages: Sequence[Message], checked: Container[int] = ()) -> None:
        """Fold the next messages. `checked`: whose seal was found good before.

        Raises:
            ProjectorError: The shipped SQL does not fit.
        """
        self.projection.apply(messages, checked=checked)

    def events(self, *, until: int, size: int = 5000) -> Iterator[list[Line]]:
        """Yield the folded events in order, in batches, up to and with a sequence."""
        after = 0
        while True:
            query = (
                "SELECT sequence, subject, body, id FROM event WHERE sequence > ? AND sequence <= ? ORDER BY 1 LIMIT ?"
            )
            rows = self.writer.rows(query, (after, until, size))
            if not rows:
                return
            yield [Line(sequence=n, subject=s, body=b, id=i) for n, s, b, i in rows]
            after = rows[-1][0]

    def tables(self, tenant: str | None = None) -> Tables:
        """Return the tables that the ledger makes: all, or one tenant's rows."""
        return _tables(self.writer, tenant)

    def close(self) -> None:
        """Close the database and, unless it was to be kept, remove it."""
        self.writer.close()
        self._directory.cleanup()


def folded(messages: Iterable[Message], trust_root: bytes) -> Tables:
    """Return the tables that the ledger makes: the same SQL, the same rules, an empty database.

    Raises:
        ProjectorError: The shipped SQL does not fit.
    """
    with Replay(trust_root) as replay:
        for batch, good in checked(messages, trust_root):
            replay.take(batch, good)
        return replay.tables()


def _tables(reader: Reader, tenant: str | None) -> Tables:
    if tenant is None:
        return {table: reader.rows(f"SELECT * FROM {table}") for table in LEDGER_TABLES}
    theirs = {
        name for (name,) in reader.rows(
            "SELECT t.name FROM sqlite_master t JOIN pragma_table_info(t.name) c WHERE t.type = 'table' AND "
            "c.name = 'tenant'"
        )
    }  # fmt: skip
    return {
        table: reader.rows(f"SELECT * FROM {table} WHERE tenant = ?", (tenant,))
        for table in LEDGER_TABLES if table in theirs
    }  # fmt: skip


def tables_of(registry: Path, tenant: str | None = None) -> tuple[int, Tables]:
    """Return governance's own tables (all, or one tenant's rows), and the sequence up to which they were folded.

    Raises:
        Unsteady: They changed at every attempt to read them all at one point.
        StorageFailed: No such database.
    """
    reader = open_reader(registry)
    try:
        for _ in range(SNAPSHOTS):
            before = reader.rows("SELECT sequence FROM cursor")
            tables = _tables(reader, tenant)
            if reader.rows("SELECT sequence FROM cursor") == before:
                return int(before[0][0]), tables
    finally:
        reader.close()
    raise Unsteady(f"the tables moved on during each of {SNAPSHOTS} readings")


def compare(ledger: Tables, governance: Tables) -> list[Difference]:
    """Return the tables in which the two differ. The order of rows says nothing."""
    found = []
    for table in ledger:
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
