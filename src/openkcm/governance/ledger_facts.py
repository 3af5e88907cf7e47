"""What the ledger says of each residence of a region, as the read model has it, in the treaty's canonical form. Reads.

Kept by region and tenant; `touched` forgets what a decree may have changed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from openkcm.contract import digest as canon
from openkcm.contract.digest import Facts
from openkcm.contract.reports import ResidenceDigest
from openkcm.projector import Reader
from openkcm.projector.ledger import Applied

__all__ = ["LedgerFacts", "facts"]


class LedgerFacts:
    """Digests of residences, as of what this CMK has read."""

    def __init__(self, reader: Reader, epoch: Callable[[], int], read_to: int = 0) -> None:
        """Read from `reader`; `read_to`: the sequence up to which it holds the ledger now."""
        self.read_to = read_to  # in the database: a projection's own cursor runs ahead of it while it writes
        self._reader, self._epoch = reader, epoch
        self._known: dict[str, dict[str, ResidenceDigest | None]] = {}
        self._of_epoch = epoch()

    def touched(self, applied: Iterable[Applied]) -> None:
        """Note what was read of the ledger: these residences are digested anew when they are asked for."""
        for one in applied:
            self.read_to = max(self.read_to, one.sequence)
            if one.where is not None and one.where.kind == "residence":
                self._known.get(one.where.region, {})[one.where.tenant] = None

    def digests(self, region: str) -> dict[str, ResidenceDigest]:
        """Return each residence's digest by tenant, of all of which something was decreed."""
        if self._of_epoch != self._epoch():
            self._known, self._of_epoch = {}, self._epoch()
        if region not in self._known:
            query = (
                "SELECT DISTINCT tenant FROM mark_routine WHERE region = :r AND kind = 'residence' UNION "
                "SELECT DISTINCT tenant FROM mark_critical WHERE region = :r AND kind = 'residence'"
            )
            self._known[region] = {tenant: None for (tenant,) in self._reader.rows(query, {"r": region})}
        known = self._known[region]
        for tenant in [tenant for tenant, digest in known.items() if digest is None]:
            told = facts(self._reader, tenant, region, self._of_epoch)
            known[tenant] = ResidenceDigest(
                tenant=tenant, generation=told.generation, fence=told.fence, digest=canon.digest(told)
            )
        return {tenant: digest for tenant, digest in known.items() if digest is not None}


def facts(reader: Reader, tenant: str, region: str, epoch: int) -> Facts:
    """Return what the read model holds of one residence, in the ledger's epoch."""
    both: dict[str, str | int | float | bytes | None] = {"t": tenant, "r": region, "e": epoch}

    def rows(columns: str, table: str, more: str = "") -> tuple[Any, ...]:
        return tuple(reader.rows(f"SELECT {columns} FROM {table} WHERE tenant = :t AND region = :r {more}", both))

    def first(columns: str, table: str, more: str = "") -> Any:
        return next(iter(rows(columns, table, more)), None)

    def counter(lane: str) -> int:
        return (first("counter", f"mark_{lane}", "AND kind = 'residence' AND epoch = :e") or (0,))[0]

    return Facts(
        tenant=tenant,
        generation=counter("routine"),
        fence=counter("critical"),
        configuration=first("lease_s, hand_out, max_objects", "configuration"),
        approvers=first("version, hash", "approvers_set", "ORDER BY version DESC LIMIT 1"),
        root=first("provider, ref, credential", "root_key"),
        systems=rows("registration, system, hand_out", "registered_system", "ORDER BY 1"),
        authorities=tuple(
            (authority, hashlib.sha256(base64.b64decode(certificate)).hexdigest())
            for authority, certificate in rows("authority, certificate", "workload_authority", "ORDER BY 1")
        ),
        workloads=rows(
            "enrolment, workload, system, registration, fingerprint, spiffe, authority",
            "enrolled_workload",
            "ORDER BY 1",
        ),
        suspended=first("1", "suspension") is not None,
        removed=tuple(id_ for (id_,) in rows("id", "removed", "ORDER BY 1")),
        revocations=rows("epoch, max(fence), event", "revocation", "GROUP BY epoch ORDER BY epoch"),
        lifted=tuple(event for (event,) in rows("event", "lifted", "ORDER BY 1")),
        floors=rows("level || '/' || registration, below", "emergency_floor", "ORDER BY 1"),
        destroyed=first("1", "destroyed") is not None,
    )
