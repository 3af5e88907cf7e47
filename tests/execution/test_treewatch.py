"""A mirror with a hole is no fork: the tree waits for it to be mended, and enables nothing meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from execution.test_mirrored import CMK, REGION, history, points
from openkcm.bus.errors import Unavailable
from openkcm.bus.messages import Stored
from openkcm.contract import envelope as env
from openkcm.contract.published import seal_published
from openkcm.contract.seal import Signer
from openkcm.execution import treewatch
from openkcm.execution.desired import step
from openkcm.execution.inputs import ForkSeen, MirrorShort
from openkcm.execution.mirrored import Kept
from openkcm.execution.residence_state import State
from openkcm.execution.treewatch import TreeWatch


@dataclass
class Mirror:
    """A mirror behind a reader: what is in `holes` is passed over, in silence."""

    messages: list
    holes: set[int] = field(default_factory=set)
    gone: bool = False
    resets: list[int] = field(default_factory=list)
    at: int = 0

    async def reset(self, sequence: int) -> None:
        self.resets.append(sequence)
        self.at = sequence

    async def fetch(self, batch: int, wait_s: float) -> list[Stored]:
        await asyncio.sleep(0.005)
        if self.gone:
            raise Unavailable("the consumer is gone")
        found = [Stored(n, s, body, "") for n, s, body in self.messages if n > self.at and n not in self.holes][:batch]
        self.at = found[-1].sequence if found else self.at
        return found

    async def ack(self, upto: list[Stored]) -> None:
        pass


class Node:
    """A node's state and rows, and the tree that watches a mirror."""

    def __init__(self, mirror: Mirror, kept: Kept | None = None, state: State | None = None) -> None:
        keys = {CMK.key_id: (CMK.public_key, "cmk")}
        self.state = state or State(node="n", region=REGION, boot_id="b", trust_root=b"t" * 32, keys=keys, epoch=1)
        self.told: list = []
        self.watch = TreeWatch(
            mirror, Signer(b"n" * 32), kept or Kept(), state=lambda: self.state, take=self._take, keep=_nothing,
            send=_nothing,
        )  # fmt: skip

    def _take(self, given: ForkSeen | MirrorShort) -> None:
        self.told.append(given)
        self.state, _ = step(self.state, given)

    async def hear(self, point, counter: int) -> None:
        e = seal_published(point, CMK, counter=counter, epoch=1, at_ms=1, time_source="t")
        await self.watch.hear(Stored(counter, e.subject, env.encode(e), e.id))


async def _nothing(_) -> None:
    pass


async def until(true) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 -- doubles that count
            await asyncio.sleep(0.005)


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(treewatch, "AGAIN_S", 0.02)
    monkeypatch.setattr(treewatch, "RETRY_S", 0.01)


@pytest.fixture
async def running():
    tasks = []
    yield lambda node: tasks.append(asyncio.ensure_future(node.watch.run()))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("gone", [False, True], ids=["mended in place", "made anew"])
async def test_a_hole_in_its_mirror_halts_a_node_until_the_mirror_is_mended(hurried, running, gone):
    mirror, signed = Mirror(history(31), holes={25}), points(history(31))
    node = Node(mirror)
    running(node)
    await until(lambda: node.watch.tree.kept.sequence == 31)
    await node.hear(signed[10], 1)  # of before the hole
    assert node.state.halted is None
    await node.hear(signed[-1], 2)
    assert node.state.halted == "MirrorIncomplete"
    read = len(mirror.resets)
    await until(lambda: len(mirror.resets) > read + 1)  # read again, and as it was
    assert node.state.halted == "MirrorIncomplete"
    mirror.gone = gone
    mirror.holes.clear()
    await asyncio.sleep(0.02)
    mirror.gone = False
    await until(lambda: node.state.halted is None)
    assert node.watch.tree.kept.agreed == signed[-1]
    assert not [x for x in node.told if isinstance(x, ForkSeen)]


async def test_a_restart_knows_that_its_mirror_has_a_hole_and_reads_it_from_the_start(hurried, running):
    mirror, signed = Mirror(history(31), holes={25}), points(history(31))
    before = Node(mirror)
    running(before)
    await until(lambda: before.watch.tree.kept.sequence == 31)
    await before.hear(signed[-1], 2)
    again = Mirror(history(31))
    node = Node(again, kept=before.watch.tree.kept, state=before.state)
    assert node.state.halted == "MirrorIncomplete"
    running(node)
    await until(lambda: node.watch.tree.kept.sequence == 31)
    assert again.resets == [0]
    assert node.state.halted == "MirrorIncomplete", "nobody has signed it anew yet"
    await node.hear(signed[-1], 3)
    assert node.state.halted is None


async def test_another_history_behind_a_hole_is_a_fork_once_the_mirror_is_whole(hurried, running):
    mirror, signed = Mirror(history(31), holes={25}), points(history(31, changed=10))
    node = Node(mirror)
    running(node)
    await until(lambda: node.watch.tree.kept.sequence == 31)
    await node.hear(signed[-1], 2)
    assert node.state.halted == "MirrorIncomplete"
    mirror.holes.clear()
    await until(lambda: node.state.halted == "ForkedLedger")
