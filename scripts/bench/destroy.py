"""`just bench destroy`: what others feel while a residence with 10,000 objects (or so many) is destroyed; what stays.

Hub, leaf and node as in production; the objects come into the vault as in `just bench vault`. Then ContextDestroyed,
and from there to the node's report that all is erased: Get, Encrypt and Create of another tenant's client, one after
another, beside the same before; the custodian's memory; when this node's copies are half gone; what the region's server
wrote. With `--kill` the node gets SIGKILL in the midst and is started anew: it goes on with what is left. At the end
nothing of the residence may be in the vault, nor in the node's tables, but its tombstones. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT / "scripts" / "bench")

from vault import REGION, TENANT, asked, cpu_s, filled, no_longer_fresh, rss_mib, started  # noqa: E402 -- finds tests/

from custody.residence_bench import Residence, destruction, onboard, serving_node  # noqa: E402
from execution.kmip_client import create_request  # noqa: E402
from node_bench import Governor, RunningNode  # noqa: E402
from openkcm.bus.vault import Vault  # noqa: E402
from openkcm.contract import reports  # noqa: E402
from openkcm.kmip.payloads.retrieval import GetRequest  # noqa: E402
from openkcm.projector import open_reader  # noqa: E402
from orbital_fixture import EU_NODE  # noqa: E402

OTHER: Final = "bolt"
PAUSE_S: Final = 0.005
ALONE_S: Final = 10.0
GIVE_UP_S: Final = 3600.0
TABLES: Final = ("objects", "object_terms", "vault_known")


class Customer:
    """Another tenant's client, who measures what it waits, in milliseconds."""

    def __init__(self, residence: Residence, node: RunningNode, uid: str) -> None:
        self._residence, self._node, self._uid = residence, node, uid
        self.waits: dict[str, list[float]] = {}

    async def work(self) -> None:
        """Get, Encrypt, and now and then Create, until cancelled; come again when the node was away."""
        number = 0
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                client = await self._residence.client(self._node)
                try:
                    while True:
                        number += 1
                        await self._timed("get", asked(client, GetRequest(unique_identifier=self._uid)))
                        await self._timed("encrypt", client.encrypt(self._uid, bytes(1024)))
                        if number % 5 == 0:
                            await self._timed("create", asked(client, create_request()))
                        await asyncio.sleep(PAUSE_S)
                finally:
                    with contextlib.suppress(Exception):
                        await client.close()
            await asyncio.sleep(0.1)

    async def _timed(self, name: str, asking: Any) -> None:
        began = time.monotonic()
        await asking
        self.waits.setdefault(name, []).append((time.monotonic() - began) * 1e3)

    def said(self) -> dict[str, dict[str, float]]:
        """Return p50, p99 and the worst so far, and begin anew."""
        found, self.waits = self.waits, {}
        return {
            name: {"n": len(w), "p50_ms": round(w[len(w) // 2], 2), "p99_ms": round(w[int(len(w) * 0.99)], 2),
                   "worst_ms": round(w[-1], 1)}
            for name, w in ((name, sorted(some)) for name, some in found.items())
        }  # fmt: skip


def left(node: RunningNode) -> dict[str, int]:
    """Rows of the residence in each of the node's tables."""
    reader = open_reader(node.folder / "node.sqlite")
    try:
        return {t: int(reader.rows(f"SELECT count(*) FROM {t} WHERE tenant = ?", (TENANT,))[0][0]) for t in TABLES}
    finally:
        reader.close()


def written_mib(pid: int) -> float:
    """What a process has had written to disks so far."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["write_bytes"]) / (1 << 20)


def disk_mib(folder: Path) -> float:
    """What the files of a folder take."""
    return round(sum(f.stat().st_blocks * 512 for f in folder.rglob("*") if f.is_file()) / (1 << 20), 1)


async def watched(node: RunningNode, governor: Governor, vault: Vault, objects: int, *, kill: bool) -> dict[str, Any]:
    """Follow the destroying to its report; return times, memory, and what the report says."""
    began, most, at, killed = time.monotonic(), 0.0, {}, 0.0
    cpu = 0.0
    while True:
        gone = [r for r in governor.seen if isinstance(r, reports.ResidenceShredded)]
        if gone:
            break
        if time.monotonic() - began > GIVE_UP_S:
            raise SystemExit(f"not shredded: {left(node)}; {node.tail()}")
        await asyncio.sleep(0.5)
        assert node.process is not None
        most, cpu = max(most, rss_mib(node.process.pid)), cpu_s(node.process.pid)
        rows = left(node)
        for name, count in rows.items():
            if count < objects / 2:
                at.setdefault(f"half_of_{name}_s", round(time.monotonic() - began, 1))
        if kill and not killed and time.monotonic() - began > kill_after(objects):
            node.kill()
            killed = round(time.monotonic() - began, 1)
            node.start()
            await node.wait_ready()
    stored = [s.subject async for s in vault.walk(TENANT)]
    return {
        "took_s": round(time.monotonic() - began, 1), **at, "killed_at_s": killed, "custodian_most_mib": most,
        "custodian_cpu_s": round(cpu, 1), "report": {"vault": gone[-1].vault, "rows": gone[-1].rows},
        "rows_left": left(node), "vault_left": [s.rpartition(".")[0].rpartition(".")[2] for s in stored],
    }  # fmt: skip


def kill_after(objects: int) -> float:
    """Seconds after which the vault's erasing is surely under way."""
    return 2 + objects / 1000


async def run(folder: Path, objects: int, *, kill: bool) -> dict[str, Any]:
    """Fill, measure alone, destroy, measure."""
    async with serving_node(folder) as (governor, node):
        orbital = governor.orbital
        big, other = await onboard(governor, node, TENANT), await onboard(governor, node, OTHER)
        uid, others = await big.new_key(node), await other.new_key(node)
        for residence, one in ((big, uid), (other, others)):
            await no_longer_fresh(node, residence, one)
        await filled(governor, node, uid, objects, 2)
        await started(node, other, others, objects + 2)
        leaf = next(p for p in (folder / "stack").rglob("VAULT") if REGION in str(p))
        assert node.process is not None
        before = {
            "leaf_mib": disk_mib(leaf), "node_mib": disk_mib(node.folder), "custodian_mib": rss_mib(node.process.pid)
        }  # fmt: skip
        customer = Customer(other, node, others)
        working = asyncio.ensure_future(customer.work())
        connection = await orbital.connect(EU_NODE)
        try:
            await asyncio.sleep(ALONE_S)
            alone, wrote = customer.said(), written_mib(orbital.servers[REGION].process.pid)
            await governor.append(destruction(governor.press, TENANT))
            found = await watched(node, governor, Vault(connection, REGION), objects, kill=kill)
            during, wrote = customer.said(), written_mib(orbital.servers[REGION].process.pid) - wrote
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await connection.close()
        after = {"leaf_mib": disk_mib(leaf), "leaf_wrote_mib": round(wrote), "node_mib": disk_mib(node.folder)}
    return {"objects": objects, "before": before, "alone": alone, "during": during, **found, "after": after}


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--folder", type=Path, help="Where state lies while it runs; default: a temporary directory.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-destroy-", dir=options.folder) as folder:
        found = asyncio.run(run(Path(folder), options.objects, kill=options.kill))
    print(json.dumps(found, indent=1))
    stays = (
        {*found["vault_left"]} - {"ring", "fence"}
        or found["rows_left"]["objects"]
        or found["rows_left"]["object_terms"]
    )
    return 1 if stays else 0


if __name__ == "__main__":
    sys.exit(main())
