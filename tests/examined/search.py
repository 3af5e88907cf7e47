"""Breadth-first search over everything a small world can do. Knows nothing of OpenKCM.

The first bad state found is the one with the shortest trace.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

S = TypeVar("S")


class Found(Generic[S]):
    """What became of a search: `bad` is None when every state is good."""

    def __init__(self, states: int, bad: str | None = None, trace: tuple[str, ...] = ()) -> None:
        self.states, self.bad, self.trace = states, bad, trace

    def __repr__(self) -> str:
        steps = "".join(f"\n  {i + 1}. {step}" for i, step in enumerate(self.trace))
        return f"{self.bad or 'good'} ({self.states} states){steps}"


def search(
    first: S,
    moves: Callable[[S], Iterator[tuple[str, S]]],
    bad: Callable[[S], str | None],
    key: Callable[[S], Hashable],
    limit: int = 400_000,
) -> Found[S]:
    """Try every order of every move, each state once.

    Raises:
        AssertionError: More than `limit` states: the world is not small.
    """
    came: dict[Hashable, tuple[Hashable, str] | None] = {key(first): None}
    queue: deque[tuple[Hashable, S]] = deque([(key(first), first)])

    def trace(at: Hashable) -> tuple[str, ...]:
        out = []
        while (step := came[at]) is not None:
            at, name = step
            out.append(name)
        return tuple(reversed(out))

    while queue:
        at, state = queue.popleft()
        for name, after in moves(state):
            where = key(after)
            if where in came:
                continue
            came[where] = (at, name)
            wrong = bad(after)
            if wrong:
                return Found(len(came), wrong, trace(where))
            queue.append((where, after))
            assert len(came) <= limit, f"more than {limit} states"
    return Found(len(came))
