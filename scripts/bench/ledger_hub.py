"""The hub's side of `bench ledger`: fill it fast, restart it, start a CMK on it; appends one by one, and a revocation.

Everything goes through the shipped configuration and streams. Only while a hub is being filled its fsync is put off.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from openkcm.bus import declare
from openkcm.bus.connection import Connection, connect
from openkcm.bus.ledger import Ledger
from openkcm.cli import orbital as servers
from openkcm.cli.ceremony import open_ledger
from openkcm.contract import decrees as d
from openkcm.contract import seal, subjects
from openkcm.contract.fleet import parse_region
from openkcm.contract.resources import ROOT
from openkcm.governance.configuration import Configuration, Listen, Oidc
from openkcm.governance.residence import Residence
from openkcm.governance.service import open_cmk

BATCH: Final = 500  # of one atomic append; the server takes a thousand
PORT: Final = 24_700
REVOCATIONS: Final = 200
SEED: Final = b"c" * 32  # governance's, in this bench
SYNCED: Final = "sync_interval: always"


class Line(NamedTuple):
    """One event as it is stored."""

    sequence: int
    subject: str
    body: bytes
    id: str


def shares(path: Path) -> Iterator[list[Line]]:
    """Yield a sealed ledger in lists of events."""
    decoder = msgspec.msgpack.Decoder(list[Line])
    with path.open("rb") as file:
        while head := file.read(4):
            yield decoder.decode(file.read(int.from_bytes(head, "big")))


class Hub:
    """The hub alone, with the ledger's streams; regions are known to it and not there."""

    def __init__(self, state: Path, regions: Sequence[str]) -> None:
        self.state = state
        self.regions = [parse_region((ROOT / "nodes" / name / "node.toml").read_bytes()) for name in regions]
        names = [servers.HUB, *regions]
        self.ports = {
            name: servers.ServerPorts(client=PORT + 10 * n, monitor=PORT + 10 * n + 1, leaf=PORT + 10 * n + 2)
            for n, name in enumerate(names)
        }
        servers.lay_out(state, self.regions, self.ports)
        self.server: servers.Server | None = None

    @property
    def _conf(self) -> Path:
        return self.state / "nats" / servers.HUB / "nats.conf"

    def start(self) -> None:
        """Start it and wait."""
        self.server = servers.start(self.state, servers.HUB, self.ports[servers.HUB])
        self.server.wait_ready(timeout_s=120)

    def kill(self) -> None:
        """Kill -9."""
        assert self.server is not None
        self.server.process.kill()
        self.server.process.wait()

    async def restart(self) -> None:
        """Start it again, as shipped."""
        await asyncio.to_thread(self.start)

    def stop(self) -> None:
        """Stop it."""
        if self.server is not None:
            self.server.stop()

    def store_bytes(self) -> int:
        """Return what it takes on the disk."""
        store = self.state / "nats" / servers.HUB / "store"
        return sum(p.stat().st_blocks * 512 for p in store.rglob("*") if p.is_file())

    async def connect(self, user: str) -> Connection:
        """Return a connection."""
        return await connect(servers.access(self.state, user, self.ports[servers.HUB]), name=user)

    async def fill(self, path: Path, size: int) -> None:
        """Put a sealed ledger in, in atomic batches; afterwards the disk has it."""
        text = self._conf.read_text()
        assert SYNCED in text
        self._conf.write_text(text.replace(SYNCED, "sync_interval: 60s"))
        await asyncio.to_thread(self.start)
        for user, part in (("ledger-admin", "ledger"), ("reports-admin", "reports")):
            connection = await self.connect(user)
            await declare.apply(connection, declare.declared(part, self.regions))  # type: ignore[arg-type]
            await connection.close()
        connection = await self.connect("cmk")
        try:
            for share in shares(path):
                for begin in range(0, len(share), BATCH):
                    await _batch(connection, share[begin : begin + BATCH])
            state = await Ledger(connection).info()
            assert (state.last, state.messages) == (size, size)
        finally:
            await connection.close()
        assert self.server is not None
        await asyncio.to_thread(self.server.stop)  # in order: everything is written
        self._conf.write_text(text)
        await asyncio.to_thread(self.start)

    def configuration(self, home: Path, trust_root: bytes) -> Configuration:
        """Return a CMK's, with everything of its own in `home`."""
        (home / "signing.seed").write_bytes(SEED)
        return Configuration(
            listen=Listen("127.0.0.1", 0), nats=servers.access(self.state, "cmk", self.ports[servers.HUB]),
            signing_seed=str(home / "signing.seed"), registry=str(home / "registry.sqlite"), spool=str(home / "spool"),
            oidc=Oidc("https://idp.example", "openkcm"), regions=str(ROOT / "nodes"), trust_root=trust_root,
        )  # fmt: skip

    async def cmk(self, home: Path, trust_root: bytes, size: int) -> None:
        """Start a CMK until it would serve, and stop it."""
        cmk = await open_cmk(self.configuration(home, trust_root))
        try:
            assert cmk.projection.cursor == size
        finally:
            await cmk.close()


async def _batch(connection: Connection, share: Sequence[Line]) -> None:
    batch = uuid.uuid4().hex
    for number, line in enumerate(share, 1):
        headers = {"Nats-Msg-Id": line.id, "Kcm-Tag": "x", "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
        if number < len(share):
            await connection.publish(line.subject, line.body, headers=headers)
            continue
        headers["Nats-Batch-Commit"] = "1"
        answer = await connection.request(line.subject, line.body, headers=headers, timeout_s=60)
        told = msgspec.json.decode(answer.body)
        if "error" in told:
            raise SystemExit(f"the hub did not take a batch: {told['error']}")


async def appended(names: Sequence[str], trust: seal.Signer, cmk: seal.Signer, count: int) -> dict[str, Any]:
    """Milliseconds an append takes on a hub that syncs each, and how many a second 64 writers bring in.

    And from a CMK's order to revoke until the ledger has it, while a routine writer of the same residence never rests.
    """
    from ledger import MIX, planned, sealed

    from openkcm.contract import subjects

    with tempfile.TemporaryDirectory(prefix="openkcm-bench-") as directory:
        hub = Hub(Path(directory), names)
        hub.start()
        try:
            for user, part in (("ledger-admin", "ledger"), ("reports-admin", "reports")):
                connection = await hub.connect(user)
                await declare.apply(connection, declare.declared(part, hub.regions))  # type: ignore[arg-type]
                await connection.close()
            connection = await hub.connect("trust")
            await open_ledger(Ledger(connection), trust, cmk.public_key, [])
            await connection.close()
            connection = await hub.connect("cmk")
            ledger, lines = Ledger(connection), []
            for sequence, kind, region, tenant, counter in planned(count + 2):
                decree = MIX[kind][1](sequence)
                where = subjects.residence_aggregate(region, tenant, d.lane_of(decree))
                lines.append(sealed(sequence, str(where), decree, counter, cmk))
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
            home = Path(directory) / "cmk"
            home.mkdir()
            revoked = await _revoked(hub, home, trust)
        finally:
            hub.stop()
    return {**_spread("append", took), "64 writers, events/s": round(rate), **revoked}


def _spread(what: str, took: list[float]) -> dict[str, float]:
    return {f"{what}, median ms": round(statistics.median(took), 2),
            f"{what}, p99 ms": round(statistics.quantiles(took, n=100)[98], 2)}  # fmt: skip


async def _revoked(hub: Hub, home: Path, trust: seal.Signer) -> dict[str, Any]:
    """Revoke a residence again and again, alone and beside a writer; spool, fsync and PubAck are in the time."""
    region, tenant = hub.regions[0].region, "revoked"
    where = subjects.residence_aggregate(region, tenant)
    cmk = await open_cmk(hub.configuration(home, trust.public_key))
    end, written = asyncio.Event(), 0

    async def writes() -> None:
        nonlocal written
        while not end.is_set():
            order, labels = cmk.own_order(tenant, "Configure", f"c-{written}"), {"n": str(written)}
            await cmk.registry.execute(where, Residence, order, lambda r, x=labels: r.configure({"labels": x}))  # type: ignore[misc]
            written += 1

    async def revokes(name: str) -> list[float]:
        took = []
        for n in range(REVOCATIONS):
            begun = time.perf_counter()
            (pulled,) = await cmk.switch.pull(tenant, [region], "drill", cmk.own_order(tenant, "Revoke", f"{name}-{n}"))
            took.append(1e3 * (time.perf_counter() - begun))
            assert pulled.recorded == "ledger"
            await asyncio.sleep(0.01)
        return took

    try:
        order = cmk.own_order(tenant, "Assign", "defaults")
        await cmk.registry.execute(where, Residence, order, lambda r: r.set_defaults())
        alone = await revokes("alone")
        writer, begun = asyncio.create_task(writes()), time.perf_counter()
        beside = await revokes("beside")
        rate = written / (time.perf_counter() - begun)
        end.set()
        await writer
    finally:
        await cmk.close()
    return {**_spread("revocation in the ledger, alone", alone),
            **_spread("revocation in the ledger, beside a busy writer", beside),
            "revocations": REVOCATIONS, "the writer's events/s meanwhile": round(rate)}  # fmt: skip
