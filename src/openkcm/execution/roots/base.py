"""What every keystore of a customer can do, and what its answers mean. No SDK here; backends are files beside this one.

A root wraps and unwraps 32 bytes under a context and says which version of itself did. Only processes made for it (see
`execution.unseal`) call one: its plaintexts are `bytes` in an SDK's heap.

RootError
└── UnsealCancelled  the residence was closed while the root was asked
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Protocol

import msgspec
from msgspec import Meta

from openkcm.contract.fleet import RootPolicy
from openkcm.contract.reports import RootState

__all__ = [
    "ACTIONS",
    "DEADLINE_S",
    "KEK_BYTES",
    "PROBE_S",
    "TENANT",
    "TWICE",
    "Action",
    "Canary",
    "Root",
    "RootError",
    "RootInfo",
    "RootSettings",
    "UnsealCancelled",
    "Wrapped",
    "check_canary",
    "make_canary",
]

KEK_BYTES: Final = 32
TENANT: Final = "openkcm-tenant"  # the context's name for it: `keyring.KeyContext.encryption_context`
DEADLINE_S: Final = 2.0
PROBE_S: Final = {"file": 1.0}  # seconds between two probes, where node.toml says nothing; a cloud's calls cost money
DEFAULT_PROBE_S: Final = 30.0

Action = Literal["serve", "lock", "retry", "keep", "alarm"]
#: What a node does about each answer of a root. `lock`: close, zeroize, go on probing. `retry`: again inside the
#: deadline, then as `keep`. `keep`: the keys stay until the lease, with an alarm. `alarm`: nothing but say so.
ACTIONS: Final[dict[RootState, Action]] = {
    "ok": "serve",
    "AccessDenied": "lock",  # the customer withdrew our permission
    "KeyDisabled": "lock",
    "KeyPendingDeletion": "lock",
    "KeyNotFound": "lock",  # deleted, its material taken away, or the name points nowhere
    "WrongContext": "lock",  # what we hold was not wrapped by this key for this residence
    "Throttled": "retry",
    "Unreachable": "keep",
    "CredentialRejected": "keep",  # ours is wrong: no decision of the customer's
    "Misconfigured": "alarm",
}
#: Denials that must come twice in a row before they lock: a policy on its way through a cloud answers both.
TWICE: Final = frozenset({"AccessDenied", "WrongContext"})


class RootError(Exception):
    """A root's refusal, or a reason why it could not be asked.

    Attributes:
        code: A key of `ACTIONS` where a root answered; callers may raise codes of their own.
        detail: For people; at most 512 characters, no secret.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code, self.detail = code, detail[:512]

    @property
    def action(self) -> Action:
        """What to do about it; `alarm` for a code that no root answers with."""
        return ACTIONS.get(self.code, "alarm")  # type: ignore[call-overload, no-any-return]


class UnsealCancelled(RootError):
    """The residence was closed while the root was asked; nothing has come of it."""

    def __init__(self, detail: str = "closed while its root was asked") -> None:
        super().__init__("Overtaken", detail)


class Canary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """32 random bytes that protect nothing, wrapped by the root: unwrapping them proves that the root still does.

    Attributes:
        digest: SHA-256 of the bytes.
    """

    ciphertext: Annotated[bytes, Meta(max_length=16384)]
    root_version: Annotated[str, Meta(min_length=1, max_length=2048)]
    digest: Annotated[bytes, Meta(min_length=32, max_length=32)]


class Wrapped(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A KEK as a root wrapped it.

    Attributes:
        root_version: Which key, in which version, did it; `unwrap` asks exactly that one.
        canary: For the probes, wrapped together with the KEK.
    """

    ciphertext: Annotated[bytes, Meta(max_length=16384)]
    root_version: Annotated[str, Meta(min_length=1, max_length=2048)]
    canary: Canary | None = None


class RootInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A root as it is now.

    Attributes:
        version: What a `wrap` now would name as its `root_version`; another than before is a rotation by the customer.
            None when the customer lets us unwrap but not look.
    """

    version: str | None
    state: RootState = "ok"


class RootSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the node's own configuration says about roots; nothing of it comes from a decree.

    Attributes:
        regions: By provider, the cloud regions in which a root may lie; a provider not named is not restricted.
    """

    policy: RootPolicy
    regions: dict[str, tuple[str, ...]] = {}
    deadline_s: float = DEADLINE_S

    def probe_s(self, provider: str) -> float:
        """Seconds between two probes of a root of this provider."""
        return self.policy.probe_s.get(provider, PROBE_S.get(provider, DEFAULT_PROBE_S))


class Root(Protocol):
    """A customer's key. Every method raises RootError and nothing else, within the settings' deadline."""

    def wrap(self, plaintext: bytes, context: Mapping[str, str]) -> Wrapped:
        """Wrap 32 bytes, bound to `context`, by the key's current version."""

    def unwrap(self, ciphertext: bytes, root_version: str, context: Mapping[str, str]) -> bytes:
        """Return what `wrap` was given. The context must be the very same."""

    def describe(self) -> RootInfo:
        """Say which version is current; raise where the key is disabled, gone or out of reach."""

    def probe(self, canary: Canary, context: Mapping[str, str]) -> RootInfo:
        """Unwrap the canary (never wrap: some SDKs do that locally on a disabled key), then describe."""


def make_canary(root: Root, secret: bytes, context: Mapping[str, str]) -> Canary:
    """Return a canary of `secret` (32 random bytes), bound to the context and to being one."""
    wrapped = root.wrap(secret, _as_canary(context))
    return Canary(
        ciphertext=wrapped.ciphertext, root_version=wrapped.root_version, digest=hashlib.sha256(secret).digest()
    )


def check_canary(root: Root, canary: Canary, context: Mapping[str, str]) -> None:
    """Unwrap a canary.

    Raises:
        RootError: The root refuses, or gives back other bytes (WrongContext).
    """
    secret = root.unwrap(canary.ciphertext, canary.root_version, _as_canary(context))
    if hashlib.sha256(secret).digest() != canary.digest:
        raise RootError("WrongContext", "the canary unwraps to something else")


def _as_canary(context: Mapping[str, str]) -> dict[str, str]:
    return {**context, "openkcm-purpose": "canary"}  # a KEK's context has no purpose: neither unwraps as the other
