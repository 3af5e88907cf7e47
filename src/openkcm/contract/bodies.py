"""The bodies that are sent to the API `/cmk/v1`: what it takes, with every bound. Pure values; no I/O.

The portal decodes by them and refuses what does not fit; OpenAPI 3.1 and `openkcm.client` are made of the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from openkcm.contract import decrees as d
from openkcm.contract.ids import PersonId, Region, SystemName, TenantId, WorkloadName
from openkcm.contract.passkey import MAX_SIGNATURE_BYTES, Assertion

Command = Literal[
    "RestoreAccess", "LinkRootKey", "LengthenLease", "DestroyContext", "SetApprovers", "GrantRole", "WithdrawRole",
    "ChangeApprovalPolicy", "TrustWorkloadAuthority", "AddRegion",
]  # fmt: skip
MAX_CERTIFICATE = 32_768


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what is sent to the API."""


class PersonBody(Body, frozen=True, kw_only=True):
    """One of the first people. Without a key the person registers one at the first sign-in."""

    person: PersonId
    roles: Annotated[tuple[d.Role, ...], Meta(max_length=6)]
    approval_key: d.ApprovalKey | None = None


class TenantBody(Body, frozen=True, kw_only=True):
    """POST /tenants."""

    id: TenantId
    regions: Annotated[tuple[Region, ...], Meta(min_length=1, max_length=256)]
    people: Annotated[tuple[PersonBody, ...], Meta(min_length=2, max_length=8)]


class KeyBody(Body, frozen=True, kw_only=True):
    """POST /me/approval-key: an Ed25519 public key (32 bytes), or what the browser made when it was asked for one."""

    ed25519: d.PublicKey | None = None
    credential: Annotated[dict[str, Any], Meta(max_length=16)] | None = None


class ConfigurationPatch(Body, frozen=True, kw_only=True):
    """PATCH configuration (RFC 7396): null goes back to the default. A longer lease takes an approval."""

    lease_s: d.LeaseSeconds | None = None
    hand_out: d.HandOut | None = None
    max_objects: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    labels: Annotated[dict[str, str | None], Meta(max_length=64)] | None = None


class SystemBody(Body, frozen=True, kw_only=True):
    """POST systems. `hand_out`: whether KMIP Get gives its keys away; none: as the tenant region."""

    system: SystemName
    hand_out: d.HandOut | None = None


class HandOutBody(Body, frozen=True, kw_only=True):
    """PUT hand-out of a system; none: as the tenant region. The stricter of the two counts."""

    hand_out: d.HandOut | None = None


class WorkloadBody(Body, frozen=True, kw_only=True):
    """POST workloads: a certificate in PEM, or its fingerprint, or a SPIFFE id.

    `authority`: the tenant's own CA that vouches for it; without one it is the region's client CA.
    """

    workload: WorkloadName
    system: SystemName
    certificate: Annotated[str, Meta(max_length=MAX_CERTIFICATE)] | None = None
    fingerprint: d.Sha256Hex | None = None
    spiffe: Annotated[str, Meta(max_length=2048)] | None = None
    authority: d.Id | None = None


class ReasonBody(Body, frozen=True, kw_only=True):
    """A reason, as a short code."""

    reason: d.ReasonCode = "ordered"


class RotationBody(Body, frozen=True, kw_only=True):
    """POST rotations: L2, or one system's L3."""

    level: Literal["L2", "L3"]
    system: SystemName | None = None


class RevocationBody(Body, frozen=True, kw_only=True):
    """POST revocations: no regions means all of the tenant's."""

    regions: Annotated[tuple[Region, ...], Meta(min_length=1, max_length=256)] | None = None
    reason: d.ReasonCode = "ordered"


class PrepareBody(Body, frozen=True, kw_only=True):
    """POST approvals/prepare."""

    command: Command
    region: Region | None = None
    arguments: Annotated[dict[str, Annotated[str, Meta(max_length=4096)]], Meta(max_length=8)] = {}


class RestoreBody(Body, frozen=True, kw_only=True):
    """POST restores: the words of lifting every open revocation of a region."""

    region: Region


class SignatureBody(Body, frozen=True, kw_only=True):
    """One's own signature: Ed25519 (64 bytes), or a passkey's answer."""

    signature: Annotated[bytes, Meta(min_length=64, max_length=MAX_SIGNATURE_BYTES)] | None = None
    assertion: Assertion | None = None


class ProposeBody(SignatureBody, frozen=True, kw_only=True):
    """POST approvals: the words as they were prepared, and the caller's signature over them."""

    approval: d.Id
    command: Command
    region: Region | None = None
    arguments: Annotated[tuple[tuple[str, str], ...], Meta(max_length=1100)]
