"""`just bench custody`: how many residences one node holds, in how much locked memory, and how fast it unseals them.

First a whole node (custodian, worker, unsealer, prober) on real NATS servers: so many residences come aboard by
decrees, each with a `file` root of its own; the node is killed, starts anew and unseals them all; what they cost then.
Then arenas and unsealer alone, with room for a second L2 and L3 each. RLIMIT_MEMLOCK is 8 MiB in both (`--memlock`).
Prints figures; writes docs/bench/custody.json.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from node_bench import Governor, RunningNode, new_key_file, opening
from openkcm.contract import decrees
from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RootPolicy
from openkcm.execution import admin, keyring, secretmem
from openkcm.execution.arena import RegionArena
from openkcm.execution.cells import KeyArena
from openkcm.execution.roots.base import RootSettings
from openkcm.execution.unseal import Unsealer
from orbital_fixture import running_orbital
from press import Press

OUT = Path(__file__).parents[2] / "docs" / "bench" / "custody.json"


def rss_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def measure(residences: int) -> dict[str, float | int | str]:
    """Make and unseal so many residences."""
    before = rss_mib()
    began = time.perf_counter()
    arena = RegionArena(slots=2 * residences, workloads=residences)
    cells = KeyArena(cells=2 * residences)
    arenas_s = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        settings = RootSettings(policy=RootPolicy(providers=("file",), directories=(folder,)))
        unsealer = Unsealer(settings)
        unsealer.start()
        kept = []

        async def make(n: int) -> None:
            key = Path(folder) / f"{n}.keys"
            key.write_text(f"v1:{base64.b64encode(os.urandom(32)).decode()}\n")
            key.chmod(0o600)
            root, record = RootReference(provider="file", ref=str(key)), f"{n:032x}"
            context = keyring.l2_context(f"t{n}", "eu-frankfurt", 1, record, root, "0" * 64)
            kek = cells.allocate()
            wrapped = await unsealer.wrap_new_kek(f"t{n}", root, context, cells.view(kek))
            cells.release(kek)
            kept.append((n, root, wrapped, context))

        async def unseal(n: int, root: RootReference, wrapped: object, context: keyring.KeyContext) -> None:
            cell, slot = cells.allocate(), arena.allocate()
            await unsealer.unwrap(f"t{n}", root, wrapped, context, cells.view(cell))  # type: ignore[arg-type]
            keyring.generate(arena.slot_view(slot))
            arena.open_gate(slot, arena.generation(slot))

        began = time.perf_counter()
        await asyncio.gather(*(make(n) for n in range(residences)))
        made_s = time.perf_counter() - began
        began = time.perf_counter()
        await asyncio.gather(*(unseal(*one) for one in kept))
        unsealed_s = time.perf_counter() - began
        unsealer.close()
    closing = time.perf_counter()
    arena.close_gates(range(residences))
    closed_us = (time.perf_counter() - closing) * 1e6
    return {
        "residences": residences,
        "memory": arena.mode,
        "memlock_limit_bytes": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        "locked_bytes": arena.size + secretmem.page_aligned(64 * residences),
        "arenas_ms": round(arenas_s * 1e3, 1),
        "rss_growth_mib": round(rss_mib() - before, 1),
        "wraps_per_s": round(residences / made_s, 1),
        "unseals_per_s": round(residences / unsealed_s, 1),
        "all_unsealed_s": round(unsealed_s, 1),
        "all_gates_closed_us": round(closed_us),
    }


# --- a whole node -----------------------------------------------------------------------------------------------------


def status_of(pid: int) -> dict[str, int]:
    """Locked and resident memory in KiB, CPU seconds, descriptors of a process."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    times = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return {
        "locked_kib": int(lines["VmLck"].split()[0]),
        "resident_kib": int(lines["VmRSS"].split()[0]),
        "cpu_ticks": int(times[11]) + int(times[12]),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


async def until(what: Callable[[], bool], timeout_s: float = 1800) -> float:
    """Wait; return the seconds it took."""
    began = time.perf_counter()
    while not what():
        if time.perf_counter() - began > timeout_s:
            raise TimeoutError(f"not within {timeout_s:g} s")
        await asyncio.sleep(2)  # the node's answer is work of its own
    return time.perf_counter() - began


async def whole(residences: int) -> dict[str, float | int | str]:
    """Bring so many residences aboard on one node, kill it, have it start anew."""
    press = Press()
    with tempfile.TemporaryDirectory() as folder, running_orbital(Path(folder) / "stack") as orbital:
        node = RunningNode(orbital, press, Path(folder) / "node", probes={"file": 30.0})
        where = admin.socket_of(str(node.configuration["database"]))

        def seen() -> dict:
            while True:
                try:
                    return admin.ask(where, admin.Ask(verb="status"))
                except OSError:  # thousands are on their way: it answers a little later
                    time.sleep(1)

        def unsealed() -> int:
            return sum(r["slots"] for r in seen()["residences"])

        async with Governor(orbital, press) as governor:
            for e in opening(press):
                await governor.append(e)
            node.start()
            try:
                await node.wait_ready(120)
                await until(lambda: governor.health is not None and governor.health.cursor[1] >= 1)
                few = asyncio.Semaphore(32)

                async def aboard(tenant: str) -> None:
                    key = node.folder / f"{tenant}.keys"
                    new_key_file(key)
                    linked = decrees.RootKeyLinked(root=RootReference(provider="file", ref=str(key)))
                    for e in press.onboarded(tenant, lease_s=7 * 24 * 3600):
                        rooted = e.tag == "RootKeyLinked.1"
                        async with few:
                            await governor.append(press.residence(tenant, linked, counter=e.counter) if rooted else e)

                began = time.perf_counter()
                names = [f"t{n:05d}" for n in range(residences)]
                await asyncio.gather(*(aboard(tenant) for tenant in names))
                await until(lambda: all(governor.acked(t, "routine", 5, "active") for t in names))
                aboard_s = time.perf_counter() - began
                node.kill()
                began = time.perf_counter()
                node.start()
                await node.wait_ready(300)
                ready_s = time.perf_counter() - began
                await until(lambda: unsealed() == residences)
                all_s = time.perf_counter() - began
                await asyncio.sleep(5)
                before, _ = status_of(node.process.pid), await asyncio.sleep(20)
                after, said = status_of(node.process.pid), seen()
            finally:
                node.stop()
    return {
        "residences": residences,
        "memory": said["memory"]["mode"],
        "memlock_limit_bytes": said["memory"]["limit_bytes"] or -1,
        "key_slots": said["memory"]["key_slots"]["all"],
        "evicted": said["memory"]["evicted"],
        "locked_kib": after["locked_kib"],
        "resident_mib": round(after["resident_kib"] / 1024, 1),
        "descriptors": after["descriptors"],
        "aboard_s": round(aboard_s, 1),
        "made_per_s": round(residences / aboard_s, 1),
        "restart_to_listener_s": round(ready_s, 1),
        "restart_to_all_unsealed_s": round(all_s, 1),
        "unsealed_per_s": round(residences / all_s, 1),
        "cpu_of_holding_them_percent": round(
            (after["cpu_ticks"] - before["cpu_ticks"]) / os.sysconf("SC_CLK_TCK") / 0.2, 1
        ),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--residences", type=int, default=5000)
    parser.add_argument("--memlock", type=int, default=8 << 20, help="RLIMIT_MEMLOCK in bytes")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (given.memlock, given.memlock))
    figures = {"node": asyncio.run(whole(given.residences)), "arenas": asyncio.run(measure(given.residences))}
    for part, values in figures.items():
        for name, value in values.items():
            print(f"{part:7} {name:28} {value}")
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=2) + "\n")
