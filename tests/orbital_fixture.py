"""A running hub and a leaf a region, on free loopback ports in a temporary directory, for any room's tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from loopback import free_ports
from openkcm.bus.access import Access
from openkcm.bus.connection import Connection, connect
from openkcm.cli import orbital as servers
from openkcm.contract.fleet import RegionConfiguration, parse_region
from openkcm.contract.resources import ROOT

EU, US = "eu-frankfurt", "us-virginia"
EU_NODE, US_NODE = "eu-frankfurt-1", "us-virginia-1"


def shipped_regions(nodes_per_region: int = 1) -> list[RegionConfiguration]:
    """The regions of nodes/, with as many nodes each as asked for."""
    regions = [parse_region((ROOT / "nodes" / name / "node.toml").read_bytes()) for name in (EU, US)]
    return [
        msgspec.structs.replace(r, nodes=tuple(f"{r.region}-{i + 1}" for i in range(nodes_per_region))) for r in regions
    ]


class Orbital:
    """The running servers. `state_dir` is laid out as `up` does it."""

    def __init__(self, state_dir: Path, regions: list[RegionConfiguration]) -> None:
        self.state_dir = state_dir
        self.regions = regions
        names = [servers.HUB, *(r.region for r in regions)]
        ports = free_ports(3 * len(names))
        self.ports = {
            name: servers.ServerPorts(client=ports[3 * i], monitor=ports[3 * i + 1], leaf=ports[3 * i + 2])
            for i, name in enumerate(names)
        }
        self.servers: dict[str, servers.Server] = {}

    def start(self, name: str) -> None:
        self.servers[name] = servers.start(self.state_dir, name, self.ports[name])
        self.servers[name].wait_ready()

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self.servers[name].process
        process.kill()
        process.wait()

    def stop(self) -> None:
        for server in reversed(self.servers.values()):
            server.stop()

    def server_of(self, user: str) -> str:
        """Which server a user belongs to."""
        for region in self.regions:
            if user in (*region.nodes, f"{region.region}-admin", f"{region.region}-auditor"):
                return region.region
        return servers.HUB

    def access(self, user: str) -> Access:
        return servers.access(self.state_dir, user, self.ports[self.server_of(user)])

    async def connect(self, user: str) -> Connection:
        return await connect(self.access(user), name=user)


def run_apart(coroutine: object) -> object:
    """Run a coroutine to its end outside the test's own loop."""
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(asyncio.run, coroutine).result()  # type: ignore[arg-type]


@contextlib.contextmanager
def running_orbital(state_dir: Path, *, nodes_per_region: int = 1) -> Iterator[Orbital]:
    """A topology of one's own, for tests that break it."""
    regions = shipped_regions(nodes_per_region)
    orbital = Orbital(state_dir, regions)
    servers.lay_out(state_dir, regions, orbital.ports)
    try:
        for name in orbital.ports:
            orbital.start(name)
        run_apart(servers.apply_streams(state_dir, regions, orbital.ports))
        yield orbital
    finally:
        orbital.stop()


@pytest.fixture(scope="module")
def orbital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orbital]:
    """A topology that a module's tests share: each uses tenants of its own."""
    with running_orbital(tmp_path_factory.mktemp("orbital")) as running:
        yield running
