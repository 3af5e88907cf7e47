"""How a process reaches its NATS server: paths of files, and the TLS that they say. Opens no connection."""

from __future__ import annotations

import ssl

import msgspec

__all__ = ["Access", "tls_of"]


class Access(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a process reaches its server. Paths to files; the files hold the secrets.

    Attributes:
        url: `tls://host:port`.
        nkey: File with the user's seed.
        ca, cert, key: PEM files for mutual TLS.
        inbox: The user's own inbox prefix, `_INBOX.<user>`: the server lets it hear no other.
    """

    url: str
    nkey: str
    ca: str
    cert: str
    key: str
    inbox: str


def tls_of(access: Access) -> ssl.SSLContext:
    """Return what a client of the bus shows and trusts, as its files say now.

    Raises:
        OSError: They cannot be read, or do not fit one another (SSLError).
    """
    tls = ssl.create_default_context(cafile=access.ca)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.load_cert_chain(access.cert, access.key)
    return tls
