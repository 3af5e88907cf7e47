"""CAs of tenants' own, as governance judges them: one certificate of a CA, public, and nobody else's. No crypto here.

Nodes judge again, and more: whether it signed itself, with what key, and whose chain a client's certificate ends in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ssl
from typing import Any

from openkcm.contract.decrees import MAX_AUTHORITY_BYTES
from openkcm.governance.errors import IllegalNow, Invalid, SecretRefused
from openkcm.governance.service import Cmk

__all__ = ["authority_of", "check_unclaimed", "shown"]


def authority_of(text: str) -> bytes:
    """Return the DER of a root CA's certificate, given in PEM or as the base64 of its DER.

    Raises:
        SecretRefused: A private key came along. It was not stored.
        Invalid: Not exactly one certificate of a CA that is its own issuer, or too long.
    """
    if "PRIVATE KEY" in text:
        raise SecretRefused("the certificate comes with a private key: send the certificate alone, and keep the key")
    if text.count("-----BEGIN") > 1:  # Python would take the first, and say nothing of the others
        raise Invalid("certificate takes exactly one certificate, not a bundle")
    try:
        pem = text.strip()
        der = ssl.PEM_cert_to_DER_cert(pem) if pem.startswith("-----BEGIN") else base64.b64decode(pem, validate=True)
        found = _read(der)
    except (ssl.SSLError, ValueError, binascii.Error) as bad:
        raise Invalid("certificate takes exactly one certificate, in PEM or base64 of its DER") from bad
    if len(der) > MAX_AUTHORITY_BYTES:
        raise Invalid(f"a CA's certificate may have {MAX_AUTHORITY_BYTES} bytes")
    if found is None or found["subject"] != found["issuer"]:
        raise Invalid("this is no root CA's certificate: it must be a CA's (basicConstraints) and its own issuer")
    return der


def shown(cmk: Cmk, tenant: str, region: str) -> list[dict[str, Any]]:
    """Return the tenant's own CAs that vouch for its workloads in a region, as people read them."""
    return [
        {
            "authority": authority, "sha256": hashlib.sha256(der).hexdigest(), **_described(der),
            "certificate": ssl.DER_cert_to_PEM_cert(der),
        }
        for authority, der in cmk.views.authorities(tenant, region)
    ]  # fmt: skip


def check_unclaimed(cmk: Cmk, tenant: str, region: str, certificate: bytes) -> None:
    """Check that no other tenant's CA has this name here: a chain must not be able to end in either.

    Raises:
        IllegalNow: One has. Whose is not said.
    """
    name = _name(certificate)
    if any(_name(other) == name for other in cmk.views.authorities_of_others(tenant, region)):
        raise IllegalNow("a CA of this name is in use in this region: give yours a subject of its own")


def _described(der: bytes) -> dict[str, str]:
    found = _read(der) or {}
    parts = [f"{name}={value}" for group in found.get("subject", ()) for name, value in group]
    return {"subject": ", ".join(parts), "not_after": found.get("notAfter", "")}


def _name(der: bytes) -> Any:
    found = _read(der)
    return None if found is None else [[(k, " ".join(v.lower().split())) for k, v in rdn] for rdn in found["subject"]]


def _read(der: bytes) -> dict[str, Any] | None:
    """Return what OpenSSL says of a CA's certificate; None when it is none of a CA, or not the whole of `der`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=der)
    if context.get_ca_certs(binary_form=True) != [der]:  # what follows a certificate is passed over in silence
        return None
    found: list[dict[str, Any]] = context.get_ca_certs()
    return found[0]
