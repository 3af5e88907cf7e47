"""When certificates end: those in a process's files, and the one that its NATS server shows.

Files are read again when they changed; the server's is looked at by a handshake of its own, since a connection that
lasts has seen an earlier one. The wall clock warns and decides nothing (S7): whether a certificate is taken is TLS's
business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from openkcm.bus.access import Access, tls_of
from openkcm.contract.authority import NotARootCa, described

__all__ = ["LOOK_S", "Expiry"]

_log: Final = logging.getLogger(__name__)
LOOK_S: Final = 600.0
ANSWER_S: Final = 10.0
SERVER: Final = "nats-server"
_END: Final = "-----END CERTIFICATE-----"


class Expiry:
    """The ends of some certificates.

    Args:
        access: Whose server is looked at, and whose certificate and CA are.
        files: More certificates, by what they are for.
    """

    def __init__(self, access: Access, files: Mapping[str, str]) -> None:
        self._access = access
        self._files = {name: Path(path) for name, path in {"nats": access.cert, "nats-ca": access.ca, **files}.items()}
        self._known: dict[str, tuple[int, float]] = {}
        self._server: float | None = None

    def left(self) -> dict[str, int]:
        """Return seconds until each expires, negative afterwards; a file with several counts by the first to end."""
        ends = {name: self._end(name) for name in self._files} | {SERVER: self._server}
        return {name: int(end - time.time()) for name, end in ends.items() if end is not None}

    async def watch(self) -> None:
        """Look at what the server shows, for ever. A server that does not answer says nothing new."""
        while True:
            try:
                async with asyncio.timeout(ANSWER_S):
                    self._server = await _shown(self._access)
            except ssl.SSLCertVerificationError as bad:
                _log.warning("%s shows a certificate that is not taken any more: %s", self._access.url, bad)
                self._server = time.time()
            except (OSError, TimeoutError) as away:
                _log.info("no end of the certificate of %s: %s", self._access.url, away)
            await asyncio.sleep(LOOK_S)

    def _end(self, name: str) -> float | None:
        path = self._files[name]
        try:
            changed = path.stat().st_mtime_ns
            if self._known.get(name, (0, 0.0))[0] != changed:
                each = [part[part.index("-----BEGIN C") :] + _END for part in path.read_text().split(_END)[:-1]]
                self._known[name] = (changed, min(described(ssl.PEM_cert_to_DER_cert(one))[1] for one in each) / 1000)
        except (OSError, ValueError, NotARootCa) as bad:
            _log.warning("no end of the certificate %s: %s", path, bad)
            return None
        return self._known[name][1]


async def _shown(access: Access) -> float:
    """Return the end of the certificate that a server shows: seconds since 1970."""
    host = urlsplit(access.url).hostname or ""
    reader, writer = await asyncio.open_connection(host, urlsplit(access.url).port)
    try:
        await reader.readline()  # the server speaks first, in the clear
        await writer.start_tls(tls_of(access), server_hostname=host)
        return float(ssl.cert_time_to_seconds(writer.get_extra_info("peercert")["notAfter"]))
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
