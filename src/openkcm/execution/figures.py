"""What a node shows of itself, for a scrape. Reads the custodian's state and the workers' board; changes nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Final

from openkcm.contract.metrics import figure
from openkcm.execution.arena import BOARD_COUNTS, BOARD_HISTOGRAM, RegionArena
from openkcm.execution.bench import COUNTS, HISTOGRAM_LAST, HISTOGRAM_SHIFT
from openkcm.execution.board import Board
from openkcm.execution.catalogue import Catalogue
from openkcm.execution.clock import boottime_ns
from openkcm.execution.crew import Crew
from openkcm.execution.custodian import Custodian
from openkcm.execution.reporter import shown
from openkcm.execution.residence_state import State
from openkcm.execution.warmth import Warmth

__all__ = ["figures"]

EDGES: Final = (1, 2, 4, 8, 16, 32, 48, HISTOGRAM_LAST)  # of the board's 64 buckets, in units of 2**HISTOGRAM_SHIFT ns


def figures(
    custodian: Custodian,
    crew: Crew,
    catalogue: Catalogue,
    arena: RegionArena,
    warmth: Warmth,
    expires: Mapping[str, int],
    superseded: int,
) -> dict[str, float]:
    """Return figure -> value, each of the catalogue's that a node shows."""
    state = custodian.state
    out: dict[str, float] = {
        figure("openkcm_node_cursor", lane="routine"): state.cursor_routine,
        figure("openkcm_node_cursor", lane="critical"): state.cursor_critical,
        figure("openkcm_node_workers"): len(crew.pids),
        figure("openkcm_node_memory_locked", mode=arena.mode, sealed=str(crew.sealed).lower()): 1,
        figure("openkcm_node_key_slots", state="all"): arena.slots,
        figure("openkcm_node_key_slots", state="free"): arena.free,
        figure("openkcm_node_residences_cold"): len(warmth.cold),
        figure("openkcm_node_residences_evicted_total"): warmth.evicted,
        figure("openkcm_node_beat_age_seconds"): _beat_age_s(state),
        figure("openkcm_node_behind_mark"): state.behind_mark,
        figure("openkcm_node_vault_refused_total"): catalogue.planted,
        figure("openkcm_node_vault_superseded"): superseded,
    }
    out |= {figure("openkcm_node_certificate_seconds", certificate=name): left for name, left in expires.items()}
    alarms: Counter[str] = Counter()
    for alarm, count in custodian.alarms.items():
        alarms[alarm.partition(":")[0]] += count
    out |= {figure("openkcm_node_messages_dropped_total", reason=reason): n for reason, n in state.dropped.items()}
    out |= {figure("openkcm_node_alarms_total", alarm=alarm): n for alarm, n in alarms.items()}
    return out | _residences(state) | _operations(crew.board)


def _beat_age_s(state: State) -> float:
    if state.beat is None or state.beat[0] != state.boot_id:
        return math.inf
    return (boottime_ns() - state.beat[1]) / 1e9


def _residences(state: State) -> dict[str, float]:
    now = boottime_ns()
    out: dict[str, float] = {}
    for tenant, residence in state.residences.items():
        out[figure("openkcm_node_residence", tenant=tenant, state=shown(state, residence, now))] = 1
        left = max(0, state.lease_until(residence) - now) / 1e9
        out[figure("openkcm_node_lease_left_seconds", tenant=tenant)] = left
        if residence.root_refusal is not None:
            out[figure("openkcm_node_root_refused", tenant=tenant, code=residence.root_refusal)] = 1
    return out


def _operations(board: Board) -> dict[str, float]:
    """Add up what the workers counted since they started; a replaced worker goes on where its place stood."""
    starts = [board.start(worker) for worker in range(board.workers)]
    counts = {what: sum(board.words[s + BOARD_COUNTS + i] for s in starts) for i, what in enumerate(COUNTS)}
    out: dict[str, float] = {figure("openkcm_kmip_events_total", what=what): n for what, n in counts.items()}
    buckets = [sum(board.words[s + BOARD_HISTOGRAM + i] for s in starts) for i in range(HISTOGRAM_LAST + 1)]
    for edge in EDGES:
        upper = (edge << HISTOGRAM_SHIFT) / 1e9
        out[f'openkcm_kmip_operation_seconds_bucket{{le="{upper:g}"}}'] = sum(buckets[:edge])
    out['openkcm_kmip_operation_seconds_bucket{le="+Inf"}'] = out["openkcm_kmip_operation_seconds_count"] = sum(buckets)
    return out
