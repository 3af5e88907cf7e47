"""PyKMIP's client, as a workload would use it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from kmip.pie.client import ProxyKmipClient


class PykmipClient(ProxyKmipClient):
    """Hangs up also where the peer did so first: PyKMIP's own leaves the socket open then, for the collector."""

    def close(self) -> None:
        with self.proxy.socket or contextlib.nullcontext():
            super().close()


def connected_as(host: str, port: int, cert: str | Path, key: str | Path, ca: str | Path) -> PykmipClient:
    """A client for `with`: mutual TLS of the newest version, KMIP 1.2."""
    return PykmipClient(
        host, port, cert=str(cert), key=str(key), ca=str(ca), ssl_version="PROTOCOL_TLS", config_file=os.devnull
    )
