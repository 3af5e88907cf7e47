"""When a node's listener may open: behind the critical lane, and without memory behind the routine one, too."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from openkcm.bus.errors import Unavailable
from openkcm.bus.messages import Stored
from openkcm.execution import feeds
from openkcm.execution.feeds import STREAM_OF, Feeds
from openkcm.execution.residence_state import State


class Reader:
    """Hands a lane's messages out, the routine one's only once it is let."""

    let = asyncio.Event()

    def __init__(self, _connection, stream, _consumer) -> None:
        self.stream = stream
        self.left = [Stored(n, "s", b"", str(n)) for n in (1, 2)]

    async def reset(self, _sequence) -> None:
        pass

    async def ack(self, _batch) -> None:
        pass

    async def caught_up(self) -> bool:
        return not self.left

    async def fetch(self, _batch, wait_s):
        if self.stream == STREAM_OF["routine"]:
            await self.let.wait()
        if not self.left:
            await asyncio.sleep(wait_s)
        out, self.left = self.left, []
        return out


class Custodian:
    """Applies a message by moving its cursor."""

    def __init__(self, seen: int) -> None:
        self.state = State(node="n", region="r", boot_id="b", trust_root=bytes(32), seen_routine=seen)

    def take(self, given):
        if isinstance(given, feeds.Arrived):
            name = f"cursor_{given.source}"
            self.state = feeds_replace(self.state, **{name: given.sequence})
        return SimpleNamespace(deferred=False, effects=())

    async def committed(self) -> None:
        pass


def feeds_replace(state, **changes):
    import msgspec

    return msgspec.structs.replace(state, **changes)


@pytest.mark.parametrize(("seen", "opens"), [(0, False), (2, True)])
async def test_a_node_without_memory_opens_only_behind_the_routine_lane_too(monkeypatch, seen, opens):
    Reader.let = asyncio.Event()
    silent = [1]

    async def head(_connection, _stream):
        if silent:  # a server that is busy with its disk
            silent.pop()
            raise Unavailable("no answer within 2 s")
        return 2

    monkeypatch.setattr(feeds, "LaneReader", Reader)
    monkeypatch.setattr(feeds, "mirror_head", head)
    node = Feeds(None, Custodian(seen), "n")
    await node.start()
    lanes = [asyncio.ensure_future(node.lane(lane)) for lane in STREAM_OF]
    await asyncio.sleep(0.5)
    assert node.at_head.is_set() == opens
    Reader.let.set()
    await asyncio.wait_for(node.at_head.wait(), 5)
    for lane in lanes:
        lane.cancel()


class VaultReader(Reader):
    """Has the vault's records 1 to 3000, ten at a time; then nothing more."""

    def __init__(self, _connection, stream, _consumer) -> None:
        self.stream, self.acks, self.given, self.dry = stream, [], 0, asyncio.Event()

    async def fetch(self, _batch, wait_s):
        if self.given == 3000:
            self.dry.set()
            await asyncio.sleep(wait_s)
            return []
        self.given += 10
        return [Stored(n, "s", b"", str(n)) for n in range(self.given - 9, self.given + 1)]

    async def ack(self, batch) -> None:
        self.acks.append(batch[-1].sequence)


@pytest.mark.parametrize(("after_s", "acks"), [(3600.0, [1030, 2060]), (0.0, list(range(10, 3001, 10)))])
async def test_the_vaults_feed_is_acknowledged_by_number_or_by_time_and_never_ahead_of_what_was_taken(
    monkeypatch, after_s, acks
):
    async def head(_connection, _stream):
        return 3000

    monkeypatch.setattr(feeds, "LaneReader", VaultReader)
    monkeypatch.setattr(feeds, "mirror_head", head)
    monkeypatch.setattr(feeds, "ACK_S", after_s)
    node, taken = Feeds(None, Custodian(0), "n"), []
    reader = node._vault

    async def take(batch) -> None:
        assert not reader.acks or reader.acks[-1] <= len(taken)
        taken.extend(batch)

    feeding = asyncio.ensure_future(node.vault(0, take))
    await asyncio.wait_for(reader.dry.wait(), 20)
    feeding.cancel()
    assert len(taken) == 3000
    assert reader.acks == acks
