"""The answers of the API `/cmk/v1`: what governance says and what a client reads. Pure values; no I/O.

Written once: the portal answers by them, OpenAPI is made from them, `openkcm.client` decodes into them. A field may be
added; none changes its meaning. Times are UTC in ms, byte strings base64.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import msgspec

from openkcm.contract import decrees as d
from openkcm.contract.ids import EventId

_T = TypeVar("_T")
State = Literal["Requested", "Linked", "Active", "Suspended", "Revoked", "Destroyed"]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what the API answers."""


# --- every answer ---------------------------------------------------------------------------------------------------


class Problem(Shape, frozen=True, kw_only=True):
    """RFC 9457. `code` is stable; `detail` says what was wrong and what to do next."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str
    requestId: str  # noqa: N815 -- the API's spelling


class Page(msgspec.Struct, Generic[_T], frozen=True, kw_only=True):
    """A list: `$top` and `$skip` choose the part, `count` is of all."""

    value: list[_T]
    count: int


class Accepted(Shape, frozen=True, kw_only=True, omit_defaults=True):
    """202: it is in the ledger (or, a revocation, on its way there for certain). `sync` shows which node has it."""

    resource: str
    sync: str
    event: EventId | None = None
    events: list[EventId] = []
    generation: int | None = None
    fence: int | None = None
    system: str | None = None
    registration: str | None = None
    workload: str | None = None
    enrolment: str | None = None
    rotation: str | None = None
    approval: str | None = None


# --- tenants and people ---------------------------------------------------------------------------------------------


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


# --- tenant regions -------------------------------------------------------------------------------------------------


class Configuration(Shape, frozen=True, kw_only=True):
    """How nodes serve a tenant region."""

    lease_s: int | None
    hand_out: d.HandOut | None
    max_objects: int | None
    labels: dict[str, str]


class System(Shape, frozen=True, kw_only=True):
    """A system: its keys are apart from others'.

    Attributes:
        hand_out: Whether KMIP Get gives its keys away, as asked for the system; None: as the tenant region.
        hand_out_in_force: The stricter of that and the tenant region's.
    """

    system: str
    registration: str
    hand_out: d.HandOut | None
    hand_out_in_force: d.HandOut


class Workload(Shape, frozen=True, kw_only=True):
    """A client certificate that speaks for a system."""

    workload: str
    system: str
    enrolment: str
    fingerprint: str | None
    spiffe: str | None
    authority: str | None = None


class WorkloadAuthority(Shape, frozen=True, kw_only=True):
    """A CA of the tenant's own that vouches for its workloads. `certificate`: PEM."""

    authority: str
    sha256: str
    subject: str
    until_ms: int
    certificate: str


class Approvers(Shape, frozen=True, kw_only=True):
    """Whose signatures lift a revocation here. `fingerprint` binds the whole history of sets."""

    version: int
    fingerprint: str
    approvers: list[str]


class Revocation(Shape, frozen=True, kw_only=True):
    """One pull of the kill switch."""

    event: str
    epoch: int
    fence: int
    reason: str
    person: str
    at_ms: int
    open: bool
    confirmed: Literal["acked", "lease"] | None
    confirmed_ms: int | None


class Rotation(Shape, frozen=True, kw_only=True):
    """An ordered rotation."""

    rotation: str
    level: str
    registration: str | None
    at_ms: int


class RootState(Shape, frozen=True, kw_only=True):
    """How one node finds the customer's root key."""

    node: str
    state: str
    detail: str
    root_version: str | None
    at_ms: int


class KeyVersion(Shape, frozen=True, kw_only=True):
    """The newest version of a key at one node."""

    node: str
    level: str
    registration: str
    version: int
    root_version: str | None
    at_ms: int


class RootKey(Shape, frozen=True, kw_only=True):
    """The root key's name, its state as each node sees it, and the versions below it."""

    root: d.RootReference | None
    states: list[RootState]
    key_versions: list[KeyVersion]
    rotations: list[Rotation]


class ImportParameters(Shape, frozen=True, kw_only=True):
    """How one's own key material gets into one's own KMS (BYOK): what both sides must agree on; no secret, no token.

    `token_hours`: how long the KMS's wrapping key and token are good; null: as long as the wrapping key lives.
    """

    provider: str
    ref: str
    key: str
    material_bytes: int
    wrapping_key: str
    wrappings: list[str]
    parameters_from: str
    import_by: str
    token_hours: int | None
    command: str


class Region_(Shape, frozen=True, kw_only=True):  # noqa: N801 -- `Region` is the name's type
    """Everything about one tenant region."""

    tenant: str
    region: str
    state: State
    generation: int
    fence: int
    lease_s: int | None
    configuration: Configuration
    root: d.RootReference | None
    suspended_for: str | None
    systems: list[System]
    workloads: list[Workload]
    approvers: Approvers | None
    revocations: list[Revocation]
    rotations: list[Rotation]
    root_states: list[RootState]
    key_versions: list[KeyVersion]


class Failure(Shape, frozen=True, kw_only=True):
    """Why a node did not carry something out."""

    node: str
    code: str


class LaneSync(Shape, frozen=True, kw_only=True):
    """Who has the changes, or the priority changes, up to `counter`. `certain_by`: then nobody serves any more."""

    counter: int
    status: Literal["InSync", "Pending", "Failed", "Revoking", "Revoked", "RevokedByLease"]
    acked: int
    of: int
    waiting_for: list[str]
    failures: list[Failure]
    certain_by: int | None


class NodeSync(Shape, frozen=True, kw_only=True):
    """One node's part in it. `obeyed_ms`: from the event to its acknowledgement."""

    node: str
    routine: int
    critical: int
    state: str | None
    lease_left_s: int | None
    last_seen_ms: int | None
    obeyed_ms: int | None = None


class Sync(Shape, frozen=True, kw_only=True):
    """Who has what."""

    tenant: str
    region: str
    routine: LaneSync
    critical: LaneSync
    nodes: list[NodeSync]


# --- the switch -----------------------------------------------------------------------------------------------------


class HandedOut(Shape, frozen=True, kw_only=True):
    """How far a system's keys are with its workloads: the policy in force, and what nodes reported so far."""

    system: str
    hand_out: d.HandOut
    times: int


class BlastRadius(Shape, frozen=True, kw_only=True):
    """What a revocation would cut in one region, and what it cannot: keys that were handed out."""

    region: str
    state: State | None
    systems: int
    workloads: int
    nodes: list[str]
    keys_handed_out: int
    handed_out: list[HandedOut]
    lease_s: int | None = None


class Pulled(Shape, frozen=True, kw_only=True):
    """One region's revocation. `spool`: on the disk, and brought into the ledger for certain."""

    region: str
    event: EventId
    fence: int | None
    recorded: Literal["ledger", "spool"]
    sync: str


class Revocations(Shape, frozen=True, kw_only=True, omit_defaults=True):
    """Dry run (200): `regions`. Pulled (202): `revocations`."""

    resource: str | None = None
    dryRun: bool = False  # noqa: N815 -- the API's spelling
    regions: list[BlastRadius] | None = None
    revocations: list[Pulled] | None = None


class TenantRevocation(Revocation, frozen=True, kw_only=True):
    """One pull of the kill switch, and where."""

    region: str


class TerminationRegion(Shape, frozen=True, kw_only=True):
    """How far one region's end is. `waiting_for`: nodes without an acknowledgement whose lease may still run."""

    region: str
    state: State
    approval: str | None
    acked: list[str]
    waiting_for: list[str]
    certain_by: int | None


class Termination(Shape, frozen=True, kw_only=True):
    """The end of a tenant: over when every region is destroyed and every node obeys or its lease is over."""

    tenant: str
    reason: str
    requested_ms: int
    terminated_ms: int | None
    status: Literal["AwaitingApproval", "Destroying", "Terminated"]
    regions: list[TerminationRegion]


# --- what takes two people ------------------------------------------------------------------------------------------


class Words(Shape, frozen=True, kw_only=True):
    """The very words to sign: `signed_bytes` by Ed25519, or `challenge` by the passkey `credential`."""

    approval: str
    statement: Any
    signed_bytes: bytes
    challenge: bytes
    rp_id: str | None
    credential: bytes | None
    may_sign: bool
    fence_seen: int


class Approval(Shape, frozen=True, kw_only=True):
    """A command that waits for other people's signatures, or did."""

    tenant: str
    approval: str
    command: str
    region: str | None
    arguments: list[list[str]]
    statement: str
    proposer: str
    fence_seen: int
    expires_at_ms: int
    state: Literal["Requested", "Granted", "Rejected", "Withdrawn", "Expired", "Executed"]
    reason: str | None
    event: str | None
    at_ms: int
    granted_by: list[str]


# --- the ledger and the fleet ---------------------------------------------------------------------------------------


class LedgerEvent(Shape, frozen=True, kw_only=True):
    """An event as it stands in the ledger. `body`: the sealed bytes."""

    sequence: int
    subject: str
    body: str
    id: str
    tag: str
    counter: int
    epoch: int
    actor: Any
    priority: str
    correlation: str
    causation: str | None
    at_ms: int
    data: Any


class Receipt(Shape, frozen=True, kw_only=True):
    """One revocation to file: the order, and the confirmation with each node's own sealed word; both as sealed."""

    revocation: LedgerEvent
    confirmation: LedgerEvent | None


class FirstBad(Shape, frozen=True, kw_only=True):
    """The first event that does not hold, and why."""

    sequence: int
    why: str


class Verification(Shape, frozen=True, kw_only=True):
    """What a check of a tenant's events found."""

    events: int
    good: bool
    first_bad: FirstBad | None


class FleetRegion(Shape, frozen=True, kw_only=True):
    """A region and its nodes, each with its last health check."""

    region: str
    residency: Any
    nodes: list[dict[str, Any]]


class FleetLedger(Shape, frozen=True, kw_only=True):
    """How far this process has read."""

    read_to: int
    epoch: int


class Fleet(Shape, frozen=True, kw_only=True):
    """All regions."""

    value: list[FleetRegion]
    count: int
    spooled_revocations: int
    ledger: FleetLedger


class Health(Shape, frozen=True, kw_only=True):
    """Whether the process can do its work."""

    status: Literal["ok", "not ready"]
    checks: dict[str, bool] = {}
