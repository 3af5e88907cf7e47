"""`openkcm region` and `openkcm node`: the fleet of a running one-command stack, or of an operator's own files.

Each command writes the wanted fleet (`<state>/regions/<region>/`) and has the running stack come to it; without a
running stack the next start does. Residency rules: what would leave a tenant without a region, or a region without a
node while tenants are there, is refused and says who is there.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from openkcm.cli import background, endpoints, pki, reconcile
from openkcm.cli.layout import Layout, toml
from openkcm.client import Client
from openkcm.contract.fleet import RegionConfiguration, parse_region
from openkcm.contract.ids import check_token
from openkcm.contract.resources import ROOT

__all__ = [
    "NotAllowed",
    "add_region",
    "drain_region",
    "enrol_node",
    "remove_node",
    "remove_region",
    "renew_certificates",
    "restart_nodes",
    "write_region",
]

PATTERN: Final = "eu-frankfurt"  # the shipped region whose leaf.conf is the pattern of all others
#: States of a tenant region in which nothing of the tenant is left there.
SETTLED_STATES: Final = frozenset({"Destroyed"})


class NotAllowed(Exception):
    """The fleet may not be changed so; the message says who would lose what, and what to do first."""


def write_region(folder: Path, region: RegionConfiguration) -> None:
    """Write `<folder>/<region>/node.toml` and `leaf.conf`, as nodes/ ships them."""
    account = "REGION_" + region.region.upper().replace("-", "_")
    leaf = (ROOT / "nodes" / PATTERN / "leaf.conf").read_text()
    leaf = leaf.replace("REGION_" + PATTERN.upper().replace("-", "_"), account).replace(PATTERN, region.region)
    target = folder / region.region
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    pki.write_private(target / "leaf.conf", leaf.encode())
    pki.write_private(target / "node.toml", toml(msgspec.to_builtins(region)).encode())


def add_region(state: Path, name: str, *, residency: tuple[str, ...], nodes: int, aws_regions: tuple[str, ...]) -> str:
    """Add a region with so many nodes; return what was done.

    Raises:
        NotAllowed: The name is taken.
        ContractError, NotReconciled: No name for a region; the running stack did not come to it.
    """
    check_token(name, "region")
    layout = background.saved_layout(state)
    if any(r.region == name for r in layout.regions):
        raise NotAllowed(f"there is a region {name} already")
    pattern = parse_region((ROOT / "nodes" / PATTERN / "node.toml").read_bytes())
    region = replace(
        pattern,
        region=name,
        residency=residency,
        nodes=tuple(f"{name}-{n}" for n in range(1, nodes + 1)),
        root_regions={"aws": aws_regions} if aws_regions else {},
    )
    return _change(layout, region)


def enrol_node(state: Path, node: str, region: str) -> str:
    """Add a node to a region; return what was done.

    Raises:
        NotAllowed: The name is taken.
        ContractError, NotReconciled, ValueError: No name for a node; no such region; the stack did not come to it.
    """
    check_token(node, "node")
    layout = background.saved_layout(state)
    if node in dict(layout.nodes):
        raise NotAllowed(f"there is a node {node} already, in {dict(layout.nodes)[node]}")
    home = layout.region(region)
    return _change(layout, replace(home, nodes=(*home.nodes, node)))


def remove_node(state: Path, node: str) -> str:
    """Remove a node for ever; return what was done.

    It stays in the count of whoever waits for acknowledgements until its last lease is over.

    Raises:
        NotAllowed: It is the last one of its region: the region is drained and removed instead.
        NotReconciled, ValueError: No such node; the running stack did not come to it.
    """
    layout = background.saved_layout(state)
    name = dict(layout.nodes).get(node)
    if name is None:
        raise ValueError(f"no node {node}: the fleet has {', '.join(n for n, _ in layout.nodes)}")
    home = layout.region(name)
    left = tuple(n for n in home.nodes if n != node)
    if not left:
        raise NotAllowed(f"{node} is the last node of {name}: drain and remove the region instead")
    return _change(layout, replace(home, nodes=left))


def restart_nodes(
    state: Path, *, node: str | None = None, region: str | None = None, renewals: Sequence[str] = ()
) -> str:
    """Replace a node's process, or those of a region one after another, while they serve; return what was done.

    Raises:
        NotReconciled, ValueError: No such node or region, nothing runs, or a new process did not take over.
    """
    layout = background.saved_layout(state)
    wanted = [n for n, r in layout.nodes if node in (None, n) and region in (None, r)]
    if not wanted:
        raise ValueError(f"no node {node or region}: the fleet has {', '.join(n for n, _ in layout.nodes)}")
    if background.running(state) is None:
        raise ValueError("nothing runs on this state directory")
    reconcile.want(state, restarts=wanted, renewals=renewals)
    return _ask(state)


def renew_certificates(state: Path, *words: str) -> str:
    """Do this of `reconcile.RENEWALS` on the running stack, then have new processes of all nodes show the outcome.

    Raises:
        NotReconciled, ValueError: Nothing runs, or it did not work.
    """
    return restart_nodes(state, renewals=words)


def drain_region(state: Path, name: str) -> tuple[str, list[dict[str, Any]]]:
    """Let no more tenants in; return what was done, and the tenant regions that are still there."""
    layout = background.saved_layout(state)
    done = _change(layout, replace(layout.region(name), draining=True))
    return done, _tenants_in(state, name)


def remove_region(state: Path, name: str) -> str:
    """Remove a drained region in which no tenant is left; return what was done.

    Raises:
        NotAllowed: Not drained, the last one, or tenants are there; names them, and whose last region it is.
        NotReconciled, ValueError: No such region; the running stack did not come to it.
    """
    layout = background.saved_layout(state)
    if not layout.region(name).draining:
        raise NotAllowed(f"{name} still takes tenants in: `openkcm region drain {name}` first")
    if len(layout.regions) == 1:
        raise NotAllowed(f"{name} is the last region")
    if there := _tenants_in(state, name):
        who = "; ".join(f"{t['tenant']} ({t['state']}{', its last region' if t['last'] else ''})" for t in there)
        raise NotAllowed(f"tenants are still in {name}: {who}. Each must move or be terminated first")
    target = layout.fleet_dir / name
    (target / "leaf.conf").unlink(missing_ok=True)
    pki.write_private(target / "node.toml", b"")
    return _ask(state)


def _change(layout: Layout, region: RegionConfiguration) -> str:
    """Write one region as it shall be, and come to it; what was there before comes back when that fails."""
    target = layout.fleet_dir / region.region
    before = {path: path.read_bytes() for path in target.glob("*")}
    write_region(layout.fleet_dir, region)
    try:
        background.saved_layout(layout.state)  # it must be a fleet at all
        return _ask(layout.state)
    except Exception:
        shutil.rmtree(target)
        for path, raw in before.items():
            target.mkdir(exist_ok=True, mode=0o700)
            pki.write_private(path, raw)
        raise


def _ask(state: Path) -> str:
    outcome = reconcile.ask(state)
    return "\n".join(outcome.done) if outcome else "written; no stack runs here, the next start comes to it"


def _tenants_in(state: Path, region: str) -> list[dict[str, Any]]:
    """Return the tenants with something left in a region: name, state, and whether it is their last region."""
    running = endpoints.load(state)
    found: list[dict[str, Any]] = []
    with Client(running.cmk.url, running.people["provider/operator"].token, ca=running.cmk.ca) as portal:
        for tenant in portal.tenants():
            live = [home for home in tenant.regions if home.state not in SETTLED_STATES]
            found += [
                {"tenant": tenant.id, "state": home.state, "last": len(live) == 1}
                for home in live
                if home.region == region
            ]
    return found
