"""`just bench custody`: how many residences one node holds, in how much locked memory, and how fast it unseals them.

Real arenas under the shell's own RLIMIT_MEMLOCK, the real unsealing helper, one `file` root a residence; no bus. Each
residence has one L2 and one L3, and room for a second of each. Prints figures; writes docs/bench/custody.json.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import resource
import tempfile
import time
from pathlib import Path

from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RootPolicy
from openkcm.execution import keyring, secretmem
from openkcm.execution.arena import RegionArena
from openkcm.execution.cells import KeyArena
from openkcm.execution.roots.base import RootSettings
from openkcm.execution.unseal import Unsealer

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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--residences", type=int, default=5000)
    given = parser.parse_args()
    figures = asyncio.run(measure(given.residences))
    for name, value in figures.items():
        print(f"{name:22} {value}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=2) + "\n")
