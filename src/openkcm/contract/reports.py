"""Every report: what a node says of itself, as frozen values; and the beat that answers it. Pure.

Reports travel in the same envelope as decrees, sealed by the node. `REPORTS` at the foot is the table of contents.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from openkcm.contract.checkpoint import epoch_of
from openkcm.contract.digest import Digest
from openkcm.contract.errors import PayloadError, UnknownTag
from openkcm.contract.ids import EventId, Lane, NodeName, Region, TenantId
from openkcm.contract.retired import RETIRED_REPORTS

__all__ = [
    "BEAT_TAG",
    "HEALTH_TAG",
    "MOST_WITHHELD",
    "RECHECK_TAG",
    "REPORTS",
    "WITHHOLDING_TAG",
    "Beat",
    "CheckpointCosigned",
    "Counted",
    "HandedOut",
    "HealthCheck",
    "KeyUsage",
    "Recheck",
    "Report",
    "ResidenceDigest",
    "ResidenceShredded",
    "RootStateObserved",
    "RotationComplete",
    "RotationProgressed",
    "SyncAck",
    "Told",
    "Withholding",
    "read",
    "read_beat",
    "read_recheck",
    "tag_of",
]

_T = TypeVar("_T")  # 3.11 has no `def f[T]`
Count = Annotated[int, Meta(ge=0)]
Nonce = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
Verdict = Literal["unlinked", "linked", "active", "suspended", "revoked", "locked", "expired", "frozen", "destroyed"]
RootState = Literal[
    "ok", "AccessDenied", "KeyDisabled", "KeyPendingDeletion", "KeyNotFound", "WrongContext",
    "Throttled", "Unreachable", "CredentialRejected", "Misconfigured",
]  # fmt: skip


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all reports."""


class SyncAck(Report, frozen=True, kw_only=True):
    """Everything of this lane up to `floor`, and what `above` names, is committed and obeyed. Cumulative.

    Attributes:
        head: Id of the event at `floor` (None while the floor is 0).
        state: What the node does with the residence now.
        obeyed: For the critical lane, the ids of the newest decrees obeyed (at most 16), newest last.
        closed_boottime_ns: CLOCK_BOOTTIME of the last closing of the gate, with `boot_id`.
        lease_s: The lease in force on this node.
        failure: Why a decree below the floor could not be brought about (a root that refuses), else None.
    """

    tenant: TenantId
    lane: Lane
    ledger_epoch: Count
    floor: Count
    above: tuple[int, ...] = ()
    head: EventId | None = None
    obeyed: Annotated[tuple[EventId, ...], Meta(max_length=16)] = ()
    state: Verdict
    boot_id: str
    closed_boottime_ns: Count | None = None
    lease_s: Count
    failure: str | None = None


class RotationComplete(Report, frozen=True, kw_only=True):
    """A key has a new version (L2, L3), or L2 is wrapped by the customer's new L1 (L1)."""

    tenant: TenantId
    level: Literal["L1", "L2", "L3"]
    registration: str | None = None
    rotation: str | None = None
    version: Count
    root_version: str | None = None


class RotationProgressed(Report, frozen=True, kw_only=True):
    """How far an older version of a key is on its way out.

    Attributes:
        version: The older one.
        children: Objects under it that this node's last pass over its catalogue found.
        released: Nodes that need it no more.
        destroyed: All nodes have released it, and its record is erased.
    """

    tenant: TenantId
    level: Literal["L2", "L3"]
    registration: str | None = None
    version: Count
    children: Count = 0
    released: tuple[NodeName, ...] = ()
    destroyed: bool = False


class ResidenceShredded(Report, frozen=True, kw_only=True):
    """What this node removed of a destroyed residence, and where.

    Attributes:
        vault: Kind of record -> revisions removed from the region's vault, by this node: keys' are overwritten, objects
            are without a key that opens them.
        rows: Rows deleted from this node's SQLite, their pages overwritten.
        log_truncated: SQLite's write-ahead log was emptied after it.
        kept: Kinds of records that stay as tombstones; they hold no key.
    """

    tenant: TenantId
    vault: dict[str, Count]
    rows: Count
    log_truncated: bool
    kept: tuple[str, ...]


class RootStateObserved(Report, frozen=True, kw_only=True):
    """What the customer's KMS answers this node."""

    tenant: TenantId
    state: RootState
    detail: Annotated[str, Meta(max_length=512)] = ""
    root_version: str | None = None


class Mark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One residence in a HealthCheck."""

    tenant: TenantId
    generation: Count
    fence: Count
    state: Verdict
    lease_left_s: int


class ResidenceDigest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One residence as it lies in the node's SQLite: its counters in the ledger's epoch, and `digest.digest` of it."""

    tenant: TenantId
    generation: Count
    fence: Count
    digest: Digest


class Told(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of residences' digests, told when governance asks for them: these from number `first` on, `of` in all."""

    first: Count
    of: Count
    residences: Annotated[tuple[ResidenceDigest, ...], Meta(max_length=256)] = ()


class VaultMark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node has read of its region's vault: nodes with the same cursor have the same digest."""

    cursor: Count
    digest: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]


class HealthCheck(Report, frozen=True, kw_only=True):
    """Every 2 s: a nonce for the beat to echo, and what an operator needs to know.

    Attributes:
        sent_boottime_ns: CLOCK_BOOTTIME at sending; the lease counts from here once a beat echoes the nonce.
        cursor: (routine, critical) stream sequences the node has committed.
        digest: `digest.region_digest` over the residences that lie in the node's SQLite, in the same transaction as
            `cursor`; None: an older node, or one that could not read it.
        told: Each residence's digest, when governance asked.
        expires: Name of a certificate of this node's -> seconds until it expires, negative afterwards.
        vault: Digest over all that the vault's records say, up to a sequence.
        residences: A page of them: what changed since it was told, then the others in turn. Whoever listens adds up.
    """

    node: NodeName
    region: Region
    nonce: Nonce
    boot_id: str
    sent_boottime_ns: Count
    ledger_epoch: Count
    cursor: tuple[int, int]
    known_tags: tuple[str, ...]
    workers: Count
    memory: Literal["memfd_secret", "mlock"]
    sealed_mappings: bool
    dropped: Count
    alarms: tuple[str, ...] = ()
    residences: tuple[Mark, ...] = ()
    digest: Digest | None = None
    told: Told | None = None
    expires: dict[str, int] = {}
    vault: VaultMark | None = None


class Counted(Report, frozen=True, kw_only=True):
    """Base of what is added up by whoever receives it: none must be counted twice, a missing one must show.

    Attributes:
        series: Names the node's database: numbers begin anew with a new one. "" for what was not numbered.
        number: Of this kind and tenant in the series: 1, 2, 3 ... without a gap.
    """

    tenant: TenantId
    series: Annotated[str, Meta(max_length=36)] = ""
    number: Count = 0


MOST_COUNTED: Final = 128  # keys in one report: at most 45 KiB of the 64 that a message may have


class Handed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a key was handed to a workload since the last report.

    Attributes:
        wrapped: Under another key of this server. None: not recorded.
        first_ms, last_ms: When, UTC of the node. None: not recorded.
    """

    registration: str
    workload: str
    object_id: str
    wrapped: bool | None = None
    times: Annotated[int, Meta(ge=1)]
    first_ms: Count | None = None
    last_ms: Count | None = None


class HandedOut(Counted, frozen=True, kw_only=True):
    """KMIP Gets and Exports handed keys out of the node."""

    handed: Annotated[tuple[Handed, ...], Meta(max_length=MOST_COUNTED)]


class WorkloadDenied(Report, frozen=True, kw_only=True):
    """A known certificate was refused."""

    tenant: TenantId
    workload: str
    reason: str


class Used(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operations of one key for one workload."""

    registration: str
    workload: str
    object_id: str
    encrypted: Count
    decrypted: Count


class KeyUsage(Counted, frozen=True, kw_only=True):
    """What keys were used for since the last such report. It stays in its region: the hub never has it.

    Attributes:
        since_ms, until_ms: UTC of the node. None: not recorded.
    """

    since_ms: Count
    until_ms: Count | None = None
    used: Annotated[tuple[Used, ...], Meta(max_length=MOST_COUNTED)]


class CheckpointCosigned(Report, frozen=True, kw_only=True):
    """A checkpoint of the region's tree that this node computed itself from its mirror, with its own signature.

    Attributes:
        verifier: The node's key as signed-note spells it.
        note: The checkpoint with this node's line (cosignature/v1).
    """

    verifier: Annotated[str, Meta(max_length=512)]
    note: Annotated[str, Meta(max_length=8192)]


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last critical decree that concerns a region: its sequence on the hub, and the rolling hash up to it.

    hash[n] = SHA-256(hash[n-1] || SHA-256(stored bytes of the n-th)), hash[0] = 32 zero bytes. A restored ledger is a
    new stream whose sequences begin at epoch << 40: the hash begins anew with it.
    """

    sequence: Count
    hash: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


def grown_head(before: bytes, last: int, sequence: int, body: bytes) -> bytes:
    """Return the rolling hash at `sequence`; `before` is the hash at `last`, the critical decree before it or 0."""
    if epoch_of(last) != epoch_of(sequence):
        before = bytes(32)
    return hashlib.sha256(before + hashlib.sha256(body).digest()).digest()


class Beat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Governance's answer: read after these nonces came in, from the stream's leader. Sealed by the CMK."""

    region: Region
    ledger_epoch: Count
    head: Head
    nonces: tuple[Nonce, ...]


MOST_WITHHELD: Final = 256  # with names of the longest: 17 KiB of the 64 that a message may have


class Withholding(Beat, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A beat that leaves tenants out: each has a revocation that its CMK promised and could not append yet."""

    withheld: Annotated[tuple[TenantId, ...], Meta(min_length=1, max_length=MOST_WITHHELD)]


class Recheck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Governance asks a node about its residences, beside the beat. Sealed by the CMK; never stored.

    Attributes:
        tenants: Residences to read again from the node's own mirrors; none: tell each residence's digest.
    """

    region: Region
    ledger_epoch: Count
    node: NodeName
    tenants: Annotated[tuple[TenantId, ...], Meta(max_length=256)] = ()


BEAT_TAG: Final = "Beat.1"
WITHHOLDING_TAG: Final = "Beat.2"
RECHECK_TAG: Final = "Recheck.1"
HEALTH_TAG: Final = "HealthCheck.2"
REPORTS: Final[dict[str, type[Report]]] = {
    "SyncAck.1": SyncAck,
    "RotationComplete.1": RotationComplete,
    "RotationProgressed.1": RotationProgressed,
    "ResidenceShredded.1": ResidenceShredded,
    HEALTH_TAG: HealthCheck,
    "RootStateObserved.1": RootStateObserved,
    "WorkloadDenied.1": WorkloadDenied,
    "KeyUsage.2": KeyUsage,
    "HandedOut.2": HandedOut,
    "CheckpointCosigned.1": CheckpointCosigned,
}
_TAGS: Final = {report: tag for tag, report in REPORTS.items()}
_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    **{tag: msgspec.json.Decoder(report) for tag, report in REPORTS.items()},
    **{tag: msgspec.json.Decoder(old.shape) for tag, old in RETIRED_REPORTS.items()},
}
#: Every tag that can be read: the living ones and the retired.
KNOWN_TAGS: Final = tuple(sorted(_DECODERS))
_BEATS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    BEAT_TAG: msgspec.json.Decoder(Beat),
    WITHHOLDING_TAG: msgspec.json.Decoder(Withholding),
}
_RECHECK: Final = msgspec.json.Decoder(Recheck)


def tag_of(report: Report) -> str:
    """Return the tag under which this report is sent."""
    return _TAGS[type(report)]


def read(tag: str, data: bytes | msgspec.Raw) -> Report:
    """Return the report in an envelope's `data`; a retired shape comes back as its successor.

    Raises:
        UnknownTag: This version does not know the tag.
        PayloadError: The data does not fit the tag's class.
    """
    decoder = _DECODERS.get(tag)
    if decoder is None:
        raise UnknownTag(f"unknown report {tag}")
    value = _decoded(decoder, tag, data)
    old = RETIRED_REPORTS.get(tag)
    try:
        return value if old is None else msgspec.convert(old.fields(value), REPORTS[old.successor])
    except msgspec.ValidationError as bad:
        raise PayloadError(f"{tag}: {bad}") from bad


def read_beat(tag: str, data: bytes | msgspec.Raw) -> Beat:
    """Return the beat in an envelope's `data`.

    Raises:
        UnknownTag: It is no beat.
        PayloadError: The data does not fit.
    """
    decoder = _BEATS.get(tag)
    if decoder is None:
        raise UnknownTag(f"no beat: {tag}")
    beat: Beat = _decoded(decoder, tag, data)
    return beat


def read_recheck(data: bytes | msgspec.Raw) -> Recheck:
    """Return the question in an envelope's `data`.

    Raises:
        PayloadError: The data does not fit.
    """
    return _decoded(_RECHECK, RECHECK_TAG, data)


def _decoded(decoder: msgspec.json.Decoder[_T], tag: str, data: bytes | msgspec.Raw) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise PayloadError(f"{tag}: {bad}") from bad
