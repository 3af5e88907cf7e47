"""`just bench updates`: what changes of objects cost the region's vault, on a few thousand objects (or so many).

Hub, leaf and node as in production; the objects come into the vault as in `just bench vault`. Activate, one at a time
and on 8 connections; AddAttribute the same; Destroy of objects that were changed; a rotation of the system's key: how
long each takes, and what the region's server writes to its disk meanwhile. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT / "scripts" / "bench")

from destroy import written_mib  # noqa: E402
from vault import REGION, TENANT, asked, filled, no_longer_fresh, started, uid_of  # noqa: E402

from custody.residence_bench import Residence, onboard, serving_node  # noqa: E402
from execution.kmip_client import attribute  # noqa: E402
from node_bench import Governor, RunningNode  # noqa: E402
from openkcm.contract import decrees as d  # noqa: E402
from openkcm.contract import reports  # noqa: E402
from openkcm.kmip.payloads.attributes import AddAttributeRequest  # noqa: E402
from openkcm.kmip.payloads.lifecycle import ActivateRequest, DestroyRequest  # noqa: E402

AT_ONCE: Final = 8


class Bench:
    """A node, its client's residence, and the server whose writes count."""

    def __init__(self, residence: Residence, node: RunningNode, pid: int) -> None:
        self.residence, self.node, self.pid = residence, node, pid

    async def changed(self, make: Callable[[str], Any], count: int, at_once: int, first: int) -> dict[str, float]:
        """Ask for a change of each of so many objects."""
        numbers, waits = iter(range(first, first + count)), []
        before, began = written_mib(self.pid), time.monotonic()

        async def work() -> None:
            client = await self.residence.client(self.node)
            for number in numbers:
                at = time.monotonic()
                await asked(client, make(uid_of(number)))
                waits.append((time.monotonic() - at) * 1e3)
            await client.close()

        await asyncio.gather(*(work() for _ in range(at_once)))
        took = time.monotonic() - began
        waits.sort()
        return {
            "a_second": round(count / took, 1), "p50_ms": round(waits[count // 2], 2),
            "p99_ms": round(waits[int(count * 0.99)], 2),
            "mib_each": round((written_mib(self.pid) - before) / count, 3),
        }  # fmt: skip


def contact(uid: str) -> AddAttributeRequest:
    """Give an object one more attribute."""
    return AddAttributeRequest(unique_identifier=uid, attribute=attribute("Contact Information", "somebody else"))


async def rotated(governor: Governor, bench: Bench) -> dict[str, float]:
    """Rotate the system's key; until its older version is destroyed."""
    before, began = written_mib(bench.pid), time.monotonic()
    order = d.RotationOrdered(level="L3", registration=bench.residence.registration, rotation="rotation-00001")
    await governor.append(governor.press.residence(TENANT, order))
    until = began + 3600
    while not any(isinstance(r, reports.RotationProgressed) and r.destroyed for r in governor.seen):
        if time.monotonic() > until:
            raise SystemExit(f"not rotated: {bench.node.tail()}")
        await asyncio.sleep(0.1)
    return {"took_s": round(time.monotonic() - began, 1), "wrote_mib": round(written_mib(bench.pid) - before)}


async def run(folder: Path, objects: int, count: int) -> dict[str, Any]:
    """Fill, and measure."""
    async with serving_node(folder) as (governor, node):
        residence = await onboard(governor, node, TENANT)
        uid = await residence.new_key(node, active=False)
        await no_longer_fresh(node, residence, uid)
        await filled(governor, node, uid, objects, 1)
        await started(node, residence, uid, objects + 1)
        bench = Bench(residence, node, governor.orbital.servers[REGION].process.pid)
        out: dict[str, Any] = {"objects": objects}
        for name, first, make in (
            ("activate", 0, lambda uid: ActivateRequest(unique_identifier=uid)),
            ("add_attribute", 2 * count, contact),
            ("destroy", 2 * count, lambda uid: DestroyRequest(unique_identifier=uid)),
        ):
            out[name] = await bench.changed(make, count, 1, first)
            out[f"{name}_{AT_ONCE}_at_once"] = await bench.changed(make, count, AT_ONCE, first + count)
            print(json.dumps(out), file=sys.stderr, flush=True)
        out["rotation"] = await rotated(governor, bench)
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=6_000)
    parser.add_argument("--changes", type=int, default=200, help="Of each kind, one at a time and 8 at a time.")
    parser.add_argument("--folder", type=Path, help="Where state lies while it runs; default: a temporary directory.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-updates-", dir=options.folder) as folder:
        print(json.dumps(asyncio.run(run(Path(folder), options.objects, options.changes)), indent=1))


if __name__ == "__main__":
    main()
