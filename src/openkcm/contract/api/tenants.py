"""Answers about tenants, their people, and whoever asks about itself. Pure values."""

from __future__ import annotations

from typing import Any, Literal

from openkcm.contract.api.base import Shape, State

__all__ = ["KeyOffered", "KeyOptions", "Me", "Tenant", "TenantPerson", "TenantRegion", "TenantSummary"]


class TenantRegion(Shape, frozen=True, kw_only=True):
    """A tenant region in a list."""

    tenant: str
    region: str
    state: State
    generation: int
    fence: int
    lease_s: int | None


class TenantSummary(Shape, frozen=True, kw_only=True):
    """A tenant in a list."""

    id: str
    regions: list[TenantRegion]


class TenantPerson(Shape, frozen=True, kw_only=True):
    """A person, its roles, and how it signs: `passkey`, `ed25519`, or not at all. `offers`: a key awaits two people."""

    person: str
    roles: list[str]
    approval_key: bytes | None
    signs_with: Literal["passkey", "ed25519"] | None
    offers: str | None = None


class Tenant(Shape, frozen=True, kw_only=True):
    """A tenant. `quorum`: so many people sign what takes an approval."""

    id: str
    registered_ms: int
    regions: list[str]
    people: list[TenantPerson]
    quorum: int


class Me(Shape, frozen=True, kw_only=True):
    """Who asks, and what the ledger lets the caller do. `fresh_until_ms`: until then no new sign-in is asked for."""

    issuer: str
    subject: str
    kind: Literal["bearer", "session", "service"]
    operator: bool
    roles: dict[str, list[str]]
    fresh_until_ms: int | None
    signs_with: Literal["passkey", "ed25519"] | None


class KeyOffered(Shape, frozen=True, kw_only=True):
    """The key is kept. `registered`: the tenants in which it is in force by it; elsewhere two people must agree."""

    fingerprint: str
    registered: list[str]


class KeyOptions(Shape, frozen=True, kw_only=True):
    """What `navigator.credentials.create` takes, as JSON."""

    publicKey: dict[str, Any]  # noqa: N815 -- the browser's name
