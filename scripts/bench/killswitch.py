"""How fast the kill switch is: from the API's answer to the closed gate and to the SyncAck, per node, open loop.

Starts a stack of its own on real servers, pulls the switch N times at a fixed rate whatever the answers do, reads every
sealed SyncAck from the hub, and then does it again with a backlog of routine events before the nodes. A gate's
closing is taken from the first ack that covers the revocation: with several in flight that is a later closing, never an
earlier one.
Writes a JSON and an SVG. All times are CLOCK_BOOTTIME of this one machine.

    just bench killswitch --revocations 10000 --rate 2 --backlog 100000 --nodes 10
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx

from openkcm.bus.connection import connect
from openkcm.bus.reports import Reports
from openkcm.cli import endpoints, orbital, rogue
from openkcm.cli.layout import Layout
from openkcm.contract import envelope as env
from openkcm.contract import reports

ROOT = Path(__file__).parents[2]
TENANT = "acme"
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)
SETTLE_S = 30.0


def boottime_ms() -> float:
    """Return CLOCK_BOOTTIME in milliseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6


class Acks:
    """Every SyncAck that the hub has, with when it came."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str, str], list[tuple[int, float, float]]] = defaultdict(list)

    async def follow(self, connection: Any) -> None:
        """Read them as they come, for ever."""
        async for stored in Reports(connection).follow(after=0):
            e = env.decode(stored.body)
            if e.tag == "SyncAck.1":
                ack = reports.read(e.tag, e.data)
                assert isinstance(ack, reports.SyncAck)
                closed = (ack.closed_boottime_ns or 0) / 1e6
                self.seen[ack.tenant, e.actor.subject, ack.lane].append((ack.floor, boottime_ms(), closed))

    def first(self, node: str, lane: str, counter: int) -> tuple[float, float] | None:
        """(came, closed) of the first ack of a node that covers a counter."""
        return next(((came, closed) for f, came, closed in self.seen[TENANT, node, lane] if f >= counter), None)


async def pull(client: httpx.AsyncClient, count: int, rate: float, path: str, lane: str) -> list[dict[str, Any]]:
    """Order `count` times at `rate` a second, whatever the answers do."""
    begun = time.monotonic()

    async def one(n: int) -> dict[str, Any]:
        await asyncio.sleep(max(0.0, begun + n / rate - time.monotonic()))
        headers = {"Idempotency-Key": f"bench-{lane}-{begun}-{n}"}
        asked = boottime_ms()
        if lane == "critical":
            answer = await client.post(path, json={"reason": "bench"}, headers=headers)
        else:
            answer = await client.patch(path, json={"labels": {"n": str(n)}}, headers=headers)
        answered = boottime_ms()
        body = answer.json()
        if answer.status_code != 202:
            raise SystemExit(f"the API answered {answer.status_code}: {body}")
        return {"asked": asked, "answered": answered, "body": body}

    return list(await asyncio.gather(*(one(n) for n in range(count))))


def spread(values: list[float]) -> dict[str, float]:
    """Return the quantiles and the count."""
    ordered = sorted(values)
    at = {f"p{q * 100:g}": ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in QUANTILES}
    return {k: round(v, 2) for k, v in at.items()} | {"n": len(ordered)}


async def measure(layout: Layout, e: endpoints.Endpoints, args: argparse.Namespace, backlog: int) -> dict[str, Any]:
    """Pull the switch behind so many routine events; return the spread of each figure."""
    connection = await connect(orbital.access(layout.state, "cmk", layout.ports.hub), name="bench")
    acks = Acks()
    following = asyncio.ensure_future(acks.follow(connection))
    regions = sorted({n.region for n in e.nodes})
    token = e.people["acme/admin"].token
    verify: Any = e.cmk.ca or False
    async with httpx.AsyncClient(
        base_url=f"{e.cmk.url}/cmk/v1", headers={"Authorization": f"Bearer {token}"}, verify=verify, timeout=60,
        limits=httpx.Limits(max_connections=64), trust_env=False,
    ) as client:  # fmt: skip
        if backlog:
            await asyncio.to_thread(rogue.pause_routine, layout)
            await asyncio.to_thread(rogue.queue_backlog, layout, [(TENANT, r) for r in regions], backlog)
            await asyncio.to_thread(rogue.resume_routine, layout)
        pulled = await pull(client, args.revocations, args.rate, f"/tenants/{TENANT}/revocations", "critical")
        routine = []
        if not backlog:
            path = f"/tenants/{TENANT}/regions/{regions[0]}/configuration"
            routine = await pull(client, args.revocations // 4, args.rate / 4, path, "routine")
        until = time.monotonic() + SETTLE_S
        found: dict[str, list[float]] = defaultdict(list)
        while time.monotonic() < until:
            await asyncio.sleep(0.5)
            found, missing = collect(acks, e, pulled, routine, regions[0])
            if not missing:
                break
    following.cancel()
    await connection.close()
    if missing:
        raise SystemExit(f"{missing} acknowledgements did not come within {SETTLE_S} s")
    return {"backlog": backlog, "nodes": len(e.nodes), **{name: spread(v) for name, v in sorted(found.items())}}


def collect(
    acks: Acks, e: endpoints.Endpoints, pulled: list[Any], routine: list[Any], region: str
) -> tuple[dict[str, list[float]], int]:
    """Return the figures in milliseconds, and how many acknowledgements have not come yet."""
    found: dict[str, list[float]] = defaultdict(list)
    missing = 0
    for order in pulled:
        fences = {r["region"]: r["fence"] for r in order["body"]["revocations"]}
        for node in e.nodes:
            got = acks.first(node.name, "critical", fences[node.region])
            if got is None:
                missing += 1
                continue
            came, closed = got
            found["answer to gate closed (ms)"].append(closed - order["answered"])
            found["order sent to gate closed (ms)"].append(closed - order["asked"])
            found["answer to SyncAck at the hub (ms)"].append(came - order["answered"])
        found["order sent to answer (ms)"].append(order["answered"] - order["asked"])
    for order in routine:
        for node in (n for n in e.nodes if n.region == region):
            got = acks.first(node.name, "routine", order["body"]["generation"])
            missing += got is None
            if got is not None:
                found["ordinary decree: answer to SyncAck (ms)"].append(got[0] - order["answered"])
    return found, missing


def draw(runs: list[dict[str, Any]]) -> str:
    """Bars: p50 and p99 of each figure, each run."""
    rows = [
        (f"{name.removesuffix(' (ms)')}, backlog {run['backlog']:,}", what, figures[what])
        for run in runs for name, figures in run.items() if isinstance(figures, dict) for what in ("p50", "p99")
    ]  # fmt: skip
    most = max(1.0, *(value for *_, value in rows))
    out = []
    for i, (name, what, value) in enumerate(rows):
        y = 30 + i * 20
        width = max(1.0, value / most * 380)
        colour = "#2f6fab" if what == "p50" else "#b5cfe8"
        out.append(f'<text x="410" y="{y + 11}" text-anchor="end">{name} {what}</text>')
        out.append(f'<rect x="416" y="{y}" width="{width:.0f}" height="14" fill="{colour}"/>')
        out.append(f'<text x="{420 + width:.0f}" y="{y + 11}">{value:.1f} ms</text>')
    height = 40 + len(rows) * 20
    size = f'width="880" height="{height}" font-family="sans-serif" font-size="11"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *out, "</svg>"]) + "\n"


def main() -> None:
    """Start, measure, stop, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revocations", type=int, default=100)
    parser.add_argument(
        "--rate", type=float, default=4.0, help="orders a second; one person may give 60 at once, then 2 a second"
    )
    parser.add_argument("--backlog", type=int, default=10_000, help="routine events before the nodes in the second run")
    parser.add_argument("--nodes", type=int, default=1, help="custodians per region (two regions)")
    parser.add_argument("--port-base", type=int, default=27400)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench" / "killswitch.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openkcm-bench-") as folder:
        state = Path(folder) / "state"
        command = [sys.executable, "-m", "openkcm.cli.main", "up", "--state", str(state)]
        options = ["--port-base", str(args.port_base), "--nodes-per-region", str(args.nodes), "--workers", "1"]
        subprocess.run([*command, *options, "--detach"], check=True, stdout=subprocess.DEVNULL)
        try:
            e = endpoints.load(state)
            layout = Layout(state=state, port_base=args.port_base, nodes_per_region=args.nodes)
            runs = [asyncio.run(measure(layout, e, args, backlog)) for backlog in sorted({0, args.backlog})]
        finally:
            subprocess.run([*command, "--stop"], check=False, stdout=subprocess.DEVNULL)
    found = {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "revocations": args.revocations, "rate": args.rate, "load_average": os.getloadavg()[0], "runs": runs,
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    args.out.with_suffix(".svg").write_text(draw(runs))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
