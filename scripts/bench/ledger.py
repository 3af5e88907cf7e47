"""`just bench ledger`: what a ledger costs to audit, to export and to start on, from 10 k to 1 M events.

For each size a ledger of many tenants is sealed, folded, exported, and a snapshot made of it. Then the commands people
use run on it, each in a process of its own and measured with its children: `audit verify --replay` on the export (two
cores), verification alone, `--every-seal`. A real hub is filled with it in atomic batches (its fsync is put off for
that alone), killed and restarted; a CMK starts on it with its own tables, from a signed snapshot, and (up to 100 k)
from nothing. Appends are measured one by one on a hub that syncs each; so are revocations, alone and beside a writer.
Writes `docs/bench/ledger.json`; what it makes lies in --work and is used again by the next run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import ledger_hub as hub
import msgspec

from openkcm.audit import export
from openkcm.audit.replay import Replay
from openkcm.contract import checkpoint as cp
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import seal, snapshot, subjects
from openkcm.governance.snapshot import FILE, NOTE
from openkcm.projector.copying import copied, described
from openkcm.projector.trees import heads

HERE: Final = Path(__file__).resolve().parents[2]
TRUST, CMK = seal.Signer(b"t" * 32), seal.Signer(hub.SEED)
NAME: Final = cp.ledger_name(TRUST.public_key)
REGIONS: Final = ("eu-frankfurt", "us-virginia")
ACTOR: Final = env.Actor(issuer="https://idp.example", subject="0f1e2d3c4b5a69788796a5b4c3d2e1f0")
SHARE: Final = 20_000  # events that one process seals at a time
FROM_NOTHING: Final = 100_000  # up to this size a CMK also reads the whole ledger
#: How often each kind of event comes, in a hundred.
MIX: Final[tuple[tuple[int, Callable[[int], d.Decree]], ...]] = (
    (35, lambda n: d.TenantConfigurationUpdated(lease_s=3600, labels={"n": str(n)})),
    (25, lambda n: d.SystemRegistered(system=f"s{n}", registration=f"reg-{n:08d}")),
    (30, lambda n: d.WorkloadEnrolled(workload=f"w{n}", system=f"s{n}", registration=f"reg-{n:08d}",
                                      enrolment=f"enr-{n:08d}", fingerprint=f"{n:064x}")),
    (6, lambda n: d.RotationOrdered(level="L2", rotation=f"rot-{n:08d}")),
    (4, lambda _n: d.AccessRevoked(reason="drill")),
)  # fmt: skip
Planned = tuple[int, int, str, str, int]  # sequence, which of MIX, region, tenant, counter


def planned(size: int) -> Iterator[Planned]:
    """What comes after the opening: one tenant for a thousand events, each in two regions; the same at each run."""
    rnd, counters = random.Random(7), dict[tuple[str, str, bool], int]()  # noqa: S311 -- no secret
    tenants = [f"t-{n}" for n in range(max(4, size // 1000))]
    for sequence, kind in enumerate(rnd.choices(range(len(MIX)), [w for w, _ in MIX], k=size - 2), 3):
        region, tenant = rnd.choice(REGIONS), rnd.choice(tenants)
        lane = region, tenant, kind == len(MIX) - 1
        counters[lane] = counters.get(lane, 0) + 1
        yield sequence, kind, region, tenant, counters[lane]


def sealed(sequence: int, subject: str, decree: d.Decree, counter: int, signer: seal.Signer) -> hub.Line:
    """Return one event as it is stored."""
    own = str(uuid.UUID(bytes=random.Random(sequence).randbytes(16)))  # noqa: S311 -- the same at each run
    critical = d.lane_of(decree) == "critical"
    e = env.Envelope(
        id=own, tag=d.tag_of(decree), subject=subject, counter=counter, epoch=1, actor=ACTOR, correlation=own,
        priority=env.PRIORITY_CRITICAL if critical else env.PRIORITY_ROUTINE, at_ms=1_700_000_000_000 + sequence,
        time_source="cmk-clock", key=signer.key_id, data=msgspec.Raw(msgspec.json.encode(decree)),
    )  # fmt: skip
    return hub.Line(sequence, subject, env.encode(env.seal_envelope(e, signer)), own)


def _share(share: list[Planned]) -> bytes:
    lines = []
    for sequence, kind, region, tenant, counter in share:
        decree = MIX[kind][1](sequence)
        where = subjects.residence_aggregate(region, tenant, d.lane_of(decree))
        lines.append(sealed(sequence, str(where), decree, counter, CMK))
    return msgspec.msgpack.encode(lines)


def seal_all(size: int, target: Path) -> None:
    """Write a sealed ledger: a list of events a share, on all cores."""
    opening = subjects.ledger_aggregate()
    rotated = d.SigningKeyRotated(key=CMK.key_id, public_key=CMK.public_key)
    first = [
        sealed(1, str(opening), d.LedgerOpened(epoch=1, first_sequence=1), 1, TRUST),
        sealed(2, str(opening.on("critical")), rotated, 1, TRUST),
    ]
    everything = list(planned(size))
    shares = [everything[at : at + SHARE] for at in range(0, len(everything), SHARE)]
    with target.open("wb") as file, ProcessPoolExecutor() as pool:
        for raw in (msgspec.msgpack.encode(first), *pool.map(_share, shares)):
            file.write(len(raw).to_bytes(4, "big") + raw)


class Told:
    """The figures of one size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.figures: dict[str, Any] = {"events": size}

    def say(self, name: str, value: Any) -> None:
        """Keep one and show it."""
        self.figures[name] = value
        print(f"{self.size:>9,} {name:<46} {value}", flush=True)

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Measure what runs here."""
        begun, cpu = time.perf_counter(), time.process_time()
        result = work()
        wall = time.perf_counter() - begun
        self.say(name, self._figures(wall, time.process_time() - cpu))
        return result

    async def awaited(self, name: str, work: Awaitable[Any]) -> Any:
        """Measure, in seconds, what is waited for."""
        begun = time.perf_counter()
        result = await work
        self.say(f"{name}, s", round(time.perf_counter() - begun, 2))
        return result

    def command(self, name: str, *words: str) -> None:
        """Measure a command of ours with its children: CPU, wall, the largest memory of any process."""
        begun = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "openkcm.cli.main", *words], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        if os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit(f"openkcm {' '.join(words)} ended with {status}")
        figures = self._figures(wall, used.ru_utime + used.ru_stime)
        self.say(name, figures | {"memory, MiB": used.ru_maxrss // 1024})

    def _figures(self, wall_s: float, cpu_s: float) -> dict[str, Any]:
        return {"events/s": round(self.size / wall_s), "s": round(wall_s, 2),
                "cpu us an event": round(cpu_s / self.size * 1e6, 1)}  # fmt: skip


def make(told: Told, home: Path) -> None:
    """Seal, fold, export, snapshot: what the rest works on."""
    home.mkdir(parents=True)
    told.timed("sealed", lambda: seal_all(told.size, home / "sealed"))
    told.say("bytes an event", round((home / "sealed").stat().st_size / told.size))
    with Replay(TRUST.public_key, home / "registry.sqlite") as replay:
        known = range(1, told.size + 1)
        told.timed("replay, alone", lambda: _folded(replay, home / "sealed", known))
        writer = replay.writer
        notes = {}
        for head in heads(writer):
            origin = cp.origin_of(NAME, head.tree, head.epoch)
            point = cp.Checkpoint(origin=origin, size=head.edge.size, root=head.edge.root(), epoch=head.epoch,
                                  sequence=head.sequence)  # fmt: skip
            text = point.text()
            notes[head.tree, head.epoch] = cp.Note(text, (cp.sign(text, origin, CMK), cp.vouch(text, origin, CMK)))
        told.timed("export", lambda: export.write(home / "export", writer, TRUST.public_key, notes, tenant=None,
                                                  made_at="2026-01-01T00:00:00.000Z"))  # fmt: skip
    told.say("bytes of tables an event", round((home / "registry.sqlite").stat().st_size / told.size))
    folder = (home / "export").rglob("*")
    told.say("bytes of export an event", round(sum(p.stat().st_size for p in folder if p.is_file()) / told.size))
    (home / "snapshot").mkdir()

    def snapshotted() -> None:
        copied(home / "registry.sqlite", home / "snapshot" / FILE)
        said = described(home / "snapshot" / FILE, NAME)
        (home / "snapshot" / NOTE).write_text(snapshot.signed(said, CMK))

    told.timed("snapshot", snapshotted)
    told.say("bytes of snapshot an event", round((home / "snapshot" / FILE).stat().st_size / told.size))


def _folded(replay: Replay, path: Path, known: range) -> None:
    for batch in hub.shares(path):
        replay.take(batch, known)
    _ = replay.projection.cursor


def audit(told: Told, home: Path, *, every_seal: bool) -> None:
    """The commands, on the export."""
    words = ("audit", "verify", "--export", str(home / "export"), "--root", _base64(TRUST.public_key))
    told.command("verify and replay, two cores", *words, "--replay")
    told.command("verify", *words)
    if every_seal:
        told.command("verify, every seal, two cores", *words, "--every-seal")


def _base64(raw: bytes) -> str:
    return str(msgspec.to_builtins(raw))


async def started(told: Told, home: Path) -> None:
    """A hub filled with it; restarted; a CMK on it."""
    with tempfile.TemporaryDirectory(prefix="openkcm-bench-", dir=home) as directory:
        state = Path(directory)
        running = hub.Hub(state, REGIONS)
        try:
            await told.awaited("hub filled", running.fill(home / "sealed", told.size))
            running.kill()
            await told.awaited("hub restarted", running.restart())
            told.say("bytes of store an event", round(running.store_bytes() / told.size))
            cmk = state / "cmk"
            cmk.mkdir()
            shutil.copyfile(home / "registry.sqlite", cmk / "registry.sqlite")
            await told.awaited("CMK started on its own tables", running.cmk(cmk, TRUST.public_key, told.size))
            for file in cmk.glob("registry.sqlite*"):
                file.unlink()
            shutil.copytree(home / "snapshot", cmk / "snapshot")
            await told.awaited("CMK started from a snapshot", running.cmk(cmk, TRUST.public_key, told.size))
            if told.size <= FROM_NOTHING:
                shutil.rmtree(cmk)
                cmk.mkdir()
                await told.awaited("CMK started from nothing", running.cmk(cmk, TRUST.public_key, told.size))
        finally:
            running.stop()


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--parts", default="make,audit,hub,append", help="make, audit, hub, append")
    parser.add_argument("--every-seal", action="store_true", help="also verify each seal (110 us an event)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "openkcm-bench-ledger")
    parser.add_argument("--appends", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=HERE / "docs" / "bench" / "ledger.json")
    asked = parser.parse_args()
    parts = asked.parts.split(",")
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    before = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    machine = {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    told: dict[str, Any] = {"machine": machine, "append": before.get("append"), "sizes": before.get("sizes", [])}
    told["sizes"] = [one for one in told["sizes"] if "sealed" in one]
    if "append" in parts:
        told["append"] = asyncio.run(hub.appended(REGIONS, TRUST, CMK, asked.appends))
        print(told["append"], flush=True)
    for size in asked.sizes if {"make", "audit", "hub"} & set(parts) else ():
        one, home = Told(size), asked.work / str(size)
        one.figures |= next((known for known in told["sizes"] if known["events"] == size), {})
        if "make" in parts:
            shutil.rmtree(home, ignore_errors=True)
            make(one, home)
        if "audit" in parts:
            audit(one, home, every_seal=asked.every_seal)
        if "hub" in parts:
            asyncio.run(started(one, home))
        one.say("memory of this process, MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        told["sizes"] = sorted([*(s for s in told["sizes"] if s["events"] != size), one.figures],
                               key=lambda s: s["events"])  # fmt: skip
        told["load average at the end"] = round(os.getloadavg()[0], 1)
    asked.out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
