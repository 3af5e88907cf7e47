"""A node's own configuration: `node.json` (this process) and `node.toml` (its region). Reads files; starts nothing."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from openkcm.bus.access import Access
from openkcm.contract.errors import ContractError
from openkcm.contract.fleet import RegionConfiguration, parse_region
from openkcm.contract.ids import NodeName, Region

__all__ = ["KmipListener", "MetricsListener", "NodeConfiguration", "load"]

Port = Annotated[int, Meta(ge=0, le=65535)]


class KmipListener(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where KMIP is served. cert, key, client_ca: PEM files."""

    host: str
    port: Port
    cert: str
    key: str
    client_ca: str


class MetricsListener(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where figures are served, plain HTTP: loopback only."""

    host: str
    port: Port


class NodeConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One node process.

    Attributes:
        region_config: The region's node.toml, trust root filled in.
        seal_seed: File of 32 bytes, 0600: the node's own sealing key.
        database: The node's SQLite file.
        workers: KMIP processes; 0: as node.toml says.
    """

    node: NodeName
    region: Region
    region_config: str
    nats: Access
    seal_seed: str
    database: str
    kmip: KmipListener
    metrics: MetricsListener
    workers: Annotated[int, Meta(ge=0, le=256)] = 0


def load(path: Path) -> tuple[NodeConfiguration, RegionConfiguration, bytes]:
    """Return the configuration, its region's, and the pinned trust root (32 bytes).

    Raises:
        ContractError: A file is missing or does not fit; the message names it.
    """
    try:
        node = msgspec.json.decode(path.read_bytes(), type=NodeConfiguration)
        region = parse_region(Path(node.region_config).read_bytes())
    except (OSError, msgspec.MsgspecError) as bad:
        raise ContractError(f"{path}: {bad}") from bad
    if region.region != node.region or node.node not in region.nodes:
        raise ContractError(f"{path}: {node.node} is no node of {region.region}")
    if region.trust_root is None:
        raise ContractError(f"{node.region_config}: no trust root is pinned; a node without one would obey anybody")
    return node, region, base64.b64decode(region.trust_root, validate=True)
