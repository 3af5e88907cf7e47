"""`just bench storm`: every custodian of a stack is killed at once, and unseals all of its residences again.

Says how long until every residence is served on every node. Memory and ports bound the sizes: 24 custodians, and about
170 MB for each with its one worker.

    just bench storm --nodes 3 --tenants 20
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fleet import Fleet, until

from openkcm.cli import endpoints
from openkcm.cli.layout import Layout

ROOT = Path(__file__).parents[2]
LONGEST_S = 600.0


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def resident_mib(pids: list[int]) -> int:
    """Return the memory of these processes, shared pages counted once each."""
    lines = "".join(_read(f"/proc/{pid}/smaps_rollup") for pid in pids).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) // 1024


def served(fleet: Fleet) -> int:
    """How many (tenant, node) pairs are served, by the nodes' own signs of life."""
    count = 0
    for tenant in fleet.tenants:
        for region in fleet.regions:
            nodes = fleet.ask(tenant, f"/tenants/{tenant}/regions/{region}/sync")["nodes"]
            count += sum(n["state"] == "active" for n in nodes)
    return count


def played(fleet: Fleet, state: Path) -> dict[str, Any]:
    """Kill them all, and say how they came back."""
    pairs = len(fleet.tenants) * len(fleet.nodes)
    until(lambda: served(fleet) == pairs, LONGEST_S)
    before = [n.custodian_pid for n in endpoints.load(state).nodes]
    memory = resident_mib(before)
    begun = time.monotonic()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not {n.custodian_pid for n in endpoints.load(state).nodes} & {*before, 0}, LONGEST_S)
    ready = time.monotonic() - begun
    time.sleep(2.5)  # the signs of life from before are replaced
    until(lambda: served(fleet) == pairs, LONGEST_S)
    return {
        "custodians": len(fleet.nodes), "residences each": len(fleet.tenants), "keys unsealed": pairs,
        "every custodian ready again (s)": round(ready, 1),
        "every residence served again (s)": round(time.monotonic() - begun, 1),
        "memory of a custodian (MiB)": memory // len(before),
        "load average": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def main() -> None:
    """Start, play, stop, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3, help="custodians per region (two regions)")
    parser.add_argument("--tenants", type=int, default=20, help="residences of each custodian")
    parser.add_argument("--port-base", type=int, default=27400)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench" / "storm.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openkcm-bench-") as folder:
        state = Path(folder) / "state"
        command = [sys.executable, "-m", "openkcm.cli.main", "up", "--state", str(state)]
        options = ["--port-base", str(args.port_base), "--nodes-per-region", str(args.nodes), "--workers", "1"]
        subprocess.run([*command, *options, "--empty", "--detach"], check=True, stdout=subprocess.DEVNULL)
        try:
            layout = Layout(state=state, port_base=args.port_base, nodes_per_region=args.nodes)
            found = played(Fleet(layout, endpoints.load(state), args.tenants), state)
        finally:
            subprocess.run([*command, "--stop"], check=False, stdout=subprocess.DEVNULL)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
