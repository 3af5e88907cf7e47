"""Tests a root end to end, with a node's own configuration and credentials, and says who must mend what. Keeps nothing.

1. node.toml allows it: provider, place, endpoint, credential;
2. describe: the key is there and enabled, and we may look at it (a customer need not allow that);
3. wrap 32 random bytes; 4. unwrap them; 5. be refused under another residence's context; 6. probe a canary.

Each step is a call that a node makes too. What a refusal means, and what the node would do, is `roots.base.ACTIONS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from openkcm.contract.decrees import RootReference
from openkcm.contract.fleet import RegionConfiguration
from openkcm.execution.roots import open_root
from openkcm.execution.roots.base import ACTIONS, KEK_BYTES, Root, RootError, RootSettings, make_canary

__all__ = ["Step", "advice", "check"]

Who = Literal["customer", "operator", ""]
#: Code -> who must act, and what in general helps. "operator" runs the node, "customer" owns the key.
_GENERAL: Final[dict[str, tuple[Who, str]]] = {
    "AccessDenied": ("customer", "the key's policy does not let the node's identity use it"),
    "KeyDisabled": ("customer", "enable the key"),
    "KeyPendingDeletion": ("customer", "cancel the deletion: when its time is over, all data under this key is lost"),
    "KeyNotFound": ("customer", "the reference names no key, or the key is gone"),
    "WrongContext": (
        "customer",
        "not wrapped by this key, or not for this residence: was the key replaced?",
    ),
    "Throttled": ("customer", "raise the quota of the key's account, or share it with fewer callers"),
    "Unreachable": ("operator", "no answer from the endpoint: look at roots.endpoints, the route, the firewall"),
    "CredentialRejected": ("operator", "the node's own credential is refused: renew it, or correct roots.credentials"),
    "Misconfigured": ("operator", "correct node.toml or the reference, as the message says"),
}
#: (provider, code) -> the same in the provider's own words.
_ADVICE: Final[dict[tuple[str, str], tuple[Who, str]]] = {
    ("aws", "AccessDenied"): (
        "customer",
        ("allow kms:Encrypt, kms:Decrypt and kms:DescribeKey to the node's role in the key policy *and*, across "
        "accounts, in the role's own policy; look for a condition on the encryption context"),
    ),
    ("aws", "KeyNotFound"): ("customer", "the alias points nowhere, or imported material is gone: ImportKeyMaterial"),
    ("aws", "CredentialRejected"): (
        "operator",
        ("the profile's key is not valid, or the role does not trust us: sts:AssumeRole with the external id "
        "that the customer was told"),
    ),
    ("azure", "AccessDenied"): (
        "customer",
        ("give our application the role `Key Vault Crypto Service Encryption User` on the key, and let the node's "
        "addresses or private endpoint through the vault's firewall"),
    ),
    ("azure", "KeyDisabled"): ("customer", "enable the key's version, and look at its activation and expiry dates"),
    ("azure", "KeyPendingDeletion"): ("customer", "the key is soft-deleted: `az keyvault key recover`"),
    ("azure", "CredentialRejected"): (
        "operator",
        ("sign-in failed: the tenant must have our application (admin consent), and the federated credential's issuer, "
        "subject and audience must be those of the node's token"),
    ),
    ("gcp", "AccessDenied"): (
        "customer",
        ("grant roles/cloudkms.cryptoKeyEncrypterDecrypter on the key to the node, and cloudkms.cryptoKeys.get "
        "for rotations to be noticed; Google says the same when the key does not exist or the API is off"),
    ),
    ("gcp", "KeyNotFound"): ("customer", "the primary version is destroyed: make another primary, if data allows"),
    ("gcp", "CredentialRejected"): (
        "operator",
        ("no token: the service account's key is revoked, or the workload identity provider does not accept the node's "
        "token (audience, subject, attribute condition)"),
    ),
    ("pkcs11", "KeyDisabled"): ("customer", "set CKA_ENCRYPT and CKA_DECRYPT on the key to true"),
    ("pkcs11", "KeyNotFound"): ("customer", "no AES secret key of that label or id is visible to the node's user"),
    ("pkcs11", "Unreachable"): (
        "operator",
        ("no token of that label or serial: is the client registered at the HSM, and does the library find its own "
        "configuration (credential's `environment`)?"),
    ),
    ("pkcs11", "CredentialRejected"): (
        "operator",
        ("the PIN is wrong, expired or locked; the last try is not used. Correct the PIN file, log in once by "
        "the vendor's tool"),
    ),
    ("kmip", "AccessDenied"): ("customer", "let the node's certificate Encrypt, Decrypt and Get Attributes"),
    ("kmip", "KeyDisabled"): ("customer", "the key is not Active: Activate it, or name one that is"),
    ("kmip", "KeyNotFound"): ("customer", "no key of that name or identifier that this certificate may see"),
    ("kmip", "CredentialRejected"): (
        "operator",
        "the server refuses the node's certificate: its CA must be known there, with extended key usage clientAuth",
    ),
    ("file", "KeyNotFound"): ("customer", "the key file is not in its place, or has no line for that version"),
}  # fmt: skip


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one step found.

    Attributes:
        code: "ok", or a key of `roots.base.ACTIONS`.
        action: What a node does about it.
        who: Who must act, empty when nobody.
    """

    name: str
    code: str
    detail: str = ""
    action: str = ""
    who: Who = ""
    fix: str = ""


def advice(provider: str, code: str) -> tuple[Who, str]:
    """Return who must act on a refusal, and how."""
    return _ADVICE.get((provider, code)) or _GENERAL.get(code, ("operator", "see the message"))


def check(root: RootReference, region: RegionConfiguration, tenant: str) -> list[Step]:
    """Go through the steps up to the first that fails, and return what each found. Takes a few seconds at most."""
    secret, context = os.urandom(KEK_BYTES), {"openkcm-tenant": tenant, "openkcm-region": region.region}
    made: dict[str, Any] = {}

    def opened() -> str:
        made["root"] = open_root(root, RootSettings(policy=region.roots, regions=region.root_regions), tenant)
        return repr(made["root"])

    def described() -> str:
        version = _root(made).describe().version
        return version or "the key may be used and not looked at: the node will not notice a rotation by itself"

    def wrapped() -> str:
        made["wrapped"] = _root(made).wrap(secret, context)
        return f"by {made['wrapped'].root_version}, {len(made['wrapped'].ciphertext)} bytes"

    def unwrapped() -> str:
        given = _root(made).unwrap(made["wrapped"].ciphertext, made["wrapped"].root_version, context)
        if given != secret:
            raise RootError("WrongContext", "it unwraps to other bytes")
        return "the same 32 bytes"

    def bound() -> str:
        other = {**context, "openkcm-tenant": f"not-{tenant}"}
        try:
            _root(made).unwrap(made["wrapped"].ciphertext, made["wrapped"].root_version, other)
        except RootError as no:
            if no.code in {"WrongContext", "AccessDenied"}:  # denied: the customer's policy looks at the context too
                return f"refused ({no.code})"
            raise
        raise RootError("WrongContext", "another residence's context unwraps it")

    def probed() -> str:
        info = _root(made).probe(make_canary(_root(made), os.urandom(KEK_BYTES), context), context)
        return f"the canary unwraps; current version {info.version or 'not told'}"

    return _run(root.provider, {
        "node.toml allows it": opened, "describe": described, "wrap": wrapped, "unwrap": unwrapped,
        "another residence is refused": bound, "probe": probed,
    })  # fmt: skip


def _root(made: dict[str, Any]) -> Root:
    root: Root = made["root"]
    return root


def _run(provider: str, steps: dict[str, Callable[[], str]]) -> list[Step]:
    seen: list[Step] = []
    for name, step in steps.items():
        try:
            seen.append(Step(name=name, code="ok", detail=step()))
        except RootError as no:
            who, fix = advice(provider, no.code)
            seen.append(Step(name=name, code=no.code, detail=no.detail, action=no.action, who=who, fix=fix))
            break
        except ImportError as missing:
            seen.append(Step(name=name, code="Misconfigured", detail=f"{missing.msg}", action=ACTIONS["Misconfigured"],
                             who="operator", fix="install the SDK: openkcm[node]"))  # fmt: skip
            break
    return seen
