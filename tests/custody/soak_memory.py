"""`just soak-custody`: rounds of tests/custody/memory_rounds with 1 and with 4 workers, in secret memory, and some in the
fall-back memory, which root can read: there the keys must be in the arenas while they serve, and nowhere afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from custody.memory_rounds import MemoryRounds, Search
from custody.residence_bench import serving_node


async def soak(workers: int, rounds: int, *, fallback: bool) -> None:
    """So many rounds on one node."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            serving_node(Path(folder), workers=workers, fallback=fallback) as (governor, node),
            Search() as search,
        ):
            played = MemoryRounds(governor, node, search, readable=fallback)
            for n in range(rounds):
                began = time.monotonic()
                await played.play(f"r{n}")
                print(f"{workers} workers{', fall-back' if fallback else ''}: round {n + 1} of {rounds}, "
                      f"{played.operations} operations, {played.bytes >> 20} MiB read, {played.dumps} dumps, "
                      f"{played.forks} forks, control found {played.controls} times, {len(played.transient)} of "
                      f"operations under way, {time.monotonic() - began:.1f} s: no hit", flush=True)  # fmt: skip
            for hit in played.transient:
                print(f"of an operation under way, gone the next instant: {hit}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--fallback-rounds", type=int, default=5)
    parser.add_argument("--on-one-node", type=int, default=10, help="rounds before a fresh node takes the next ones")
    given = parser.parse_args()
    for begun in range(0, given.rounds, given.on_one_node):
        for count in given.workers:
            asyncio.run(soak(count, min(given.on_one_node, given.rounds - begun), fallback=False))
    for count in given.workers if given.fallback_rounds else ():
        asyncio.run(soak(count, given.fallback_rounds, fallback=True))
