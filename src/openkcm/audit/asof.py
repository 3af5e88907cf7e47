"""The state at a point of the ledger, and who could decrypt then, on which nodes, and since when not. Reads a replay.

What this rests on, and says:

- Order is the ledger's: a time is turned into the last sequence whose event claims that time or an earlier one. Event
  times are governance's clock, acks carry the node's; neither was ever used to decide anything. Where clocks ran back,
  the number of events that claim a later time than one behind them is stated.
- A node serves a residence while the ledger lets it. After a revocation it stops at its own sealed word, which may have
  entered the ledger later than the point asked for; without one, when its lease is over at the latest.
- A lock by the customer's own KMS, and a node that was down, are not in the ledger: they only make the answer smaller.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from openkcm.audit.authority import Obedience, obedience
from openkcm.audit.verify import AuditError, Event
from openkcm.contract import decrees as d
from openkcm.projector import Reader

__all__ = ["CLOCK", "Access", "AsOf", "Doors", "Obediences", "as_of", "sequence_at"]

CLOCK: Final = (
    "event times are governance's clock (cmk-clock, UTC), acks the node's own; the order is the ledger's sequence, "
    "and no clock decides anything"
)
OPEN_STATES: Final = frozenset({"Active", "Suspended"})


class NoSuchPoint(AuditError):
    """The ledger begins later."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one node could decrypt for one residence at the point asked for.

    Attributes:
        could: `yes`; `until-obeyed` (revoked, and its own word came later); `no`.
        since_ms: For `yes`: since when. For the others: since when not, at the latest (None: it never could).
        why: In words, with the evidence: the event's sequence, the node's ack, or the end of the lease.
    """

    region: str
    node: str
    could: str
    since_ms: int | None
    why: str


class Doors(msgspec.Struct, frozen=True, kw_only=True):
    """One residence then: its state, the systems and the workloads that could ask, and its nodes."""

    tenant: str
    region: str
    state: str
    generation: int
    fence: int
    lease_s: int | None
    systems: tuple[str, ...]
    workloads: tuple[str, ...]
    access: tuple[Access, ...]


class AsOf(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `at_ms`: what the event at `sequence` claims. `unordered`: how many before it claim a later time."""

    sequence: int
    epoch: int
    at_ms: int
    unordered: int
    clock: str
    residences: tuple[Doors, ...]


class Obediences:
    """Nodes' own words over the whole ledger, by revocation. A listener of `examine`."""

    def __init__(self) -> None:
        self.words: dict[str, list[Obedience]] = {}

    def take(self, event: Event, _body: bytes = b"") -> None:
        """Take the next event in."""
        if isinstance(event.decree, d.RevocationConfirmed):
            self.words.setdefault(event.decree.revocation, obedience(event.decree))


def sequence_at(whole: Reader, at_ms: int) -> int:
    """Return the sequence of the last event that claims this time or an earlier one.

    Raises:
        NoSuchPoint: There is none.
    """
    found = whole.rows("SELECT max(sequence) FROM event WHERE at_ms <= ?", (at_ms,))[0][0]
    if found is None:
        raise NoSuchPoint("the ledger begins after that time")
    return int(found)


def as_of(then: Reader, words: Obediences, *, at_ms: int | None = None, tenant: str | None = None) -> AsOf:
    """Return the state of a replay that ends at the point asked for.

    Args:
        then: The replay.
        words: From the whole ledger: an ack may have come in later.
        at_ms: The time asked for; None takes the last event's.
        tenant: Only this tenant's residences.
    """
    sequence, epoch = then.rows("SELECT sequence, epoch FROM cursor")[0]
    last_ms = then.rows("SELECT coalesce(max(at_ms), 0) FROM event WHERE sequence = ?", (sequence,))[0][0]
    moment = last_ms if at_ms is None else at_ms
    unordered = then.rows("SELECT count(*) FROM event WHERE at_ms > ? AND sequence <= ?", (moment, sequence))[0][0]
    query = (
        "SELECT tenant, region, state, generation, fence, lease_s FROM residence "
        "WHERE :t IS NULL OR tenant = :t ORDER BY tenant, region"
    )
    return AsOf(
        sequence=sequence, epoch=epoch, at_ms=last_ms, unordered=unordered, clock=CLOCK,
        residences=tuple(_doors(then, words, moment, row) for row in then.records(query, {"t": tenant})),
    )  # fmt: skip


def _doors(then: Reader, words: Obediences, moment: int, row: dict[str, Any]) -> Doors:
    both = (row["tenant"], row["region"])
    workloads = then.rows(
        "SELECT DISTINCT workload || ' (' || system || ')' FROM workload WHERE tenant = ? AND region = ? ORDER BY 1",
        both,
    )
    systems = then.rows("SELECT DISTINCT system FROM system WHERE tenant = ? AND region = ? ORDER BY 1", both)
    nodes = then.rows(
        "SELECT n.node, max(e.at_ms) FROM node n JOIN event e USING (sequence) "
        "WHERE n.region = ? AND n.removed_at IS NULL GROUP BY n.node ORDER BY n.node",
        (row["region"],),
    )
    judge = _judge(then, words, moment, row, any_workload=bool(workloads))
    return Doors(
        **row, systems=tuple(s for (s,) in systems), workloads=tuple(w for (w,) in workloads),
        access=tuple(judge(node, enrolled_ms) for node, enrolled_ms in nodes),
    )  # fmt: skip


def _judge(then: Reader, words: Obediences, moment: int, row: dict[str, Any], *, any_workload: bool) -> Any:
    both, region = (row["tenant"], row["region"]), row["region"]
    opened = then.rows(
        "SELECT sequence, tag, at_ms FROM event_routine WHERE tenant = ? AND region = ? "
        "AND (tag LIKE 'AccessRestored.%' OR tag LIKE 'SystemRegistered.%' OR tag LIKE 'RootKeyLinked.%') "
        "ORDER BY sequence",
        both,
    )
    closed = then.rows(
        "SELECT r.event, e.sequence, r.at_ms FROM revocation r JOIN event_critical e ON e.id = r.event "
        "WHERE r.tenant = ? AND r.region = ? AND NOT EXISTS (SELECT 1 FROM lifted l WHERE l.event = r.event) "
        "ORDER BY e.sequence",
        both,
    )
    destroyed = then.rows(
        "SELECT x.event, e.sequence, e.at_ms FROM destroyed x JOIN event_critical e ON e.id = x.event "
        "WHERE x.tenant = ? AND x.region = ? ORDER BY e.sequence",
        both,
    )
    lease_ms = 1000 * max((s for (s,) in then.rows("SELECT lease_s FROM lease WHERE tenant = ? AND region = ?", both)),
                          default=d.DEFAULT_LEASE_S)  # fmt: skip

    def judge(node: str, enrolled_ms: int) -> Access:
        def say(could: str, since_ms: int | None, why: str) -> Access:
            return Access(region=region, node=node, could=could, since_ms=since_ms, why=why)

        if row["state"] in OPEN_STATES:
            reads = " (reads only)" if row["state"] == "Suspended" else ""
            if not any_workload:
                return say("no", None, "no workload was enrolled")
            restored = [o for o in opened if o[1].startswith("AccessRestored.")]
            sequence, tag, since = restored[-1] if restored else opened[-1]
            return say("yes", max(since, enrolled_ms), f"{tag.partition('.')[0]} at {sequence}{reads}")
        ended = (closed or destroyed)[:1]
        if not ended:
            return say("no", None, f"never active: {row['state']}")
        event, sequence, ordered_ms = ended[0]
        later = [event for event, _, _ in closed] or [event]  # an ack of a later one says it of all before
        word = min((w.at_ms for e in later for w in words.words.get(e, ()) if w.node == node), default=None)
        if word is not None:
            could = "no" if word <= moment else "until-obeyed"
            return say(could, word, f"ordered at {sequence}; its own sealed word {word - ordered_ms} ms later")
        end = ordered_ms + lease_ms
        could = "no" if end <= moment else "until-obeyed"
        return say(could, end, f"ordered at {sequence}; no word of it in the ledger: its lease ends then at the latest")

    return judge
