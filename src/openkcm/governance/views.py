"""What people are shown, out of the read model by plain SQL. Reads; changes nothing, asks nobody."""

from __future__ import annotations

import base64
from typing import Any, Final

import msgspec

from openkcm.contract.statements import REQUIRED_SIGNATURES
from openkcm.governance import lists
from openkcm.governance.ledger_views import LedgerViews
from openkcm.governance.node_views import NodeViews
from openkcm.projector import Reader

__all__ = ["Views"]

#: With a tenant region; the list has all of them.
WORKLOADS_SHOWN: Final = 100


class Views(lists.Lists, NodeViews, LedgerViews):
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

    def tenant(self, tenant: str) -> dict[str, Any] | None:
        """Return a tenant with its people, roles and regions."""
        found = self.reader.records(
            "SELECT tenant AS id, at_ms AS registered_ms FROM tenant WHERE tenant = ?", (tenant,)
        )
        if not found:
            return None
        return {
            **found[0],
            "regions": self.regions_of(tenant),
            "people": self.rows(lists.PEOPLE, tenant),
            "quorum": self.quorum(tenant),
        }

    def quorum(self, tenant: str) -> int:
        """Return how many people sign what takes an approval."""
        rows = self.reader.rows("SELECT quorum FROM approval_policy WHERE tenant = ?", (tenant,))
        return int(rows[0][0]) if rows else REQUIRED_SIGNATURES

    def quorums(self, tenant: str) -> dict[str, int]:
        """Return by region how many approvers its nodes ask for."""
        query = (
            "SELECT region, json_extract(approvers, '$.quorum'), max(version) FROM approvers_set WHERE tenant = ? "
            "GROUP BY region"
        )
        return {region: quorum for region, quorum, _ in self.reader.rows(query, (tenant,))}

    def regions_of(self, tenant: str) -> list[str]:
        """Return the regions a tenant lives in."""
        query = "SELECT region FROM tenant_region WHERE tenant = ? ORDER BY region"
        return [region for (region,) in self.reader.rows(query, (tenant,))]

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
            "systems": self.rows(lists.SYSTEMS, *both),
            "workloads": self.rows(lists.WORKLOADS, *both, top=WORKLOADS_SHOWN),
            "approvers": next(
                (
                    {**a, "quorum": known["quorum"], "approvers": [p["person"] for p in known["approvers"]]}
                    for a in approvers
                    if (known := msgspec.json.decode(a["approvers"]))
                ),
                None,
            ),
            "revocations": self.revocations(tenant, region),
            "rotations": self.rows(lists.ROTATIONS, *both),
            "root_states": self.reader.records(
                "SELECT node, state, detail, root_version, at_ms FROM node_root WHERE tenant = ? AND region = ?", both
            ),
            "key_versions": self.reader.records(
                "SELECT node, level, registration, max(version) AS version, root_version, at_ms FROM node_rotation "
                "WHERE tenant = ? AND region = ? GROUP BY node, level, registration",
                both,
            ),
        }

    def systems_with(self, tenant: str, region: str, q: str) -> set[str]:
        """Return the systems that have a workload of such a name."""
        query = "SELECT DISTINCT system FROM workload WHERE tenant = ? AND region = ? AND instr(workload, ?)"
        return {system for (system,) in self.reader.rows(query, (tenant, region, q))}

    def state(self, tenant: str, region: str) -> dict[str, Any] | None:
        """Return state and counters of one tenant region."""
        query = (
            "SELECT state, generation, fence, routine_epoch, critical_epoch, lease_s FROM residence "
            "WHERE tenant = ? AND region = ?"
        )
        return next(iter(self.reader.records(query, (tenant, region))), None)

    def revocations(self, tenant: str, region: str, most: int = 100) -> list[dict[str, Any]]:
        """Return the revocations of one tenant region, newest first, with what became of each."""
        found = self.rows(lists.REVOCATIONS, tenant, wanted=[("region", region)], top=most)
        return [{name: value for name, value in r.items() if name != "region"} for r in found]

    def blast_radius(self, tenant: str, region: str) -> dict[str, Any]:
        """Return what a revocation would cut, and what it cannot: keys that were handed out."""
        both = (tenant, region)
        times = dict(self.reader.rows(
            "SELECT registration, sum(times) FROM handed_out WHERE tenant = ? AND region = ? GROUP BY 1", both
        ))  # fmt: skip
        handed = [
            {"system": s["system"], "hand_out": s["hand_out_in_force"], "times": times.pop(s["registration"], 0)}
            for s in self.rows(lists.SYSTEMS, *both)
        ]
        if times:  # what went out cannot be taken back by decommissioning its system
            handed.append({"system": "", "hand_out": "never", "times": sum(times.values())})
        return {
            "region": region,
            "state": (self.state(*both) or {}).get("state"),
            "systems": self.reader.rows("SELECT count(*) FROM system WHERE tenant = ? AND region = ?", both)[0][0],
            "workloads": self.reader.rows("SELECT count(*) FROM workload WHERE tenant = ? AND region = ?", both)[0][0],
            "nodes": self.enrolled(region),
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

    def authority_counts(self, tenant: str, region: str, authority: str) -> bool:
        """Whether it is a workload CA of the tenant's own that counts."""
        return bool(self.rows(lists.AUTHORITIES, tenant, region, wanted=[("authority", authority)]))

    def names_of_authorities(self, region: str, *, without: str) -> set[str]:
        """Return the names that workload CAs have, or had, in a region, one tenant's left out."""
        query = "SELECT name FROM workload_authority WHERE tenant <> ? AND region = ?"
        return {name for (name,) in self.reader.rows(query, (without, region))}

    # --- approvals --------------------------------------------------------------------------------------------------

    def approval(self, tenant: str, approval: str) -> dict[str, Any] | None:
        """Return one approval."""
        return next(iter(self.rows(lists.APPROVALS, tenant, wanted=[("approval", approval)])), None)

    def open_approvals(self, tenant: str) -> list[dict[str, Any]]:
        """Return (approval, command, region) of what waits for a signature."""
        query = "SELECT approval, command, region FROM approval WHERE tenant = ? AND state IN ('Requested', 'Granted')"
        return self.reader.records(query, (tenant,))

    def overdue_approvals(self, now_ms: int) -> list[tuple[str, str]]:
        """Return (tenant, approval) of what nobody answered in time."""
        query = "SELECT tenant, approval FROM approval WHERE state IN ('Requested', 'Granted') AND expires_at_ms <= ?"
        return [(t, a) for t, a in self.reader.rows(query, (now_ms,))]
