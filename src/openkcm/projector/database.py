"""A SQLite file: one writer that commits rows in one transaction, and readers that cannot write. Decides nothing.

ProjectorError
├── SchemaError      the file was made by a newer version, or a shipped file of SQL is not right
├── UnknownStatement a statement that no shipped file holds
└── StorageFailed    SQLite refused: disk full, locked too long, a constraint; nothing of the transaction is kept
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

from openkcm.projector import statements
from openkcm.projector.prepared import TOGETHER, Named, Row, by_place, prepared
from openkcm.projector.signatures import register

__all__ = [
    "ProjectorError",
    "Reader",
    "SchemaError",
    "StorageFailed",
    "UnknownStatement",
    "Writer",
    "migrated",
    "open_reader",
    "open_writer",
]

BUSY_TIMEOUT_MS: Final = 5000
NORMAL: Final = 1  # of `PRAGMA synchronous`, as SQLite tells it
FULL: Final = 2
Value = str | int | float | bytes | None
Parameters = Mapping[str, Value] | Sequence[Value]


class ProjectorError(Exception):
    """Root of the tree."""


class SchemaError(ProjectorError):
    """The file and the shipped SQL do not fit."""


class UnknownStatement(ProjectorError):
    """No shipped file of that name."""


class StorageFailed(ProjectorError):
    """SQLite refused; the transaction is rolled back."""


class Reader:
    """Read-only. One at a time: calls from several threads wait for one another."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def rows(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query.

        Raises:
            StorageFailed: SQLite refused, for instance because the query writes.
        """
        with self._lock:
            try:
                return self._connection.execute(sql, parameters).fetchall()
            except sqlite3.Error as bad:
                raise StorageFailed(f"a query failed: {bad}") from bad

    def records(self, sql: str, parameters: Parameters = ()) -> list[dict[str, Any]]:
        """Return all rows of a query as dicts by column name.

        Raises:
            StorageFailed: SQLite refused.
        """
        with self._lock:
            try:
                cursor = self._connection.execute(sql, parameters)
                names = [column[0] for column in cursor.description]
                return [dict(zip(names, row, strict=True)) for row in cursor]
            except sqlite3.Error as bad:
                raise StorageFailed(f"a query failed: {bad}") from bad

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


class Writer(Reader):
    """The file's one writer. Knows its shipped statements by their file's stem."""

    def __init__(self, connection: sqlite3.Connection, named: Mapping[str, Named]) -> None:
        super().__init__(connection)
        self._named = dict(named)
        self._synchronous: int = connection.execute("PRAGMA synchronous").fetchone()[0]
        self._level = self._synchronous

    def apply(self, batch: Iterable[tuple[str, Mapping[str, Value]]], *, synced: bool = True) -> None:
        """Run named statements in one transaction: all of them are committed and synced, or none.

        Args:
            batch: Pairs of a file's stem and its `:named` parameters; parameters a statement does not name are ignored.
            synced: False for what can be had again from elsewhere: every reader sees it at once, and it is on the disk
                with the next commit that is synced; until then a loss of power takes it.

        Raises:
            UnknownStatement: No shipped file of that name; nothing ran.
            StorageFailed: SQLite refused; nothing is kept.
        """
        runs: list[tuple[str, list[Row]]] = []  # one name, and how often in a row
        for name, parameters in batch:
            if runs and runs[-1][0] == name:
                runs[-1][1].append(parameters)
            else:
                runs.append((name, [parameters]))
        self.apply_runs(runs, synced=synced)

    def conflicts(self, name: str) -> frozenset[str]:
        """Return the statements whose order against this one matters; rows of all others may change places with its.

        Raises:
            UnknownStatement: No shipped file of that name.
        """
        return self._of(name).conflicts

    def parameters(self, name: str) -> frozenset[str]:
        """Return the names of a statement's parameters.

        Raises:
            UnknownStatement: No shipped file of that name.
        """
        return self._of(name).parameters

    def lay_out(self, name: str, columns: Sequence[str]) -> None:
        """Take this statement's rows as tuples of these columns from now on: that is half the work of names.

        Raises:
            UnknownStatement: No shipped file of that name.
            SchemaError: It names what is none of these columns.
        """
        try:
            self._named[name] = by_place(self._of(name), columns)
        except KeyError as bad:
            raise SchemaError(f"{name}: no such parameter: {bad}") from bad

    def apply_runs(self, runs: Iterable[tuple[str, Sequence[Row]]], *, synced: bool = True) -> None:
        """The same, each name with its rows in a row; a row is a tuple where it was laid out so.

        Raises:
            UnknownStatement: No shipped file of that name; nothing ran.
            StorageFailed: SQLite refused; nothing is kept.
        """
        known = [(name, self._of(name), rows) for name, rows in runs if rows]
        relaxed = not synced and self._synchronous == FULL
        with self._lock:
            at = "begin"
            try:
                self._sync(NORMAL if relaxed else self._synchronous)
                self._connection.execute("BEGIN IMMEDIATE")
                for at, statement, rows in known:  # noqa: B007 -- the error names it
                    self._run(statement, rows)
                self._connection.execute("COMMIT")
            except (sqlite3.Error, KeyError) as bad:  # KeyError: a parameter that was not given
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise StorageFailed(f"{at}: {bad}") from bad

    def _sync(self, level: int) -> None:
        """Sync what comes so from now on; most commits are like the one before."""
        if level != self._level:
            self._connection.execute(f"PRAGMA synchronous = {level}")
            self._level = level

    def _of(self, name: str) -> Named:
        found = self._named.get(name)
        if found is None:
            raise UnknownStatement(f"no statement {name!r} was shipped")
        return found

    def _run(self, named: Named, rows: Sequence[Row]) -> None:
        if len(named.statements) == 1:
            (one,) = named.statements
            picked = rows if one.as_is else [one.pick(row) for row in rows]
            whole = 0
            if one.together is not None:
                whole = len(picked) - len(picked) % TOGETHER
                parts = (picked[at : at + TOGETHER] for at in range(0, whole, TOGETHER))
                self._connection.executemany(one.together, (tuple(chain.from_iterable(part)) for part in parts))
            self._connection.executemany(one.sql, picked[whole:])
            return
        execute, statements_ = self._connection.cursor().execute, [(one.sql, one.pick) for one in named.statements]
        for row in rows:  # statements of one name may build on one another
            for sql, pick in statements_:
                execute(sql, pick(row))

    def truncate_log(self) -> bool:
        """Empty the write-ahead log, so that nothing deleted is left in it; False while a reader is in the way."""
        with self._lock:
            busy: int = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not busy

    def without_indexes(self, tables: Sequence[str]) -> tuple[str, ...]:
        """Drop these tables' indexes, for a lot of rows to come; return what makes them again with `make`."""
        marks = ", ".join("?" for _ in tables)
        found = self.rows(
            f"SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN ({marks})",
            tables,
        )
        self.make([f"DROP INDEX {name}" for name, _ in found])
        return tuple(sql for _, sql in found)

    def take_over(self, path: Path, tables: Sequence[str]) -> None:
        """Replace these tables' rows by those of another file of the same schema, as they are there at one moment.

        Raises:
            StorageFailed: SQLite refused.
        """
        with self._lock:
            try:
                self._sync(self._synchronous)
                self._connection.execute("ATTACH DATABASE ? AS other", (str(path),))
                self._connection.execute("BEGIN")
                for table in tables:
                    self._connection.execute(f"DELETE FROM main.{table}")
                    self._connection.execute(f"INSERT INTO main.{table} SELECT * FROM other.{table} ORDER BY rowid")
                self._connection.execute("COMMIT")
                self._connection.execute("DETACH DATABASE other")
            except sqlite3.Error as bad:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise StorageFailed(str(bad)) from bad

    def make(self, statements_: Iterable[str]) -> None:
        """Run statements of the schema's own.

        Raises:
            StorageFailed: SQLite refused.
        """
        with self._lock:
            try:
                self._sync(self._synchronous)
                for sql in statements_:
                    self._connection.execute(sql)
            except sqlite3.Error as bad:
                raise StorageFailed(str(bad)) from bad

    def close(self) -> None:
        """Empty the write-ahead log into the file and close it."""
        with self._lock:
            try:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                self._connection.close()


#: How a file is written: what makes it durable and forgetful, or, for one that is thrown away, fast.
PRAGMAS: Final[dict[str, tuple[str, ...]]] = {
    "FULL": ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"),
    "NORMAL": ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"),
    "OFF": ("page_size = 16384", "journal_mode = OFF", "synchronous = OFF", "secure_delete = OFF",
            "cache_size = -262144"),
}  # fmt: skip


def open_writer(path: Path, schema: Path, *, synchronous: Literal["FULL", "NORMAL", "OFF"] = "FULL") -> Writer:
    """Open or create the file, bring it to the newest migration, and return its writer.

    Args:
        path: The file; created 0600.
        schema: Folder of migrations (`NNNN_name.sql`), its subfolders hold the named statements.
        synchronous: FULL syncs each commit to the disk; NORMAL may lose the last ones with the power. OFF is for what
            can be made anew: nothing is undone, so after the first failure the file is of no use.

    Raises:
        SchemaError: A newer version made the file, or the shipped SQL is not right.
    """
    try:
        steps = statements.migrations(schema)
        named = statements.named_statements(schema)
    except (OSError, ValueError) as bad:
        raise SchemaError(str(bad)) from bad
    if not steps:
        raise SchemaError(f"no migrations in {schema}")
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False)
    try:
        for pragma in (*PRAGMAS[synchronous], "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        register(connection)
        _migrate(connection, steps)
        ready = prepared(connection, named)
    except sqlite3.Error as bad:
        connection.close()
        raise SchemaError(f"{path.name}: {bad}") from bad
    except SchemaError:
        connection.close()
        raise
    return Writer(connection, ready)


def _migrate(connection: sqlite3.Connection, steps: Sequence[tuple[int, str]]) -> None:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    _check_known(version, steps)
    for number, text in steps[version:]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for sql in statements.split(text):
                connection.execute(sql)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except (sqlite3.Error, ValueError) as bad:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise SchemaError(f"migration {number}: {bad}") from bad


def migrated(path: Path, schema: Path) -> bool:
    """Whether the file has all the tables that this software ships.

    Raises:
        SchemaError: A newer version made the file.
        StorageFailed: No such file, or it is none of SQLite's.
    """
    reader = open_reader(path)
    try:
        version, steps = reader.rows("PRAGMA user_version")[0][0], statements.migrations(schema)
    finally:
        reader.close()
    _check_known(version, steps)
    return bool(version == len(steps))


def _check_known(version: int, steps: Sequence[tuple[int, str]]) -> None:
    if version > len(steps):
        raise SchemaError(f"the file is at version {version}; this software knows {len(steps)}: use the newer one")


def open_reader(path: Path) -> Reader:
    """Open an existing file read-only.

    Raises:
        StorageFailed: No such file, or it is none of SQLite's.
    """
    try:
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None,
            check_same_thread=False,
        )  # fmt: skip
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA temp_store = MEMORY")  # a KMIP worker can make no file
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as bad:
        raise StorageFailed(f"{path.name}: {bad}") from bad
    register(connection)
    return Reader(connection)
