"""What people read: states, events, errors of a key store with their remedy, leases by their worst case. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final, get_args

from openkcm.contract.api.base import State

__all__ = ["FILTERS", "LEASES", "PROVIDERS", "ROOT_STATES", "STATES", "policy"]

STATES: Final = get_args(State)

#: How a node finds the customer's root key: in words, and what to do about it.
ROOT_STATES: Final[dict[str, tuple[str, str]]] = {
    "ok": ("The node can wrap and unwrap with your key.", ""),
    "AccessDenied": (
        "Your key store refuses the node.",
        "Add the trust policy of step 2 to the key, and check that the principal and the region are right.",
    ),
    "KeyDisabled": ("The key is disabled.", "Enable it in your key store; the node opens again at its next look."),
    "KeyPendingDeletion": (
        "The key waits for its deletion.", "Cancel the deletion in your key store while it still can be.",
    ),
    "KeyNotFound": (
        "There is no such key, or its material was taken away.",
        "Compare account, region and key id with what your key store shows.",
    ),
    "WrongContext": (
        "What is kept here was not wrapped by this key for you.",
        "Link the key that was linked before; another one needs an approval.",
    ),
    "Throttled": ("Your key store answers too slowly: too many requests.", "Raise the quota of the key's account."),
    "Unreachable": (
        "Your key store does not answer.",
        "Check its status page and any network policy or endpoint rule. Keys stay in use until the lease ends.",
    ),
    "CredentialRejected": (
        "The node's own credential is refused.",
        "This is for your provider to mend: its operators see the same alarm. Nothing of yours is wrong.",
    ),
    "Misconfigured": ("The reference does not fit this region's nodes.", "Compare it with the shape in step 2."),
}  # fmt: skip

#: Leases that the onboarding offers: seconds, name, and what each costs and gives.
LEASES: Final[tuple[tuple[int, str, str], ...]] = (
    (30, "30 seconds", "Any hiccup of the network between us and a node longer than this stops your encryption."),
    (300, "5 minutes", "A short outage of ours stops your encryption; a cut is certain within minutes."),
    (3600, "1 hour", "Outages up to an hour pass unnoticed."),
    (86_400, "24 hours", "A day's outage of ours passes unnoticed. The usual choice."),
    (604_800, "7 days", "A week's outage passes unnoticed, and so long may a lost node go on. Takes two people."),
)

_AWS: Final = """{
  "Sid": "OpenKCM unwraps your tenant key with this root key",
  "Effect": "Allow",
  "Principal": {"AWS": "PRINCIPAL OF THE NODES"},
  "Action": ["kms:Encrypt", "kms:Decrypt", "kms:DescribeKey"],
  "Resource": "*",
  "Condition": {"StringEquals": {"kms:EncryptionContext:tenant": "%(tenant)s"}}
}"""
_AZURE: Final = """az keyvault role assignment create --hsm-name VAULT --scope /keys/KEY \\
  --role "Managed HSM Crypto Service Encryption User" --assignee "PRINCIPAL OF THE NODES\""""
_GCP: Final = """gcloud kms keys add-iam-policy-binding KEY --keyring RING --location LOCATION \\
  --member "PRINCIPAL OF THE NODES" --role roles/cloudkms.cryptoKeyEncrypterDecrypter"""
_PKCS11: Final = """pkcs11-tool --keygen --key-type AES:32 --label l1 --usage-wrap --login
# the key stays in your HSM; the PIN is in a file on the node, which its operators never send here"""
_KMIP: Final = """Create AES-256, usage mask Encrypt and Decrypt, state Active;
grant the nodes' client certificate Encrypt and Decrypt on it, nothing else."""
_FILE: Final = """install -m 0600 /dev/null %(tenant)s.keys
echo "v1:$(head -c 32 /dev/urandom | base64)" > %(tenant)s.keys
# for a laptop: in production L1 belongs into a key store of your own"""

#: By provider: its name, the shape of a reference, what to paste over there.
PROVIDERS: Final[dict[str, tuple[str, str, str]]] = {
    "aws": ("AWS KMS", "arn:aws:kms:REGION:ACCOUNT:key/ID, or …:alias/NAME", _AWS),
    "azure": ("Azure Key Vault", "https://VAULT.vault.azure.net/keys/NAME", _AZURE),
    "gcp": ("Google Cloud KMS", "projects/P/locations/L/keyRings/R/cryptoKeys/K", _GCP),
    "pkcs11": ("HSM by PKCS#11", "pkcs11:token=NAME;object=KEY", _PKCS11),
    "kmip": ("KMIP server", "the key's unique identifier, or name:NAME", _KMIP),
    "file": ("Key file", "/path/to/your.keys", _FILE),
}

#: What stands in a policy where nobody told this region's `roots.principals`.
SOMEBODY: Final = "PRINCIPAL OF THE NODES"


def policy(provider: str, tenant: str, principal: str | None) -> str:
    """Return what the customer pastes at its key store: this tenant's, for these nodes."""
    return PROVIDERS[provider][2].replace("%(tenant)s", tenant).replace(SOMEBODY, principal or SOMEBODY)


_EVENTS: Final[dict[str, str]] = {
    "TenantConfigurationUpdated": "Configuration changed",
    "RootKeyLinked": "Root key linked",
    "RevocationConfirmed": "Revocation confirmed by every node",
    "ContextDestroyed": "Tenant region destroyed",
    "WorkloadAuthorityTrusted": "Workload CA trusted",
    "WorkloadAuthoritiesRemoved": "Workload CA removed",
    "ApproversSet": "Approvers put in force",
    "AccessDenied": "Refused attempt",
}


def event_words(name: str) -> str:
    """Return an event's name as people read it."""
    bare = name.partition(".")[0]
    return _EVENTS.get(bare) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", bare).lower().capitalize()


def duration(seconds: float | None) -> str:
    """Return a duration in the unit that fits."""
    if seconds is None:
        return "unknown"
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= 2 * size or (seconds >= size and seconds % size == 0) or size == 1:
            count = round(seconds / size)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "0 seconds"


def when(at_ms: int | None) -> str:
    """Return a time in UTC."""
    return "never" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%d %b %Y, %H:%M:%S UTC")


def iso(at_ms: int) -> str:
    """Return a time for machines."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def standing(lane: dict[str, Any]) -> str:
    """Return in words who has it."""
    if not lane["of"]:
        return "No node here yet"
    whole = f"{lane['acked']} of {lane['of']} nodes"
    words = {
        "InSync": "In sync", "Pending": f"Pending, {whole}", "Failed": f"Failed at {len(lane['failures'])}",
        "Revoking": f"Going dark, {whole}", "Revoked": "Dark on every node", "RevokedByLease": "Dark, by the lease",
    }  # fmt: skip
    return words[lane["status"]]


FILTERS: Final = {"event": event_words, "duration": duration, "when": when, "iso": iso, "standing": standing}
