"""A residence read again from the node's own mirrors, because what lies here is not what the ledger says. Pure.

`step` gives all that both lanes hold of one residence, a long history folded beforehand. What comes of it:

1. it is folded, by the same rules and seals, into a residence that knows nothing;
2. what was ever true of the critical lane stays true (S2, S3, S12): revocations, removals, floors, the end; only what
   two people signed lifts, and only if the mirror still holds it;
3. a mirror that holds less than our marks heals nothing (S8): the residence keeps what it has, and while the critical
   lane is short it serves nobody;
4. closed first, then committed, then acknowledged: the order of every other change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from openkcm.contract import envelope as env
from openkcm.contract.errors import ContractError
from openkcm.contract.ids import Lane
from openkcm.execution import rows
from openkcm.execution.inputs import Arrived, Held, Reread
from openkcm.execution.judge import Outcome, judged
from openkcm.execution.residence_state import CLOSED, Effect, Mark, Residence, Revocation, State, verdict

__all__ = ["folded", "reread"]

#: What a mirror's short tail is called, in alarms.
SHORT: Final = "mirror-holds-less"


def reread(state: State, given: Reread) -> Outcome:
    """Return the state with the residence as its mirrors tell it, and what must now be done."""
    before = state.residences.get(given.tenant) or Residence(tenant=given.tenant)
    told = folded(state, given.told or Residence(tenant=given.tenant), "critical", given.critical, given.now_ns)  # (1)
    told = folded(state, told, "routine", given.routine, given.now_ns)
    short = _short(before, told)
    if short and not given.final:
        return state, [Effect("defer", given.tenant, SHORT)]
    after = _joined(before, told) if not short else _obeyed(before, told, frozen="critical" in short)  # (2) (3)
    effects: list[Effect] = [Effect("alarm", given.tenant, SHORT)] if short else []
    if after == before:  # what is in memory is right: the rows are written again
        return state, [*effects, _commit(state, after)]
    state = replace(state, residences={**state.residences, given.tenant: after})
    return state, [*effects, *_changed(before, after, _commit(state, after))]


def _commit(state: State, after: Residence) -> Effect:
    return Effect("commit", rows=(rows.residence_row(after), rows.node_row(state)))


def folded(state: State, told: Residence, lane: Lane, messages: Sequence[Held], now_ns: int) -> Residence:
    """Return a residence, as its mirrors have told it so far, with more of what they hold of one lane."""
    tenant = told.tenant
    before = state.residences.get(tenant) or Residence(tenant=tenant)
    at = replace(state, residences={**state.residences, tenant: told}, seen_routine=0)  # all of it is new to `told`
    for m in messages:
        after, _ = judged(at, Arrived(lane, m.sequence, m.subject, m.body, now_ns, final=True))
        if lane == "routine" and _known(before, m):  # what was ordered before was carried out, or still waits here
            r = after.residences[tenant]
            after = replace(after, residences={**after.residences, tenant: replace(r, rotations=())})
        at = replace(at, residences=after.residences)  # keys, marks and counts of the node stay as they are
    return at.residences[tenant]


def _known(before: Residence, m: Held) -> bool:
    try:
        e = env.decode(m.body)
    except ContractError:
        return False
    return e.counter in before.routine.get(e.epoch, Mark())


def _short(before: Residence, told: Residence) -> set[Lane]:
    """Return the lanes of which the mirrors hold less than we have applied."""
    lanes: dict[Lane, tuple[dict[int, Mark], dict[int, Mark]]] = {
        "critical": (before.critical, told.critical),
        "routine": (before.routine, told.routine),
    }
    return {
        lane
        for lane, (ours, theirs) in lanes.items()
        if any(not _covers(theirs.get(epoch, Mark()), mark) for epoch, mark in ours.items())
    }


def _covers(theirs: Mark, ours: Mark) -> bool:
    return theirs.floor >= ours.floor and all(n in theirs for n in ours.above)


def _obeyed(before: Residence, told: Residence, *, frozen: bool) -> Residence:
    """Return what we have, with every critical fact that we or the mirrors know of."""
    revocations = dict(before.revocations)
    for epoch, theirs in told.revocations.items():
        ours = revocations.get(epoch, Revocation(0, ""))
        revocations[epoch] = theirs if theirs.fence > ours.fence else ours
    floors = {k: max(before.floors.get(k, 0), told.floors.get(k, 0)) for k in before.floors.keys() | told.floors.keys()}
    return replace(
        before,
        revocations=revocations,
        removed=before.removed | told.removed,
        floors=floors,
        destroyed=before.destroyed or told.destroyed,
        unreadable=before.unreadable | told.unreadable,
        missing_critical=before.missing_critical or frozen,
    )


def _joined(before: Residence, told: Residence) -> Residence:
    """Return what the mirrors tell, with every critical fact that we know of, and what only we can know."""
    facts = _obeyed(before, told, frozen=False)
    same_lease = told.lease_s == before.lease_s and told.configured == before.configured
    return replace(
        told,
        revocations=facts.revocations,
        removed=facts.removed,
        floors=facts.floors,
        destroyed=facts.destroyed,
        approvals_used=before.approvals_used | told.approvals_used,
        leases=before.leases if same_lease else told.leases,
        rotations=(*before.rotations, *told.rotations),
        root_refusal=before.root_refusal if told.root == before.root else None,
        failure=before.failure,
    )


def _changed(before: Residence, after: Residence, commit: Effect) -> list[Effect]:
    """(4) What a residence that was not what the ledger says takes to become it."""
    tenant = after.tenant
    effects = [Effect("alarm", tenant, "read-again-and-changed")]
    if verdict(after) in CLOSED and verdict(before) not in CLOSED:
        effects.append(Effect("close", tenant, verdict(after)))
    if after.floors != before.floors:
        effects.append(Effect("withdraw", tenant))
    serving = {w.enrolment: w for w in after.serving_workloads()}
    cut = [w.enrolment for w in before.serving_workloads() if serving.get(w.enrolment) != w]
    if cut:
        effects.append(Effect("cut", tenant, names=(*cut, *sorted(after.removed - before.removed))))
    trust = [Effect("trust", tenant)] if after.authorities != before.authorities else []
    fence = [Effect("fence", tenant)] if after.revocations or after.destroyed else []
    acks = [Effect("ack", tenant, "critical"), Effect("ack", tenant, "routine")]
    return [*effects, commit, *trust, *fence, Effect("lease", tenant), Effect("provision", tenant), *acks]
