"""`just bench ledger`: what an audit of a large ledger costs, and how it grows; what an append costs on a real hub.

For each size: a ledger of many tenants is sealed in memory, then verified (every seal on all cores, every rule), folded
into the read model's tables with its Merkle trees, both in one pass, exported, and the export verified again, with all
seals and with those spared that an earlier verified export vouches for. Appends are measured one by one on a hub that
syncs each to the disk. Writes `docs/bench/ledger.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import resource
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from openkcm.audit import export
from openkcm.audit.examine import examine
from openkcm.audit.exported import Export
from openkcm.audit.replay import Line, Replay
from openkcm.audit.seals import checked
from openkcm.audit.trees import SignedTrees
from openkcm.bus.connection import connect
from openkcm.bus.ledger import Ledger
from openkcm.cli import orbital as servers
from openkcm.cli.ceremony import open_ledger
from openkcm.contract import checkpoint as cp
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import seal, subjects
from openkcm.contract.fleet import parse_region
from openkcm.contract.subjects import DecreeSubject
from openkcm.projector.trees import heads

HERE: Final = Path(__file__).resolve().parents[2]
TRUST, CMK = seal.Signer(b"t" * 32), seal.Signer(b"c" * 32)
REGIONS: Final = ("eu-frankfurt", "us-virginia")
ACTOR: Final = env.Actor(issuer="https://idp.example", subject="0f1e2d3c4b5a69788796a5b4c3d2e1f0")
#: How often each kind of event comes, in a hundred.
MIX: Final[tuple[tuple[int, Callable[[int], d.Decree]], ...]] = (
    (35, lambda n: d.TenantConfigurationUpdated(lease_s=3600, labels={"n": str(n)})),
    (25, lambda n: d.SystemRegistered(system=f"s{n}", registration=f"reg-{n:08d}")),
    (30, lambda n: d.WorkloadEnrolled(workload=f"w{n}", system=f"s{n}", registration=f"reg-{n:08d}",
                                      enrolment=f"enr-{n:08d}", fingerprint=f"{n:064x}")),
    (6, lambda n: d.RotationOrdered(level="L2", rotation=f"rot-{n:08d}")),
    (4, lambda _n: d.AccessRevoked(reason="drill")),
)  # fmt: skip


def sealed_ledger(size: int) -> Iterator[Line]:
    """A ledger of `size` events: one tenant for a thousand, each in two regions."""
    rnd, counters = random.Random(7), dict[str, int]()  # noqa: S311 -- the same ledger at each run
    tenants = [f"t-{n}" for n in range(max(4, size // 1000))]
    weights, makers = [w for w, _ in MIX], [m for _, m in MIX]

    def line(sequence: int, where: DecreeSubject, decree: d.Decree, signer: seal.Signer) -> Line:
        on = where.on(d.lane_of(decree))
        subject = str(on)
        counters[subject] = counters.get(subject, 0) + 1
        critical = on.lane == "critical"
        own = str(uuid.UUID(int=sequence))
        e = env.seal_envelope(
            env.Envelope(
                id=own, tag=d.tag_of(decree), subject=subject, counter=counters[subject], epoch=1, actor=ACTOR,
                correlation=own, priority=env.PRIORITY_CRITICAL if critical else env.PRIORITY_ROUTINE,
                at_ms=1_700_000_000_000 + sequence, time_source="cmk-clock", key=signer.key_id,
                data=msgspec.Raw(msgspec.json.encode(decree)),
            ),
            signer,
        )  # fmt: skip
        return Line(sequence=sequence, subject=subject, body=env.encode(e), id=own)

    ledger = subjects.ledger_aggregate()
    yield line(1, ledger, d.LedgerOpened(epoch=1, first_sequence=1), TRUST)
    yield line(2, ledger, d.SigningKeyRotated(key=CMK.key_id, public_key=CMK.public_key), TRUST)
    for sequence, make in enumerate(rnd.choices(makers, weights, k=size - 2), 3):
        where = subjects.residence_aggregate(rnd.choice(REGIONS), rnd.choice(tenants))
        yield line(sequence, where, make(sequence), CMK)


def notes(replay: Replay) -> dict[tuple[str, int], cp.Note]:
    """What a notary signs of it."""
    found = {}
    for head in heads(replay.writer):
        origin = cp.origin_of(cp.ledger_name(TRUST.public_key), head.tree, head.epoch)
        point = cp.Checkpoint(
            origin=origin, size=head.edge.size, root=head.edge.root(), epoch=head.epoch, sequence=head.sequence
        )
        found[head.tree, head.epoch] = cp.Note(point.text(), (cp.sign(point.text(), origin, CMK),))
    return found


def measured(size: int, *, files: bool) -> dict[str, Any]:
    """All figures of one size. CPU is this process's own: what the pool spends on seals shows in one process only."""
    told: dict[str, Any] = {"events": size}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun, cpu = time.perf_counter(), time.process_time()
        result = work()
        own_us = round((time.process_time() - cpu) / size * 1e6, 1)
        told[name] = {"events/s": round(size / (time.perf_counter() - begun)), "cpu us an event": own_us}
        print(f"{size:>9,} {name:<34} {told[name]['events/s']:>9,}/s {own_us:>9} us", flush=True)
        return result

    lines = timed("sealed", lambda: list(sealed_ledger(size)))
    told["bytes an event"] = round(sum(len(line.body) for line in lines) / size)
    vouched = range(1, size + 1)
    timed("verify, all seals, all cores", lambda: examine(lines, TRUST.public_key))
    timed("verify, all seals, one process", lambda: examine(lines, TRUST.public_key, workers=1))
    timed("verify, seals known", lambda: examine(lines, TRUST.public_key, known=vouched))
    with Replay(TRUST.public_key) as replay:
        timed("replay, seals known", lambda: _fold(replay, lines, vouched))
    if not files:
        lines.clear()
        told["memory, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return told
    with tempfile.TemporaryDirectory(prefix="openkcm-bench-") as directory:
        home = Path(directory)
        replay = Replay(TRUST.public_key, home / "replay.sqlite")
        timed("verify and replay, all seals", lambda: examine(lines, TRUST.public_key, fold=replay.take))
        lines.clear()
        told["bytes of tables an event"] = round((home / "replay.sqlite").stat().st_size / size)
        folder = home / "export"
        timed("export", lambda: export.write(folder, replay.writer, TRUST.public_key, notes(replay), tenant=None,
                                             made_at="2026-01-01T00:00:00.000Z"))  # fmt: skip
        replay.close()
        told["bytes of export an event"] = round(sum(p.stat().st_size for p in folder.rglob("*.ndjson")) / size)
        timed("verify the export, all seals", lambda: _verify(folder, spare=False))
        timed("verify the export, seals spared", lambda: _verify(folder, spare=True))
    told["memory, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return told


def _fold(replay: Replay, lines: list[Line], known: range) -> None:
    for batch, good in checked(lines, TRUST.public_key, known=known):
        replay.take(batch, good)


def _verify(folder: Path, *, spare: bool) -> None:
    made = Export(folder)
    made.check_files()
    trees = made.trees()
    assert isinstance(trees, SignedTrees)
    result = examine(made.events(), TRUST.public_key, see=[trees.see], known=trees.signed if spare else ())
    trees.check(result.keys)


async def appended(count: int) -> dict[str, float]:
    """Milliseconds an append takes on a hub that syncs each, and how many a second 64 writers bring in."""
    with tempfile.TemporaryDirectory(prefix="openkcm-bench-") as directory:
        state = Path(directory)
        regions = [parse_region((HERE / "nodes" / name / "node.toml").read_bytes()) for name in REGIONS]
        names = [servers.HUB, *REGIONS]
        ports = {
            name: servers.ServerPorts(client=first, monitor=first + 1, leaf=first + 2)
            for name, first in zip(names, (24_700, 24_710, 24_720), strict=True)
        }
        servers.lay_out(state, regions, ports)
        running = []
        try:
            for name in names:
                running.append(servers.start(state, name, ports[name]))
                running[-1].wait_ready()
            await servers.apply_streams(state, regions, ports)
            trust = await connect(servers.access(state, "trust", ports[servers.HUB]), name="trust")
            await open_ledger(Ledger(trust), TRUST, CMK.public_key, [])
            await trust.close()
            connection = await connect(servers.access(state, "cmk", ports[servers.HUB]), name="cmk")
            ledger, lines = Ledger(connection), list(sealed_ledger(count + 2))[2:]
            took = []
            for line in lines[: count // 4]:
                begun = time.perf_counter()
                await ledger.append(line.subject, line.body, id=line.id, tag="x", expected_last=None)
                took.append(1e3 * (time.perf_counter() - begun))
            gate = asyncio.Semaphore(64)

            async def one(line: Line) -> None:
                async with gate:
                    await ledger.append(line.subject, line.body, id=line.id, tag="x", expected_last=None, timeout_s=30)

            begun = time.perf_counter()
            await asyncio.gather(*map(one, lines[count // 4 :]))
            rate = (count - count // 4) / (time.perf_counter() - begun)
            await connection.close()
        finally:
            for server in reversed(running):
                server.stop()
    return {"median ms": round(statistics.median(took), 2), "p99 ms": round(statistics.quantiles(took, n=100)[98], 2),
            "64 writers, events/s": round(rate)}  # fmt: skip


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--appends", type=int, default=2000)
    parser.add_argument("--no-files", action="store_true", help="leave out the export and its verification")
    parser.add_argument("--out", type=Path, default=HERE / "docs" / "bench" / "ledger.json")
    asked = parser.parse_args()
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    told = {
        "machine": {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "append": asyncio.run(appended(asked.appends)),
    }
    print(told["append"], flush=True)
    told["sizes"] = [measured(size, files=not asked.no_files) for size in asked.sizes]
    told["load average at the end"] = round(os.getloadavg()[0], 1)
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
