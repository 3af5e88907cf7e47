"""Rounds of: onboard, encrypt, scan idle, scan under load, dump and fork, revoke, scan again. Used by the test and the
soak. What a scan must find each time is a control process that keeps the same keys in a plain dict.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from custody.residence_bench import Residence, Thief, descendants, onboard, workers_of, working
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


async def scan(secrets: dict[str, bytes], pids: list[int] = (), files: list[str] = ()) -> dict:
    """Run the scanner as a process of its own."""
    order = {"secrets": {n: s.hex() for n, s in secrets.items()}, "pids": list(pids), "files": [str(f) for f in files]}
    process = await asyncio.create_subprocess_exec(
        sys.executable, SCANNER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, wrong = await process.communicate(json.dumps(order).encode())
    assert process.returncode == 0, wrong.decode()
    return json.loads(said)


async def control(secrets: dict[str, bytes]) -> set[tuple[str, str]]:
    """What the scanner finds in a process that keeps these keys in a plain dict: (secret, shape)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CONTROL, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        process.stdin.write(json.dumps({n: s.hex() for n, s in secrets.items()}).encode())
        process.stdin.write_eof()
        assert await process.stdout.readline() == b"kept\n"
        found = await scan(secrets, [process.pid])
    finally:
        process.kill()
        await process.wait()
    return {(h["secret"], h["shape"]) for h in found["hits"]}


async def dumped(pid: int, folder: Path, secrets: dict[str, bytes]) -> dict:
    """A core dump by gcore, searched."""
    process = await asyncio.create_subprocess_exec(
        "gcore", "-o", folder / "core", str(pid), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, wrong = await process.communicate()
    core = folder / f"core.{pid}"
    assert core.exists(), wrong.decode()
    try:
        return await scan(secrets, files=[core])
    finally:
        core.unlink()


async def forked(pid: int, secrets: dict[str, bytes]) -> dict:
    """Have the process fork, as root can, and search the child while it stands still."""
    forker = await asyncio.create_subprocess_exec(
        sys.executable, FORK_INSIDE, str(pid), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child = await forker.stdout.readline()
    found = await scan(secrets, [int(child)]) if child else {}
    _, wrong = await forker.communicate(b"")  # ends its stdin
    assert forker.returncode == 0, wrong.decode()
    return found


def _place(hit: dict) -> tuple:
    return hit["of"], hit["at"], hit["secret"], hit["shape"]


class MemoryRounds:
    """Rounds on one running node; each has a tenant of its own, and what earlier ones left would be found too."""

    def __init__(self, governor: Governor, node: RunningNode, *, readable: bool = False) -> None:
        """Prepare.

        Args:
            readable: The arenas are fall-back memory, which root can read: hits inside it count while serving.
        """
        self.governor, self.node, self.readable = governor, node, readable
        self.gone: dict[str, bytes] = {}
        self.bytes = self.operations = 0
        self.transient: list[dict] = []

    async def play(self, name: str, *, dump: bool = True) -> None:
        """One round. Raises AssertionError with the hits."""
        governor, node = self.governor, self.node
        residence = await onboard(governor, node, name)
        uid = await residence.new_key(node)
        async with Thief(governor, node) as thief:
            keys = await thief.keys(name, uid)
        found = await control(keys)  # the scanner is not broken
        assert found >= {(key, shape) for key in keys for shape in KEPT}, found
        counts = [0, 0]
        await self._work(residence, uid, counts, 0.3)
        await self._expect(keys, "idle")
        if dump:
            await self._dump_and_fork(keys)
        await self._under_load(residence, uid, keys, counts)
        self.operations += counts[0]
        self.gone = dict([*self.gone.items(), *keys.items()][-GONE_KEPT:])
        await self._expect({}, "after the acknowledgement")

    async def _work(self, residence: Residence, uid: str, counts: list[int], seconds: float) -> None:
        tasks = [asyncio.ensure_future(working(residence, self.node, uid, counts)) for _ in range(4)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)

    async def _under_load(self, residence: Residence, uid: str, keys: dict[str, bytes], counts: list[int]) -> None:
        tasks = [asyncio.ensure_future(working(residence, self.node, uid, counts)) for _ in range(3)]
        await asyncio.sleep(0.2)
        await self._expect(keys, "under load")
        before = counts[0]
        revoked = self.governor.press.residence(residence.tenant, d.AccessRevoked(reason="test"))
        await self.governor.append(revoked)
        await self.governor.until(lambda: self.governor.acked(residence.tenant, "critical", 1, "revoked"))
        await asyncio.wait(tasks, timeout=10)
        assert counts[1] == len(tasks), (counts, before)

    async def _expect(self, keys: dict[str, bytes], when: str) -> None:
        pids = descendants(self.node.process.pid)
        answer = await scan(keys | self.gone, pids)
        self.bytes += answer["bytes"]
        hits = [h for h in answer["hits"] if not self._in_arena(h) or h["secret"] in self.gone]
        if when == "under load" and hits and not any(h["secret"] in self.gone for h in hits):
            # An operation under way has its cipher context in the heap (docs/threat-model.md). A residue is what stays.
            self.transient += hits
            await asyncio.sleep(0.01)
            again = {_place(h) for h in (await scan(keys, pids))["hits"]}
            hits = [h for h in hits if _place(h) in again]
        assert hits == [], f"{when}: {hits}"
        if keys and self.readable:
            inside = {h["secret"].partition("/")[2] for h in answer["hits"]}
            assert inside >= {"l2", "l3"}, f"{when}: the scanner reads the fall-back arenas and found {inside}"

    def _in_arena(self, hit: dict) -> bool:
        return self.readable and hit["where"].startswith("/memfd:keys")

    async def _dump_and_fork(self, keys: dict[str, bytes]) -> None:
        custodian = self.node.process.pid
        for pid in (custodian, workers_of(custodian)[0]):
            for answer in (await dumped(pid, self.node.folder, keys | self.gone), await forked(pid, keys | self.gone)):
                assert answer["hits"] == [], f"dump or fork of {pid}: {answer['hits']}"
                assert answer["bytes"] > 1 << 20
