"""Whether a root key's reference can be one, and lies where the region allows. Pure; calls no KMS.

Governance stores names of keys, never keys: whatever is shaped like a secret is refused before it is stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RegionConfiguration
from openkcm.governance.errors import InvalidReference, SecretRefused

__all__ = ["check_root", "refuse_secrets"]

_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_ARN: Final = re.compile(
    r"arn:aws(?:-cn|-us-gov)?:kms:(?P<place>[a-z]{2}(?:-[a-z]+)+-\d):\d{12}:"
    rf"(?:key/(?:{_UUID}|mrk-[0-9a-f]{{32}})|alias/(?!aws/)[A-Za-z0-9/_-]{{1,250}})"
)
_AZURE: Final = re.compile(
    r"https://[A-Za-z0-9-]{3,24}\.(?:vault|managedhsm)\.azure\.net/keys/[A-Za-z0-9-]{1,127}(?:/[0-9a-f]{32})?"
)
_GCP: Final = re.compile(
    r"projects/[a-z][a-z0-9-]{4,28}[a-z0-9]/locations/(?P<place>[a-z0-9-]{1,63})/keyRings/[A-Za-z0-9_-]{1,63}"
    r"/cryptoKeys/[A-Za-z0-9_-]{1,63}(?:/cryptoKeyVersions/\d{1,9})?"
)
_PKCS11: Final = re.compile(r"pkcs11:(?!.*pin-value)(?:[a-z-]+=[A-Za-z0-9%._~-]{1,256};?){1,12}")
_KMIP: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FILE: Final = re.compile(r"(?:/|[A-Za-z0-9._-])[A-Za-z0-9._/ +=@-]{0,1023}")
GRAMMARS: Final[dict[str, re.Pattern[str]]] = {
    "aws": _ARN, "azure": _AZURE, "gcp": _GCP, "pkcs11": _PKCS11, "kmip": _KMIP, "file": _FILE,
}  # fmt: skip
SHAPES: Final[dict[str, str]] = {
    "aws": "arn:aws:kms:REGION:ACCOUNT:key/ID or .../alias/NAME",
    "azure": "https://VAULT.vault.azure.net/keys/NAME[/VERSION]",
    "gcp": "projects/P/locations/L/keyRings/R/cryptoKeys/K",
    "pkcs11": "a pkcs11: URI without a PIN",
    "kmip": "the key's unique identifier",
    "file": "a path without '..'",
}


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


def check_root(root: RootReference, region: RegionConfiguration) -> None:
    """Check provider, grammar and place of a root key's reference.

    (1) no secret; (2) a provider this region's nodes may use; (3) the provider's grammar; (4) an allowed place.

    Raises:
        SecretRefused: Part of it looks like a secret.
        InvalidReference: It names no key, or one that may not serve this region.
    """
    refuse_secrets(root.ref, "the reference")  # (1)
    if root.credential is not None:
        refuse_secrets(root.credential, "the credential's name")
    if root.provider not in region.roots.providers:  # (2)
        raise InvalidReference(
            f"{region.region} takes root keys of {', '.join(region.roots.providers)}, not of {root.provider}"
        )
    found = GRAMMARS[root.provider].fullmatch(root.ref)  # (3)
    if found is None or (root.provider == "file" and ".." in root.ref.split("/")):
        raise InvalidReference(f"not a key of {root.provider}: expected {SHAPES[root.provider]}")
    places = region.root_regions.get(root.provider)
    place = found.groupdict().get("place")
    if places is not None and place is not None and place not in places:  # (4)
        raise InvalidReference(f"a root key of {region.region} may lie in {', '.join(places)}, not in {place}")
