"""Traces through a node: an acknowledgement answers what it names and what came before it, each once."""

from __future__ import annotations

from openkcm.bus.messages import Stored
from openkcm.contract import trace
from openkcm.execution.passages import MOST, Passages
from openkcm.execution.residence_state import Effect, Residence

ACK = [Effect("commit"), Effect("ack", "acme", "critical")]
TRACE = str(trace.fresh())


def decree(n: int, traced: str = TRACE) -> Stored:
    return Stored(n, "kcm.decree.x", b"", f"event-{n}", traced)


def took(passages: Passages, *numbers: int, lane: str = "critical") -> None:
    for n in numbers:
        passages.took(decree(n), [Effect("ack", "acme", lane)], came_ns=n, taken_us=1)


def events(passages: Passages, lane: str = "critical", **state: object) -> list[str]:
    return [p.event for p in passages.answered("acme", lane, Residence(tenant="acme", **state))]  # type: ignore[arg-type]


def test_an_ack_answers_each_decree_that_it_names_or_that_came_before_and_each_once() -> None:
    passages = Passages()
    took(passages, 1, 2, 3)
    assert events(passages, head_critical=()) == []
    assert events(passages, head_critical=("event-2",)) == ["event-1", "event-2"]
    assert events(passages, head_critical=("event-2",)) == []
    assert events(passages, head_critical=("event-2", "event-3")) == ["event-3"]


def test_routine_decrees_are_answered_up_to_the_place_of_the_lane_named_or_not() -> None:
    passages = Passages()
    took(passages, 5, 9, lane="routine")
    assert events(passages, "critical", head_critical=("event-5",)) == []
    assert events(passages, "routine", routine_sequence=7) == ["event-5"]
    assert events(passages, "routine", routine_sequence=9) == ["event-9"]


def test_what_is_not_traced_or_gets_no_ack_is_not_kept_and_a_flood_keeps_the_newest() -> None:
    passages = Passages()
    for traced in ("", "nonsense"):
        passages.took(decree(1, traced), ACK, 1, 1)
    passages.took(decree(2), [Effect("commit")], 1, 1)
    assert events(passages, head_critical=("event-1", "event-2")) == []
    took(passages, *range(100))
    assert events(passages, head_critical=("event-99",)) == [f"event-{n}" for n in range(100 - MOST, 100)]
