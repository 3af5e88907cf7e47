"""The one-command stack's fixed map of ports, loopback only. Tries whether one is free; listens on none."""

from __future__ import annotations

import socket
from typing import Final

from openkcm.cli.orbital import ServerPorts

__all__ = ["DEFAULT_BASE", "HOST", "MOST_NODES", "MOST_REGIONS", "Ports", "is_free"]

HOST: Final = "127.0.0.1"
MOST_NODES: Final = 24  # the map has room for so many
MOST_REGIONS: Final = 12
DEFAULT_BASE: Final = 5690  # the first node then listens on KMIP's own port, 5696


class Ports:
    """The fixed map of ports from one base, loopback only."""

    def __init__(self, base: int) -> None:
        self.portal, self.idp = base, base + 1
        self.hub = ServerPorts(client=base + 2, monitor=base + 3, leaf=base + 4)
        self.ministack = base + 5
        self._base = base

    def kmip(self, index: int) -> int:
        """Where the workers of the fleet's `index`-th node listen."""
        return self._base + 6 + index

    def metrics(self, index: int) -> int:
        """Where that node's metrics are."""
        return self._base + 6 + MOST_NODES + index

    def leaf(self, index: int) -> ServerPorts:
        """Where the `index`-th region's NATS server listens."""
        first = self._base + 6 + 2 * MOST_NODES + 2 * index
        return ServerPorts(client=first, monitor=first + 1)


def is_free(port: int) -> bool:
    """Return whether nobody listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier stack that linger
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
