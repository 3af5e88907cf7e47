"""SQL files as named lists of statements, and as numbered migrations. Reads shipped files; runs nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

__all__ = ["migrations", "named_statements", "split"]


def split(text: str) -> tuple[str, ...]:
    """Return the single statements of a SQL file, in order; comments alone are none.

    Raises:
        ValueError: The text ends inside a statement.
    """
    found: list[str] = []
    pending = ""
    for line in text.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending.strip())
            pending = ""
    rest = "\n".join(line for line in pending.splitlines() if not line.lstrip().startswith("--"))
    if rest.strip():
        raise ValueError(f"a statement without its semicolon: {rest.strip()[:80]!r}")
    return tuple(s for s in found if _says_something(s))


def _says_something(statement: str) -> bool:
    lines = (line for line in statement.splitlines() if not line.lstrip().startswith("--"))
    return "".join(lines).strip(" ;\t\n") != ""


def migrations(folder: Path) -> tuple[tuple[int, str], ...]:
    """Return (number, text) of `folder/NNNN_name.sql`, in order.

    Raises:
        ValueError: A file without its number, or a number that is missing or there twice.
    """
    found = []
    for path in sorted(folder.glob("*.sql")):
        number = path.name.partition("_")[0]
        if not number.isdigit():
            raise ValueError(f"{path.name}: a migration's name begins with its number")
        found.append((int(number), path.read_text(encoding="utf-8")))
    if [n for n, _ in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"{folder}: migrations are numbered 1, 2, 3 ... without a gap, not {[n for n, _ in found]}")
    return tuple(found)


def named_statements(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the statements below `folder` (not in it) by their file's stem.

    Raises:
        ValueError: Two files of one name.
    """
    named: dict[str, tuple[str, ...]] = {}
    for path in sorted(folder.glob("*/**/*.sql")):
        if path.stem in named:
            raise ValueError(f"two files of statements are called {path.name}")
        named[path.stem] = split(path.read_text(encoding="utf-8"))
    return named
