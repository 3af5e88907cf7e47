"""`openkcm node egress`: prints firewall rules from a node's own configuration. Resolves names; connects to nothing."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import click

from openkcm.contract.errors import ContractError
from openkcm.execution import configuration
from openkcm.execution.egress import FORMATS, Destination, Rules, destinations

__all__ = ["run"]


def run(config: Path, form: str, dns: tuple[str, ...], user: str) -> str:
    """Return the rules.

    Args:
        config: The node's node.json, which names its node.toml and its NATS server.
        dns: Addresses of the resolvers that the node may ask.

    Raises:
        click.ClickException: The configuration does not fit, or a name does not resolve.
    """
    try:
        node, region, _ = configuration.load(config)
        places = destinations(region.roots, {"nats.url": node.nats.url})
    except ContractError as bad:
        raise click.ClickException(str(bad)) from bad
    named = [place for place in places if not _is_address(place.host)]
    if named and not dns:
        raise click.ClickException(f"{named[0].host} is a name: say which resolvers the node asks (--dns ADDRESS)")
    return FORMATS[form](Rules(places=tuple((place, _addresses(place)) for place in places), dns=dns, user=user))


def _addresses(place: Destination) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except OSError as bad:
        raise click.ClickException(f"{place.why}: {place.host} does not resolve here: {bad}") from bad
    return tuple(sorted({str(address[0]) for *_, address in found}))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
