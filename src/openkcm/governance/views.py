"""What people are shown, out of the read model by plain SQL. Reads; changes nothing, asks nobody."""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final

import msgspec

from openkcm.contract import passkey
from openkcm.contract.decrees import stricter
from openkcm.contract.envelope import PRIORITY_CRITICAL, PRIORITY_ROUTINE
from openkcm.contract.errors import SealError
from openkcm.contract.statements import REQUIRED_SIGNATURES
from openkcm.governance.news import Item
from openkcm.governance.pending import Ack
from openkcm.projector import Reader

__all__ = ["Views"]

ALL: Final = 1_000_000_000
LAG_MOST: Final = 1_000_000  # counting stops there


class Views:
    """The read model of one CMK."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    # --- people -----------------------------------------------------------------------------------------------------

    def roles(self, person: str) -> dict[str, frozenset[str]]:
        """Return a person's roles by tenant."""
        found: dict[str, set[str]] = {}
        for tenant, role in self.reader.rows("SELECT tenant, role FROM person_role WHERE person = ?", (person,)):
            found.setdefault(tenant, set()).add(role)
        return {tenant: frozenset(roles) for tenant, roles in found.items()}

    def offered_key(self, person: str) -> bytes | None:
        """Return the approval key a person has made, whether or not anybody has signed it into force."""
        rows = self.reader.rows("SELECT approval_key FROM offered_key WHERE person = ? ORDER BY at_ms DESC", (person,))
        return base64.b64decode(rows[0][0]) if rows else None

    # --- tenants ----------------------------------------------------------------------------------------------------

    def tenants(self) -> list[str]:
        """Return all tenants' names."""
        return [tenant for (tenant,) in self.reader.rows("SELECT tenant FROM tenant ORDER BY tenant")]

    def tenant(self, tenant: str) -> dict[str, Any] | None:
        """Return a tenant with its people, roles and regions."""
        found = self.reader.records(
            "SELECT tenant AS id, at_ms AS registered_ms FROM tenant WHERE tenant = ?", (tenant,)
        )
        if not found:
            return None
        people: dict[str, dict[str, Any]] = {}
        query = (
            "SELECT p.person, p.approval_key, r.role FROM person p LEFT JOIN person_role r USING (tenant, person) "
            "WHERE p.tenant = ? ORDER BY p.person, r.role"
        )
        offers = dict(self.reader.rows("SELECT person, approval_key FROM offered_key", ()))
        for person, key, role in self.reader.rows(query, (tenant,)):
            entry = people.setdefault(person, {"person": person, "roles": [], **_signing(key, offers.get(person))})
            if role is not None:
                entry["roles"].append(role)
        return {
            **found[0],
            "regions": self.regions_of(tenant),
            "people": list(people.values()),
            "quorum": self.quorum(tenant),
        }

    def quorum(self, tenant: str) -> int:
        """Return how many people sign what takes an approval."""
        rows = self.reader.rows("SELECT quorum FROM approval_policy WHERE tenant = ?", (tenant,))
        return int(rows[0][0]) if rows else REQUIRED_SIGNATURES

    def regions_of(self, tenant: str) -> list[str]:
        """Return the regions a tenant lives in."""
        query = "SELECT region FROM tenant_region WHERE tenant = ? ORDER BY region"
        return [region for (region,) in self.reader.rows(query, (tenant,))]

    def residences(self, tenant: str | None = None, *, like: str = "", limit: int = ALL) -> list[dict[str, Any]]:
        """Return the state of tenant regions, of one tenant or all; `like`: part of the tenant's name."""
        narrowed = "WHERE tenant = :t " if tenant is not None else "WHERE instr(tenant, :q) " if like else ""
        query = (
            "SELECT tenant, region, state, generation, fence, lease_s FROM residence "
            f"{narrowed}ORDER BY tenant, region LIMIT :n"
        )
        return self.reader.records(query, {"t": tenant, "q": like, "n": limit})

    def residence(self, tenant: str, region: str) -> dict[str, Any] | None:
        """Return everything about one tenant region."""
        found = self.reader.records("SELECT * FROM residence WHERE tenant = ? AND region = ?", (tenant, region))
        if not found:
            return None
        row = found[0]
        both = (tenant, region)
        approvers = self.reader.records(
            "SELECT version, hash AS fingerprint, approvers FROM approvers_set WHERE tenant = ? AND region = ? "
            "ORDER BY version DESC LIMIT 1",
            both,
        )
        return {
            "tenant": tenant,
            "region": region,
            "state": row["state"],
            "generation": row["generation"],
            "fence": row["fence"],
            "lease_s": row["lease_s"],
            "configuration": {
                "lease_s": row["lease_s"],
                "hand_out": row["hand_out"],
                "max_objects": row["max_objects"],
                "labels": msgspec.json.decode(row["labels"] or "{}"),
            },
            "root": None
            if row["ref"] is None
            else {"provider": row["provider"], "ref": row["ref"], "credential": row["credential"]},
            "suspended_for": row["suspended_for"],
            "systems": self._systems(tenant, region),
            "workloads": self.reader.records(
                "SELECT workload, system, enrolment, fingerprint, spiffe, authority FROM workload "
                "WHERE tenant = ? AND region = ? ORDER BY generation",
                both,
            ),
            "approvers": next(
                ({**a, "approvers": [p["person"] for p in msgspec.json.decode(a["approvers"])]} for a in approvers),
                None,
            ),
            "revocations": self.revocations(tenant, region),
            "rotations": self.reader.records(
                "SELECT rotation, level, registration, at_ms FROM rotation "
                "WHERE tenant = ? AND region = ? ORDER BY at_ms",
                both,
            ),
            "root_states": self.reader.records(
                "SELECT node, state, detail, root_version, at_ms FROM node_root WHERE tenant = ? AND region = ?", both
            ),
            "key_versions": self.reader.records(
                "SELECT node, level, registration, max(version) AS version, root_version, at_ms FROM node_rotation "
                "WHERE tenant = ? AND region = ? GROUP BY node, level, registration",
                both,
            ),
        }

    def _systems(self, tenant: str, region: str) -> list[dict[str, Any]]:
        query = (
            "SELECT s.system, s.registration, s.hand_out, c.hand_out AS ceiling FROM system AS s LEFT JOIN "
            "configuration AS c ON c.tenant = s.tenant AND c.region = s.region "
            "WHERE s.tenant = ? AND s.region = ? ORDER BY s.generation"
        )
        found = self.reader.records(query, (tenant, region))
        return [{**s, "hand_out_in_force": stricter(s.pop("ceiling") or "allowed", s["hand_out"])} for s in found]

    def state(self, tenant: str, region: str) -> dict[str, Any] | None:
        """Return state and counters of one tenant region."""
        query = (
            "SELECT state, generation, fence, routine_epoch, critical_epoch, lease_s FROM residence "
            "WHERE tenant = ? AND region = ?"
        )
        return next(iter(self.reader.records(query, (tenant, region))), None)

    def revocations(self, tenant: str, region: str) -> list[dict[str, Any]]:
        """Return the revocations of one tenant region, newest first, with what became of each."""
        query = """
            SELECT r.event, r.epoch, r.fence, r.reason, r.person, r.at_ms,
                EXISTS (SELECT 1 FROM open_revocation o WHERE o.event = r.event) AS open,
                c.outcome AS confirmed, c.at_ms AS confirmed_ms
            FROM revocation r LEFT JOIN revocation_confirmed c ON c.event = r.event
            WHERE r.tenant = ? AND r.region = ? ORDER BY r.epoch DESC, r.fence DESC LIMIT 100"""
        return [{**r, "open": bool(r["open"])} for r in self.reader.records(query, (tenant, region))]

    def blast_radius(self, tenant: str, region: str) -> dict[str, Any]:
        """Return what a revocation would cut, and what it cannot: keys that were handed out."""
        both = (tenant, region)
        times = dict(self.reader.rows(
            "SELECT registration, sum(times) FROM handed_out WHERE tenant = ? AND region = ? GROUP BY 1", both
        ))  # fmt: skip
        handed = [
            {"system": s["system"], "hand_out": s["hand_out_in_force"], "times": times.pop(s["registration"], 0)}
            for s in self._systems(tenant, region)
        ]
        if times:  # what went out cannot be taken back by decommissioning its system
            handed.append({"system": "", "hand_out": "never", "times": sum(times.values())})
        return {
            "region": region,
            "state": (self.state(*both) or {}).get("state"),
            "systems": self.reader.rows("SELECT count(*) FROM system WHERE tenant = ? AND region = ?", both)[0][0],
            "workloads": self.reader.rows("SELECT count(*) FROM workload WHERE tenant = ? AND region = ?", both)[0][0],
            "nodes": sorted({n for n, _, removed in self.nodes(region) if removed is None}),
            "keys_handed_out": sum(one["times"] for one in handed),
            "handed_out": handed,
            "lease_s": (self.state(*both) or {}).get("lease_s"),
        }

    def is_tenant(self, tenant: str) -> bool:
        """Whether there is such a tenant."""
        return bool(self.reader.rows("SELECT 1 FROM tenant WHERE tenant = ?", (tenant,)))

    def registration_exists(self, tenant: str, region: str, registration: str) -> bool:
        """Whether a system is, or was, registered under it."""
        query = "SELECT 1 FROM registered_system WHERE tenant = ? AND region = ? AND registration = ?"
        return bool(self.reader.rows(query, (tenant, region, registration)))

    def registration_of(self, tenant: str, region: str, system: str) -> str | None:
        """Return the registration under which a system is served, or None."""
        query = "SELECT registration FROM system WHERE tenant = ? AND region = ? AND system = ?"
        return next((r for (r,) in self.reader.rows(query, (tenant, region, system))), None)

    def newest_version(self, tenant: str, region: str, level: str, registration: str | None) -> int:
        """Return the newest version of a key that a node has reported; the first one is not reported."""
        query = (
            "SELECT coalesce(max(version), 1) FROM node_rotation "
            "WHERE tenant = ? AND region = ? AND level = ? AND registration = ?"
        )
        newest: int = self.reader.rows(query, (tenant, region, level, registration or ""))[0][0]
        return newest

    def enrolment_exists(self, tenant: str, region: str, enrolment: str) -> bool:
        """Whether somebody is, or was, enrolled under it."""
        query = "SELECT 1 FROM enrolled_workload WHERE tenant = ? AND region = ? AND enrolment = ?"
        return bool(self.reader.rows(query, (tenant, region, enrolment)))

    # --- approvals --------------------------------------------------------------------------------------------------

    def approvals(self, tenant: str, approval: str | None = None) -> list[dict[str, Any]]:
        """Return a tenant's approvals, newest first, or the one."""
        query = """
            SELECT a.*, (SELECT json_group_array(g.person) FROM approval_grant g
                WHERE g.tenant = a.tenant AND g.approval = a.approval) AS granted_by
            FROM approval a WHERE a.tenant = :t AND (:a IS NULL OR a.approval = :a) ORDER BY a.at_ms DESC LIMIT 1000"""
        return [
            {
                **row,
                "arguments": msgspec.json.decode(row["arguments"]),
                "granted_by": msgspec.json.decode(row["granted_by"]),
            }
            for row in self.reader.records(query, {"t": tenant, "a": approval})
        ]

    def overdue_approvals(self, now_ms: int) -> list[tuple[str, str]]:
        """Return (tenant, approval) of what nobody answered in time."""
        query = "SELECT tenant, approval FROM approval WHERE state IN ('Requested', 'Granted') AND expires_at_ms <= ?"
        return [(t, a) for t, a in self.reader.rows(query, (now_ms,))]

    # --- nodes ------------------------------------------------------------------------------------------------------

    def nodes(self, region: str | None = None) -> list[tuple[str, str, int | None]]:
        """Return (node, region, sequence of its removal or None), each node once a key."""
        query = "SELECT node, region, removed_at FROM node WHERE :r IS NULL OR region = :r ORDER BY node, sequence"
        return [(n, r, removed) for n, r, removed in self.reader.rows(query, {"r": region})]

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

    def critical_marks(self) -> list[tuple[str, str, int, int]]:
        """Return (tenant, region, epoch, counter) of each residence's critical lane in its newest epoch."""
        query = (
            "SELECT tenant, region, max(epoch), counter FROM mark_critical WHERE kind = 'residence' GROUP BY subject"
        )
        return [(t, r, e, c) for t, r, e, c in self.reader.rows(query)]

    def critical_above(
        self, tenant: str, region: str, epoch: int, floor: int, limit: int = 16
    ) -> list[tuple[int, str, str, str, bytes]]:
        """Return (sequence, id, subject, tag, bytes) of a residence's newest critical decrees above `floor`."""
        query = (
            "SELECT sequence, id, subject, tag, body FROM event_critical "
            "WHERE tenant = ? AND region = ? AND kind = 'residence' AND epoch = ? AND counter > ? "
            "ORDER BY sequence DESC LIMIT ?"
        )
        rows = self.reader.rows(query, (tenant, region, epoch, floor, limit))
        return [(n, i, s, t, b) for n, i, s, t, b in reversed(rows)]

    def routine_above(
        self, tenant: str, region: str, epoch: int, generation: int, limit: int = 64
    ) -> list[tuple[int, str, str, str, bytes]]:
        """Return (sequence, id, subject, tag, bytes) of a residence's first routine decrees above `generation`."""
        query = (
            "SELECT sequence, id, subject, tag, body FROM event_routine "
            "WHERE tenant = ? AND region = ? AND kind = 'residence' AND epoch = ? AND counter > ? "
            "ORDER BY counter LIMIT ?"
        )
        rows = self.reader.rows(query, (tenant, region, epoch, generation, limit))
        return [(n, i, s, t, b) for n, i, s, t, b in rows]

    # --- history ----------------------------------------------------------------------------------------------------

    def history(
        self, tenant: str, *, region: str | None = None, limit: int, search: str = "", priority: bool = False
    ) -> list[dict[str, Any]]:
        """Return a tenant's newest events in few words: who did what, when. `search`: in event, person, region."""
        columns = "sequence, id, tag, region, person, at_ms, counter"
        narrowed = (
            "tenant = :t AND (:r IS NULL OR region = :r) AND (:q = '' OR instr(lower(tag), :q) "
            "OR instr(lower(person), :q) OR instr(lower(region), :q))"
        )
        routine = f"SELECT {columns}, 0 AS priority FROM event_routine WHERE {narrowed} UNION ALL "
        query = (
            f"{'' if priority else routine}SELECT {columns}, 1 AS priority FROM event_critical WHERE {narrowed} "
            "ORDER BY sequence DESC LIMIT :n"
        )
        given = {"t": tenant, "r": region, "n": limit, "q": search.lower().replace(" ", "")}
        return self.reader.records(query, given)

    def receipt(self, tenant: str, event: str) -> dict[str, Any] | None:
        """Return one revocation with its sealed bytes, its confirmation's, and each node's acknowledgement."""
        found = self.reader.records("SELECT * FROM event_critical WHERE id = ? AND tenant = ?", (event, tenant))
        if not found or not found[0]["tag"].startswith("AccessRevoked."):
            return None
        ordered = found[0]
        query = (
            "SELECT sequence, id, subject, at_ms, body FROM event_routine WHERE tenant = ? AND region = ? "
            "AND tag LIKE 'RevocationConfirmed.%' AND json_extract(CAST(body AS TEXT), '$.data.revocation') = ?"
        )
        confirmed = next(iter(self.reader.records(query, (tenant, ordered["region"], event))), None)
        return {**ordered, "confirmed": confirmed}

    # --- the ledger as read -----------------------------------------------------------------------------------------

    def events(self, tenant: str | None, after: int, limit: int) -> list[tuple[int, str, bytes]]:
        """Return (sequence, subject, bytes) behind a cursor: of all, or of one tenant with the denials at its door."""
        columns = "SELECT e.sequence, e.subject, e.body FROM"
        if tenant is None:
            query = f"{columns} event AS e WHERE e.sequence > :a ORDER BY e.sequence LIMIT :n"
        else:
            query = (
                f"{columns} event_routine AS e WHERE e.tenant = :t AND e.sequence > :a UNION ALL "
                f"{columns} event_critical AS e WHERE e.tenant = :t AND e.sequence > :a UNION ALL "
                f"{columns} event_routine AS e JOIN access_denied AS x USING (sequence) "
                "WHERE x.tenant = :t AND e.sequence > :a ORDER BY 1 LIMIT :n"
            )
        return [(n, s, b) for n, s, b in self.reader.rows(query, {"t": tenant, "a": after, "n": limit})]

    def happened(self, after: int, limit: int) -> list[Item]:
        """Return the news of the events behind a sequence, as they were told when they happened."""
        columns = "sequence, tenant, region, tag, at_ms"
        query = (
            f"SELECT {columns}, 0 FROM event_routine WHERE sequence > :a UNION ALL "
            f"SELECT {columns}, 1 FROM event_critical WHERE sequence > :a ORDER BY sequence LIMIT :n"
        )
        return [
            Item(
                kind="event", tenant=tenant, region=region, event=tag.partition(".")[0], sequence=sequence, at_ms=at_ms,
                priority=PRIORITY_CRITICAL if critical else PRIORITY_ROUTINE,
            )
            for sequence, tenant, region, tag, at_ms, critical in self.reader.rows(query, {"a": after, "n": limit})
        ]  # fmt: skip

    def exported(self, tenant: str, after: int, limit: int) -> list[tuple[int, str, bytes]]:
        """Return (sequence, subject, bytes) of a tenant's events and of the trust events that verify them."""
        query = (
            "SELECT sequence, subject, body FROM event WHERE sequence > :a AND (tenant = :t OR (kind = 'ledger' "
            "AND tag NOT LIKE 'AccessDenied.%')) ORDER BY sequence LIMIT :n"
        )
        return [(n, s, b) for n, s, b in self.reader.rows(query, {"t": tenant, "a": after, "n": limit})]

    def authorities(self, tenant: str, region: str) -> list[tuple[str, bytes]]:
        """Return the tenant's own workload CAs that count: id and certificate (DER)."""
        query = (
            "SELECT authority, certificate FROM trusted_authority WHERE tenant = ? AND region = ? ORDER BY generation"
        )
        return [(authority, base64.b64decode(c)) for authority, c in self.reader.rows(query, (tenant, region))]

    def names_of_authorities(self, region: str, *, without: str) -> set[str]:
        """Return the names that workload CAs have, or had, in a region, one tenant's left out."""
        query = "SELECT name FROM workload_authority WHERE tenant <> ? AND region = ?"
        return {name for (name,) in self.reader.rows(query, (without, region))}

    def event_count(self, tenant: str | None) -> int:
        """Return how many events there are, of one tenant (and who was denied at its door) or of all."""
        query = (
            "SELECT (SELECT count(*) FROM event_routine WHERE :t IS NULL OR tenant = :t) + "
            "(SELECT count(*) FROM event_critical WHERE :t IS NULL OR tenant = :t) + "
            "(SELECT count(*) FROM access_denied WHERE tenant = :t)"
        )
        return int(self.reader.rows(query, {"t": tenant})[0][0])

    def report_cursor(self) -> int:
        """Return how far the nodes' reports are read."""
        return int(self.reader.rows("SELECT sequence FROM report_cursor")[0][0])


def _signing(key: str | None, offered: str | None) -> dict[str, Any]:
    """How a person signs, as people are shown it."""
    how = None
    if key is not None:
        try:
            how = "ed25519" if passkey.read_key(base64.b64decode(key)) is None else "passkey"
        except SealError:  # governance checks keys before it appends; an older ledger may hold one that is none
            how = None
    digest = hashlib.sha256(base64.b64decode(offered)).hexdigest() if offered is not None and offered != key else None
    return {"approval_key": key, "signs_with": how, "offers": digest}
