"""`endpoints.json`: what a running one-command stack tells tools and tests. Reads and writes that file only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from openkcm.cli import pki

__all__ = ["FILE", "Cmk", "Endpoints", "Kmip", "Nats", "Node", "Oidc", "Person", "Root", "Workload", "load", "save"]

FILE: Final = "endpoints.json"


class Cmk(msgspec.Struct, frozen=True, kw_only=True):
    """The portal and API. `ca` is None while it speaks plain HTTP on loopback."""

    url: str
    ca: str | None
    pid: int


class Oidc(msgspec.Struct, frozen=True, kw_only=True):
    """The identity provider."""

    issuer: str
    pid: int


class Person(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A demo account with a fresh token. `approval_key`: file with the 32-byte seed that it signs approvals with."""

    roles: tuple[str, ...]
    token: str
    approval_key: str | None = None


class Nats(msgspec.Struct, frozen=True, kw_only=True):
    """A NATS server and where its streams lie."""

    url: str
    pid: int
    store: str


class Kmip(msgspec.Struct, frozen=True, kw_only=True):
    """Where a node's workers listen."""

    host: str
    port: int


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A crypto node."""

    name: str
    region: str
    custodian_pid: int
    worker_pids: tuple[int, ...]
    kmip: Kmip
    sqlite: str
    metrics: str


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A client certificate for KMIP, PEM files."""

    cert: str
    key: str
    ca: str


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """A residence's L1 as it is linked: a name, no key."""

    provider: str
    ref: str


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    cmk: Cmk
    oidc: Oidc
    people: dict[str, Person]
    nats: dict[str, Nats]
    nodes: tuple[Node, ...]
    workloads: dict[str, Workload]
    roots: dict[str, Root]
    log_dir: str

    def node_of(self, region: str) -> Node:
        """Return the first node of a region.

        Raises:
            KeyError: No node there.
        """
        for node in self.nodes:
            if node.region == region:
                return node
        raise KeyError(f"no node in {region}")


def save(state: Path, endpoints: Endpoints) -> None:
    """Write the file atomically, 0600: it carries tokens."""
    pki.write_private(state / FILE, msgspec.json.format(msgspec.json.encode(endpoints), indent=2) + b"\n")


def load(state: Path) -> Endpoints:
    """Return the running stack's endpoints.

    Raises:
        FileNotFoundError: No stack was started with this state directory.
        ValueError: The file is no endpoints.json of this version.
    """
    path = state / FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: start the stack with `scripts/up --state {state}`")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Endpoints)
    except msgspec.MsgspecError as bad:
        raise ValueError(f"{path}: {bad}") from bad
