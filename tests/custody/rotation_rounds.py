"""Rotations on two nodes of a region under constant KMIP load, with kill -9 at random moments. Used by the test and the
soak: no read may fail, no key may be lost, and in the end nothing is left of older versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

from custody.residence_bench import REGION, Residence, Thief, onboard, settled
from execution.kmip_client import Failed
from node_bench import Governor, RunningNode, new_key_file
from openkcm.bus.publish import api
from openkcm.contract import decrees as d
from openkcm.execution.keyring import L2Record, L3Record, RingRecord
from openkcm.execution.records import ObjectRecord
from orbital_fixture import Orbital, running_orbital
from press import Press

NAMES = (f"{REGION}-1", f"{REGION}-2")
OBJECTS = 12


class Load:
    """Reads what was encrypted before, and encrypts anew, on every node, all the time. A lost connection is no failed
    read: the client comes again; a refusal is one."""

    def __init__(self, residence: Residence, nodes: list[RunningNode]) -> None:
        self.residence, self.nodes = residence, nodes
        self.kept: list[tuple[str, bytes, object]] = []
        self.good, self.failed, self.refused = 0, [], 0
        self.refusals_expected = False

    async def __aenter__(self):
        client = await self.residence.client(self.nodes[0])
        for n in range(OBJECTS):
            uid, plain = await client.new_key(), f"kept {n}".encode()
            self.kept.append((uid, plain, await client.encrypt(uid, plain)))
        await client.close()
        self._tasks = [asyncio.ensure_future(self._work(node)) for node in self.nodes for _ in range(2)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self, node: RunningNode) -> None:
        while True:
            try:
                client = await self.residence.client(node)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._session(node, client)

    async def _session(self, node: RunningNode, client) -> None:
        while True:
            uid, plain, done = random.choice(self.kept)
            try:
                if await client.decrypt(uid, done) != plain:
                    self.failed.append(f"{node.folder.name}: {uid} decrypts to something else")
                new = await client.encrypt(uid, b"new")
                if await client.decrypt(uid, new) != b"new":
                    self.failed.append(f"{node.folder.name}: {uid} does not decrypt what it encrypted")
                self.good += 1
            except Failed as no:
                if self.refusals_expected:
                    self.refused += 1
                else:
                    self.failed.append(f"{node.folder.name}: {no}")
            await asyncio.sleep(0.002)


class Pair:
    """Two nodes of one region, a residence on them, and the load."""

    def __init__(self, orbital: Orbital, governor: Governor, nodes: list[RunningNode]) -> None:
        self.orbital, self.governor, self.nodes = orbital, governor, nodes
        self.root_versions = 1

    async def order(self, level: str, n: int) -> None:
        """Have a level rotated: L1 by the customer, the others by decree."""
        press = self.governor.press
        if level == "L1":
            self.root_versions += 1
            new_key_file(self.nodes[0].folder / "acme.keys", versions=self.root_versions)
            return
        registration = self.residence.registration if level == "L3" else None
        rotation = d.RotationOrdered(level=level, registration=registration, rotation=f"rotation-{n:05d}")
        await self.governor.append(press.residence("acme", rotation))

    async def restart(self, node: RunningNode) -> None:
        node.kill()
        node.start()
        await node.wait_ready()

    async def ring(self) -> RingRecord:
        async with Thief(self.governor, self.nodes[0]) as thief:
            return await thief.record("acme", "ring", "acme", RingRecord)

    async def agree(self) -> None:
        """Wait until both nodes have read the same of the vault, and say the same digest of it."""

        def same() -> bool:
            marks = {self.governor.healths[name].vault for name in NAMES}
            return len({m.cursor for m in marks}) == 1 and all(m.digest for m in marks)

        await self.governor.until(same)
        assert len({self.governor.healths[name].vault.digest for name in NAMES}) == 1

    async def clean(self, l2: int, l3: int, root: int, *, timeout_s: float = 120) -> None:
        """Wait until exactly these versions are left, in every record, and no older revision of any key record."""
        until = asyncio.get_running_loop().time() + timeout_s
        why = "?"
        while asyncio.get_running_loop().time() < until:
            why = await self._unclean(l2, l3, root)
            if not why:
                return
            await asyncio.sleep(0.2)
        tails = "".join(f"\n--- {node.folder.name}\n{node.tail()[-1500:]}" for node in self.nodes)
        raise AssertionError(f"not clean within {timeout_s} s: {why}{tails}")

    async def _unclean(self, l2: int, l3: int, root: int) -> str:
        async with Thief(self.governor, self.nodes[0]) as thief:
            ring = await thief.record("acme", "ring", "acme", RingRecord)
            named = set(ring.l2), set(ring.l3[self.residence.registration])
            if named != ({l2}, {l3}):
                return f"the ring names {named}, released {ring.released}"
            second = await thief.record("acme", "l2", ring.l2[l2], L2Record)
            third = await thief.record("acme", "l3", ring.l3[self.residence.registration][l3], L3Record)
            if (second.wrapped.root_version, third.l2_version) != (f"v{root}", l2):
                return f"L2 is under {second.wrapped.root_version}, L3 under {third.l2_version}"
            for uid, _, _ in self.load.kept:
                found = await thief.record("acme", "object", uid, ObjectRecord)
                if found.l3_version != l3:
                    return f"object {uid} is under version {found.l3_version}"
        admin = await self.orbital.connect(f"{REGION}-admin")
        try:
            asked = {"subjects_filter": f"kcm.vault.{REGION}.acme.>"}
            counts = (await api(admin, "$JS.API.STREAM.INFO.VAULT", asked))["state"].get("subjects", {})
        finally:
            await admin.close()
        keys = {s: n for s, n in counts.items() if s.split(".")[4] in ("ring", "l2", "l3")}
        return "" if len(keys) == 3 and set(keys.values()) == {1} else f"left in the vault: {keys}"


@contextlib.asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[Pair]:
    """Two running nodes with a residence under load."""
    press = Press()
    with running_orbital(folder / "stack", nodes_per_region=2) as orbital:
        nodes = [RunningNode(orbital, press, folder / name, name=name, roots=(folder / NAMES[0],)) for name in NAMES]
        async with Governor(orbital, press) as governor:
            for e in press.opening(*((name, REGION) for name in NAMES)):
                await governor.append(e)
            for node in nodes:
                node.start()
            try:
                for node in nodes:
                    await node.wait_ready()
                await settled(governor)
                both = Pair(orbital, governor, nodes)
                both.residence = await onboard(governor, nodes[0], "acme")
                await governor.until(lambda: {r.node for r in governor.healths.values()} == set(NAMES))
                await asyncio.sleep(2.5)  # the other node's lease and keys
                both.load = Load(both.residence, nodes)
                async with both.load:
                    yield both
            finally:
                for node in nodes:
                    node.stop()


async def rounds(both: Pair, count: int, *, seed: int, say=print) -> None:
    """So many rotations, each with a kill -9 of a random node at a random moment."""
    dice = random.Random(seed)
    versions = {"L1": 1, "L2": 1, "L3": 1}
    for n in range(count):
        level = ("L3", "L2", "L1")[n % 3]
        versions[level] += 1
        await both.order(level, n)
        victim = dice.choice(both.nodes)
        after = dice.uniform(0.0, 1.2)
        await asyncio.sleep(after)
        await both.restart(victim)
        await both.clean(versions["L2"], versions["L3"], versions["L1"])
        assert both.load.failed == [], both.load.failed[:5]
        await both.agree()
        say(f"round {n + 1}: {level} rotated, {victim.folder.name} killed after {after:.2f} s, "
            f"{both.load.good} reads and writes good, none failed, old versions gone", flush=True)  # fmt: skip
