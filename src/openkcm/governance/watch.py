"""What this CMK has seen of its nodes, and what follows: pending states, deadlines, confirmations due. Sends nothing.

Clocks: T counts on this process's monotonic clock from the PubAck of a revocation, or from when it first read it;
removed nodes likewise. Another or a restarted CMK therefore starts later and is never too early.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from openkcm.contract import decrees as d
from openkcm.contract.ids import Lane
from openkcm.contract.reports import HealthCheck, Mark
from openkcm.governance import pending
from openkcm.governance.node_views import Decreed
from openkcm.governance.pending import Ack, Member, Status
from openkcm.governance.views import Views
from openkcm.projector.ledger import Applied

__all__ = ["Health", "Watch"]


class Health(msgspec.Struct, frozen=True):
    """The last HealthCheck of a node, and when it came by our clocks.

    Attributes:
        marks: What the node last said of each residence, and when (monotonic s): a HealthCheck tells of a page of them.
    """

    check: HealthCheck
    at_ms: int
    at_s: float
    marks: dict[str, tuple[Mark, float]]


class Watch:
    """The memory of one CMK process."""

    def __init__(self, views: Views, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._views = views
        self._monotonic = monotonic
        self._read_at: dict[str, float] = {}
        self._removed_at: dict[str, float] = {}
        self._born = monotonic()
        self.health: dict[str, Health] = {}
        #: Whether no other CMK's beats reach the nodes.
        self.alone = False
        #: Since how many seconds a revocation of (tenant, region) waits in this CMK's spool: its beats leave it out.
        self.spooled_for_s: Callable[[str, str], float | None] = lambda _tenant, _region: None

    def saw(self, applied: Iterable[Applied]) -> None:
        """Note when decrees were first read."""
        now = self._monotonic()
        for one in applied:
            if isinstance(one.decree, d.AccessRevoked | d.ContextDestroyed) and one.envelope is not None:
                self._read_at.setdefault(one.envelope.id, now)
            elif isinstance(one.decree, d.NodeRemoved):
                self._removed_at.setdefault(one.decree.node, now)

    def recorded(self, event: str) -> None:
        """Note that a revocation of ours has its PubAck."""
        self._read_at.setdefault(event, self._monotonic())

    def heard(self, check: HealthCheck, at_ms: int) -> bool:
        """Note a node's sign of life; return whether it says something new of a residence."""
        known, now = self.health.get(check.node), self._monotonic()
        marks = {} if known is None else known.marks
        news = [mark for mark in check.residences if _facts(marks.get(mark.tenant, (None,))[0]) != _facts(mark)]
        marks |= {mark.tenant: (mark, now) for mark in check.residences}
        self.health[check.node] = Health(check, at_ms, now, marks)
        return known is None or bool(news)

    def silent_for_s(self, node: str) -> float:
        """Return the seconds since a node's last sign of life.

        Raises:
            KeyError: This CMK has never heard of it.
        """
        return self._monotonic() - self.health[node].at_s

    def known_for_s(self, event: str) -> float:
        """Return the seconds since this CMK knows of a revocation: since its PubAck, or since it read it."""
        return self._monotonic() - self._read_at.get(event, self._born)

    def ignorant(self, region: str, tag: str) -> tuple[str, ...]:
        """Return the enrolled nodes of a region that, by their last HealthCheck, do not know a tag."""
        enrolled = self._views.enrolled(region)
        checks = {node: self.health[node].check for node in enrolled if node in self.health}
        return tuple(sorted(n for n, c in checks.items() if c.known_tags and tag not in c.known_tags))

    # --- what follows -----------------------------------------------------------------------------------------------

    def nodes_of(self, region: str, lease_s: float) -> tuple[str, ...]:
        """Return the nodes of a region that count."""
        now = self._monotonic()
        enrolled = self._views.enrolled(region)
        known: list[Member] = [Member(node) for node in enrolled]
        for node, _, removed in self._views.nodes(region):
            if removed is not None and node not in enrolled:
                known.append(Member(node, now - self._removed_at.get(node, self._born)))
        return pending.members(known, lease_s)

    def _measured(self, tenant: str, region: str) -> tuple[tuple[str, ...], dict[str, Ack], int]:
        acks = self._views.acks(tenant, region, "routine")
        leases = self._views.leases(tenant, region)
        longest_ever = max((lease for _, _, lease in leases), default=0)
        nodes = self.nodes_of(region, longest_ever)
        return nodes, acks, pending.longest_lease_s(leases, acks, nodes)

    def routine(self, tenant: str, region: str) -> Status:
        """Return the routine lane's status."""
        state = self._views.state(tenant, region) or {}
        nodes, acks, _ = self._measured(tenant, region)
        return pending.routine(state.get("routine_epoch", 0), state.get("generation", 0), nodes, acks)

    def critical(self, tenant: str, region: str) -> Status:
        """Return the critical lane's status."""
        state = self._views.state(tenant, region) or {}
        nodes, routine_acks, lease_s = self._measured(tenant, region)
        acks = self._views.acks(tenant, region, "critical")
        epochs = {n: a.epoch for n, a in {**routine_acks, **acks}.items()}
        epochs |= {n: h.check.ledger_epoch for n, h in self.health.items()}
        mine = self._views.open_revocations(tenant, region)
        highest = max(mine, key=lambda r: (r["epoch"], r["fence"]), default=None)
        certain = None
        if highest is not None:
            since = self._monotonic() - self._read_at.get(highest["event"], self._born)
            certain = pending.certain_after_s(lease_s) - since
        at = None if highest is None else (highest["epoch"], highest["fence"])
        spooled_s = self.spooled_for_s(tenant, region)
        if at is None and spooled_s is not None:  # it will be the next; only leases close, which others' beats lengthen
            certain = pending.certain_after_s(lease_s) - spooled_s if self.alone else None
            at = max(epochs.values(), default=0), state.get("fence", 0) + 1
        return pending.critical(
            state.get("critical_epoch", 0), state.get("fence", 0), nodes, acks,
            revoked_at=at,
            certain_in_s=certain, epochs=epochs,
        )  # fmt: skip

    def sync(self, tenant: str, region: str, now_ms: int) -> dict[str, Any]:
        """Return who has what, for people."""
        return {
            "tenant": tenant,
            "region": region,
            "routine": shown(self.routine(tenant, region), now_ms),
            "critical": shown(self.critical(tenant, region), now_ms),
            "nodes": self._nodes(tenant, region),
        }

    def destruction(self, tenant: str, region: str) -> tuple[tuple[str, ...], tuple[str, ...], float | None]:
        """Return (nodes that obey the end, nodes that have not said so, seconds until no lease of theirs can run).

        None seconds: nothing bounds them, since such a node was not heard in the end's epoch.
        """
        nodes, routine_acks, lease_s = self._measured(tenant, region)
        event = self._views.destruction(tenant, region)
        if event is None:
            return (), nodes, None
        acks = self._views.acks(tenant, region, "critical")
        acked = tuple(n for n in nodes if n in acks and acks[n].obeys(event[1], event[2]))
        waiting = tuple(n for n in nodes if n not in acked)
        epochs = {n: a.epoch for n, a in {**routine_acks, **acks}.items()}
        epochs |= {n: h.check.ledger_epoch for n, h in self.health.items()}
        if any(epochs.get(n) != event[1] for n in waiting):
            return acked, waiting, None
        since = self._monotonic() - self._read_at.get(event[0], self._born)
        return acked, waiting, pending.certain_after_s(lease_s) - since

    def _nodes(self, tenant: str, region: str) -> list[dict[str, Any]]:
        obeyed = self._views.obeyed_ms(tenant, region)
        return [
            {**self._node(tenant, region, node), "obeyed_ms": obeyed.get(node)} for node in self.nodes_of(region, 0)
        ]

    def _node(self, tenant: str, region: str, node: str) -> dict[str, Any]:
        health = self.health.get(node)
        mine, told_s = (health.marks.get(tenant) if health is not None else None) or (None, 0.0)
        acked = {lane: self._views.acks(tenant, region, lane).get(node) for lane in ("routine", "critical")}
        ago = self._monotonic() - told_s
        return {
            "node": node,
            **{lane: ack.floor if ack is not None else 0 for lane, ack in acked.items()},
            "state": None if mine is None else mine.state,
            "lease_left_s": None if mine is None else max(0, round(mine.lease_left_s - ago)),
            "last_seen_ms": None if health is None else health.at_ms,
        }

    def confirmations_due(self) -> list[tuple[str, str, d.RevocationConfirmed]]:
        """Return (tenant, region, RevocationConfirmed) for open revocations that are obeyed and not yet confirmed."""
        due = []
        for r in self._views.open_revocations():
            if r["outcome"] is not None:
                continue
            tenant, region = r["tenant"], r["region"]
            status = self.critical(tenant, region)
            if status.status not in ("Revoked", "RevokedByLease"):
                continue
            nodes, _, _ = self._measured(tenant, region)
            bodies = self._views.ack_bodies(tenant, region, r["epoch"])
            acked = [n for n in nodes if n not in status.waiting_for and n in bodies]
            due.append(
                (
                    tenant,
                    region,
                    d.RevocationConfirmed(
                        revocation=r["event"], fence=r["fence"],
                        outcome="acked" if status.status == "Revoked" else "lease",
                        nodes=tuple(nodes), acks=tuple(msgspec.Raw(bodies[n]) for n in acked),
                    ),
                )
            )  # fmt: skip
        return due

    def unacknowledged(self) -> list[Decreed]:
        """Return (sequence, id, subject, tag, bytes) of critical decrees that a node has not acknowledged yet."""
        found = []
        for tenant, region, at, counter in self._views.critical_waiting():
            floor = self._floor(tenant, region, "critical", at, counter)
            if floor < counter:
                found += self._views.above(tenant, region, "critical", at, floor)
        return found

    def unacknowledged_lately(self) -> list[Decreed]:
        """Return, likewise, of the newest routine decrees each residence's last, if a node has not acknowledged it."""
        return [
            decree for (tenant, region), (at, counter, decree) in self._views.lately().items()
            if self._floor(tenant, region, "routine", at, counter) < counter
        ]  # fmt: skip

    def _floor(self, tenant: str, region: str, lane: Lane, at: int, counter: int) -> int:
        """Return up to where every node of the region has acknowledged a lane in the epoch `at`."""
        acks = self._views.acks(tenant, region, lane)
        floors = [acks[n].mark(at)[0] if n in acks else 0 for n in self.nodes_of(region, 0)]
        return min(floors, default=counter)


def _facts(mark: Mark | None) -> tuple[int, int, str] | None:
    """What of a mark is news when it changes; a lease grows shorter all the time."""
    return None if mark is None else (mark.generation, mark.fence, mark.state)


def shown(status: Status, now_ms: int) -> dict[str, Any]:
    """Return a status as the API shows it; `certain_by` in UTC ms is for people, the monotonic clock decides."""
    by = None if status.certain_in_s is None else now_ms + int(status.certain_in_s * 1000)
    return {
        "counter": status.counter,
        "status": status.status,
        "acked": status.acked,
        "of": status.of,
        "waiting_for": list(status.waiting_for),
        "failures": [{"node": node, "code": code} for node, code in status.failures],
        "certain_by": by,
    }
