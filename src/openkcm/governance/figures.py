"""What one CMK shows of itself and of the fleet, for a scrape. Reads; holds no name of a tenant or a person."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from openkcm.contract.metrics import figure
from openkcm.governance.service import Cmk

__all__ = ["figures", "lags"]

LANES: Final = ("routine", "critical")


def figures(cmk: Cmk) -> dict[str, float]:
    """Return figure -> value, each of the catalogue's that a CMK shows."""
    out: dict[str, float] = {
        figure("openkcm_cmk_ledger_sequence"): cmk.projection.cursor,
        figure("openkcm_cmk_ledger_epoch"): cmk.projection.epoch,
        figure("openkcm_cmk_connected"): cmk.connection.is_connected,
        figure("openkcm_cmk_revocations_spooled"): cmk.switch.waiting,
        figure("openkcm_cmk_reports_dropped_total"): cmk.dropped_reports + cmk.beats.dropped,
        figure("openkcm_cmk_beats_sent_total"): cmk.beats.sent,
        figure("openkcm_cmk_drift_found_total"): cmk.telling.drift.found,
        figure("openkcm_cmk_drift_healed_total"): cmk.telling.drift.healed,
    }
    out |= {figure("openkcm_cmk_certificate_seconds", certificate=c): left for c, left in cmk.expiry.left().items()}
    waiting, statuses = 0.0, Counter({"Revoking": 0, "Revoked": 0, "RevokedByLease": 0})
    for open_ in cmk.views.open_revocations():
        status = cmk.watch.critical(open_["tenant"], open_["region"]).status
        statuses[status] += 1
        if status != "Revoked":
            waiting = max(waiting, cmk.watch.known_for_s(open_["event"]))
    out |= {figure("openkcm_cmk_revocations_open", status=status): n for status, n in statuses.items()}
    out[figure("openkcm_cmk_revocation_wait_seconds")] = waiting
    for region in cmk.regions:
        enrolled = cmk.views.enrolled(region)
        for node in enrolled:
            out |= _node(cmk, region, node, enrolled)
    return out


def lags(cmk: Cmk, region: str, node: str) -> dict[str, int] | None:
    """Return how many events of each lane a node has not committed, by its last HealthCheck; None before the first."""
    health = cmk.watch.health.get(node)
    if health is None:
        return None
    return {lane: cmk.views.lag(region, lane, at) for lane, at in zip(LANES, health.check.cursor, strict=True)}


def _node(cmk: Cmk, region: str, node: str, enrolled: list[str]) -> dict[str, float]:
    health = cmk.watch.health.get(node)
    seen = math.inf if health is None else cmk.watch.silent_for_s(node)
    out: dict[str, float] = {figure("openkcm_cmk_node_seen_seconds", region=region, node=node): seen}
    if health is None:
        return out
    for lane, lag in (lags(cmk, region, node) or {}).items():
        out[figure("openkcm_cmk_node_lag_events", region=region, node=node, lane=lane)] = lag
    out[figure("openkcm_cmk_node_differs", region=region, node=node)] = len(cmk.telling.drift.differs(node))
    others = cmk.telling.vaults.differs(node, enrolled)
    out[figure("openkcm_cmk_node_vault_differs", region=region, node=node)] = len(others)
    for certificate, left in health.check.expires.items():
        labels = {"region": region, "node": node, "certificate": certificate}
        out[figure("openkcm_cmk_node_certificate_seconds", **labels)] = left
    for alarm in {alarm.partition(":")[0] for alarm in health.check.alarms}:
        out[figure("openkcm_cmk_node_alarm", region=region, node=node, alarm=alarm)] = 1
    return out
