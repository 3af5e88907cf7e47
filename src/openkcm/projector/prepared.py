"""A named statement as it is run: by position, and whether its rows may be run together. Runs nothing but EXPLAIN.

Rows of one name run in one go are much cheaper than one by one, but between them the order of other names is lost. It
says nothing where a table is this name's alone: SQLite itself is asked which tables each statement reads and writes.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import msgspec

__all__ = ["Named", "prepared"]

_READ: Final = sqlite3.SQLITE_READ
_WRITES: Final = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
_PARAMETER: Final = re.compile(r"'(?:[^']|'')*'|--[^\n]*|:([a-z_]+)")
Picked = Callable[[Mapping[str, Any]], tuple[Any, ...]]


class Statement(msgspec.Struct, frozen=True):
    """One statement with its parameters by position (sqlite3 binds those several times faster than names)."""

    sql: str
    pick: Picked


class Named(msgspec.Struct, frozen=True):
    """The statements of one file. `alone`: it has a table of its own, and reads no other."""

    statements: tuple[Statement, ...]
    alone: bool


def prepared(connection: sqlite3.Connection, named: Mapping[str, Sequence[str]]) -> dict[str, Named]:
    """Return the statements of each file, ready to run.

    Raises:
        sqlite3.Error: One does not fit the schema.
    """
    texts = {name: [_by_position(sql) for sql in found] for name, found in named.items()}
    touched = {name: [_touched(connection, sql, len(names)) for sql, names in found] for name, found in texts.items()}
    return {
        name: Named(tuple(Statement(sql, _picking(names)) for sql, names in found), _alone(name, touched))
        for name, found in texts.items()
    }


def _by_position(text: str) -> tuple[str, tuple[str, ...]]:
    names: list[str] = []

    def place(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        names.append(found[1])
        return "?"  # each occurrence by itself: a numbered one counts as named

    return _PARAMETER.sub(place, text), tuple(names)


def _picking(names: tuple[str, ...]) -> Picked:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda parameters: tuple(parameters[name] for name in names)


def _touched(connection: sqlite3.Connection, sql: str, parameters: int) -> tuple[set[str], set[str]]:
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


def _alone(name: str, touched: Mapping[str, Sequence[tuple[set[str], set[str]]]]) -> bool:
    if len(touched[name]) != 1:
        return False
    ((reads, writes),) = touched[name]
    others = {
        table for other, found in touched.items() if other != name for both in found for table in both[0] | both[1]
    }
    return len(writes) == 1 and reads <= writes and not writes & others
