"""Traced decrees on their way through this node, until an acknowledgement answers them. Decides and delays nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from openkcm.bus.messages import Stored
from openkcm.contract import trace
from openkcm.contract.ids import Lane
from openkcm.execution.residence_state import Effect, Residence

__all__ = ["Passage", "Passages"]

MOST: Final = 64  # waiting at once in a residence's lane; the oldest gives way: a trace is no promise


class Passage(msgspec.Struct, frozen=True):
    """One decree: the trace it came with, when (ns since 1970), and how long it took until its gates were closed."""

    trace: trace.Trace
    sequence: int
    event: str
    came_ns: int
    taken_us: int

    @property
    def attributes(self) -> dict[str, str | int]:
        """What a span says of it."""
        return {"messaging.system": "nats", "messaging.message.id": self.event, "openkcm.sequence": self.sequence,
                "openkcm.taken_us": self.taken_us}  # fmt: skip


class Passages:
    """What waits for an acknowledgement, in the order in which it was taken."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], deque[Passage]] = {}

    def took(self, stored: Stored, effects: Iterable[Effect], came_ns: int, taken_us: int) -> None:
        """Note a decree that was just taken, if it is traced and will be acknowledged."""
        found = trace.parse(stored.trace) if stored.trace else None
        ack = next((e for e in effects if e.kind == "ack"), None)
        if found is not None and ack is not None:
            waiting = self._waiting.setdefault((ack.tenant, ack.detail), deque(maxlen=MOST))
            waiting.append(Passage(found, stored.sequence, stored.id, came_ns, taken_us))

    def answered(self, tenant: str, lane: Lane, residence: Residence) -> list[Passage]:
        """Return, once, what an acknowledgement of a residence's lane answers: what it names and what came before."""
        waiting = self._waiting.get((tenant, lane), ())
        named = [
            n for n, p in enumerate(waiting, 1)
            if (p.event in residence.head_critical if lane == "critical" else p.sequence <= residence.routine_sequence)
        ]  # fmt: skip
        return [self._waiting[tenant, lane].popleft() for _ in range(max(named, default=0))]
