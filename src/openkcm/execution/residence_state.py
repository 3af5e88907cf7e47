"""What a node knows and wants, as frozen values: one `Residence` per tenant of the region, one `State` per node. Pure.

Values change only through `desired.step`. A restart loads the rows back into exactly these values.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from openkcm.contract.decrees import DEFAULT_LEASE_S, HandOut, RootReference, stricter
from openkcm.contract.reports import Verdict
from openkcm.contract.retirement import before_end
from openkcm.contract.statements import REQUIRED_SIGNATURES

__all__ = [
    "CLOSED",
    "Effect",
    "Mark",
    "Residence",
    "Revocation",
    "Row",
    "Rows",
    "State",
    "Value",
    "Workload",
    "verdict",
]

#: Verdicts under which nothing of a residence works; a suspended one still reads.
CLOSED: Final = frozenset({"unlinked", "linked", "revoked", "locked", "expired", "frozen", "destroyed"})


class Mark(msgspec.Struct, frozen=True):
    """What has been applied of a lane in an epoch: all up to `floor`, and the set `above` it. Never shrinks."""

    floor: int = 0
    above: frozenset[int] = frozenset()

    def __contains__(self, counter: int) -> bool:
        return counter <= self.floor or counter in self.above

    def add(self, counter: int) -> Mark:
        """Return the mark with `counter` in it and the floor as high as it is contiguous."""
        floor, above = self.floor, self.above | {counter}
        while floor + 1 in above:
            floor += 1
        return Mark(floor, frozenset(n for n in above if n > floor))


class Revocation(msgspec.Struct, frozen=True):
    """The highest revocation of an epoch."""

    fence: int
    event: str


class Workload(msgspec.Struct, frozen=True):
    """A client identity and the system it speaks for."""

    workload: str
    system: str
    registration: str
    enrolment: str
    fingerprint: str | None
    spiffe: str | None
    authority: str | None = None


class Residence(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant in this region, as the ledger and the customer's root have it.

    Attributes:
        routine, critical: Marks by epoch.
        head_routine, head_critical: Id of the newest event applied in that lane.
        leases: Leases in force over time: (CLOCK_BOOTTIME ns since when, seconds), newest last, at most eight.
        hand_outs: Registrations with a policy of their own; the residence's is the ceiling.
        lifted: Ids of revocations that two of the tenant's people lifted.
        unreadable: Well-sealed critical decrees this version cannot read: each locks the residence by its id.
        frozen_at: Stream sequence from which routine decrees must be read again (one unreadable, or a gap), or None.
        quorum: How many of the approvers sign what takes people of the tenant, by the set in force.
        authorities: CAs of the tenant's own, by id: DER. Each vouches for workloads of this residence and no other.
        thawed: It was read again from `frozen_at`, and the missing decree has not come: it may lie further back.
        root_refusal: The customer's root said no (the local lock), or None.
        refusal: Why the newest routine decree was not carried out, or None.
        failure: Why the keys could not be brought to the desired state, or None.
    """

    tenant: str
    routine: dict[int, Mark] = {}
    critical: dict[int, Mark] = {}
    head_routine: str | None = None
    head_critical: tuple[str, ...] = ()
    routine_sequence: int = 0
    leases: tuple[tuple[int, int], ...] = ((0, DEFAULT_LEASE_S),)
    configured: bool = False
    hand_out: HandOut = "allowed"
    hand_outs: dict[str, HandOut] = {}
    max_objects: int = 1_000_000
    approvers: dict[str, bytes] = {}
    approvers_version: int = 0
    quorum: int = REQUIRED_SIGNATURES
    approvers_hash: str | None = None
    first_approvers_hash: str | None = None
    root: RootReference | None = None
    systems: dict[str, str] = {}
    workloads: dict[str, Workload] = {}
    authorities: dict[str, bytes] = {}
    suspended: bool = False
    lifted: frozenset[str] = frozenset()
    approvals_used: frozenset[str] = frozenset()
    rotations: tuple[tuple[str, str | None, str], ...] = ()
    revocations: dict[int, Revocation] = {}
    removed: frozenset[str] = frozenset()
    floors: dict[str, int] = {}
    destroyed: bool = False
    unreadable: frozenset[str] = frozenset()
    missing_critical: bool = False
    frozen_at: int | None = None
    thawed: bool = False
    root_refusal: str | None = None
    refusal: str | None = None
    failure: str | None = None

    @property
    def lease_s(self) -> int:
        """The lease in force now."""
        return self.leases[-1][1]

    def lease_at(self, boottime_ns: int) -> int:
        """The smallest lease that was in force at or after `boottime_ns`."""
        older = [s for since, s in self.leases if since <= boottime_ns][-1:]
        return min([*older, *(s for since, s in self.leases if since > boottime_ns)])

    def floor(self, level: Literal["L2", "L3"], registration: str = "") -> int:
        """The lowest version that an emergency rotation left in use; 0 where there was none."""
        return self.floors.get(f"{level}/{registration}", 0)

    def hand_out_of(self, registration: str) -> HandOut:
        """Return whether KMIP Get gives a system's keys away: the stricter of its own policy and the residence's."""
        return stricter(self.hand_out, self.hand_outs.get(registration))

    def serving_systems(self) -> dict[str, str]:
        """Registrations that still count: id -> system."""
        return {r: s for r, s in self.systems.items() if r not in self.removed}

    def serving_workloads(self) -> list[Workload]:
        """Enrolments that still count, of registrations that still count."""
        return [w for w in self.workloads.values() if not {w.enrolment, w.registration, w.authority} & self.removed]

    def serving_authorities(self) -> dict[str, bytes]:
        """The tenant's own CAs that still count: id -> certificate (DER)."""
        return {a: certificate for a, certificate in self.authorities.items() if a not in self.removed}


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A node's whole knowledge.

    Attributes:
        trust_root: Public key pinned in node.toml.
        removed_nodes: Names that count no more, this node's own perhaps among them; none is ever enrolled again.
        keys: Sealing keys by id: (public key, "cmk" or a node's name).
        retired: Governance's retired keys by id: (public key, where it ends in each epoch's stream). What the ledger
            holds from before is still theirs: a node that reads from the start needs them.
        former: Keys of removed nodes by id: (public key, region). What they sealed into the vault is read on.
        cursor_routine, cursor_critical: Stream sequences (on the hub) up to which everything was applied.
        seen_routine, seen_critical: The highest sequences ever applied: a lane may be read again, its mark stays (S8).
        chain: The rolling hash over the region's critical decrees at `cursor_critical`.
        recent_heads: Chain by sequence, for a beat that is a little older than we are (newest 256).
        nonces: HealthCheck nonces sent: nonce -> CLOCK_BOOTTIME ns.
        beat: The newest honoured nonce: (boot_id, sent ns), or None: then nothing is served.
        withheld: Tenants that governance's newest honoured beat left out, and the beat from which their lease counts.
        waiting_beat: A beat whose head is not applied yet: (sequence, hash, sent ns, tenants left out).
        unjudged: Sequence of the first routine message that came under a key nobody had announced to us, or None.
        again_from: Sequence from which the routine lane is read again, since such a key is announced now, or a node's
            may have been, or None.
        fork: Two checkpoints of the ledger that cannot both be true, in words, or None. Nothing is enabled meanwhile.
        short: A signed checkpoint of which our mirror lacks events, in words, or None. Nothing is enabled meanwhile.
        forked: A beat named a head at a sequence where we have another one, or came under a key we were not told of.
        dropped: Messages that were not what they claimed, by reason.
    """

    node: str
    region: str
    boot_id: str
    trust_root: bytes
    epoch: int = 0
    keys: dict[str, tuple[bytes, str]] = {}
    retired: dict[str, tuple[bytes, dict[int, int]]] = {}
    nodes: dict[str, str] = {}
    removed_nodes: frozenset[str] = frozenset()
    former: dict[str, tuple[bytes, str]] = {}
    residences: dict[str, Residence] = {}
    ledger_routine: dict[int, Mark] = {}
    ledger_critical: dict[int, Mark] = {}
    cursor_routine: int = 0
    cursor_critical: int = 0
    seen_routine: int = 0
    seen_critical: int = 0
    chain: bytes = bytes(32)
    recent_heads: dict[int, bytes] = msgspec.field(default_factory=lambda: {0: bytes(32)})
    nonces: dict[str, int] = {}
    beat: tuple[str, int] | None = None
    withheld: dict[str, tuple[str, int] | None] = {}
    waiting_beat: tuple[int, str, int, tuple[str, ...]] | None = None
    behind_mark: bool = False
    unjudged: int | None = None
    again_from: int | None = None
    fork: str | None = None
    short: str | None = None
    forked: bool = False
    dropped: dict[str, int] = {}

    @property
    def halted(self) -> str | None:
        """Why nothing is enabled, whatever the ledger says, or None."""
        return "ForkedLedger" if self.fork is not None else "MirrorIncomplete" if self.short is not None else None

    def sealing_keys(self, sequence: int, *, in_order: bool = False) -> dict[str, bytes]:
        """Return the keys of governance's that may have sealed what the ledger holds at `sequence`.

        Args:
            in_order: It comes in the order of the lane that retirements are in.
        """
        known = {k: p for k, (p, who) in self.keys.items() if who == "cmk"}
        ended = {k: p for k, (p, ends) in self.retired.items() if before_end(ends, sequence, in_order=in_order)}
        return known | ended

    def lease_until(self, residence: Residence) -> int:
        """CLOCK_BOOTTIME ns until which this residence may be served; 0 without a beat of this boot, or once removed.

        An echo is worth the smaller of the lease when its nonce was sent and the lease now.
        """
        beat = self.withheld.get(residence.tenant, self.beat)
        if beat is None or beat[0] != self.boot_id or self.node in self.removed_nodes:
            return 0
        sent = beat[1]
        return sent + min(residence.lease_s, residence.lease_at(sent)) * 1_000_000_000


EffectKind = Literal[
    "close",
    "cut",
    "trust",
    "withdraw",
    "commit",
    "fence",
    "lease",
    "provision",
    "open",
    "ack",
    "destroy",
    "rotate",
    "alarm",
    "defer",
    "reread",
    "tell",
]


Value = str | int | float | bytes | None
Row = dict[str, Value]
Rows = list[tuple[str, Row]]


class Effect(msgspec.Struct, frozen=True):
    """One thing for the custodian to do, in the order given."""

    kind: EffectKind
    tenant: str = ""
    detail: str = ""
    rows: tuple[tuple[str, Row], ...] = ()
    names: tuple[str, ...] = ()


def verdict(residence: Residence) -> Verdict:
    """Return what the ledger and the root say of a residence, the lease apart. The first row that holds decides."""
    r = residence
    unlifted = any(revocation.event not in r.lifted for revocation in r.revocations.values())
    table: tuple[tuple[bool, Verdict], ...] = (
        (r.destroyed, "destroyed"),
        (unlifted, "revoked"),
        (bool(r.unreadable) or r.missing_critical, "frozen"),
        (r.root is None, "unlinked"),
        (r.root_refusal is not None, "locked"),
        (not r.serving_systems(), "linked"),
        (r.suspended, "suspended"),
    )
    return next((answer for holds, answer in table if holds), "active")
