"""Answers about one tenant region: keys, systems, workloads, and which node has what. Pure values."""

from __future__ import annotations

from typing import Literal

from openkcm.contract import decrees as d
from openkcm.contract.api.base import Shape, State

__all__ = [
    "Approvers", "Configuration", "Failure", "ImportParameters", "KeyVersion", "LaneSync", "NodeSync", "Region_",
    "Revocation", "RootKey", "RootState", "Rotation", "Sync", "System", "Workload", "WorkloadAuthority",
]  # fmt: skip


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
    quorum: int
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
    material: str
    wrapping_key: str
    wrappings: list[str]
    parameters_from: str
    import_by: str
    token_hours: int | None
    command: str


class Region_(Shape, frozen=True, kw_only=True):  # noqa: N801 -- `Region` is the name's type
    """Everything about one tenant region; of its workloads the first hundred, which `/workloads` lists all of."""

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
