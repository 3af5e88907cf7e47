"""CAs of tenants' own, as governance takes, shows and tells them apart. Judged by the treaty's own rule."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ssl

from openkcm.contract.authority import NotARootCa, check_root_ca, described, name_of
from openkcm.contract.decrees import MAX_AUTHORITY_BYTES
from openkcm.governance.errors import IllegalNow, Invalid, SecretRefused
from openkcm.governance.lists import Rows
from openkcm.governance.service import Cmk

__all__ = ["authority_of", "check_unclaimed", "shown"]


def authority_of(text: str) -> bytes:
    """Return the DER of a root CA's certificate, given in PEM or as the base64 of its DER.

    Raises:
        SecretRefused: A private key came along. It was not stored.
        Invalid: Not exactly one certificate of a root CA, or too long.
    """
    if "PRIVATE KEY" in text:
        raise SecretRefused("the certificate comes with a private key: send the certificate alone, and keep the key")
    if text.count("-----BEGIN") > 1:  # Python would take the first, and say nothing of the others
        raise Invalid("certificate takes exactly one certificate, not a bundle")
    pem = text.strip()
    try:
        der = ssl.PEM_cert_to_DER_cert(pem) if pem.startswith("-----BEGIN") else base64.b64decode(pem, validate=True)
    except (ValueError, binascii.Error) as bad:
        raise Invalid("certificate takes exactly one certificate, in PEM or base64 of its DER") from bad
    if len(der) > MAX_AUTHORITY_BYTES:
        raise Invalid(f"a CA's certificate may have {MAX_AUTHORITY_BYTES} bytes")
    try:
        check_root_ca(der)
    except NotARootCa as bad:
        raise Invalid(str(bad)) from bad
    return der


def shown(rows: Rows) -> Rows:
    """Return rows of the list of a tenant's own CAs as people read them."""
    found = []
    for row in rows:
        der = base64.b64decode(row["certificate"])
        subject, until_ms = described(der)
        found.append(
            {
                "authority": row["authority"], "sha256": hashlib.sha256(der).hexdigest(), "subject": subject,
                "until_ms": until_ms, "certificate": ssl.DER_cert_to_PEM_cert(der),
            }
        )  # fmt: skip
    return found


def check_unclaimed(cmk: Cmk, tenant: str, region: str, certificate: bytes) -> None:
    """Check that no other tenant's CA has this name here: a chain must not be able to end in either.

    Raises:
        IllegalNow: One has. Whose is not said.
    """
    if name_of(certificate) in cmk.views.names_of_authorities(region, without=tenant):
        raise IllegalNow("a CA of this name is in use in this region: give yours a subject of its own")
