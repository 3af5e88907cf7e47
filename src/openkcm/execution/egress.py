"""Where a node may connect to, as node.toml says, and the firewall rules that hold it to that. Pure; resolves no name.

The unsealer takes endpoints from node.toml alone; these rules make the kernel, systemd or Kubernetes say the same of
the whole node, so that not even a library with ideas of its own gets elsewhere.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from openkcm.contract.errors import ContractError
from openkcm.contract.fleet import RootPolicy

__all__ = ["FORMATS", "Destination", "Rules", "destinations"]

METADATA: Final = "169.254.169.254"
#: Credential sources that ask the machine's metadata service for a token.
_BY_METADATA: Final = frozenset({"instance", "managed"})
_PORTS: Final = {"https": 443, "http": 80, "tls": 4222, "nats": 4222}


class Destination(NamedTuple):
    """A place a node connects to.

    Attributes:
        why: Which setting names it.
    """

    host: str
    port: int
    why: str


def destinations(policy: RootPolicy, others: Mapping[str, str] = {}) -> tuple[Destination, ...]:
    """Return every place a node of this configuration connects to.

    Args:
        others: Name -> address (`tls://host:port`) of what is no root: the region's NATS server.

    Raises:
        ContractError: An address that is none; the message names its setting.
    """
    found = [_destination(address, f"roots.endpoints.{name}") for name, address in policy.endpoints.items()]
    found += [
        Destination(host, 443, f"roots.vaults.{host}")
        for host in policy.vaults
        if f"azure:{host}" not in policy.endpoints
    ]
    found += [
        Destination(METADATA, 80, f"roots.credentials.{name}.source")
        for name, credential in policy.credentials.items()
        if credential.get("source") in _BY_METADATA
    ]
    found += [_destination(address, name) for name, address in others.items()]
    return tuple({(one.host, one.port): one for one in found}.values())


def _destination(address: str, why: str) -> Destination:
    url = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
    try:
        port = url.port or _PORTS.get(url.scheme)
    except ValueError as bad:
        raise ContractError(f"{why}: {bad}") from bad
    if not url.hostname or not port:
        raise ContractError(f"{why}: {address!r} names no host and port")
    return Destination(url.hostname, port, why)


class Rules(NamedTuple):
    """What the files are made of.

    Attributes:
        places: (destination, its addresses, IPv4 or IPv6).
        dns: Resolvers that the node may ask; none when all hosts are addresses.
        user: The node's system user.
    """

    places: tuple[tuple[Destination, tuple[str, ...]], ...]
    dns: tuple[str, ...]
    user: str

    def addresses(self) -> Iterable[tuple[str, int, str]]:
        """Yield (address, port, why) of each place."""
        return ((address, place.port, place.why) for place, found in self.places for address in found)


def _comments(rules: Rules, sign: str) -> list[str]:
    """Say where it comes from: addresses of a cloud's public endpoints move, private endpoints' do not."""
    head = (
        "Made by `openkcm node egress` from node.toml; make it anew when that changes, or when a name's addresses do."
    )
    return [f"{sign} {head}", *(f"{sign} {place.host}:{place.port}  {place.why}" for place, _ in rules.places)]


def nftables(rules: Rules) -> str:
    """Rules for `nft -f`: the node's user reaches these places and itself, and is refused and logged elsewhere."""
    lines = [*_comments(rules, "#"), "table inet openkcm_egress", "delete table inet openkcm_egress",
             "table inet openkcm_egress {", "    chain output {",
             "        type filter hook output priority filter; policy accept;",
             f'        meta skuid != "{rules.user}" accept', '        oifname "lo" accept',
             "        ct state established,related accept"]  # fmt: skip
    lines += [f"        {_family(a)} daddr {a} meta l4proto {{ tcp, udp }} th dport 53 accept" for a in rules.dns]
    lines += [f"        {_family(a)} daddr {a} tcp dport {port} accept" for a, port, _ in rules.addresses()]
    lines += ['        log prefix "openkcm-egress: " counter', "        meta l4proto tcp reject with tcp reset"]
    return "\n".join([*lines, "        reject", "    }", "}", ""])


def systemd(rules: Rules) -> str:
    """A drop-in for the node's unit. systemd knows addresses and no ports."""
    allowed = dict.fromkeys(address for address, _, _ in rules.addresses())
    lines = [*_comments(rules, "#"), "[Service]", "IPAddressDeny=any", "IPAddressAllow=localhost"]
    return "\n".join([*lines, *(f"IPAddressAllow={a}" for a in dict.fromkeys([*allowed, *rules.dns])), ""])


def kubernetes(rules: Rules) -> str:
    """A NetworkPolicy for pods labelled `app.kubernetes.io/name: openkcm-node`; JSON, which is YAML."""
    egress = [
        {"to": [{"ipBlock": {"cidr": _cidr(a)}}], "ports": [{"protocol": "TCP", "port": port}]}
        for a, port, _ in rules.addresses()
    ]
    egress += [
        {"to": [{"ipBlock": {"cidr": _cidr(a)}}], "ports": [{"protocol": p, "port": 53} for p in ("UDP", "TCP")]}
        for a in rules.dns
    ]
    policy = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {
            "name": "openkcm-node-egress",
            "annotations": {"openkcm/places": ", ".join(f"{p.host}:{p.port} ({p.why})" for p, _ in rules.places)},
        },
        "spec": {
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "openkcm-node"}},
            "policyTypes": ["Egress"], "egress": egress,
        },
    }  # fmt: skip
    return json.dumps(policy, indent=2) + "\n"


FORMATS: Final[dict[str, Callable[[Rules], str]]] = {
    "nftables": nftables, "systemd": systemd, "kubernetes": kubernetes,
}  # fmt: skip


def _family(address: str) -> str:
    return "ip6" if ":" in address else "ip"


def _cidr(address: str) -> str:
    return f"{address}/128" if ":" in address else f"{address}/32"
