"""The end of a tenant: which region waits for an approval, which for a node; over when nobody can serve any more.

Each region is destroyed by an approval of its own, whose signatures nodes check. The end is written down once every
node's own word is here, or the longest lease it may hold is over.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from openkcm.contract import decrees as d
from openkcm.contract import subjects
from openkcm.governance.errors import GovernanceError
from openkcm.governance.tenant import Tenant

if TYPE_CHECKING:  # the service runs `conclude`
    from openkcm.governance.service import Cmk

__all__ = ["conclude", "shown"]

log = logging.getLogger(__name__)


def shown(cmk: Cmk, tenant: str) -> dict[str, Any] | None:
    """Return how far the end is; None when nobody asked for one."""
    row = cmk.views.termination(tenant)
    if row is None:
        return None
    regions, asked = [], cmk.views.open_approvals(tenant)
    for region in row["regions"]:
        state = cmk.views.state(tenant, region) or {}
        acked, waiting, certain_in_s = cmk.watch.destruction(tenant, region)
        gone = state.get("state") == "Destroyed"
        mine = (a["approval"] for a in asked if (a["command"], a["region"]) == ("DestroyContext", region))
        by = None if certain_in_s is None else cmk.registry.now_ms + int(max(certain_in_s, 0) * 1000)
        regions.append(
            {
                "region": region,
                "state": state.get("state", "Requested"),
                "approval": next(mine, None),
                "acked": list(acked) if gone else [],
                "waiting_for": list(waiting) if gone else [],
                "certain_by": by if gone else None,
                "removed": cmk.views.shredded(tenant, region),
            }
        )
    destroyed = all(r["state"] == "Destroyed" for r in regions)
    over = row["terminated_ms"] is not None
    return {
        "tenant": tenant,
        "reason": row["reason"],
        "requested_ms": row["requested_ms"],
        "terminated_ms": row["terminated_ms"],
        "status": "Terminated" if over else "Destroying" if destroyed else "AwaitingApproval",
        "regions": regions,
    }


async def conclude(cmk: Cmk) -> None:
    """Write down each end that has come."""
    for tenant in cmk.views.terminations_open():
        row = cmk.views.termination(tenant)
        assert row is not None
        nodes: set[str] = set()
        by_lease: set[str] = set()
        bodies: list[msgspec.Raw] = []
        for region in row["regions"]:
            event = cmk.views.destruction(tenant, region)
            if event is None:
                break
            acked, waiting, certain_in_s = cmk.watch.destruction(tenant, region)
            if waiting and (certain_in_s is None or certain_in_s > 0):
                break
            nodes |= {*acked, *waiting}
            by_lease |= set(waiting)
            known = cmk.views.ack_bodies(tenant, region, event[1])
            bodies += [msgspec.Raw(known[node]) for node in acked if node in known]
        else:
            decree = d.TenantTerminated(
                regions=tuple(row["regions"]), nodes=tuple(sorted(nodes)), by_lease=tuple(sorted(by_lease)),
                acks=tuple(bodies),
            )  # fmt: skip
            order = cmk.own_order(tenant, "ConcludeTermination", "end")
            try:
                where = subjects.tenant_aggregate(tenant)
                await cmk.registry.execute(where, Tenant, order, lambda t, x=decree: t.terminated(x))  # type: ignore[misc]
            except GovernanceError as bad:
                log.info("the end of %s is not written down yet: %s", tenant, bad)
