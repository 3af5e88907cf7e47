"""`just bench create`: whether Create is limited by anything but the vault's durable write, on disks of several speeds.

Starts the one-command stack as `just bench kmip` does and puts the region's NATS server under a limit of write
operations a second, so that a durable write takes what it takes on slower disks. At each limit: durable writes a second
straight into the vault, and Creates, at 1, 8 and 64 at a time. Without a limit the core that custodian, NATS and load
share is what ends first. Needs root and the kernel's blkio controller (version 1). Writes `docs/bench/create.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from servers import AROUND, LOAD_CORE, REGION, Target, payloads_of, prefer, stack

from kmip import OUT, machine, measure, syncs_per_s, vault_writes
from openkcm.kmip import encode_request

GROUPS: Final = Path("/sys/fs/cgroup/blkio")
LIMITS: Final = (0, 2000, 1000, 500)  # write operations a second, 0: as the disk is; a durable write takes about four
AT_A_TIME: Final = (1, 8, 64)


@contextlib.contextmanager
def group() -> Iterator[Path]:
    """A control group of its own."""
    own = GROUPS / "openkcm-bench-create"
    own.mkdir()
    try:
        yield own
    finally:
        for pid in (own / "cgroup.procs").read_text().split():
            (GROUPS / "cgroup.procs").write_text(pid)
        own.rmdir()


def disk_of(folder: Path) -> str:
    """Return major:minor of the whole disk that a folder lies on."""
    number = folder.stat().st_dev
    found = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    return ((found.parent if (found / "partition").exists() else found) / "dev").read_text().strip()


def run(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure at each limit."""
    rows = []
    with group() as own, stack(folder / "stack", options.port_base, real_time=True) as found:
        up = json.loads((folder / "stack" / "run" / "up.json").read_bytes())
        (own / "cgroup.procs").write_text(str(up["children"][f"nats-{REGION}"][0]))
        prefer(os.getpid(), LOAD_CORE, AROUND)
        node = found.node_of(REGION)
        target = Target(node.kmip.host, node.kmip.port, node.worker_pids[0], found.workloads["acme/payments"], None)
        request = encode_request(payloads_of(target)["create"])
        for limit in LIMITS:
            (own / "blkio.throttle.write_iops_device").write_text(f"{disk_of(folder)} {limit}")
            writes = asyncio.run(vault_writes(folder / "stack", options.seconds))
            row: dict[str, Any] = {"writes_limit_s": limit, "vault_writes_s": writes, "creates_s": {}, "ratio": {}}
            for count in AT_A_TIME:
                more = {"connections": count, "seconds": options.seconds, "spins": False}
                result = measure(target, request, mode="closed", **more)
                if result is None or result.wrong:
                    raise SystemExit(f"Create at {count} at a time failed")
                row["creates_s"][count] = round(result.operations_s, 1)
                row["ratio"][count] = round(result.operations_s / writes[count], 2)
            print(json.dumps(row), file=sys.stderr)
            rows.append(row)
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each case")
    parser.add_argument("--port-base", type=int, default=26000)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if os.geteuid() or not (GROUPS / "cgroup.procs").exists():
        raise SystemExit(f"needs root, and the kernel's blkio controller at {GROUPS}")
    folder = Path(tempfile.mkdtemp(prefix="bench-create-"))
    try:
        found = {"machine": machine(), "disk_syncs_per_s": round(syncs_per_s(folder)), "rows": run(folder, options)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "create.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
