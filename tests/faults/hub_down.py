"""The hub is down for ten minutes while KMIP load runs and L1 rotates: `python -m faults.hub_down [MINUTES]`, from tests/.

1. Load on both regions: Create, Activate, Encrypt, Decrypt, over lasting and over fresh connections.
2. The hub is killed and cannot start again. L1 is rotated in both regions, once in every fifth of the time; a tenant
   whose load is not counted is revoked, which waits in the spool; any other order is refused with 503.
3. The hub comes back. Every node sees the revocation, and wraps L2 by the newest version of its root.
4. Ledger, both mirrors of both regions, governance's tables and the nodes' own are compared event for event.

Prints one JSON document. Exit status 1: an operation failed, or something does not agree.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kmip.core import enums

from faults.kinds import held_back
from openkcm.bus.connection import connect
from openkcm.bus.copies import copy_of
from openkcm.bus.feed import matches
from openkcm.cli import orbital
from openkcm.cli.customer import customer_of
from openkcm.cli.layout import Layout
from openkcm.client import Problem
from openkcm.contract import envelope as env
from openkcm.contract import subjects
from running_stack import GCM, Stack, until

EU, US, TENANT, OTHER = "eu-frankfurt", "us-virginia", "acme", "bolt"
PLAIN, PAUSE_S, EACH = b"sixteen byte msg", 0.02, 200
MASK = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]


class Load(threading.Thread):
    """One client of one region; every failure is kept."""

    def __init__(self, stack: Stack, region: str) -> None:
        super().__init__(daemon=True)
        self.stack, self.region = stack, region
        self.done: Counter[str] = Counter()
        self.failed: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                with self.stack.kmip(f"{TENANT}/payments", self.region) as client:
                    self._work(client)
            except Exception as bad:  # whatever it is: an operation did not succeed
                self.failed.append(f"{time.strftime('%H:%M:%S')} {self.region}: {bad!r}")
                self.ended.wait(0.5)

    def _work(self, client: Any) -> None:
        uid = client.create(enums.CryptographicAlgorithm.AES, 256, cryptographic_usage_mask=MASK)
        client.activate(uid)
        self.done["create"] += 1
        for _ in range(EACH):
            if self.ended.wait(PAUSE_S):
                return
            sealed, iv = client.encrypt(PLAIN, uid, GCM)
            if client.decrypt(sealed, uid, GCM, iv) != PLAIN:
                raise ValueError("another plaintext")
            self.done["encrypt and decrypt"] += 1


def root_versions(stack: Stack, region: str) -> list[str | None]:
    """What each node of a region reports of its root's version."""
    with stack.portal(f"{TENANT}/admin") as portal:
        return [s["root_version"] for s in portal.get(f"/tenants/{TENANT}/regions/{region}/root-key")["states"]]


def refused_without_a_hub(stack: Stack) -> int:
    """The status that an ordinary order gets."""
    with stack.portal(f"{TENANT}/admin") as portal:
        try:
            return portal.post(f"/tenants/{TENANT}/regions/{EU}/systems", {"system": "late"}).status
        except Problem as problem:
            return problem.status


async def compared(layout: Layout) -> dict[str, Any]:
    """Return how many events each copy of the ledger has, and what is not the same in them."""

    async def copy(user: str, server: str, stream: str) -> list[tuple[int, str, bytes, str]]:
        ports = layout.ports.hub if server == "hub" else layout.server_ports[server]
        connection = await connect(orbital.access(layout.state, user, ports), name=user)
        try:
            return [(s.sequence, s.subject, s.body, s.id) for s in await copy_of(connection, stream, after=0)]
        finally:
            await connection.close()

    ledger = await copy("ledger-admin", "hub", "LEDGER")
    told: dict[str, Any] = {"ledger": len(ledger), "differences": []}
    for region in (EU, US):
        own = (f"kcm.decree.{region}.>", "kcm.decree.global._.>")
        critical = (f"kcm.decree.{region}.*.critical.>", "kcm.decree.global._.critical.>")
        for stream, filters in (("LEDGER", own), ("LEDGER-CRITICAL", critical)):
            wanted = [event for event in ledger if any(matches(f, event[1]) for f in filters)]
            found = await copy(f"{region}-admin", region, stream)
            told[f"{region} {stream}"] = len(found)
            if found != wanted:
                told["differences"].append(f"{region} {stream}: {len(found)} events, {len(wanted)} wanted")
        told["differences"] += _node_tables(layout, region, [event for event in ledger if matches(own[0], event[1])])
    return told


def _node_tables(layout: Layout, region: str, events: list[tuple[int, str, bytes, str]]) -> list[str]:
    marks: dict[str, dict[str, int]] = {}
    for _, subject, body, _ in events:
        where, counter = subjects.parse_decree(subject), env.decode(body).counter
        mine = marks.setdefault(where.tenant, {"routine": 0, "critical": 0})
        mine[where.lane] = max(mine[where.lane], counter)
    database = sqlite3.connect(f"file:{layout.node_dir(f'{region}-1')}/node.sqlite?mode=ro", uri=True)
    rows = {
        t: {"routine": g, "critical": f}
        for t, g, f in database.execute("SELECT tenant, generation, fence FROM residence")
    }
    database.close()
    return [] if rows == marks else [f"{region}-1's tables: {rows}, wanted {marks}"]


def main() -> None:
    """Play it."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    told: dict[str, Any] = {"minutes": minutes}
    with tempfile.TemporaryDirectory(prefix="openkcm-hub-down-") as folder:
        stack = Stack(Path(folder) / "state")
        stack.up()
        try:
            told |= _played(stack, minutes * 60)
        finally:
            stack.down()
    told["load average"] = round(os.getloadavg()[0], 1)
    print(json.dumps(told, indent=1))
    raise SystemExit(1 if told["failed operations"] or told["differences"] or not told["read model equal"] else 0)


def _played(stack: Stack, down_s: float) -> dict[str, Any]:
    layout = Layout(stack.state, port_base=stack.base)
    loads = [Load(stack, region) for region in (EU, US) for _ in range(2)]
    for load in loads:
        load.start()
    time.sleep(2)
    told: dict[str, Any] = {}
    with held_back(stack, "hub"):
        _without(stack, layout, down_s, told)
    return _afterwards(stack, layout, loads, told)


def _without(stack: Stack, layout: Layout, down_s: float, told: dict[str, Any]) -> None:
    begun = time.monotonic()
    told["an ordinary order without the hub"] = refused_without_a_hub(stack)
    told["a revocation without the hub"] = stack.revoke(OTHER, US)["revocations"][0]["recorded"]
    rotations = 0
    while time.monotonic() - begun < down_s:
        time.sleep(min(down_s / 5, max(0.1, begun + down_s - time.monotonic())) / 2)
        for region in (EU, US):
            customer_of(layout, TENANT, region).rotate()
        rotations += 1
        time.sleep(max(0.0, min(down_s / 5 * rotations, down_s) - (time.monotonic() - begun)))
    told["hub was away (s)"] = round(time.monotonic() - begun, 1)
    told["rotations of L1 a region"] = rotations


def _afterwards(stack: Stack, layout: Layout, loads: list[Load], told: dict[str, Any]) -> dict[str, Any]:
    newest, back = f"v{told['rotations of L1 a region'] + 1}", time.monotonic()

    def settled() -> bool:
        with stack.portal(f"{OTHER}/admin") as bolt, stack.portal(f"{TENANT}/admin") as acme:
            shown = [bolt.get(f"/tenants/{OTHER}/regions/{US}/sync")]
            shown += [acme.get(f"/tenants/{TENANT}/regions/{r}/sync") for r in (EU, US)]
        return shown[0]["critical"]["status"] == "Revoked" and all(x["routine"]["status"] == "InSync" for x in shown)

    until(settled, 60, "the revocation is obeyed and every node in sync")
    told["obeyed and in sync after the hub is let back (s)"] = round(time.monotonic() - back, 1)
    until(lambda: all(v == newest for r in (EU, US) for v in root_versions(stack, r)), 60, f"L2 is wrapped by {newest}")
    time.sleep(2)
    for load in loads:
        load.ended.set()
    for load in loads:
        load.join(10)
    time.sleep(1)
    told["operations"] = dict(sum((load.done for load in loads), Counter()))
    told["failed operations"] = [failure for load in loads for failure in load.failed]
    told |= asyncio.run(compared(layout))
    replayed = stack.openkcm("audit", "replay", "--state", str(stack.state), "--json")
    told["read model equal"] = replayed.returncode == 0 and json.loads(replayed.stdout)["equal"]
    verified = stack.openkcm("audit", "verify", "--state", str(stack.state))
    told["ledger verified"] = verified.returncode == 0
    return told


if __name__ == "__main__":
    main()
