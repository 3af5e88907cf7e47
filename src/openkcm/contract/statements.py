"""What people of a tenant sign, as canonical bytes, and the check of who did: two, or as many as they agreed on. Pure.

An approval is the approver's own signature (Ed25519, or a passkey's) over tenant, region, command, arguments and the
approval's id: the very words, not a database row. Governance collects signatures and nodes verify them; neither can
make one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from openkcm.contract import passkey, seal
from openkcm.contract.errors import SealError
from openkcm.contract.ids import GLOBAL, EventId, PersonId

__all__ = [
    "REQUIRED_SIGNATURES",
    "Lift",
    "Signature",
    "Statement",
    "approvers_hash",
    "approvers_statement",
    "authority_statement",
    "configuration_statement",
    "destroy_statement",
    "different_people",
    "link_statement",
    "policy_statement",
    "regions_statement",
    "restore_statement",
    "role_statement",
    "signers",
]

STATEMENT_DOMAIN: Final = "openkcm/statement/1"
APPROVERS_DOMAIN: Final = "openkcm/approvers/1"
QUORUM_DOMAIN: Final = "openkcm/approvers/2"
REQUIRED_SIGNATURES: Final = 2


class Lift(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, order=True):
    """One revocation to lift. The id decides; a number could be reused after a loss or signed in advance."""

    epoch: Annotated[int, Meta(ge=1)]
    fence: Annotated[int, Meta(ge=1)]
    event: EventId


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person's own signature over a statement: 64 bytes Ed25519, or a passkey's packed answer."""

    person: PersonId
    signature: Annotated[bytes, Meta(min_length=64, max_length=passkey.MAX_SIGNATURE_BYTES)]


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The words. `region` is `global` for a command of the whole tenant; arguments keep their order."""

    tenant: str
    region: str
    command: str
    approval: str
    arguments: tuple[tuple[str, str], ...] = ()

    def signed_bytes(self) -> bytes:
        """Return the bytes a person signs."""
        flat = [part for pair in self.arguments for part in pair]
        return seal.canonical(
            STATEMENT_DOMAIN, self.tenant, self.region, self.command, self.approval, len(self.arguments), *flat
        )

    def sha256(self) -> str:
        """Return the statement's hash, hex."""
        return hashlib.sha256(self.signed_bytes()).hexdigest()


def restore_statement(
    tenant: str, region: str, approval: str, lifts: Iterable[Lift], approvers_version: int
) -> Statement:
    """The words of a restore: every revocation it lifts, by id, in canonical order."""
    named = tuple(("lift", f"{lift.epoch}:{lift.fence}:{lift.event}") for lift in sorted(lifts))
    return Statement(
        tenant=tenant,
        region=region,
        command="RestoreAccess",
        approval=approval,
        arguments=(*named, ("approvers", str(approvers_version))),
    )


def configuration_statement(tenant: str, region: str, approval: str, lease_s: int) -> Statement:
    """The words of a longer lease."""
    return Statement(
        tenant=tenant, region=region, command="LengthenLease", approval=approval, arguments=(("lease_s", str(lease_s)),)
    )


def link_statement(
    tenant: str, region: str, approval: str, provider: str, ref: str, credential: str | None
) -> Statement:
    """The words of linking another root key over a linked one."""
    return Statement(
        tenant=tenant, region=region, command="LinkRootKey", approval=approval,
        arguments=(("provider", provider), ("ref", ref), ("credential", credential or "")),
    )  # fmt: skip


def authority_statement(tenant: str, region: str, approval: str, certificate: bytes) -> Statement:
    """The words of letting the tenant's own CA vouch for its workloads: the certificate itself, and its hash."""
    named = (
        ("certificate", base64.b64encode(certificate).decode()),
        ("sha256", hashlib.sha256(certificate).hexdigest()),
    )
    return Statement(tenant=tenant, region=region, command="TrustWorkloadAuthority", approval=approval, arguments=named)


def destroy_statement(tenant: str, region: str, approval: str, approvers_version: int) -> Statement:
    """The words of the end of a residence."""
    return Statement(
        tenant=tenant,
        region=region,
        command="DestroyContext",
        approval=approval,
        arguments=(("approvers", str(approvers_version)),),
    )


def role_statement(
    tenant: str, command: str, approval: str, person: str, roles: Iterable[str], key: bytes | None = None
) -> Statement:
    """The words of GrantRole or WithdrawRole: one person, the roles, and the approval key that comes with them."""
    digest = hashlib.sha256(key).hexdigest() if key is not None else ""
    return Statement(
        tenant=tenant, region=GLOBAL, command=command, approval=approval,
        arguments=(("person", person), ("roles", " ".join(sorted(roles))), ("approval_key", digest)),
    )  # fmt: skip


def policy_statement(tenant: str, approval: str, quorum: int) -> Statement:
    """The words of another approval policy: how many people sign from now on."""
    return Statement(
        tenant=tenant, region=GLOBAL, command="ChangeApprovalPolicy", approval=approval,
        arguments=(("quorum", str(quorum)),),
    )  # fmt: skip


def regions_statement(tenant: str, approval: str, regions: Iterable[str]) -> Statement:
    """The words of another region: every region that the tenant has from then on."""
    named = (("regions", " ".join(sorted(regions))),)
    return Statement(tenant=tenant, region=GLOBAL, command="AddRegion", approval=approval, arguments=named)


def approvers_hash(
    tenant: str, region: str, version: int, approvers: Iterable[tuple[str, bytes]], previous: str | None,
    quorum: int = REQUIRED_SIGNATURES,
) -> str:  # fmt: skip
    """Return the hash (hex) of an approvers' set; it binds the whole history, since each set names the one before.

    Args:
        approvers: Pairs of person and public key; their order does not matter.
        quorum: How many of them sign. A set of two signers has the hash that it had before sets said so.
    """
    flat = [part for pair in sorted(approvers) for part in pair]
    if quorum != REQUIRED_SIGNATURES:
        more = seal.canonical(QUORUM_DOMAIN, tenant, region, version, previous, quorum, *flat)
        return hashlib.sha256(more).hexdigest()
    return hashlib.sha256(seal.canonical(APPROVERS_DOMAIN, tenant, region, version, previous, *flat)).hexdigest()


def approvers_statement(tenant: str, region: str, set_hash: str) -> Statement:
    """The words under which two of the old approvers put a new set in force. Its hash names version and predecessor."""
    return Statement(
        tenant=tenant, region=region, command="SetApprovers", approval=set_hash[:32], arguments=(("set", set_hash),)
    )


def signers(statement: Statement, signatures: Iterable[Signature], approvers: Mapping[str, bytes]) -> frozenset[str]:
    """Return the approvers whose signature over `statement` holds: each person once, whatever the number of signatures.

    Two names that share one key are one person, also when the key is a passkey pinned to two sites.
    """
    message = statement.signed_bytes()
    good: dict[bytes, str] = {}
    for signature in signatures:
        key = approvers.get(signature.person)
        if key is None:
            continue
        try:
            owner = passkey.whose(key)
            if owner in good:
                continue
            passkey.verify(key, signature.signature, message)
        except SealError:
            continue
        good[owner] = signature.person
    return frozenset(good.values())


def different_people(keys: Iterable[bytes]) -> int:
    """Return how many different people's keys these are; what is no approval key counts for nobody."""
    owners = set()
    for key in keys:
        try:
            owners.add(passkey.whose(key))
        except SealError:
            continue
    return len(owners)
