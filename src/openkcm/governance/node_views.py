"""What nodes have and have said, out of the read model by plain SQL: acknowledgements, leases, what waits. Reads."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from openkcm.contract.ids import Lane
from openkcm.governance.pending import Ack
from openkcm.projector import Reader

__all__ = ["NodeViews"]

LAG_MOST: Final = 1_000_000  # counting stops there
#: Which decrees are said again, and how many at once: the newest priority ones, the first routine ones.
SAID_AGAIN: Final[dict[Lane, tuple[str, int]]] = {"critical": ("DESC", 16), "routine": ("ASC", 64)}
LATELY: Final = 64  # routine decrees whose acks may be on their way
Decreed = tuple[int, str, str, str, bytes]


class NodeViews:
    """The part of the read model that is about nodes."""

    reader: Reader

    # --- nodes ------------------------------------------------------------------------------------------------------

    def nodes(self, region: str | None = None) -> list[tuple[str, str, int | None]]:
        """Return (node, region, sequence of its removal or None), each node once a key."""
        query = "SELECT node, region, removed_at FROM node WHERE :r IS NULL OR region = :r ORDER BY node, sequence"
        return [(n, r, removed) for n, r, removed in self.reader.rows(query, {"r": region})]

    def enrolled(self, region: str) -> list[str]:
        """Return the nodes of a region that are not removed, by name."""
        query = "SELECT DISTINCT node FROM node WHERE region = ? AND removed_at IS NULL ORDER BY node"
        return [node for (node,) in self.reader.rows(query, (region,))]

    def node_keys(self) -> dict[str, tuple[str, str, bytes]]:
        """Return (node, region, public key) of each sealing key of a node that is not removed."""
        rows = self.reader.rows("SELECT key, node, region, public_key FROM node WHERE removed_at IS NULL")
        return {key: (node, region, msgspec.convert(public, bytes)) for key, node, region, public in rows}

    def acks(self, tenant: str, region: str, lane: str) -> dict[str, Ack]:
        """Return the newest SyncAck of each node for one lane of a residence."""
        query = (
            "SELECT node, epoch, floor, above, lease_s, failure FROM node_ack "
            "WHERE tenant = ? AND region = ? AND lane = ? ORDER BY epoch"
        )
        acks: dict[str, Ack] = {}
        for node, epoch, floor, above, lease, failure in self.reader.rows(query, (tenant, region, lane)):
            before = acks.get(node)
            older = {} if before is None else {**before.older, before.epoch: (before.floor, before.above)}
            acks[node] = Ack(node, epoch, floor, tuple(msgspec.json.decode(above)), lease, failure, older)
        return acks

    def ack_bodies(self, tenant: str, region: str, epoch: int) -> dict[str, bytes]:
        """Return the sealed SyncAck envelopes of the critical lane in an epoch by node, byte for byte."""
        query = "SELECT node, body FROM node_ack WHERE tenant = ? AND region = ? AND epoch = ? AND lane = 'critical'"
        return dict(self.reader.rows(query, (tenant, region, epoch)))

    def leases(self, tenant: str, region: str) -> list[tuple[int, int, int]]:
        """Return (epoch, generation, lease in s) of every lease ordered, oldest first."""
        query = "SELECT epoch, generation, lease_s FROM lease WHERE tenant = ? AND region = ? ORDER BY 1, 2"
        return [(e, g, s) for e, g, s in self.reader.rows(query, (tenant, region))]

    def lag(self, region: str, lane: str, cursor: int, most: int = LAG_MOST) -> int:
        """Return how many events that concern a region lie above `cursor` on a lane, `most` at most."""
        query = (
            f"SELECT count(*) FROM (SELECT 1 FROM event_{lane} WHERE sequence > :cursor "
            "AND (region = :region OR (region = 'global' AND tenant = '_')) LIMIT :most)"
        )
        return int(self.reader.rows(query, {"cursor": cursor, "region": region, "most": most})[0][0])

    # --- revocations under way --------------------------------------------------------------------------------------

    def termination(self, tenant: str) -> dict[str, Any] | None:
        """Return what the ledger says of a tenant's end."""
        found = self.reader.records("SELECT * FROM termination WHERE tenant = ?", (tenant,))
        return {**found[0], "regions": msgspec.json.decode(found[0]["regions"])} if found else None

    def terminations_open(self) -> list[str]:
        """Return the tenants whose end has begun and is not written down."""
        return [t for (t,) in self.reader.rows("SELECT tenant FROM termination WHERE terminated_ms IS NULL")]

    def destruction(self, tenant: str, region: str) -> tuple[str, int, int] | None:
        """Return (event, epoch, counter) of a tenant region's end."""
        query = (
            "SELECT e.id, e.epoch, e.counter FROM destroyed x JOIN event_critical e ON e.id = x.event "
            "WHERE x.tenant = ? AND x.region = ? ORDER BY e.sequence LIMIT 1"
        )
        return next(iter(self.reader.rows(query, (tenant, region))), None)

    def shredded(self, tenant: str, region: str) -> list[dict[str, Any]]:
        """Return what nodes have removed of a destroyed residence, the newest last."""
        query = (
            "SELECT node, vault, rows_removed, log_truncated, at_ms FROM node_shredded "
            "WHERE tenant = ? AND region = ? ORDER BY at_ms, node"
        )
        return [
            {**one, "vault": msgspec.json.decode(one["vault"]), "log_truncated": bool(one["log_truncated"])}
            for one in self.reader.records(query, (tenant, region))
        ]

    def obeyed_ms(self, tenant: str, region: str) -> dict[str, int]:
        """Return by node the ms from the newest priority event to the node's acknowledgement, by both hosts' clocks."""
        query = (
            "SELECT a.node, max(0, a.at_ms - e.at_ms) FROM node_ack a JOIN event_critical e ON e.tenant = a.tenant "
            "AND e.region = a.region AND e.kind = 'residence' AND e.epoch = a.epoch AND e.counter = a.floor "
            "WHERE a.tenant = ? AND a.region = ? AND a.lane = 'critical'"
        )
        return dict(self.reader.rows(query, (tenant, region)))

    def open_revocations(self, tenant: str | None = None, region: str | None = None) -> list[dict[str, Any]]:
        """Return the open revocations of one tenant region, or all: where, epoch, fence, event, confirmation."""
        narrowed = "" if tenant is None else "WHERE o.tenant = :t AND o.region = :r "
        query = (
            "SELECT o.tenant, o.region, o.epoch, o.fence, o.event, c.outcome FROM open_revocation o "
            "LEFT JOIN revocation_confirmed c ON c.event = o.event AND c.tenant = o.tenant AND c.region = o.region "
            f"{narrowed}ORDER BY o.tenant, o.region, o.epoch"
        )
        return self.reader.records(query, {"t": tenant, "r": region})

    def critical_waiting(self) -> list[tuple[str, str, int, int]]:
        """Return (tenant, region, newest epoch, counter) of each critical lane that an enrolled node has not acked."""
        query = (
            "WITH member AS MATERIALIZED (SELECT DISTINCT node, region FROM node WHERE removed_at IS NULL), head AS "
            "(SELECT tenant, region, max(epoch) AS epoch, counter FROM mark_critical WHERE kind = 'residence' "
            "GROUP BY subject) SELECT DISTINCT h.tenant, h.region, h.epoch, h.counter FROM member m "
            "JOIN head h ON h.region = m.region WHERE NOT EXISTS (SELECT 1 FROM node_ack a WHERE a.node = m.node "
            "AND a.tenant = h.tenant AND a.lane = 'critical' AND a.epoch = h.epoch AND a.floor >= h.counter)"
        )
        return [(t, r, e, c) for t, r, e, c in self.reader.rows(query)]

    def lately(self) -> dict[tuple[str, str], tuple[int, int, Decreed]]:
        """Return (epoch, counter, decree) of the last of the `LATELY` newest routine decrees by (tenant, region)."""
        query = (
            "SELECT tenant, region, epoch, counter, sequence, id, subject, tag, body FROM "
            "(SELECT * FROM event_routine ORDER BY sequence DESC LIMIT ?) WHERE kind = 'residence' ORDER BY sequence"
        )
        return {(t, r): (e, c, (n, i, s, g, b)) for t, r, e, c, n, i, s, g, b in self.reader.rows(query, (LATELY,))}

    def above(self, tenant: str, region: str, lane: Lane, epoch: int, counter: int) -> list[Decreed]:
        """Return (sequence, id, subject, tag, bytes) of a residence's decrees above a counter, to be said again."""
        way, most = SAID_AGAIN[lane]
        query = (
            f"SELECT sequence, id, subject, tag, body FROM event_{lane} WHERE tenant = ? AND region = ? "
            f"AND kind = 'residence' AND epoch = ? AND counter > ? ORDER BY sequence {way} LIMIT ?"
        )
        return sorted(
            (n, i, s, t, b) for n, i, s, t, b in self.reader.rows(query, (tenant, region, epoch, counter, most))
        )
