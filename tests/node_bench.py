"""Governance as a node sees it: a press for decrees, the real ledger to append them to, beats for every HealthCheck."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import msgspec

from loopback import free_ports
from openkcm.bus import beat
from openkcm.bus.ledger import Ledger
from openkcm.bus.reports import Reports
from openkcm.cli import pki
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import reports
from openkcm.contract.fleet import RootPolicy
from orbital_fixture import EU, EU_NODE, Orbital
from press import Press, seed


class Governor:
    """One region's governance, played by the test; stops beating when told."""

    def __init__(self, orbital: Orbital, press: Press) -> None:
        self.orbital, self.press = orbital, press
        self.acks: dict[tuple[str, str], reports.SyncAck] = {}
        self.seen: list[reports.Report] = []
        self.health: reports.HealthCheck | None = None
        self.healths: dict[str, reports.HealthCheck] = {}
        self.beating = True
        self.chain, self.head = bytes(32), 0

    async def __aenter__(self) -> Self:
        self.connection = await self.orbital.connect("cmk")
        self.ledger = Ledger(self.connection)
        await beat.subscribe_health(self.connection, self._on_health)
        self._following = asyncio.ensure_future(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._following
        await self.connection.close()

    async def append(self, e: env.Envelope) -> int:
        done = await self.ledger.append(e.subject, env.encode(e), id=e.id, tag=e.tag, expected_last=None)
        mine = e.subject.startswith((f"kcm.decree.{self.press.region}.", "kcm.decree.global._."))
        if ".critical." in e.subject and mine:
            self.chain = hashlib.sha256(self.chain + hashlib.sha256(env.encode(e)).digest()).digest()
            self.head = done.sequence
        return done.sequence

    async def _on_health(self, stored) -> None:
        e = env.decode(stored.body)
        self.health = reports.read(e.tag, e.data)
        self.healths[self.health.node] = self.health
        if self.beating and self.health.region == self.press.region:
            b = self.press.beat(self.head, self.chain, self.health.nonce)
            await beat.say(self.connection, b.subject, env.encode(b), id=b.id, tag=b.tag)

    async def _follow(self) -> None:
        async for stored in Reports(self.connection).follow(0):
            e = env.decode(stored.body)
            report = reports.read(e.tag, e.data)
            self.seen.append(report)
            if isinstance(report, reports.SyncAck):
                self.acks[report.tenant, report.lane] = report

    async def until(self, what, *, timeout_s: float = 60.0):
        """Wait until `what()` is true and return it."""
        until = time.monotonic() + timeout_s
        while not (found := what()):
            if time.monotonic() > until:
                raise AssertionError(f"not within {timeout_s} s; acks {self.acks}; health {self.health}")
            await asyncio.sleep(0.02)
        return found

    def acked(self, tenant: str, lane: str, counter: int, state: str | None = None):
        ack = self.acks.get((tenant, lane))
        if ack is None or ack.floor < counter:
            return None
        said = ack.state
        if said == "expired" and self.health is not None:  # acknowledged before the first beat came
            said = next((mark.state for mark in self.health.residences if mark.tenant == tenant), said)
        return ack if state in (None, said) else None


#: The node's command on a kernel that has no memfd_secret(2).
WITHOUT_SECRETMEM = """
from openkcm.execution import secretmem
secretmem._MEMFD_SECRET = 99999
from openkcm.cli.main import main
main()
"""


class RunningNode:
    """A real node process."""

    def __init__(
        self,
        orbital: Orbital,
        press: Press,
        folder: Path,
        *,
        workers: int = 1,
        fallback: bool = False,
        name: str = EU_NODE,
        roots: tuple[Path, ...] = (),
        policy: RootPolicy | None = None,
        limits: dict[str, int] | None = None,
        program: str | None = None,
        probes: dict[str, float] | None = None,
    ) -> None:
        self.orbital, self.folder = orbital, folder
        self.program = WITHOUT_SECRETMEM if fallback else program
        self.port, self.metrics = free_ports(2)
        self.key_file = folder / "l1.keys"
        folder.mkdir(exist_ok=True)
        state = orbital.state_dir
        region = next(r for r in orbital.regions if r.region == EU)
        raw = msgspec.to_builtins(region)
        raw["trust_root"] = base64.b64encode(press.root.public_key).decode()
        raw["roots"]["directories"] = [str(folder), *map(str, roots)]
        raw["roots"]["probe_s"] = probes or {"file": 0.2}
        if policy is not None:
            raw["roots"] = msgspec.to_builtins(policy)
        raw["limits"] |= limits or {}
        self.region = raw
        (folder / "node.toml").write_text(_toml(raw))
        os.umask(0o077)
        (folder / "seal.seed").write_bytes(hashlib.sha256(name.encode()).digest())
        self.authority = pki.authority(state)
        cert, key = self.authority.issue("kmip-test")
        self.configuration = {
            "node": name,
            "region": EU,
            "region_config": str(folder / "node.toml"),
            "nats": msgspec.to_builtins(orbital.access(name)),
            "seal_seed": str(folder / "seal.seed"),
            "database": str(folder / "node.sqlite"),
            "kmip": {
                "host": "127.0.0.1",
                "port": self.port,
                "cert": str(cert),
                "key": str(key),
                "client_ca": str(self.authority.ca),
            },
            "metrics": {"host": "127.0.0.1", "port": self.metrics},
            "workers": workers,
        }
        (folder / "node.json").write_text(json.dumps(self.configuration))
        self.ready_file = folder / "ready.json"
        self.process: subprocess.Popen | None = None

    def limit(self, **limits: object) -> None:
        """Give the region other limits; they hold from the next start on."""
        (self.folder / "node.toml").write_text(_toml({**self.region, "limits": {**self.region["limits"], **limits}}))

    def start(self, *more: str) -> None:
        self.ready_file.unlink(missing_ok=True)
        command = [
            sys.executable,
            *(["-c", self.program] if self.program else ["-m", "openkcm.cli.main"]),
            "node",
        ]
        with (self.folder / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--config", self.folder / "node.json", "--ready", self.ready_file, *more],
                stdout=log,
                stderr=log,
            )

    async def wait_ready(self, timeout_s: float = 120.0) -> dict:
        until = time.monotonic() + timeout_s
        while not self.ready_file.exists():
            assert self.process.poll() is None, self.tail()
            assert time.monotonic() < until, self.tail()
            await asyncio.sleep(0.05)
        return json.loads(self.ready_file.read_text())

    def tail(self) -> str:
        return (self.folder / "node.log").read_text()[-4000:]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        if self.process is None or self.process.poll() is not None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


def new_key_file(path: Path, versions: int = 1) -> None:
    """A customer's file root."""
    lines = [
        f"v{i + 1}:{base64.b64encode(hashlib.sha256(f'{path}{i}'.encode()).digest()).decode()}" for i in range(versions)
    ]
    whole = path.with_suffix(".new")  # a node that probes meanwhile reads the old file or the new one
    whole.write_text("\n".join(lines) + "\n")
    whole.chmod(0o600)
    whole.replace(path)


def onboarding(press: Press, tenant: str, ref: Path | d.RootReference, *, lease_s: int = 60, fingerprint: str = ""):
    """The decrees of a residence with a file root, or the one given; `fingerprint`: of its workload's certificate."""
    for e in press.onboarded(tenant, lease_s=lease_s):
        if e.tag == "RootKeyLinked.1":
            root = ref if isinstance(ref, d.RootReference) else d.RootReference(provider="file", ref=str(ref))
            yield press.residence(tenant, d.RootKeyLinked(root=root), counter=e.counter)
        elif e.tag == "WorkloadEnrolled.2" and fingerprint:
            enrolled = msgspec.structs.replace(d.read(e.tag, e.data), fingerprint=fingerprint)
            yield press.residence(tenant, enrolled, counter=e.counter)
        else:
            yield e


def opening(press: Press):
    """A fresh ledger's first decrees, this node enrolled."""
    yield from press.opening((EU_NODE, EU))


def _toml(raw: dict) -> str:
    def value(v) -> str:
        if isinstance(v, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {value(x)}" for k, x in v.items()) + "}"
        return json.dumps(v)

    return "".join(f"{k} = {value(v)}\n" for k, v in raw.items() if v is not None)


__all__ = ["Governor", "RunningNode", "new_key_file", "onboarding", "opening", "seed"]
