"""`just soak-rotation`: L3, L2 and L1 rotated in turn on two nodes under load, with kill -9 of one at a random moment."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from custody.rotation_rounds import pair, rounds


async def soak(count: int, seed: int) -> None:
    """So many rotations on one pair of nodes."""
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        async with pair(Path(folder)) as both:
            await rounds(both, count, seed=seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=60, help="a third of them each level")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    given = parser.parse_args()
    asyncio.run(soak(given.rounds, given.seed))
