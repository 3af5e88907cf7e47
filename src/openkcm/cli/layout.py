"""What lies where in a one-command stack's state directory, and on which ports. Writes files; starts nothing.

Idempotent: keys, seeds and certificates that exist are kept, configurations are written anew at every start.
"""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from openkcm.cli import endpoints as ends
from openkcm.cli import orbital, pki
from openkcm.cli.orbital import HUB, ServerPorts
from openkcm.cli.ports import DEFAULT_BASE, HOST, MOST_NODES, MOST_REGIONS, Ports, is_free
from openkcm.cli.softhsm import SoftHsm
from openkcm.contract import decrees as d
from openkcm.contract.fleet import RegionConfiguration, parse_region
from openkcm.contract.resources import ROOT
from openkcm.contract.seal import Signer

__all__ = ["ACCOUNTS", "CANARY", "TENANTS", "Account", "Layout", "Tenant"]

AUDIENCE: Final = "openkcm"
LOCAL_PROBE_S: Final = 1.0  # a cloud's calls cost money and are made every 30 s; the local KMS's do not


class Account(msgspec.Struct, frozen=True):
    """A demo account: what the tenant lets it do, and whether it holds a key to sign approvals with."""

    roles: tuple[d.Role, ...]
    approves: bool = False


class Tenant(msgspec.Struct, frozen=True):
    """A demo tenant: where it lives and which systems it has; each has one workload of its own name."""

    regions: tuple[str, ...]
    systems: tuple[str, ...]


_ADMIN: Final = ("tenant-admin", "key-admin", "kill-switch")
ACCOUNTS: Final[dict[str, Account]] = {
    "acme/admin": Account(_ADMIN, approves=True),
    "acme/approver": Account(("approver",), approves=True),
    "acme/auditor": Account(("auditor",)),
    "bolt/admin": Account(_ADMIN, approves=True),
    "bolt/approver": Account(("approver",), approves=True),
    "canary/admin": Account((*_ADMIN, "auditor"), approves=True),
    "canary/approver": Account(("approver",), approves=True),
    "provider/operator": Account(("provider-operator",)),
    # Of no tenant yet: who wants to come aboard through the pages.
    "newcomer/anna": Account(()),
    "newcomer/ben": Account(()),
    "newcomer/carl": Account(()),
}
TENANTS: Final[dict[str, Tenant]] = {
    "acme": Tenant(("eu-frankfurt", "us-virginia"), ("payments", "archive")),
    "bolt": Tenant(("us-virginia",), ("orders",)),
}
CANARY: Final = "canary"  # the tenant of rehearsals: comes aboard at the first one, in every region


class Layout:
    """One state directory. The properties name paths; `write` makes what they name.

    Args:
        state: The directory; made 0700.
        nodes_per_region: At least 1; nodes after the first are named `<region>-2`, `-3` ...
        workers: KMIP workers a node; 0 leaves it to the region's configuration.
        aws: Roots are keys of the local KMS at this address instead of key files.
        pkcs11: Roots are keys of a local HSM, SoftHSM2.

    Raises:
        ValueError: More nodes than there are ports for.
    """

    def __init__(
        self, state: Path, *, port_base: int = DEFAULT_BASE, nodes_per_region: int = 1, workers: int = 0,
        aws: bool = False, pkcs11: bool = False,
    ) -> None:  # fmt: skip
        self.state = state.resolve()
        self.ports = Ports(port_base)
        self.workers = workers
        self.aws = aws
        self.pkcs11 = pkcs11
        shipped = {path.parent.name: path for path in sorted(ROOT.glob("nodes/*/node.toml"))}
        own = {path.parent.name: path for path in sorted(self.fleet_dir.glob("*/node.toml"))}
        self.regions = tuple(
            self._region(path, 0 if name in own else nodes_per_region)
            for name, path in (shipped | own).items()
            if path.stat().st_size
        )
        if len(self.nodes) > MOST_NODES or len(self.regions) > MOST_REGIONS:
            raise ValueError(f"{len(self.nodes)} nodes in {len(self.regions)} regions; the map of ports has room for "
                             f"{MOST_NODES} in {MOST_REGIONS}")  # fmt: skip
        self._places = self._placed()

    @property
    def roots(self) -> str:
        """Which provider the customers' root keys are at."""
        return "aws" if self.aws else "pkcs11" if self.pkcs11 else "file"

    # --- names ------------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[tuple[str, str], ...]:
        """(node, region) of the whole fleet, in the order of their ports."""
        return tuple((node, region.region) for region in self.regions for node in region.nodes)

    @property
    def server_ports(self) -> dict[str, ServerPorts]:
        """The NATS servers' ports, by name."""
        return {HUB: self.ports.hub, **{r.region: self.ports.leaf(self.place(r.region)) for r in self.regions}}

    @property
    def fleet_dir(self) -> Path:
        """This stack's own fleet: `<region>/node.toml` here stands for the shipped one; an empty one removes it."""
        return self.state / "regions"

    def region(self, name: str) -> RegionConfiguration:
        """Return a region of this fleet.

        Raises:
            ValueError: There is none of that name.
        """
        for region in self.regions:
            if region.region == name:
                return region
        raise ValueError(f"no region {name}: the fleet has {', '.join(r.region for r in self.regions)}")

    def leaf_conf(self, region: str) -> Path:
        """The configuration of a region's NATS server."""
        own = self.fleet_dir / region / "leaf.conf"
        return own if own.exists() else ROOT / "nodes" / region / "leaf.conf"

    def place(self, name: str) -> int:
        """The number that a region or node has in the map of ports: given once, never to another one."""
        return self._places[name]

    def _placed(self) -> dict[str, int]:
        path = self.state / "places.json"
        places: dict[str, int] = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
        for names in ([r.region for r in self.regions], [node for node, _ in self.nodes]):
            taken = {places[name] for name in names if name in places}
            free = (n for n in range(MOST_NODES) if n not in taken)
            places |= {name: next(free) for name in names if name not in places}
        return places

    @property
    def pages_url(self) -> str:
        """The portal for browsers: a passkey is bound to a name, and an address is none."""
        return f"http://localhost:{self.ports.portal}"

    @property
    def portal_url(self) -> str:
        """Portal and API."""
        return f"http://{HOST}:{self.ports.portal}"

    @property
    def issuer(self) -> str:
        """The identity provider."""
        return f"http://{HOST}:{self.ports.idp}"

    @property
    def logs(self) -> Path:
        """Where every process writes its log."""
        return self.state / "logs"

    def log(self, name: str) -> Path:
        """The log of one process."""
        return self.logs / f"{name}.log"

    def ready_file(self, name: str) -> Path:
        """What a process writes when it serves."""
        return self.state / "run" / f"{name}.json"

    def configuration(self, name: str) -> Path:
        """The configuration of `cmk`, `idp` or a node."""
        return self.state / name / f"{name}.json" if name in {"cmk", "idp"} else self.node_dir(name) / "node.json"

    def node_dir(self, node: str) -> Path:
        """Where a node keeps its own."""
        return self.state / "nodes" / node

    def approval_key(self, account: str) -> Path:
        """The seed that a demo person signs approvals with."""
        return self.state / "people" / f"{account.replace('/', '-')}.seed"

    def root_file(self, tenant: str, region: str) -> Path:
        """The customer's own key file: its L1 of a residence when roots are files."""
        return self.state / "roots" / f"{tenant}-{region}.keys"

    def workload(self, tenant: str, system: str) -> ends.Workload:
        """The client certificate of a demo workload, made at the first call."""
        certificate, key = pki.authority(self.state).issue_workload(tenant, system)
        return ends.Workload(cert=str(certificate), key=str(key), ca=str(self.state / "pki" / "ca.pem"))

    @property
    def hsm(self) -> SoftHsm:
        """The local HSM, with a token for each residence.

        Raises:
            ValueError: SoftHSM2 is not installed.
        """
        return SoftHsm(self.state / "softhsm")

    @property
    def aws_credentials(self) -> Path:
        """The credential that nodes show to the local KMS."""
        return self.state / "aws" / "credentials"

    def cloud_region(self, region: str) -> str:
        """The AWS region in which a residence's L1 lies."""
        return next(r for r in self.regions if r.region == region).root_regions["aws"][0]

    def signer(self, path: Path) -> Signer:
        """Return the signer whose seed lies in `path`, made at the first call."""
        if not path.exists():
            pki.write_private(path, os.urandom(32))
        return Signer(path.read_bytes())

    @property
    def trust_root(self) -> Signer:
        """The offline key. In production it is no file beside the stack; here the whole stack is one laptop."""
        return self.signer(self.state / "trust" / "root.seed")

    @property
    def governance_signer(self) -> Signer:
        """What the CMK seals with."""
        return self.signer(self.signing_seed)

    @property
    def signing_seed(self) -> Path:
        """Where its seed lies; during a rotation the next one lies beside it."""
        return self.state / "cmk" / "signing.seed"

    def node_signer(self, node: str) -> Signer:
        """What a node seals with."""
        return self.signer(self.node_dir(node) / "seal.seed")

    def subjects(self) -> dict[str, str]:
        """Return the opaque OIDC subject of each demo account, made at the first call."""
        path = self.state / "idp" / "subjects.json"
        known: dict[str, str] = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
        missing = {name: uuid.uuid4().hex for name in ACCOUNTS if name not in known}
        if missing:
            pki.write_private(path, msgspec.json.encode(known | missing))
        return known | missing

    def taken_ports(self) -> list[str]:
        """Name the ports of this map on which somebody else listens."""
        wanted = {"portal": self.ports.portal, "identity provider": self.ports.idp}
        wanted |= {"local KMS": self.ports.ministack} if self.aws else {}
        for name, ports in self.server_ports.items():
            wanted |= {f"NATS {name}": ports.client, f"NATS {name}'s monitor": ports.monitor}
        wanted["NATS hub's leaf port"] = self.ports.hub.leaf
        for node, _ in self.nodes:
            place = self.place(node)
            wanted |= {f"KMIP {node}": self.ports.kmip(place), f"metrics {node}": self.ports.metrics(place)}
        return [f"{port} ({what})" for what, port in wanted.items() if not is_free(port)]

    # --- files ------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write everything that the stack's processes read.

        Raises:
            OSError: The directory cannot be written.
        """
        for directory in (self.state, self.logs, self.state / "run", self.state / "roots"):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o700)
        authority = pki.authority(self.state)
        pki.write_private(self.state / "trust" / "root.pub", base64.b64encode(self.trust_root.public_key) + b"\n")
        kept = {region.region for region in self.regions}
        for file in self._region_file("*").parent.parent.glob("*/node.toml"):
            if file.parent.name not in kept:
                file.unlink()
        for region in self.regions:
            pki.write_private(self._region_file(region.region), toml(msgspec.to_builtins(region)).encode())
        for name, account in ACCOUNTS.items():
            if account.approves:
                self.signer(self.approval_key(name))
        for tenant, demo in TENANTS.items():
            for system in demo.systems:
                authority.issue_workload(tenant, system)
        pki.write_private(self.state / "places.json", msgspec.json.encode(self._places))
        leaves = {region.region: self.leaf_conf(region.region) for region in self.regions}
        orbital.lay_out(self.state, self.regions, self.server_ports, leaves)
        self._write_json(self.configuration("idp"), self._idp())
        self._write_json(self.configuration("cmk"), self._cmk())
        for node, home in self.nodes:
            self._write_json(self.configuration(node), self._node(node, home, authority))

    def _region_file(self, region: str) -> Path:
        return self.state / "nodes-regions" / region / "node.toml"

    def _region(self, path: Path, nodes_per_region: int) -> RegionConfiguration:
        shipped = parse_region(path.read_bytes())
        nodes = shipped.nodes
        if nodes_per_region:  # 0: the file is this stack's own and means what it says
            more = tuple(f"{shipped.region}-{n}" for n in range(len(nodes) + 1, nodes_per_region + 1))
            nodes = nodes[:nodes_per_region] + more
        roots = replace(shipped.roots, directories=(str(self.state / "roots"),))
        if self.aws:
            from openkcm.cli import ministack

            url = f"http://{HOST}:{self.ports.ministack}"
            roots = replace(
                roots,
                endpoints={f"aws:{cloud}": url for cloud in shipped.root_regions.get("aws", ())},
                credentials={"aws": {"profile": "default", "credentials_file": str(self.aws_credentials)}},
                principals={"aws": f"arn:aws:iam::{ministack.ACCOUNT}:user/{ministack.NODE_USER}"},
                probe_s={"aws": LOCAL_PROBE_S},
            )
        if self.pkcs11:
            hsm = self.hsm
            roots = replace(
                roots,
                providers=(*roots.providers, "pkcs11"),
                credentials={
                    "pkcs11": {"module": hsm.module, "environment": hsm.environment, "pin_file": str(hsm.pin_file)}
                },
                probe_s={"pkcs11": LOCAL_PROBE_S},
            )
        trust = base64.b64encode(self.trust_root.public_key).decode()
        return replace(shipped, nodes=nodes, roots=roots, trust_root=trust)

    def _access(self, user: str, server: str) -> Any:
        return msgspec.to_builtins(orbital.access(self.state, user, self.server_ports[server]))

    def _idp(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "audience": AUDIENCE,
            "listen": {"host": HOST, "port": self.ports.idp},
            "key": str(self.state / "idp" / "signing.pem"),
            "accounts": [{"name": name, "subject": subject} for name, subject in self.subjects().items()],
        }

    def _cmk(self) -> dict[str, Any]:
        home = self.state / "cmk"
        self.governance_signer  # noqa: B018 -- made here, so that the CMK finds it
        return {
            "listen": {"host": HOST, "port": self.ports.portal},
            "tls": None,
            "nats": self._access("cmk", HUB),
            "signing_seed": str(self.signing_seed),
            "registry": str(home / "registry.sqlite"),
            "spool": str(home / "spool"),
            "alone": True,
            "directory": str(home / "directory.sqlite"),
            "oidc": {"issuer": self.issuer, "audience": AUDIENCE, "jwks_uri": None, "ca": None},
            "regions": str(self.state / "nodes-regions"),
            "trust_root": base64.b64encode(self.trust_root.public_key).decode(),
            "operators": [self.subjects()["provider/operator"]],
            "origin": self.pages_url,
            "kmip": {
                region.region: [f"{HOST}:{self.ports.kmip(self.place(node))}" for node in region.nodes]
                for region in self.regions
            },
        }

    def _node(self, node: str, region: str, authority: pki.Authority) -> dict[str, Any]:
        place, home = self.place(node), self.node_dir(node)
        self.node_signer(node)
        # Workers hold no NATS credential: what they show to KMIP clients is a certificate of its own.
        certificate, key = authority.issue(f"kmip-{node}")
        return {
            "node": node,
            "region": region,
            "region_config": str(self._region_file(region)),
            "nats": self._access(node, region),
            "seal_seed": str(home / "seal.seed"),
            "database": str(home / "node.sqlite"),
            "kmip": {
                "host": HOST, "port": self.ports.kmip(place), "cert": str(certificate), "key": str(key),
                "client_ca": str(authority.ca),
            },
            "metrics": {"host": HOST, "port": self.ports.metrics(place)},
            "workers": self.workers,
        }  # fmt: skip

    @staticmethod
    def _write_json(path: Path, value: Any) -> None:
        pki.write_private(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def toml(value: Mapping[str, Any], prefix: str = "") -> str:
    """Return a mapping of strings, numbers, booleans, lists of those, and mappings as TOML; None is left out."""
    tables = {key: inner for key, inner in value.items() if isinstance(inner, Mapping)}
    lines = [
        f"{_quoted(key)} = {msgspec.json.encode(inner).decode()}"  # of these types JSON and TOML agree
        for key, inner in value.items()
        if key not in tables and inner is not None
    ]
    text = "\n".join(lines) + ("\n" if lines else "")
    for key, inner in tables.items():
        name = f"{prefix}{_quoted(key)}"
        text += f"\n[{name}]\n{toml(inner, name + '.')}"
    return text


def _quoted(key: str) -> str:
    return msgspec.json.encode(key).decode()
