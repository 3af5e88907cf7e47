"""When this node's certificates end: of its KMIP listener, of its connection to the bus, and of the CAs behind both.

Reads files, each again when it changed. The wall clock warns and decides nothing (S7): whether a certificate
is taken is TLS's business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography import x509

from openkcm.execution.configuration import NodeConfiguration

__all__ = ["Expiry", "certificates_of"]

_log: Final = logging.getLogger("openkcm.expiry")


def certificates_of(node: NodeConfiguration) -> dict[str, str]:
    """Return the node's certificate files by what they are for."""
    return {"kmip": node.kmip.cert, "kmip-ca": node.kmip.client_ca, "nats": node.nats.cert, "nats-ca": node.nats.ca}


class Expiry:
    """The ends of some certificates."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = {name: Path(path) for name, path in files.items()}
        self._known: dict[str, tuple[int, float]] = {}

    def left(self) -> dict[str, int]:
        """Return seconds until each expires, negative afterwards; a file with several counts by the first to end."""
        return {name: int(end - time.time()) for name in self._files if (end := self._end(name)) is not None}

    def _end(self, name: str) -> float | None:
        path = self._files[name]
        try:
            changed = path.stat().st_mtime_ns
            if self._known.get(name, (0, 0.0))[0] != changed:
                found = x509.load_pem_x509_certificates(path.read_bytes())
                self._known[name] = (changed, min(c.not_valid_after_utc.timestamp() for c in found))
        except (OSError, ValueError) as bad:
            _log.warning("no end of the certificate %s: %s", path, bad)
            return None
        return self._known[name][1]
