"""A hub of three servers with three replicas of every stream, and a leaf a region: for tests that take its quorum away.

`hub` is the server that everybody is told of; the other two are known by gossip. Configuration is the shipped one, with
names, ports and a cluster block; streams are the shipped ones, with their replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from loopback import free_ports
from openkcm.bus import declare
from openkcm.bus.connection import Connection, connect
from openkcm.bus.errors import BusError, Unavailable
from openkcm.cli import orbital as servers
from openkcm.contract.fleet import RegionConfiguration
from openkcm.contract.resources import ROOT
from orbital_fixture import Orbital, run_apart, shipped_regions

HUBS = (servers.HUB, "hub-2", "hub-3")
OTHERS = HUBS[1:]
REPLICAS = 3
CLUSTER = """
cluster: {
  name: hub
  listen: "127.0.0.1:%d"
  routes: [%s]
  tls: {cert_file: "server.pem", key_file: "server.key", ca_file: "ca.pem", verify: true}
}
"""


class ClusteredOrbital(Orbital):
    """Running servers as `Orbital`, the hub three times. `start`, `kill` and `stop` know each by its name."""

    def __init__(self, state_dir: Path, regions: list[RegionConfiguration]) -> None:
        super().__init__(state_dir, regions)
        ports = free_ports(3 * len(HUBS))
        for at, name in enumerate(OTHERS):
            self.ports[name] = servers.ServerPorts(
                client=ports[3 * at], monitor=ports[3 * at + 1], leaf=ports[3 * at + 2]
            )
        self.routes = dict(zip(HUBS, ports[3 * len(OTHERS) :], strict=False))

    def lay_out(self) -> None:
        servers.lay_out(self.state_dir, self.regions, self.ports)
        home = self.state_dir / "nats"
        for name in OTHERS:
            shutil.copytree(home / servers.HUB, home / name)
        for name in HUBS:
            own = self.ports[name]
            routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self.routes.values())
            conf = (ROOT / "nats.conf").read_text().replace("server_name: hub", f"server_name: {name}")
            assert f"server_name: {name}" in conf
            (home / name / "nats.conf").write_text(conf + CLUSTER % (self.routes[name], routes))
            (home / name / "ports.conf").write_text(
                f'HUB_LISTEN: "127.0.0.1:{own.client}"\nHUB_MONITOR: "127.0.0.1:{own.monitor}"\n'
                f'HUB_LEAF_LISTEN: "127.0.0.1:{own.leaf}"\nHUB_STORE: "store"\n'
            )

    def start(self, name: str) -> None:
        self.spawn(name)
        self.servers[name].wait_ready(timeout_s=30)

    def spawn(self, name: str) -> None:
        """Start a server and do not wait: a member of a cluster is ready when there is a quorum."""
        if name not in HUBS:
            self.servers[name] = servers.start(self.state_dir, name, self.ports[name])
            return
        directory = self.state_dir / "nats" / name
        process = subprocess.Popen(
            [servers._binary(), "-c", "nats.conf", "-l", "server.log"], cwd=directory, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.servers[name] = servers.Server(name, directory, self.ports[name], process)

    def start_hubs(self, names: tuple[str, ...] = HUBS) -> None:
        for name in names:
            self.spawn(name)
        for name in names:
            self.servers[name].wait_ready(timeout_s=30)

    async def leader_of(self, stream: str = "LEDGER") -> str:
        """Which of the three leads a stream of the ledger's account; empty while none does."""
        connection = await self.connect("ledger-admin")
        try:
            answer = await connection.request(f"$JS.API.STREAM.INFO.{stream}", timeout_s=2)
            return msgspec.json.decode(answer.body).get("cluster", {}).get("leader", "")
        except Unavailable:
            return ""
        finally:
            await connection.close()

    async def led(self, timeout_s: float = 30) -> str:
        """Return who leads the ledger, once somebody does."""
        deadline = time.monotonic() + timeout_s
        while not (leader := await self.leader_of()):
            assert time.monotonic() < deadline, "nobody leads the ledger"
            await asyncio.sleep(0.1)
        return leader

    async def apply_streams(self, timeout_s: float = 60) -> None:
        """Declare what streams/ holds, three times over on the hub: again while the hub's servers still find each other."""
        deadline = time.monotonic() + timeout_s
        for user, server, part, fleet in servers._parts(self.regions):
            wanted = [_replicated(item, part) for item in declare.declared(part, fleet)]
            connection = await connect(servers.access(self.state_dir, user, self.ports[server]), name=user)
            try:
                await _applied(connection, wanted, deadline)
            finally:
                await connection.close()


async def _applied(connection: Connection, wanted: list[declare.Declared], deadline: float) -> None:
    while True:
        try:
            await declare.apply(connection, wanted)
        except BusError:
            if time.monotonic() > deadline:
                raise
        else:
            return
        await asyncio.sleep(0.5)


def _replicated(item: declare.Declared, part: str) -> declare.Declared:
    if part == "region" or item.consumer is not None:
        return item
    body = {key: value for key, value in item.body.items() if key != "persist_mode"}  # not for replicated streams
    return msgspec.structs.replace(item, body=body | {"num_replicas": REPLICAS})


@contextlib.contextmanager
def running_cluster(state_dir: Path, *, nodes_per_region: int = 1) -> Iterator[ClusteredOrbital]:
    """A clustered hub and its regions, streams declared."""
    cluster = ClusteredOrbital(state_dir, shipped_regions(nodes_per_region))
    cluster.lay_out()
    try:
        cluster.start_hubs()
        for region in cluster.regions:
            cluster.start(region.region)
        run_apart(cluster.apply_streams())
        yield cluster
    finally:
        cluster.stop()
