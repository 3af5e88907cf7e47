"""What a root key's reference says: one grammar per provider, for governance (residency) and for nodes alike. Pure.

A reference names a key in the customer's own KMS and nothing else: no endpoint we would connect to, no module we would
load, no secret. What a key id does not say (where an Azure vault lies) the region's node.toml says instead.
Sources: the AWS KMS, Azure Key Vault and Google Cloud KMS references for their key ids; RFC 7512 for PKCS#11 URIs.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable
from typing import Final, NamedTuple

from openkcm.contract.decrees import RootReference
from openkcm.contract.errors import NameError_
from openkcm.contract.fleet import RootPolicy

__all__ = [
    "AwsKey", "AzureKey", "FileKey", "GcpKey", "KmipKey", "Pkcs11Key", "check_credential", "check_place", "parse_root",
]  # fmt: skip

_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_AWS: Final = re.compile(
    r"arn:(aws(?:-cn|-us-gov|-iso(?:-[a-z])?|-eusc)?):kms:([a-z]{2,4}(?:-[a-z]+)+-\d):(\d{12}):"
    rf"(key/(?:{_UUID}|mrk-[0-9a-f]{{32}})|alias/(?!aws/)[A-Za-z0-9/_-]{{1,250}})"
)
_AZURE: Final = re.compile(
    r"https://([A-Za-z0-9-]{3,24}\.(?:vault|managedhsm)(?:\.azure\.net|\.azure\.cn|\.usgovcloudapi\.net))"
    r"/keys/([A-Za-z0-9-]{1,127})(?:/([0-9a-f]{32}))?"
)
_GCP: Final = re.compile(
    r"projects/([a-z][a-z0-9-]{4,28}[a-z0-9])/locations/([a-z0-9-]{1,63})/keyRings/([A-Za-z0-9_-]{1,63})"
    r"/cryptoKeys/([A-Za-z0-9_-]{1,63})"
)
_PKCS11: Final = re.compile(r"pkcs11:[a-z-]+=[A-Za-z0-9%._~:@!$'()*+,=-]*(?:;[a-z-]+=[A-Za-z0-9%._~:@!$'()*+,=-]*)*")
_KMIP: Final = re.compile(r"(name:)?([A-Za-z0-9][A-Za-z0-9._-]{0,127})")
_FILE: Final = re.compile(r"(?:/|[A-Za-z0-9._-])[A-Za-z0-9._/ +=@-]{0,1023}")
PKCS11_FIELDS: Final = frozenset({"token", "serial", "manufacturer", "model", "object", "id", "type"})


class AwsKey(NamedTuple):
    """A key's or an alias's ARN, taken apart."""

    partition: str
    region: str
    account: str
    resource: str

    def __str__(self) -> str:
        return f"arn:{self.partition}:kms:{self.region}:{self.account}:{self.resource}"

    @property
    def is_alias(self) -> bool:
        """It names a key by alias: the customer may move it."""
        return self.resource.startswith("alias/")

    def same_place(self, other: AwsKey) -> bool:
        """Both lie in one account and region."""
        return self[:3] == other[:3]


class AzureKey(NamedTuple):
    """A key of a vault or managed HSM; `version` None: whichever is current."""

    host: str
    name: str
    version: str | None

    def __str__(self) -> str:
        return f"https://{self.host}/keys/{self.name}" + (f"/{self.version}" if self.version else "")


class GcpKey(NamedTuple):
    """A key, whose primary version wraps."""

    project: str
    location: str
    ring: str
    key: str

    def __str__(self) -> str:
        return f"projects/{self.project}/locations/{self.location}/keyRings/{self.ring}/cryptoKeys/{self.key}"


class Pkcs11Key(NamedTuple):
    """A secret key on a token. `object` without `id` means all keys of that label, of which the highest id wraps."""

    token: str | None
    serial: str | None
    object: str | None
    id: bytes | None


class KmipKey(NamedTuple):
    """A managed object: by its unique identifier, or by the name that a rotation moves to its successor."""

    uid: str | None
    name: str | None


class FileKey(NamedTuple):
    """A key file's path."""

    path: str


RootName = AwsKey | AzureKey | GcpKey | Pkcs11Key | KmipKey | FileKey


def _aws(ref: str) -> RootName | None:
    found = _AWS.fullmatch(ref)
    return AwsKey(*found.groups()) if found else None


def _azure(ref: str) -> RootName | None:
    found = _AZURE.fullmatch(ref)
    return AzureKey(found[1].lower(), found[2], found[3]) if found else None


def _gcp(ref: str) -> RootName | None:
    found = _GCP.fullmatch(ref)
    return GcpKey(*found.groups()) if found else None


def _pkcs11(ref: str) -> RootName | None:
    """No query part: module and PIN are the node's own (RFC 7512, section 2.4)."""
    if not _PKCS11.fullmatch(ref):
        return None
    pairs = [part.partition("=") for part in ref.removeprefix("pkcs11:").split(";")]
    fields = {name: value for name, _, value in pairs}
    if (
        len(fields) != len(pairs)
        or not fields.keys() <= PKCS11_FIELDS
        or fields.get("type", "secret-key") != "secret-key"
    ):
        return None
    if not (fields.get("token") or fields.get("serial")) or not (fields.get("object") or fields.get("id")):
        return None
    try:
        text = {name: urllib.parse.unquote(value, errors="strict") for name, value in fields.items() if name != "id"}
    except UnicodeDecodeError:
        return None
    key_id = urllib.parse.unquote_to_bytes(fields["id"]) if fields.get("id") else None
    return Pkcs11Key(text.get("token") or None, text.get("serial") or None, text.get("object") or None, key_id)


def _kmip(ref: str) -> RootName | None:
    found = _KMIP.fullmatch(ref)
    if found is None:
        return None
    return KmipKey(None, found[2]) if found[1] else KmipKey(found[2], None)


def _file(ref: str) -> RootName | None:
    return FileKey(ref) if _FILE.fullmatch(ref) and ".." not in ref.split("/") else None


#: Provider -> its parser, and what people are told to write.
GRAMMARS: Final[dict[str, tuple[Callable[[str], RootName | None], str]]] = {
    "aws": (_aws, "arn:aws:kms:REGION:ACCOUNT:key/ID or .../alias/NAME"),
    "azure": (_azure, "https://VAULT.vault.azure.net/keys/NAME[/VERSION]"),
    "gcp": (_gcp, "projects/P/locations/L/keyRings/R/cryptoKeys/K"),
    "pkcs11": (_pkcs11, "pkcs11:token=TOKEN;object=LABEL[;id=ID], without PIN or module"),
    "kmip": (_kmip, "the key's unique identifier, or name:NAME"),
    "file": (_file, "a path without '..'"),
}


def parse_root(root: RootReference) -> RootName:
    """Return what a reference names.

    Raises:
        NameError_: Outside the provider's grammar; the message says what is expected and never repeats the reference.
    """
    parse, shape = GRAMMARS[root.provider]
    found = parse(root.ref)
    if found is None:
        raise NameError_(f"not a key of {root.provider}: expected {shape}")
    return found


def check_credential(root: RootReference, policy: RootPolicy, tenant: str | None) -> None:
    """Check that the credential a reference names serves this tenant; one that names nobody serves all.

    Args:
        tenant: None, where nobody says for whom, is served by no credential that names tenants.

    Raises:
        NameError_: It serves others, or its `tenants` is no list.
    """
    name = root.credential or root.provider
    served = policy.credentials.get(name, {}).get("tenants")
    if served is None:
        return
    if isinstance(served, str):
        raise NameError_(f"roots.credentials.{name}.tenants is a list of tenants")
    if tenant not in served:
        raise NameError_(f"the credential {name!r} does not serve {tenant}: roots.credentials.{name}.tenants")


def check_place(name: RootName, policy: RootPolicy, regions: dict[str, tuple[str, ...]]) -> None:
    """Check that a key lies where a region's root keys may lie.

    Args:
        regions: By provider, the allowed cloud regions; a provider not named is not restricted.

    Raises:
        NameError_: Elsewhere, or nobody has said where.
    """
    if isinstance(name, AzureKey):
        place, allowed = policy.vaults.get(name.host), regions.get("azure")
        if place is None:  # the key id does not say it, and a vault nobody has placed could lie anywhere
            raise NameError_(f"node.toml does not say where {name.host} lies: roots.vaults")
    elif isinstance(name, AwsKey):
        place, allowed = name.region, regions.get("aws")
    elif isinstance(name, GcpKey):
        place, allowed = name.location, regions.get("gcp")
    else:
        return  # on a server, a module or a disk that node.toml itself names
    if allowed is not None and place not in allowed:
        raise NameError_(f"a root key may lie in {', '.join(allowed)}, not in {place}")
