"""Every decree: what governance can order, as frozen values. Pure.

`DECREES` at the foot is the table of contents: tag -> class, aggregate, lane. A tag's golden file never changes; a new
shape is a new tag and an upcast in `retired`. Lists that mean sets are sorted by whoever makes them.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from openkcm.contract import passkey
from openkcm.contract.errors import PayloadError, UnknownTag
from openkcm.contract.ids import EventId, KeyId, Lane, NodeName, PersonId, Region, SystemName, TenantId, WorkloadName
from openkcm.contract.retired import RETIRED
from openkcm.contract.statements import REQUIRED_SIGNATURES, Lift, Signature

__all__ = [
    "DECREES",
    "KNOWN_TAGS",
    "MAX_LEASE_S",
    "MIN_LEASE_S",
    "ROLES",
    "Decree",
    "Kind",
    "kind_of",
    "lane_of",
    "read",
    "tag_of",
]

Role = Literal["tenant-admin", "key-admin", "kill-switch", "approver", "auditor", "provider-operator"]
ROLES: Final[tuple[str, ...]] = Role.__args__  # type: ignore[attr-defined]
Provider = Literal["aws", "azure", "gcp", "pkcs11", "kmip", "file"]
HandOut = Literal["allowed", "wrapped-only", "never"]
HAND_OUTS: Final[tuple[HandOut, ...]] = ("allowed", "wrapped-only", "never")  # the strictest last
Level = Literal["L1", "L2", "L3"]
Id = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{7,62}$")]  # a random id: registration, enrolment, approval
MAX_AUTHORITY_BYTES: Final = 3072  # base64 of it fits an approval's argument
PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
ApprovalKey = Annotated[bytes, Meta(min_length=32, max_length=passkey.MAX_KEY_BYTES)]  # Ed25519, or a packed passkey
Sha256Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Certificate = Annotated[bytes, Meta(min_length=64, max_length=MAX_AUTHORITY_BYTES)]  # DER of a CA, public
Text = Annotated[str, Meta(min_length=1, max_length=512)]
ReasonCode = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
MIN_LEASE_S: Final = 30
MAX_LEASE_S: Final = 7 * 86400
DEFAULT_LEASE_S: Final = 86400
Quorum = Annotated[int, Meta(ge=REQUIRED_SIGNATURES, le=8)]
LeaseSeconds = Annotated[int, Meta(ge=MIN_LEASE_S, le=MAX_LEASE_S)]


class Decree(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all decrees. Everything in one is public: no field fits a secret."""


# --- ledger (global._), sealed by the offline trust root except AccessDenied ---------------------------------------


class LedgerOpened(Decree, frozen=True, kw_only=True):
    """An epoch begins. `closes` names the older ones and what loss is accepted with them."""

    epoch: Annotated[int, Meta(ge=1)]
    first_sequence: Annotated[int, Meta(ge=1)]
    closes: tuple[str, ...] = ()


class SigningKeyRotated(Decree, frozen=True, kw_only=True):
    """Governance seals with this key from now on; `retires` may seal nothing any more."""

    key: KeyId
    public_key: PublicKey
    retires: tuple[KeyId, ...] = ()


class NodeEnrolled(Decree, frozen=True, kw_only=True):
    """A node belongs to a region and seals with this key."""

    node: NodeName
    region: Region
    key: KeyId
    public_key: PublicKey


class NodeRemoved(Decree, frozen=True, kw_only=True):
    """A node's seal counts no more; it stays in the count until its last lease is over.

    Its name is never enrolled again: the two lanes may deliver a removal and an enrolment in either order.
    """

    node: NodeName
    region: Region


class AccessDenied(Decree, frozen=True, kw_only=True):
    """Somebody asked for what is not theirs (rate-limited by the API). `tenant` is whose it was, None for nobody's."""

    person: PersonId
    action: Text
    reason: ReasonCode
    tenant: TenantId | None = None
    region: Region | None = None


# --- tenant (global) ------------------------------------------------------------------------------------------------


class Person(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the tenant's people: an opaque subject, its roles, and the public key its approvals are signed with."""

    person: PersonId
    roles: tuple[Role, ...]
    approval_key: ApprovalKey | None = None


class TenantRegistered(Decree, frozen=True, kw_only=True):
    """A customer comes aboard, with its first two people (more may follow by RoleGranted)."""

    people: Annotated[tuple[Person, ...], Meta(min_length=2, max_length=8)]


class TenantRegionsAssigned(Decree, frozen=True, kw_only=True):
    """The regions the tenant may live in: the whole list. A later one is longer, and carries two signatures."""

    regions: Annotated[tuple[Region, ...], Meta(min_length=1, max_length=256)]
    approval: Id | None = None
    signatures: Annotated[tuple[Signature, ...], Meta(max_length=8)] = ()


class RoleGranted(Decree, frozen=True, kw_only=True):
    """A person of the tenant may do more, or has another approval key. Carries two signatures once two can sign."""

    person: PersonId
    roles: tuple[Role, ...]
    approval_key: ApprovalKey | None = None
    approval: Id | None = None
    signatures: tuple[Signature, ...] = ()


class RoleWithdrawn(Decree, frozen=True, kw_only=True):
    """A person of the tenant may do less."""

    person: PersonId
    roles: tuple[Role, ...]
    approval: Id | None = None
    signatures: tuple[Signature, ...] = ()


class ApprovalPolicyChanged(Decree, frozen=True, kw_only=True):
    """So many of the tenant's people sign what takes an approval. Nodes ask for as many from the next ApproversSet."""

    quorum: Quorum
    approval: Id
    signatures: tuple[Signature, ...]


class TenantTerminationRequested(Decree, frozen=True, kw_only=True):
    """The end of a tenant has begun: each of these regions is to be destroyed, each by an approval of its own."""

    regions: Annotated[tuple[Region, ...], Meta(min_length=1, max_length=256)]
    reason: ReasonCode


class TenantTerminated(Decree, frozen=True, kw_only=True):
    """Every region is destroyed and every node obeys, or its lease is over. `acks` are the nodes' own sealed words."""

    regions: tuple[Region, ...]
    nodes: tuple[NodeName, ...]
    by_lease: tuple[NodeName, ...] = ()
    acks: tuple[msgspec.Raw, ...] = ()


# --- approval (global) ----------------------------------------------------------------------------------------------


class ApprovalRequested(Decree, frozen=True, kw_only=True):
    """A command waits for a second person. `statement` is the hash of the very words both sign."""

    command: Text
    region: Region | None
    arguments: tuple[tuple[str, str], ...]
    statement: Sha256Hex
    proposer: Signature
    fence_seen: Annotated[int, Meta(ge=0)]
    expires_at_ms: Annotated[int, Meta(ge=0)]


class ApprovalGranted(Decree, frozen=True, kw_only=True):
    """Another of the tenant's people signed the same words."""

    approver: Signature


class ApprovalRejected(Decree, frozen=True, kw_only=True):
    """One of the tenant's people said no."""

    person: PersonId


class ApprovalWithdrawn(Decree, frozen=True, kw_only=True):
    """The proposer took it back, or a revocation meanwhile voided it."""

    reason: ReasonCode


class ApprovalExpired(Decree, frozen=True, kw_only=True):
    """Nobody answered in time."""


class ApprovalExecuted(Decree, frozen=True, kw_only=True):
    """The command is in the ledger."""

    event: EventId


# --- residence: routine lane ----------------------------------------------------------------------------------------


class TenantConfigurationUpdated(Decree, frozen=True, kw_only=True):
    """How nodes serve this residence: the whole of it, not a difference. A longer lease carries two signatures."""

    lease_s: LeaseSeconds = DEFAULT_LEASE_S
    hand_out: HandOut = "allowed"
    max_objects: Annotated[int, Meta(ge=1, le=10_000_000)] = 1_000_000
    labels: Annotated[
        dict[Annotated[str, Meta(max_length=63)], Annotated[str, Meta(max_length=255)]], Meta(max_length=64)
    ] = {}
    approval: Id | None = None
    signatures: tuple[Signature, ...] = ()


class Approver(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person whose signature counts in this residence."""

    person: PersonId
    public_key: ApprovalKey


class ApproversSet(Decree, frozen=True, kw_only=True):
    """Whose signatures lift a revocation here, and how many. Each set is signed by so many of the set before."""

    version: Annotated[int, Meta(ge=1)]
    approvers: Annotated[tuple[Approver, ...], Meta(min_length=2, max_length=64)]
    quorum: Quorum = REQUIRED_SIGNATURES
    previous: Sha256Hex | None = None
    signatures: tuple[Signature, ...] = ()


class RootReference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the customer keeps L1: a key's name in its own KMS. `credential` names one on the node; it is none."""

    provider: Provider
    ref: Annotated[str, Meta(min_length=1, max_length=2048)]
    credential: Annotated[str, Meta(min_length=1, max_length=256)] | None = None


class RootKeyLinked(Decree, frozen=True, kw_only=True):
    """The residence's L1. Linking another one over it carries two signatures."""

    root: RootReference
    approval: Id | None = None
    signatures: tuple[Signature, ...] = ()


class SystemRegistered(Decree, frozen=True, kw_only=True):
    """A system of the tenant gets an L3 of its own here. `registration` is never used again.

    Attributes:
        hand_out: Whether KMIP Get gives keys of it away; None: as the residence. The stricter of the two counts.
    """

    system: SystemName
    registration: Id
    hand_out: HandOut | None = None


class SystemConfigured(Decree, frozen=True, kw_only=True):
    """Another hand-out policy of a system. None: as the residence; the stricter of the two counts."""

    registration: Id
    hand_out: HandOut | None = None


class WorkloadAuthorityTrusted(Decree, frozen=True, kw_only=True):
    """The tenant's own CA may vouch for the tenant's own workloads here, and for nobody else's. Two people signed."""

    authority: Id
    certificate: Certificate
    approval: Id
    signatures: Annotated[tuple[Signature, ...], Meta(max_length=8)]


class WorkloadEnrolled(Decree, frozen=True, kw_only=True):
    """A client certificate (SHA-256 of its DER, or a SPIFFE id) speaks for a system; `enrolment` is never reused.

    `authority`: the tenant's own CA that must have vouched for it; None: the region's client CA.
    """

    workload: WorkloadName
    system: SystemName
    registration: Id
    enrolment: Id
    fingerprint: Sha256Hex | None = None
    spiffe: Annotated[str, Meta(pattern=r"^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$", max_length=2048)] | None = None
    authority: Id | None = None


class RotationOrdered(Decree, frozen=True, kw_only=True):
    """Make a new version of a key; the old one decrypts until all is rewrapped. L1 is rotated by the customer."""

    level: Literal["L2", "L3"]
    registration: Id | None = None
    rotation: Id


class AccessSuspended(Decree, frozen=True, kw_only=True):
    """No new encryption; reads go on."""

    reason: ReasonCode


class AccessResumed(Decree, frozen=True, kw_only=True):
    """Encryption again."""


class AccessRestored(Decree, frozen=True, kw_only=True):
    """Lifts exactly the revocations it names, by id, with two people's signatures over those very ids."""

    lifts: Annotated[tuple[Lift, ...], Meta(min_length=1, max_length=1024)]
    approval: Id
    approvers_version: Annotated[int, Meta(ge=1)]
    signatures: Annotated[tuple[Signature, ...], Meta(max_length=8)]


class RevocationConfirmed(Decree, frozen=True, kw_only=True):
    """A revocation is obeyed by every node: with their sealed acks, or by the end of their leases."""

    revocation: EventId
    fence: Annotated[int, Meta(ge=1)]
    outcome: Literal["acked", "lease"]
    nodes: tuple[NodeName, ...]
    acks: tuple[msgspec.Raw, ...]  # the nodes' own sealed SyncAck envelopes, byte for byte


# --- residence: critical lane ---------------------------------------------------------------------------------------


class AccessRevoked(Decree, frozen=True, kw_only=True):
    """The kill switch: nothing of this residence works until two of the tenant's people lift this very event."""

    reason: ReasonCode


class WorkloadRemoved(Decree, frozen=True, kw_only=True):
    """These enrolments count no more, for ever; live sessions are cut."""

    enrolments: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=1024)]


class WorkloadAuthoritiesRemoved(Decree, frozen=True, kw_only=True):
    """These CAs vouch for nobody any more, for ever; what was enrolled under them is cut."""

    authorities: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=1024)]


class SystemDecommissioned(Decree, frozen=True, kw_only=True):
    """These registrations count no more, for ever."""

    registrations: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=1024)]


class EmergencyRotationOrdered(Decree, frozen=True, kw_only=True):
    """Versions of the key below `below` refuse at once."""

    level: Literal["L2", "L3"]
    registration: Id | None = None
    below: Annotated[int, Meta(ge=2)]


class ContextDestroyed(Decree, frozen=True, kw_only=True):
    """The residence is gone for good: crypto-shredding."""

    approval: Id
    approvers_version: Annotated[int, Meta(ge=1)]
    signatures: Annotated[tuple[Signature, ...], Meta(max_length=8)]


class Kind(NamedTuple):
    """What the table says of a tag."""

    decree: type[Decree]
    aggregate: str
    lane: Lane


# fmt: off
DECREES: Final[dict[str, Kind]] = {
    "LedgerOpened.1":               Kind(LedgerOpened, "ledger", "routine"),
    "NodeEnrolled.1":               Kind(NodeEnrolled, "ledger", "routine"),
    "AccessDenied.2":               Kind(AccessDenied, "ledger", "routine"),
    "NodeRemoved.1":                Kind(NodeRemoved, "ledger", "critical"),
    "SigningKeyRotated.1":          Kind(SigningKeyRotated, "ledger", "critical"),
    "TenantRegistered.1":           Kind(TenantRegistered, "tenant", "routine"),
    "TenantRegionsAssigned.2":      Kind(TenantRegionsAssigned, "tenant", "routine"),
    "RoleGranted.1":                Kind(RoleGranted, "tenant", "routine"),
    "RoleWithdrawn.1":              Kind(RoleWithdrawn, "tenant", "routine"),
    "ApprovalPolicyChanged.1":      Kind(ApprovalPolicyChanged, "tenant", "routine"),
    "TenantTerminationRequested.1": Kind(TenantTerminationRequested, "tenant", "routine"),
    "TenantTerminated.1":           Kind(TenantTerminated, "tenant", "routine"),
    "ApprovalRequested.1":          Kind(ApprovalRequested, "approval", "routine"),
    "ApprovalGranted.1":            Kind(ApprovalGranted, "approval", "routine"),
    "ApprovalRejected.1":           Kind(ApprovalRejected, "approval", "routine"),
    "ApprovalWithdrawn.1":          Kind(ApprovalWithdrawn, "approval", "routine"),
    "ApprovalExpired.1":            Kind(ApprovalExpired, "approval", "routine"),
    "ApprovalExecuted.1":           Kind(ApprovalExecuted, "approval", "routine"),
    "TenantConfigurationUpdated.1": Kind(TenantConfigurationUpdated, "residence", "routine"),
    "ApproversSet.2":               Kind(ApproversSet, "residence", "routine"),
    "RootKeyLinked.1":              Kind(RootKeyLinked, "residence", "routine"),
    "SystemRegistered.2":           Kind(SystemRegistered, "residence", "routine"),
    "SystemConfigured.1":           Kind(SystemConfigured, "residence", "routine"),
    "WorkloadAuthorityTrusted.1":   Kind(WorkloadAuthorityTrusted, "residence", "routine"),
    "WorkloadEnrolled.2":           Kind(WorkloadEnrolled, "residence", "routine"),
    "RotationOrdered.1":            Kind(RotationOrdered, "residence", "routine"),
    "AccessSuspended.1":            Kind(AccessSuspended, "residence", "routine"),
    "AccessResumed.1":              Kind(AccessResumed, "residence", "routine"),
    "AccessRestored.1":             Kind(AccessRestored, "residence", "routine"),
    "RevocationConfirmed.1":        Kind(RevocationConfirmed, "residence", "routine"),
    "AccessRevoked.1":              Kind(AccessRevoked, "residence", "critical"),
    "WorkloadRemoved.1":            Kind(WorkloadRemoved, "residence", "critical"),
    "WorkloadAuthoritiesRemoved.1": Kind(WorkloadAuthoritiesRemoved, "residence", "critical"),
    "SystemDecommissioned.1":       Kind(SystemDecommissioned, "residence", "critical"),
    "EmergencyRotationOrdered.1":   Kind(EmergencyRotationOrdered, "residence", "critical"),
    "ContextDestroyed.1":           Kind(ContextDestroyed, "residence", "critical"),
}
# fmt: on
_TAGS: Final = {kind.decree: tag for tag, kind in DECREES.items()}
_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    **{tag: msgspec.json.Decoder(kind.decree) for tag, kind in DECREES.items()},
    **{tag: msgspec.json.Decoder(old.shape) for tag, old in RETIRED.items()},
}
_SHAPES: Final[dict[str, type[msgspec.Struct]]] = {
    **{tag: kind.decree for tag, kind in DECREES.items()},
    **{tag: old.shape for tag, old in RETIRED.items()},
}
#: Every tag that can be read: the living ones and the retired.
KNOWN_TAGS: Final = tuple(sorted(_DECODERS))
TRUST_ROOT_DECREES: Final = frozenset({LedgerOpened, NodeEnrolled, NodeRemoved, SigningKeyRotated})


def tag_of(decree: Decree) -> str:
    """Return the tag under which this decree is stored."""
    return _TAGS[type(decree)]


def stricter(one: HandOut, other: HandOut | None) -> HandOut:
    """Return the policy that holds where two are said; None says nothing."""
    return one if other is None else max(one, other, key=HAND_OUTS.index)


def kind_of(tag: str) -> Kind | None:
    """Return what the table says of a tag; a retired one is of its successor's kind. None: unknown."""
    while tag in RETIRED:
        tag = RETIRED[tag].successor
    return DECREES.get(tag)


def lane_of(decree: Decree) -> Lane:
    """Return the lane: decided by the class, never by the caller."""
    return DECREES[tag_of(decree)].lane


def read(tag: str, data: bytes | msgspec.Raw) -> Decree:
    """Return the decree in an envelope's `data`; a retired shape comes back as its newest successor.

    Raises:
        UnknownTag: This version does not know the tag.
        PayloadError: The data does not fit the tag's class.
    """
    decoder = _DECODERS.get(tag)
    if decoder is None:
        raise UnknownTag(f"unknown event {tag}")
    try:
        value: Any = decoder.decode(data)
        return _newest(tag, value) if tag in RETIRED else value
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise PayloadError(f"{tag}: {bad}") from bad


def _newest(tag: str, value: Any) -> Decree:
    while (old := RETIRED.get(tag)) is not None:
        tag = old.successor
        value = msgspec.convert(old.fields(value), _SHAPES[tag])
    return value  # type: ignore[no-any-return]  # the last shape is a living decree's
