"""How fast the kill switch is: from the API's answer to the closed gate and to the SyncAck, per node, open loop.

Starts a stack of its own on real servers with tenants of its own, whose keys are unsealed on every node. Orders come at
a fixed rate whatever the answers do, from each tenant's admin in turn. First the lanes are idle, then a backlog of
routine events is appended at once, faster than anybody reads it, governance included; what was ordered after a node had
worked it off is left out there.

The time of a gate's closing is the node's own record (CLOCK_BOOTTIME, in its sealed SyncAck), taken from the first ack
that covers the revocation: with several in flight that is a later closing, never an earlier one. An order's first
closing of a residence zeroizes its keys; the later ones find it closed and go through all the same steps.
Writes a JSON with histograms and an SVG.

    just bench killswitch --revocations 2000 --rate 20 --backlog 5000 100000 --nodes 1
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
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import killswitch_plot
import msgspec
from fleet import PERSON_RATE, SETTLE_S, SIGNED_IN_S, Fleet

from openkcm.bus.connection import connect
from openkcm.bus.ledger import Ledger
from openkcm.bus.reports import Reports
from openkcm.cli import endpoints, orbital, rogue
from openkcm.cli.layout import Layout
from openkcm.contract import envelope as env
from openkcm.contract import reports
from openkcm.contract.subjects import residence_aggregate

ROOT = Path(__file__).parents[2]
FEW = 500  # ordinary orders, at most
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)
GATE, ACK, ORDINARY = (
    "answer to gate closed (ms)",
    "answer to SyncAck at the hub (ms)",
    "ordinary: answer to SyncAck (ms)",
)


def boottime_ms() -> float:
    """Return CLOCK_BOOTTIME in milliseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6


class Acks:
    """Every SyncAck that the hub has, with when it came: floors never fall within a node's lane."""

    def __init__(self) -> None:
        self._floors: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        self._seen: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)

    async def follow(self, connection: Any) -> None:
        """Read them as they come, for ever."""
        async for stored in Reports(connection).follow(after=0):
            e = env.decode(stored.body)
            if e.tag == "SyncAck.1":
                ack = reports.read(e.tag, e.data)
                assert isinstance(ack, reports.SyncAck)
                key = ack.tenant, e.actor.subject, ack.lane
                if ack.floor > (self._floors[key] or [-1])[-1]:
                    self._floors[key].append(ack.floor)
                    self._seen[key].append((boottime_ms(), (ack.closed_boottime_ns or 0) / 1e6))

    def first(self, tenant: str, node: str, lane: str, counter: int) -> tuple[float, float] | None:
        """(came, closed) of the first ack of a node that covers a counter."""
        at = bisect_left(self._floors[tenant, node, lane], counter)
        seen = self._seen[tenant, node, lane]
        return seen[at] if at < len(seen) else None


async def pull(fleet: Fleet, count: int, rate: float, lane: str, stop: Any = lambda: False) -> list[dict[str, Any]]:
    """Order `count` times at `rate` a second, whatever the answers do, or until `stop()`."""
    begun, work = time.monotonic(), []

    async def one(client: httpx.AsyncClient, n: int) -> dict[str, Any]:
        tenant = fleet.tenants[n % len(fleet.tenants)]
        token = fleet.admins[tenant]
        if lane == "critical":
            how = {"method": "POST", "url": f"/tenants/{tenant}/revocations", "json": {"reason": "drill"}}
        else:
            path = f"/tenants/{tenant}/regions/{fleet.regions[0]}/configuration"
            how = {"method": "PATCH", "url": path, "json": {"labels": {"n": str(n)}}}
        headers = {"Idempotency-Key": f"{lane}-{begun}-{n}", "Authorization": f"Bearer {token}"}
        asked = boottime_ms()
        answer = await client.request(headers=headers, **how)
        answered, body = boottime_ms(), answer.json()
        if answer.status_code != httpx.codes.ACCEPTED:
            raise SystemExit(f"the API answered {answer.status_code}: {body}")
        return {"tenant": tenant, "asked": asked, "answered": answered, "body": body}

    async with fleet.client() as client:
        for n in range(count):
            await asyncio.sleep(max(0.0, begun + n / rate - time.monotonic()))
            if stop():
                break
            if n % int(SIGNED_IN_S * rate) == 0:
                for tenant in fleet.tenants:
                    fleet.sign_in(tenant)
            work.append(asyncio.ensure_future(one(client, n)))
        return list(await asyncio.gather(*work))


async def measure(fleet: Fleet, args: argparse.Namespace, backlog: int) -> dict[str, Any]:
    """Pull the switch behind so many routine events; return the spread of each figure."""
    connection = await connect(orbital.access(fleet.layout.state, "cmk", fleet.layout.ports.hub), name="bench")
    acks = Acks()
    following = asyncio.ensure_future(acks.follow(connection))
    last: dict[tuple[str, str], int] = {}
    if backlog:
        where = [(tenant, region) for tenant in fleet.tenants for region in fleet.regions]
        last = await asyncio.to_thread(rogue.queue_backlog, fleet.layout, where, backlog)

    def free_at(node: endpoints.Node) -> float:
        """When a node had worked the backlog off."""
        got = [acks.first(t, node.name, "routine", c) for (t, r), c in last.items() if r == node.region]
        return max((g[0] if g is not None else float("inf") for g in got), default=float("inf"))

    begun = boottime_ms()
    pulled = await pull(fleet, args.revocations, args.rate, "critical",
                        lambda: bool(backlog) and all(free_at(n) < boottime_ms() for n in fleet.nodes))  # fmt: skip
    ordinary = [] if backlog else await pull(fleet, min(args.revocations // 4, FEW), args.rate / 4, "routine")
    until, ledger = time.monotonic() + SETTLE_S, Ledger(connection)
    spooled = [(o["tenant"], r) for o in pulled for r in o["body"]["revocations"] if r["recorded"] == "spool"]
    while True:
        found, missing = collect(fleet, acks, pulled, ordinary, free_at)
        if not missing or time.monotonic() > until:
            break
        await asyncio.sleep(0.5)
        await name_fences(ledger, spooled)
    following.cancel()
    await connection.close()
    if missing:
        raise SystemExit(f"{missing} acknowledgements did not come within {SETTLE_S} s; {len(spooled)} were in the "
                         "spool when they were answered")  # fmt: skip
    told: dict[str, Any] = {"backlog": backlog, "custodians": len(fleet.nodes), "pulled": len(pulled),
                            "answered from the spool": len(spooled)}  # fmt: skip
    if backlog:
        worked = [(free_at(n) - begun) / 1e3 for n in fleet.nodes]
        told["backlog worked off after (s)"] = None if max(worked) == float("inf") else round(max(worked), 1)
    told["worst node"] = max(
        ({"node": node, **spread(v)} for (name, node), v in found.items() if name == GATE and node),
        key=lambda of: of["p99"], default=None,
    )  # fmt: skip
    told["load average"] = round(os.getloadavg()[0], 1)
    told |= {name: spread(v) for (name, node), v in sorted(found.items()) if not node}
    told["histogram"] = {name: killswitch_plot.histogram(v) for (name, node), v in sorted(found.items()) if not node}
    return told


async def name_fences(ledger: Ledger, spooled: list[tuple[str, dict[str, Any]]]) -> None:
    """Note the fences of revocations that were answered from the spool and are in the ledger by now."""
    lanes = {(tenant, r["region"]) for tenant, r in spooled if not r["fence"]}
    fences: dict[str, int] = {}
    for tenant, region in lanes:
        for stored in await ledger.read(str(residence_aggregate(region, tenant, "critical"))):
            fences[stored.id] = env.decode(stored.body).counter
    for _, r in spooled:
        r["fence"] = r["fence"] or fences.get(r["event"])


def collect(
    fleet: Fleet, acks: Acks, pulled: list[Any], ordinary: list[Any], free_at: Any
) -> tuple[dict[tuple[str, str], list[float]], int]:
    """Return the figures in ms, by (name, "" or a node), and how many acknowledgements have not come yet."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    missing = 0
    until = {node.name: free_at(node) for node in fleet.nodes}
    first: set[tuple[str, str]] = set()
    for order in sorted(pulled, key=lambda o: o["asked"]):
        fences = {r["region"]: r["fence"] for r in order["body"]["revocations"]}
        found["order sent to answer (ms)", ""].append(order["answered"] - order["asked"])
        for node in fleet.nodes:
            got = acks.first(order["tenant"], node.name, "critical", fences[node.region] or sys.maxsize)
            missing += got is None
            if got is None or order["asked"] > until[node.name]:
                continue
            came, closed = got
            for name, value in _figures(order, came, closed):
                found[name, ""].append(value)
            found[GATE, node.name].append(closed - order["answered"])
            if (order["tenant"], node.name) not in first:
                first.add((order["tenant"], node.name))
                found[f"first closing: {GATE}", ""].append(closed - order["answered"])
    for order in ordinary:
        for node in (n for n in fleet.nodes if n.region == fleet.regions[0]):
            got = acks.first(order["tenant"], node.name, "routine", order["body"]["generation"])
            missing += got is None
            if got is not None:
                found[ORDINARY, ""].append(got[0] - order["answered"])
    return found, missing


def _figures(order: dict[str, Any], came: float, closed: float) -> Iterator[tuple[str, float]]:
    yield GATE, closed - order["answered"]
    yield "order sent to gate closed (ms)", closed - order["asked"]
    yield ACK, came - order["answered"]


def spread(values: list[float]) -> dict[str, float]:
    """Return the quantiles and the count."""
    ordered = sorted(values)
    at = {f"p{q * 100:g}": ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in QUANTILES}
    return {k: round(v, 2) for k, v in at.items()} | {"n": len(ordered)}


def main() -> None:
    """Start, measure, stop, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revocations", type=int, default=400)
    parser.add_argument("--rate", type=float, default=10.0, help="orders a second")
    parser.add_argument("--backlog", type=int, nargs="*", default=[10_000], help="routine events before the nodes")
    parser.add_argument("--no-idle", action="store_true", help="leave out the run without a backlog")
    parser.add_argument("--nodes", type=int, default=1, help="custodians per region (two regions)")
    parser.add_argument("--tenants", type=int, default=4)
    parser.add_argument("--port-base", type=int, default=27400)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench" / "killswitch.json")
    args = parser.parse_args()
    if args.rate > args.tenants * PERSON_RATE:
        raise SystemExit(f"{args.rate} a second are more than {args.tenants} tenants' people get: more --tenants")
    with tempfile.TemporaryDirectory(prefix="openkcm-bench-") as folder:
        state = Path(folder) / "state"
        command = [sys.executable, "-m", "openkcm.cli.main", "up", "--state", str(state)]
        options = ["--port-base", str(args.port_base), "--nodes-per-region", str(args.nodes), "--workers", "1"]
        subprocess.run([*command, *options, "--detach"], check=True, stdout=subprocess.DEVNULL)
        try:
            layout = Layout(state=state, port_base=args.port_base, nodes_per_region=args.nodes)
            fleet = Fleet(layout, endpoints.load(state), args.tenants)
            runs = []
            for backlog in sorted({*([] if args.no_idle else [0]), *args.backlog}):
                runs.append(asyncio.run(measure(fleet, args, backlog)))
                print(msgspec.json.format(json.dumps({k: v for k, v in runs[-1].items() if k != "histogram"})))
        finally:
            subprocess.run([*command, "--stop"], check=False, stdout=subprocess.DEVNULL)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    found = {"machine": machine, "rate": args.rate, "tenants": args.tenants, "runs": runs}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    args.out.with_suffix(".svg").write_text(killswitch_plot.draw(runs))


if __name__ == "__main__":
    main()
