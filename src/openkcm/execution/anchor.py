"""In which root a client's verified chain ends. Knows no tenant: the custodian judges by it."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any, Final

__all__ = ["anchor_of"]

DER: Final = 2  # _ssl.ENCODING_DER


def anchor_of(connection: ssl.SSLSocket) -> str:
    """Return the SHA-256 (hex) of the certificate in which a client's verified chain ends; "" without one."""
    public: Any = getattr(connection, "get_verified_chain", None)  # of Python 3.13
    if public is not None:
        chain = public()
        return hashlib.sha256(chain[-1]).hexdigest() if chain else ""
    inner: Any = getattr(connection, "_sslobj")  # noqa: B009 -- the same, before Python had a public name for it
    chain = inner.get_verified_chain()
    return hashlib.sha256(chain[-1].public_bytes(DER)).hexdigest() if chain else ""
