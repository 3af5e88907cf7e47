"""A named statement as it is run: by position, and with which others its order matters. Runs nothing but EXPLAIN.

Rows of one name run in one go are much cheaper than one by one, but between them the order of other names is lost. That
says nothing where neither writes what the other reads or writes: SQLite itself is asked which tables each touches.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import msgspec

__all__ = ["TOGETHER", "Named", "Row", "by_place", "prepared", "together"]

_READ: Final = sqlite3.SQLITE_READ
_WRITES: Final = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
_PARAMETER: Final = re.compile(r"'(?:[^']|'')*'|--[^\n]*|:([a-z_]+)")
#: A row of parameters and nothing else: several of them in one statement are the same as one after the other.
_PLAIN: Final = re.compile(r"INSERT (?:OR IGNORE )?INTO \w+\s*\([^()]*\)\s*VALUES\s*(\([?,\s]*\));?")
TOGETHER: Final = 32
_Touched = tuple[set[str], set[str]]  # tables that are read, tables that are written
#: A row's values, by their names or, where their places are known, by those.
Row = Mapping[str, Any] | tuple[Any, ...]
Picked = Callable[[Any], tuple[Any, ...]]


class Statement(msgspec.Struct, frozen=True):
    """One statement with its parameters by position (sqlite3 binds those several times faster than names)."""

    sql: str
    names: tuple[str, ...]
    pick: Picked
    as_is: bool = False  # a row is its parameters
    together: str | None = None  # the same for `TOGETHER` rows at once, which costs less for each


class Named(msgspec.Struct, frozen=True):
    """The statements of one file: which parameters they name, and the files whose order against this one matters."""

    statements: tuple[Statement, ...]
    parameters: frozenset[str]
    conflicts: frozenset[str]


def prepared(connection: sqlite3.Connection, named: Mapping[str, Sequence[str]]) -> dict[str, Named]:
    """Return the statements of each file, ready to run.

    Raises:
        sqlite3.Error: One does not fit the schema.
    """
    texts = {name: [_by_position(sql) for sql in found] for name, found in named.items()}
    touched = {
        name: _all(_touched(connection, sql, len(names)) for sql, names in found) for name, found in texts.items()
    }
    return {
        name: Named(
            tuple(Statement(sql, names, _picking(names), together=together(sql)) for sql, names in found),
            frozenset(one for _, names in found for one in names),
            _conflicts(name, touched),
        )
        for name, found in texts.items()
    }


def by_place(named: Named, columns: Sequence[str]) -> Named:
    """Return the statements of one file for rows that are tuples of these columns.

    Raises:
        KeyError: A statement names a parameter that is none of them.
    """
    at = {column: place for place, column in enumerate(columns)}
    statements = (
        msgspec.structs.replace(s, pick=_picking([at[name] for name in s.names]), as_is=s.names == tuple(columns))
        for s in named.statements
    )
    return msgspec.structs.replace(named, statements=tuple(statements))


def _by_position(text: str) -> tuple[str, tuple[str, ...]]:
    names: list[str] = []

    def place(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        names.append(found[1])
        return "?"  # each occurrence by itself: a numbered one counts as named

    return _PARAMETER.sub(place, text), tuple(names)


def together(sql: str) -> str | None:
    """Return an INSERT of `TOGETHER` rows where it is one of parameters alone, else None."""
    plain = _PLAIN.fullmatch(sql)
    return None if plain is None else sql.rstrip(";") + f", {plain[1]}" * (TOGETHER - 1)


def _picking(keys: Sequence[Hashable]) -> Picked:
    if len(keys) > 1:
        return itemgetter(*keys)
    return lambda row: tuple(row[key] for key in keys)


def _touched(connection: sqlite3.Connection, sql: str, parameters: int) -> _Touched:
    """Return the tables that a statement reads and those that it writes, by SQLite's own word."""
    reads, writes = set[str](), set[str]()

    def note(action: int, table: str | None, _1: str | None, _2: str | None, _3: str | None) -> int:
        if table is not None and action == _READ:
            reads.add(table)
        elif table is not None and action in _WRITES:
            writes.add(table)
        return sqlite3.SQLITE_OK

    connection.set_authorizer(note)
    try:
        connection.execute(f"EXPLAIN {sql}", [None] * parameters).fetchall()
    finally:
        connection.set_authorizer(None)
    return reads, writes


def _all(single: Iterable[_Touched]) -> _Touched:
    reads, writes = set[str](), set[str]()
    for read, written in single:
        reads |= read
        writes |= written
    return reads, writes


def _conflicts(name: str, touched: Mapping[str, _Touched]) -> frozenset[str]:
    reads, writes = touched[name]
    return frozenset(
        other for other, (read, written) in touched.items()
        if other != name and (writes & (read | written) or reads & written)
    )  # fmt: skip
