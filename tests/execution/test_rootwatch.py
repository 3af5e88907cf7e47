"""What the watch does with a probe's answer: which ones lock, which keep, and which count only when they come twice."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from openkcm.execution.inputs import RootObserved
from openkcm.execution.roots.base import ACTIONS, TWICE
from openkcm.execution.rootwatch import MAX_RETRY_S, RETRY_S, RootWatch
from openkcm.execution.unseal_probe import Observation


class Node:
    """Custodian, keychain and reporter of one residence, as far as the watch asks them."""

    def __init__(self) -> None:
        self.residence = SimpleNamespace(root_refusal=None)
        self.state = SimpleNamespace(residences={"acme": self.residence})
        self.taken: list[RootObserved] = []
        self.settled = 0
        self.reported: list[str] = []

    def take(self, observed: RootObserved) -> None:
        self.taken.append(observed)

    def settle(self, _tenant: str) -> None:
        self.settled += 1

    def root_version(self, _tenant: str) -> str | None:
        return None

    async def root_state(self, _tenant: str, observed: Any) -> None:
        self.reported.append(observed.state)


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def watch(node: Node) -> RootWatch:
    parts: Any = node
    return RootWatch(parts, parts, parts, parts)


async def told(watch: RootWatch, *codes: str) -> None:
    for code in codes:
        watch.observe(Observation(tenant="acme", code=code))
        await asyncio.sleep(0)


@pytest.mark.parametrize("code", sorted(TWICE))
async def test_a_denial_counts_when_it_comes_twice_in_a_row(watch: RootWatch, node: Node, code: str) -> None:
    await told(watch, code)
    assert node.taken == []
    await told(watch, "ok", code)  # not in a row
    assert node.taken == []
    await told(watch, code)
    assert node.taken == [RootObserved("acme", code)]


@pytest.mark.parametrize(
    "code", sorted(code for code, action in ACTIONS.items() if action == "lock" and code not in TWICE)
)
async def test_a_key_that_is_cut_locks_at_once(watch: RootWatch, node: Node, code: str) -> None:
    await told(watch, code)
    assert node.taken == [RootObserved("acme", code)]


@pytest.mark.parametrize("code", sorted(code for code, action in ACTIONS.items() if action not in ("lock", "serve")))
async def test_what_says_nothing_of_the_key_is_reported_and_takes_none_away(
    watch: RootWatch, node: Node, code: str
) -> None:
    await told(watch, code, code, code)
    assert node.taken == []
    assert node.reported == [code]  # once, not at every probe


async def test_a_good_answer_opens_what_was_locked(watch: RootWatch, node: Node) -> None:
    node.residence.root_refusal = "KeyDisabled"
    await told(watch, "ok")
    assert node.taken == [RootObserved("acme", "ok")]


async def test_a_residence_that_cannot_be_unsealed_is_tried_ever_more_rarely_until_its_root_answers(
    watch: RootWatch, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    for _ in range(6 * 60 * 10):  # an hour, a second a step
        now[0] += 1
        watch._again("acme")
    assert 3600 / MAX_RETRY_S <= node.settled <= 2 * 3600 / MAX_RETRY_S + 3600 / RETRY_S / 60
    before = node.settled
    await told(watch, "Unreachable", "ok")
    watch._again("acme")
    assert node.settled == before + 1
