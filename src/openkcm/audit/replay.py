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

from openkcm.audit.aside import Aside
from openkcm.audit.seals import checked
from openkcm.audit.verify import AuditError, Event
from openkcm.contract.envelope import Envelope
from openkcm.contract.resources import ROOT
from openkcm.contract.stored import Message
from openkcm.projector import Reader, Writer, open_reader, open_writer
from openkcm.projector.ledger import LEDGER_TABLES, Projection

__all__ = ["Difference", "Line", "Replay", "Tables", "compare", "folded", "tables_of"]


class Line(msgspec.Struct, frozen=True):
    """One stored event, out of a replay or an export. `opened`: its envelope, if somebody has decoded it already."""

    sequence: int
    subject: str
    body: bytes
    id: str
    opened: Envelope | None = None


SNAPSHOTS: Final = 20
#: From so many events on, a process of its own brings more than it costs.
ALONE: Final = 5_000
EVENTS: Final = ("event_routine", "event_critical")
#: Tables that no statement of the fold looks up by an index of theirs (the keys of a table are none).
UNINDEXED: Final = tuple(table for table in LEDGER_TABLES if table != "agreed")
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

    A long one goes on in a process of its own, until somebody wants to read.

    Args:
        path: Keep the database there; None throws it away.
    """

    def __init__(self, trust_root: bytes, path: Path | None = None) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="openkcm-replay-")
        self._file = path or Path(self._directory.name) / "replay.sqlite"
        self._trust_root, self._kept = trust_root, path is not None
        self._aside: Aside | None = None
        self._taken = 0
        self._indexes: tuple[str, ...] = ()
        self._open()
        self._indexes = self._writer.without_indexes(UNINDEXED)  # made at the end they cost much less

    def _open(self) -> None:
        self._writer = open_writer(self._file, ROOT / "projections" / "cmk", synchronous="OFF")
        self._projection = Projection(self._writer, self._trust_root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(
        self, messages: Sequence[Message], checked: Container[int] = (), leaves: Sequence[bytes] = (),
        events: Sequence[Event] = (),
    ) -> None:  # fmt: skip
        """Fold the next messages.

        Args:
            checked: Whose seal was found good before.
            leaves, events: Their hashes and what they say, where somebody has computed and verified them before.

        Raises:
            ProjectorError: The shipped SQL does not fit.
        """
        self._taken += len(messages)
        if self._aside is None and self._taken > ALONE:
            self._writer.close()
            self._aside = Aside(self._file, self._trust_root)
        if self._aside is not None:
            known = [self._projection.known(event.envelope, event.decree) for event in events]
            self._aside.take(messages, checked, leaves, known)
        else:
            self._projection.apply(messages, checked=checked)

    def _settle(self) -> None:
        """Have everything in the file, and the file open here."""
        if self._aside is not None:
            aside, self._aside = self._aside, None
            aside.finish()
            self._taken = 0
            self._open()

    @property
    def projection(self) -> Projection:
        """How far it is folded.

        Raises:
            AuditError: It could not be.
        """
        self._settle()
        return self._projection

    @property
    def writer(self) -> Writer:
        """The database, with all its indexes.

        Raises:
            AuditError: It could not be folded.
        """
        self._settle()
        self._writer.make(self._indexes)
        self._indexes = ()
        return self._writer

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
        self._settle()
        return _tables(self._writer, tenant)

    def counts(self) -> dict[str, int]:
        """Return how many rows each table has that the ledger makes of its events (the events themselves aside)."""
        self._settle()
        made = [table for table in LEDGER_TABLES if table not in EVENTS]
        return {table: self._writer.rows(f"SELECT count(*) FROM {table}")[0][0] for table in made}

    def close(self) -> None:
        """Close the database and, unless it was to be kept, remove it."""
        if self._aside is not None:
            self._aside.stop()
        else:
            if self._kept:
                self._writer.make(self._indexes)
            self._writer.close()
        self._directory.cleanup()


def folded(messages: Iterable[Message], trust_root: bytes) -> Tables:
    """Return the tables that the ledger makes: the same SQL, the same rules, an empty database.

    Raises:
        ProjectorError: The shipped SQL does not fit.
    """
    with Replay(trust_root) as replay:
        for batch in checked(messages, trust_root):
            replay.take(batch.messages, batch.good)
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
