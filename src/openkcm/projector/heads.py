"""The rolling hash over each region's critical decrees, folded with the read model: beats go on from it at once.

Every stored message counts, good or bad, as nodes count it; what a region's mirror lets through is what it is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from openkcm.contract import reports
from openkcm.contract.ids import GLOBAL, NOBODY
from openkcm.contract.stored import Message
from openkcm.projector.database import Reader, Value

__all__ = ["Head", "HeadFold", "head_of"]

_START: Final = (0, bytes(32))
_Row = tuple[str, Mapping[str, Value]]


class Head(msgspec.Struct, frozen=True):
    """A region's head. `read_to`: no critical decree up to this sequence is missing in it."""

    read_to: int
    sequence: int
    hash: bytes


class HeadFold:
    """The heads of all regions, growing."""

    def __init__(self, reader: Reader) -> None:
        rows = reader.rows("SELECT region, sequence, hash FROM critical_head")
        self._heads: dict[str, tuple[int, bytes]] = {NOBODY: _START} | {r: (n, h) for r, n, h in rows}
        self._changed: set[str] = set()

    def add(self, message: Message) -> None:
        """Take the next message in."""
        if ".critical." not in message.subject:
            return
        parts = message.subject.split(".")
        if len(parts) < 6 or parts[4] != "critical":
            return
        region, tenant = parts[2], parts[3]
        if region == GLOBAL and tenant != NOBODY:
            return  # in no region's mirror
        if region != GLOBAL:
            self._heads.setdefault(region, self._heads[NOBODY])
        for grown in [region] if region != GLOBAL else list(self._heads):
            last, known = self._heads[grown]
            self._heads[grown] = message.sequence, reports.grown_head(known, last, message.sequence, message.body)
            self._changed.add(grown)

    def rows(self) -> list[_Row]:
        """Return what has changed since the last call."""
        rows: list[_Row] = [
            ("critical_head", {"region": region, "sequence": self._heads[region][0], "hash": self._heads[region][1]})
            for region in sorted(self._changed)
        ]
        self._changed.clear()
        return rows


def head_of(reader: Reader, region: str) -> Head:
    """Return a region's head as it is folded."""
    query = (
        "SELECT c.sequence, h.sequence, h.hash FROM cursor AS c JOIN critical_head AS h ON h.region IN (?, ?) "
        "ORDER BY h.region = ? LIMIT 1"
    )
    rows = reader.rows(query, (region, NOBODY, NOBODY))
    return Head(*rows[0]) if rows else Head(0, *_START)
