"""Whether a root key's reference can be one, and lies where the region allows. Pure; calls no KMS.

Governance stores names of keys, never keys: whatever is shaped like a secret is refused before it is stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from openkcm.contract.decrees import RootReference
from openkcm.contract.errors import NameError_
from openkcm.contract.fleet import RegionConfiguration
from openkcm.contract.rootnames import check_credential, check_place, parse_root
from openkcm.governance.errors import InvalidReference, SecretRefused

__all__ = ["check_root", "refuse_secrets"]


def _mixed(run: str) -> bool:
    return bool(re.search("[a-z]", run) and re.search("[A-Z]", run) and re.search("[0-9]", run))


def _long_run(text: str) -> bool:
    runs = re.findall(r"[A-Za-z0-9+_=-]{40,}", text)
    return any(_mixed(run) for run in runs) or bool(re.search(r"(?<![0-9A-Za-z])[0-9a-fA-F]{48,}", text))


def _bare_key(text: str) -> bool:
    """The whole value is 16, 24 or 32 bytes in hex or base64, or an AWS secret key: no reference looks so."""
    if re.fullmatch(r"(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{48}|[0-9a-fA-F]{64})", text):
        return True
    return bool(re.fullmatch(r"[A-Za-z0-9/+]{40}|[A-Za-z0-9/+]{22}==|[A-Za-z0-9/+]{43}=", text)) and _mixed(text)


SECRETS: Final[tuple[tuple[str, Callable[[str], bool]], ...]] = (
    ("a PEM block", lambda t: "-----BEGIN" in t),
    ("an AWS access key", lambda t: bool(re.search(r"(?<![A-Z0-9])(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}", t))),
    ("a JSON web token", lambda t: bool(re.search(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}", t))),
    ("a password", lambda t: bool(re.search(r"(?i)(passw(or)?d|passphrase|secret|api[_-]?key|pin|token)\s*[=:]", t))),
    ("a password in a URL", lambda t: bool(re.search(r"://[^/\s:@]+:[^/\s@]+@", t))),
    ("a connection string's key", lambda t: bool(re.search(r"(?i)(AccountKey|SharedAccessKey|sig)=", t))),
    ("a key in hex or base64", _bare_key),
    ("a long random string", _long_run),
)


def refuse_secrets(text: str, what: str) -> None:
    """Let a reference pass, not a secret.

    Raises:
        SecretRefused: `text` looks like one; the message names its shape and never repeats it.
    """
    for shape, looks_so in SECRETS:
        if looks_so(text):
            raise SecretRefused(
                f"{what} looks like {shape}. Only references are stored here: "
                "keep the secret in your own KMS or on the node, and name it"
            )


def check_root(root: RootReference, region: RegionConfiguration, tenant: str) -> None:
    """Check provider, grammar, place and credential of a root key's reference.

    (1) no secret; (2) a provider this region's nodes may use; (3) the provider's grammar; (4) an allowed place; (5) a
    credential that serves this tenant.

    Raises:
        SecretRefused: Part of it looks like a secret.
        InvalidReference: It names no key, or one that may not serve this region.
    """
    # (1) a PKCS#11 URI says `token=` of a token's label: no secret, and the rest of it is looked at
    refuse_secrets(re.sub(r"(?<=[:;])token=", "", root.ref) if root.provider == "pkcs11" else root.ref, "the reference")
    if root.credential is not None:
        refuse_secrets(root.credential, "the credential's name")
    if root.provider not in region.roots.providers:  # (2)
        raise InvalidReference(
            f"{region.region} takes root keys of {', '.join(region.roots.providers)}, not of {root.provider}"
        )
    try:
        check_place(parse_root(root), region.roots, region.root_regions)  # (3) (4)
        check_credential(root, region.roots, tenant)  # (5)
    except NameError_ as bad:
        raise InvalidReference(f"{region.region}: {bad}") from bad
