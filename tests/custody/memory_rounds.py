"""Rounds of: onboard, encrypt, scan idle, scan under load, dump and fork, revoke, scan again. Used by the test and the
soak. What a scan must find each time is a control process that keeps the same keys in a plain dict.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from custody.residence_bench import Pace, Residence, Thief, descendants, onboard, workers_of, working
from node_bench import Governor, RunningNode
from openkcm.contract import decrees as d

SCANNER = Path(__file__).with_name("scanner.py")
FORK_INSIDE = Path(__file__).with_name("fork_inside.py")
CONTROL = """
import base64, json, sys
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
keys = {name: bytes.fromhex(x) for name, x in json.load(sys.stdin).items()}
kept = [keys]
kept += [base64.b64encode(bytes(n) + k) for k in keys.values() for n in range(3)]
kept += [k.hex().encode() for k in keys.values()] + [k.hex().upper().encode() for k in keys.values()]
for k in keys.values():
    kept += [Cipher(algorithms.AES(k), modes.GCM(bytes(12))).encryptor()]
    kept += [Cipher(algorithms.AES(k), modes.CBC(bytes(16))).decryptor()]
print("kept", flush=True)
sys.stdin = open(0); __import__("time").sleep(600)
"""
GONE_KEPT = 8  # keys of the last two rounds are looked for in the next one, too
#: Shapes that the control keeps of each key.
KEPT = {"first half", "second half", "hex", "HEX", "base64+0", "base64+1", "base64+2", "round key 2",
        "inverse round key 2"}  # fmt: skip


class Search:
    """The scanner, as a process of its own that remembers what it has searched."""

    async def __aenter__(self):
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, SCANNER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 24
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.wait()

    async def scan(self, secrets: dict[str, bytes], pids: list[int] = (), files: list[str] = ()) -> dict:
        """Search processes and files."""
        order = {"secrets": {n: s.hex() for n, s in secrets.items()}, "pids": pids, "files": [str(f) for f in files]}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return json.loads(await self._process.stdout.readline())

    async def control(self, secrets: dict[str, bytes]) -> set[tuple[str, str]]:
        """What is found in a process that keeps these keys in a plain dict: (secret, shape)."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CONTROL, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            process.stdin.write(json.dumps({n: s.hex() for n, s in secrets.items()}).encode())
            process.stdin.write_eof()
            assert await process.stdout.readline() == b"kept\n"
            found = await self.scan(secrets, [process.pid])
        finally:
            process.kill()
            await process.wait()
        return {(h["secret"], h["shape"]) for h in found["hits"]}

    async def dumped(self, pid: int, folder: Path, secrets: dict[str, bytes]) -> dict:
        """Search a core dump by gcore."""
        process = await asyncio.create_subprocess_exec(
            "gcore", "-o", folder / "core", str(pid), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        _, wrong = await process.communicate()
        core = folder / f"core.{pid}"
        assert core.exists(), wrong.decode()
        try:
            return await self.scan(secrets, files=[core])
        finally:
            core.unlink()

    async def forked(self, pid: int, secrets: dict[str, bytes]) -> dict:
        """Have the process fork, as root can, and search the child while it stands still."""
        forker = await asyncio.create_subprocess_exec(
            sys.executable, FORK_INSIDE, str(pid), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        child = await forker.stdout.readline()
        found = await self.scan(secrets, [int(child)]) if child else {}
        _, wrong = await forker.communicate(b"")  # ends its stdin
        assert forker.returncode == 0, wrong.decode()
        return found


def _place(hit: dict) -> tuple:
    return hit["where"], hit["at"], hit["secret"], hit["shape"]  # not `of`: each fork is another process


class MemoryRounds:
    """Rounds on one running node; each has a tenant of its own, and what earlier ones left would be found too."""

    def __init__(self, governor: Governor, node: RunningNode, search: Search, *, readable: bool = False) -> None:
        """Prepare.

        Args:
            readable: The arenas are fall-back memory, which root can read: hits inside it count while serving.
        """
        self.governor, self.node, self.search, self.readable = governor, node, search, readable
        self.gone: dict[str, bytes] = {}
        self.bytes = self.operations = self.dumps = self.forks = self.controls = 0
        self.transient: list[dict] = []
        self.pace = Pace()

    async def play(self, name: str) -> None:
        """One round. Raises AssertionError with the hits."""
        governor, node = self.governor, self.node
        residence = await onboard(governor, node, name)
        uid = await residence.new_key(node)
        async with Thief(governor, node) as thief:
            keys = await thief.keys(name, uid)
        found = await self.search.control(keys)  # the scanner is not broken
        assert found >= {(key, shape) for key in keys for shape in KEPT}, found
        self.controls += 1
        counts = [0, 0]
        await self._work(residence, uid, counts, 0.3)
        await self._expect(keys, "idle")
        await self._under_load(residence, uid, keys, counts)
        self.operations += counts[0]
        self.gone = dict([*self.gone.items(), *keys.items()][-GONE_KEPT:])
        await self._expect({}, "after the acknowledgement")

    async def _work(self, residence: Residence, uid: str, counts: list[int], seconds: float) -> None:
        tasks = [asyncio.ensure_future(working(residence, self.node, uid, counts, self.pace)) for _ in range(4)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)

    async def _under_load(self, residence: Residence, uid: str, keys: dict[str, bytes], counts: list[int]) -> None:
        tasks = [asyncio.ensure_future(working(residence, self.node, uid, counts, self.pace)) for _ in range(3)]
        await asyncio.sleep(0.2)
        await self._expect(keys, "under load")
        revoked = self.governor.press.residence(residence.tenant, d.AccessRevoked(reason="test"))
        await self.governor.append(revoked)
        await self.governor.until(lambda: self.governor.acked(residence.tenant, "critical", 1, "revoked"))
        await asyncio.wait(tasks, timeout=10)
        assert counts[1] == len(tasks), counts

    async def _expect(self, keys: dict[str, bytes], when: str) -> None:
        """Scan all processes of the node, dump one and have one fork; none has what it should not have."""
        pids = descendants(self.node.process.pid)
        sought = keys | self.gone
        found = await self._judge(lambda: self.search.scan(sought, pids), when)
        if keys and self.readable:
            inside = {h["secret"].partition("/")[2] for h in found["hits"]}
            assert inside >= {"l2", "l3"}, f"{when}: the scanner reads the fall-back arenas and found {inside}"
        turns = [self.node.process.pid, *workers_of(self.node.process.pid)]
        pid = turns[self.dumps % len(turns)]  # each in its turn
        found = await self._judge(lambda: self.search.dumped(pid, self.node.folder, sought), f"{when}, dump of {pid}")
        assert found["bytes"] > 1 << 20
        self.dumps += 1
        found = await self._judge(lambda: self.search.forked(pid, sought), f"{when}, fork of {pid}")
        assert found["bytes"] > 1 << 20
        self.forks += 1

    async def _judge(self, look: Callable[[], Awaitable[dict]], when: str) -> dict:
        """Look, and count what is found outside the arenas. A residue is what stays where it is.

        An operation under way has its cipher context in the heap and round keys in registers (docs/threat-model.md): what
        was found of a residence that serves under load is counted, and looked for again while nothing is under way.
        """
        answer = await look()
        self.bytes += answer["bytes"]
        hits = [h for h in answer["hits"] if not self._in_arena(h) or h["secret"] in self.gone]
        if when.startswith("under load") and hits and not any(h["secret"] in self.gone for h in hits):
            self.transient += [{**h, "when": when} for h in hits]
            async with self.pace.still():
                again = {_place(h) for h in (await look())["hits"]}
            hits = [h for h in hits if _place(h) in again]
        assert hits == [], f"{when}: {hits}"
        return answer

    def _in_arena(self, hit: dict) -> bool:
        return self.readable and hit["where"].startswith("/memfd:keys")
