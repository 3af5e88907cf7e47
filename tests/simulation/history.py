"""Writes a run's history as NDJSON: the form of `docs/history.md`. Judges nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class History:
    """Lines in the order of their time. `clock` in seconds, the same for everybody."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.lines: list[dict[str, Any]] = []

    def add(self, kind: str, **what: Any) -> None:
        self.lines.append({"t": round(self._clock(), 6), "kind": kind, **what})

    def write(self, path: Path) -> None:
        path.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in self.lines))
