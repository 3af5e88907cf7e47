"""The bus of a simulated world: hub, mirrors, lane0, reports, vaults. Delays, drops, doubles, reorders, forgets, lies.

It keeps what JetStream keeps: a sequence a message, an expectation on a subject, duplicates by id, mirrors that follow in
order. Whatever else a network may do, it does by the seed.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from openkcm.bus.errors import Conflict, Unavailable
from openkcm.bus.messages import Stored
from openkcm.bus.publish import Appended

PATIENCE_S = 2.0


@functools.lru_cache(maxsize=1 << 14)
def matches(subject: str, pattern: str) -> bool:
    """NATS's wildcards: `*` a token, `>` the rest."""
    have, want = subject.split("."), pattern.split(".")
    for i, token in enumerate(want):
        if token == ">":
            return len(have) > i
        if i >= len(have) or token not in ("*", have[i]):
            return False
    return len(have) == len(want)


class Link:
    """One direction of a path. `up` is a partition's switch; the rest is weather."""

    def __init__(self, rng: random.Random, *, slow_s: float = 0.01) -> None:
        self.rng, self.up, self.slow_s = rng, True, slow_s
        self.drop, self.double = 0.0, 0.0

    def delay(self) -> float:
        r = self.rng.random()
        return self.slow_s * (0.2 + r if r < 0.95 else 20 * r)

    def send(self, deliver: Callable[[], Any]) -> None:
        """Core NATS: it comes once, twice, late, or never; the later may overtake the earlier."""
        if not self.up or self.rng.random() < self.drop:
            return
        loop = asyncio.get_running_loop()
        for _ in range(2 if self.rng.random() < self.double else 1):
            loop.call_later(self.delay(), deliver)


class Hub:
    """The ledger's stream, and REPORTS."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.up, self.epoch = rng, True, 0
        self.ledger: list[Stored] = []
        self.base = 0
        self.reports: list[Stored] = []
        self.grown = asyncio.Event()
        self.on_append: list[Callable[[Stored], None]] = []
        self.lying = False
        self.full = False

    @property
    def last(self) -> int:
        return self.ledger[-1].sequence if self.ledger else self.base

    def store(self, subject: str, body: bytes, id_: str) -> Stored:
        stored = Stored(self.last + 1, subject, body, id_)
        self.ledger.append(stored)
        for told in self.on_append:
            told(stored)
        self.pulse()
        return stored

    def pulse(self) -> None:
        """Wake all who follow."""
        grown, self.grown = self.grown, asyncio.Event()
        grown.set()

    def append(self, subject: str, body: bytes, id_: str, expected: int | None) -> tuple[Stored, bool]:
        for old in reversed(self.ledger):
            if old.id == id_:
                if (old.subject, old.body) != (subject, body):
                    raise _taken(old)
                return old, True
        if expected is not None:
            at = next((m.sequence for m in reversed(self.ledger) if m.subject == subject), 0)
            if at != expected:
                raise Conflict(f"{subject} is at {at}, not at {expected}")
        return self.store(subject, body, id_), False


def _taken(old: Stored) -> Exception:
    from openkcm.bus.errors import SameIdOtherMessage

    return SameIdOtherMessage("the id is taken", old)


class Ledger:
    """`bus.ledger.Ledger`, over a link to a simulated hub."""

    def __init__(self, hub: Hub, link: Link) -> None:
        self.hub, self.link = hub, link

    async def _there(self) -> None:
        await asyncio.sleep(self.link.delay())
        if not (self.hub.up and self.link.up):
            await asyncio.sleep(PATIENCE_S)
            raise Unavailable("no answer")

    async def append(
        self,
        subject: str,
        body: bytes,
        *,
        id: str,  # noqa: A002 -- as the real one
        tag: str,
        expected_last: int | None,
        timeout_s: float = 2.0,
    ) -> Appended:
        await self._there()
        if self.hub.full:
            raise Unavailable("the store has no room")
        stored, duplicate = self.hub.append(subject, body, id, expected_last)
        await asyncio.sleep(self.link.delay())
        if not self.link.up or self.hub.rng.random() < self.link.drop:
            await asyncio.sleep(timeout_s)
            raise Unavailable("the PubAck got lost")
        return Appended(stored.sequence, duplicate)

    async def read(self, subject: str, *, after: int = 0, limit: int = 1000) -> list[Stored]:
        await self._there()
        return [m for m in self.hub.ledger if m.subject == subject and m.sequence > after][:limit]

    async def leader_last(self, filters: Sequence[str], *, since_s: float) -> Stored | None:
        await self._there()
        found = [m for m in self.hub.ledger if any(matches(m.subject, f) for f in filters)]
        if self.hub.lying and found and self.hub.rng.random() < 0.3:
            found = found[: self.hub.rng.randrange(len(found))]
        return found[-1] if found else None

    async def follow(self, *, after: int, filters: Sequence[str] | None = None) -> AsyncIterator[Stored]:
        at = after
        while True:
            grown = self.hub.grown
            new = [m for m in self.hub.ledger if m.sequence > at]
            if not (self.hub.up and self.link.up):
                await asyncio.sleep(0.3)
                continue
            for m in new:
                at = m.sequence
                if filters is None or any(matches(m.subject, f) for f in filters):
                    await asyncio.sleep(self.link.delay() / 4)
                    yield m
            if not new:
                await grown.wait()


class Mirror:
    """A region's mirror of one lane: the hub's sequences, sparse, in order; an async one may lose its tail."""

    def __init__(self, hub: Hub, link: Link, filters: Sequence[str]) -> None:
        self.hub, self.link, self.filters = hub, link, filters
        self.messages: list[Stored] = []
        self.at = 0
        self.grown = asyncio.Event()
        self.withheld: set[str] = set()

    async def run(self) -> None:
        while True:
            grown = self.hub.grown
            if not (self.hub.up and self.link.up):
                await asyncio.sleep(0.2)
                continue
            new = next((m for m in self.hub.ledger if m.sequence > self.at), None)
            if new is None:
                await grown.wait()
                continue
            if any(matches(new.subject, f) for f in self.filters):
                at = self.at
                await asyncio.sleep(self.link.delay())
                if not (self.hub.up and self.link.up):
                    continue
                if self.at != at or new not in self.hub.ledger:  # it was rebuilt, or lost its tail, meanwhile
                    continue
                if new.id not in self.withheld:
                    self.messages.append(new)
                    self.pulse()
            self.at = max(self.at, new.sequence)

    def pulse(self) -> None:
        grown, self.grown = self.grown, asyncio.Event()
        grown.set()

    @property
    def last(self) -> int:
        return self.messages[-1].sequence if self.messages else 0

    def lose(self, count: int) -> None:
        """Power was cut: the tail that was not on the disk is gone; the hub sends it again."""
        del self.messages[len(self.messages) - count :]
        self.at = self.last

    def rebuild(self) -> None:
        """Make the mirror anew from what the hub has."""
        self.messages, self.at = [], 0


class Vault:
    """`bus.vault.Vault`: revisions of records, by expectation. Shared by the region's nodes."""

    def __init__(self) -> None:
        self.records: dict[int, Stored] = {}
        self.sequence = 0

    def newest(self, subject: str) -> Stored | None:
        return max((m for m in self.records.values() if m.subject == subject), key=lambda m: m.sequence, default=None)


class VaultAt:
    """A node's way to the vault of its region."""

    def __init__(self, vault: Vault, link: Link, up: Callable[[], bool]) -> None:
        self.vault, self.link, self.up = vault, link, up

    async def _there(self) -> None:
        await asyncio.sleep(self.link.delay())
        if not (self.link.up and self.up()):
            await asyncio.sleep(0.5)
            raise Unavailable("the vault does not answer")

    async def get(self, subject: str) -> Stored | None:
        await self._there()
        return self.vault.newest(subject)

    async def put(
        self,
        subject: str,
        body: bytes,
        *,
        id: str,  # noqa: A002 -- as the real one
        expect: tuple[str, int],
        tag: str = "",
        timeout_s: float = 2.0,
    ) -> int:
        await self._there()
        at = self.vault.newest(expect[0])
        if (at.sequence if at else 0) != expect[1]:
            raise Conflict(f"{expect[0]} is not at {expect[1]}")
        self.vault.sequence += 1
        stored = Stored(self.vault.sequence, subject, body, id)
        self.vault.records[stored.sequence] = stored
        await asyncio.sleep(self.link.delay())
        return stored.sequence

    async def erase(self, subject: str, sequence: int, *, overwrite: bool = True) -> None:
        await self._there()
        self.vault.records.pop(sequence, None)

    async def revisions(self, subject: str) -> list[int]:
        await self._there()
        return sorted(s for s, m in self.vault.records.items() if m.subject == subject)


class Region:
    """A leaf: two mirrors, lane0 and beats towards its nodes, their reports towards the hub."""

    def __init__(self, name: str, hub: Hub, rng: random.Random) -> None:
        self.name, self.hub, self.rng, self.up = name, hub, rng, True
        self.down, self.back = Link(rng), Link(rng)
        self.inside = Link(rng, slow_s=0.002)
        own, everybody = f"kcm.decree.{name}.*", "kcm.decree.global._"
        self.mirrors = {
            "routine": Mirror(hub, self.down, (f"{own}.>", f"{everybody}.>")),
            "critical": Mirror(hub, self.down, (f"{own}.critical.>", f"{everybody}.critical.>")),
        }
        self.vault = Vault()
        self.outgoing: list[Stored] = []
        self.sent = 0
        self.filled = asyncio.Event()
        self.muted: set[str] = set()
        self.lane0: dict[str, Callable[[Stored], None]] = {}
        self.beats: dict[str, Callable[[Stored], None]] = {}
        hub.on_append.append(self.republish)

    def concerns(self, subject: str) -> bool:
        return any(matches(subject, f) for f in self.mirrors["critical"].filters)

    def again(self, stored: Stored) -> None:
        """A decree of this region that governance tells again."""
        if stored.id not in self.muted:
            for hear in list(self.lane0.values()):
                self.down.send(lambda hear=hear: hear(stored))

    def republish(self, stored: Stored) -> None:
        """A critical decree on lane0: a signal, no promise."""
        if self.concerns(stored.subject) and stored.id not in self.muted:
            for hear in list(self.lane0.values()):
                self.down.send(lambda hear=hear: hear(stored))

    def beat(self, stored: Stored) -> None:
        for hear in list(self.beats.values()):
            self.down.send(lambda hear=hear: hear(stored))

    async def report(self, stored: Stored) -> None:
        """Keep a report in the region's own stream.

        Raises:
            Unavailable: The leaf is down.
        """
        await asyncio.sleep(self.inside.delay())
        if not self.up:
            raise Unavailable("the leaf is down")
        self.outgoing.append(stored)
        self.filled.set()

    async def forward(self) -> None:
        """Bring reports to the hub, for ever."""
        while True:
            if self.sent == len(self.outgoing):
                self.filled.clear()
                await self.filled.wait()
            await asyncio.sleep(0.02 if self.hub.up and self.back.up and self.up else 0.2)
            while self.sent < len(self.outgoing) and self.hub.up and self.back.up and self.up:
                await asyncio.sleep(self.back.delay())
                if not (self.hub.up and self.back.up):
                    break
                m = self.outgoing[self.sent]
                self.sent += 1
                self.hub.reports.append(Stored(len(self.hub.reports) + 1, m.subject, m.body, m.id))
                self.hub.pulse()


Heard = Callable[[Stored], Awaitable[None]]
