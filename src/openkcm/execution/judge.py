"""One message of the ledger: who sealed it, where it belongs, whether it is new, what it changes. Pure.

The half of `desired.step` that reads decrees; its invariants are listed there. A drop changes nothing but a count.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import seal, subjects
from openkcm.contract.errors import ContractError, EnvelopeError
from openkcm.contract.ids import NOBODY
from openkcm.execution.authorities import claimed
from openkcm.execution.decree_rules import RULES, Refused
from openkcm.execution.inputs import Arrived
from openkcm.execution.residence_state import CLOSED, Effect, Mark, Residence, State, verdict
from openkcm.execution.sealing import placed

__all__ = ["Outcome", "dropped", "judged"]

Outcome = tuple[State, list[Effect]]


def dropped(state: State, reason: str) -> Outcome:
    """Count a message that is not what it claims."""
    return replace(state, dropped={**state.dropped, reason: state.dropped.get(reason, 0) + 1}), [
        Effect("alarm", detail=reason)
    ]


def judged(state: State, m: Arrived) -> Outcome:
    """Decide about one message: who sealed it, where it belongs, whether it is new, what it changes."""
    try:  # (1) a subject of ours and one whole envelope
        where = subjects.parse_decree(m.subject)
        e = env.decode(m.body)
    except ContractError:
        return dropped(state, "malformed")
    if where.region != state.region and (where.region, where.tenant) != ("global", NOBODY):
        return dropped(state, "foreign-region")
    kind = d.kind_of(e.tag)
    root_sealed = kind is not None and kind.decree in d.TRUST_ROOT_DECREES
    governance = state.sealing_keys(m.sequence, in_order=m.source == "critical")
    book = {seal.key_id(state.trust_root): state.trust_root} if root_sealed else governance
    if e.key not in book and not root_sealed and not m.final and m.source == "routine":
        return state, [Effect("defer", detail="unknown-key")]  # its SigningKeyRotated may be on the other lane still
    try:  # (2) sealed by governance (by the trust root, where that is asked), for this very subject
        env.verify(e, str(where), book)
    except ContractError:
        if e.key not in book and m.source == "routine":  # once its key is announced it is read again
            state = replace(state, unjudged=min(m.sequence, state.unjudged or m.sequence))
        return dropped(state, "bad-seal")
    if kind is not None and (kind.aggregate, kind.lane) != (where.kind, where.lane):  # (3) a class decides its lane
        return dropped(state, "wrong-lane")
    if (e.priority == env.PRIORITY_CRITICAL) != (where.lane == "critical"):
        return dropped(state, "wrong-lane")
    if where.kind == "ledger":
        return _ledger(state, where, e, m)
    if where.kind != "residence" or where.id != where.tenant:
        return dropped(state, "wrong-aggregate")
    residence = state.residences.get(where.tenant) or Residence(tenant=where.tenant)
    if m.source == "lane0" and e.key in state.retired:  # where it lies in the ledger is the sender's word here
        marks = residence.critical if where.lane == "critical" else residence.routine
        if e.counter not in marks.get(e.epoch, Mark()):
            return dropped(state, "bad-seal")  # the lane will bring it
        return state, _affirmed(residence)[:-1] if where.lane == "critical" else _affirmed(residence)[-1:]
    judge = _critical if where.lane == "critical" else _routine
    forgotten = judge is _routine and _forgotten(state, residence, e, m)
    after, effects = judge(state, replace(residence, missing_critical=True) if forgotten else residence, e, m)
    if forgotten:
        effects = [Effect("alarm", where.tenant, "forgotten"), *effects, Effect("reread", where.tenant)]
    if after is not residence:
        state = replace(state, residences={**state.residences, where.tenant: after})
    return state, effects


def _forgotten(state: State, r: Residence, e: env.Envelope, m: Arrived) -> bool:
    """Whether we knew this residence and lost it: its first routine decree is not the first, or lies where we were.

    The routine lane would make it serve again without what the critical one has taken away.
    """
    return not r.routine and m.source == "routine" and (e.counter != 1 or m.sequence <= state.seen_routine)


def _ledger(state: State, where: subjects.DecreeSubject, e: env.Envelope, m: Arrived) -> Outcome:
    marks = state.ledger_critical if where.lane == "critical" else state.ledger_routine
    mark = marks.get(e.epoch, Mark())
    new = e.counter not in mark
    marked = {**marks, e.epoch: mark.add(e.counter)}
    after = (
        replace(state, ledger_critical=marked) if where.lane == "critical" else replace(state, ledger_routine=marked)
    )
    try:
        decree = d.read(e.tag, e.data)
    except EnvelopeError:
        return (after, [Effect("alarm", detail="unreadable-ledger-event")]) if new else (state, [])
    if isinstance(decree, (d.SigningKeyRotated, d.LedgerOpened)) and m.source == "lane0":
        return state, []  # from where on a key is retired, the lane alone says
    if not new:
        return placed(state, decree, m.sequence), []
    after = placed(after, decree, m.sequence)
    if isinstance(decree, d.LedgerOpened):
        if decree.epoch > state.epoch:  # the trust root accepts what was lost, and ends what two histories froze
            again = [x for r in after.residences.values() for x in _affirmed(r)]  # acks count anew: say what we have
            return replace(after, epoch=decree.epoch, fork=None, behind_mark=False), [Effect("commit"), *again]
    elif isinstance(decree, d.NodeEnrolled) and decree.node in after.removed_nodes:  # a name is used once
        after = replace(after, former={**after.former, decree.key: (decree.public_key, decree.region)})
    elif isinstance(decree, d.NodeEnrolled):
        keys = {**after.keys, decree.key: (decree.public_key, decree.node)}
        after = replace(after, keys=keys, nodes={**after.nodes, decree.node: decree.region})
    elif isinstance(decree, d.NodeRemoved):
        nodes = {n: r for n, r in after.nodes.items() if n != decree.node}
        keys = {k: v for k, v in after.keys.items() if v[1] != decree.node}
        gone = {k: (p, decree.region) for k, (p, who) in after.keys.items() if who == decree.node}
        removed = after.removed_nodes | {decree.node}
        after = replace(after, nodes=nodes, keys=keys, removed_nodes=removed, former={**after.former, **gone})
        if decree.node == after.node:  # it is us: no lease holds from here on
            return after, [*(Effect("close", tenant, "expired") for tenant in after.residences), Effect("commit"),
                           Effect("lease"), Effect("alarm", detail="this-node-is-removed")]  # fmt: skip
    return after, []


def _routine(state: State, r: Residence, e: env.Envelope, m: Arrived) -> tuple[Residence, list[Effect]]:
    mark = r.routine.get(e.epoch, Mark())
    if e.counter in mark:
        return r, _affirmed(r)[-1:] if m.source == "lane0" else []  # told again: governance lacks our ack
    if any(epoch > e.epoch for epoch in r.routine):  # a closed epoch's straggler: it would undo what came after it
        return r, [Effect("alarm", r.tenant, "late-epoch")]
    if e.epoch > state.epoch:  # the opening of its epoch lies before it in this lane
        return _frozen(r, r.routine_sequence + 1, "epoch-not-opened")
    if state.halted is not None:
        return _frozen(r, m.sequence, state.halted)
    if e.counter != mark.floor + 1 and m.source == "lane0":  # told again, and not the next: the lane will bring it
        return r, []
    if e.counter != mark.floor + 1:  # a gap: what lies before it decides about what comes after it
        return _frozen(r, r.routine_sequence + 1, "routine-gap")
    try:
        decree = d.read(e.tag, e.data)
    except EnvelopeError:
        return _frozen(r, m.sequence, f"unreadable {e.tag}")
    effects: list[Effect] = []
    refusal = None
    after = r
    try:
        after = _unclaimed(state, r, RULES[type(decree)](r, decree, e, state.region, m.now_ns))
    except Refused as no:  # it counts, it changes nothing, and we say so
        refusal = no.code
        effects.append(Effect("alarm", r.tenant, no.code))
    after = replace(
        after,
        routine={**r.routine, e.epoch: mark.add(e.counter)},
        head_routine=e.id,
        # what was skipped lies before it; what was told again on lane0 says nothing of the lane's own place
        routine_sequence=m.sequence if r.frozen_at is None and m.source != "lane0" else r.routine_sequence,
        thawed=False,
        refusal=refusal,
    )
    if verdict(after) in CLOSED and verdict(r) not in CLOSED:
        effects.append(Effect("close", r.tenant, verdict(after)))
    settle = after.root is not r.root or verdict(after) != verdict(r) or not isinstance(decree, _QUIET)
    effects += [Effect("commit")]
    if after.authorities is not r.authorities:
        effects.append(Effect("trust", r.tenant))
    if after.leases is not r.leases:
        effects.append(Effect("lease", r.tenant))
    if settle:
        effects.append(Effect("provision", r.tenant))
    return after, [*effects, Effect("ack", r.tenant, "routine")]


def _unclaimed(state: State, before: Residence, after: Residence) -> Residence:
    """Return `after`, unless it has a new CA by whose name another tenant's is known here."""
    new = after.authorities.keys() - before.authorities.keys()
    if any(claimed(state, after.tenant, after.authorities[a]) for a in new):
        raise Refused("AuthorityTaken", "another tenant's CA has this name here: a chain could end in either")
    return after


def _frozen(r: Residence, at: int, why: str) -> tuple[Residence, list[Effect]]:
    """Leave the residence as it is until the decree at this sequence is read again, and can be taken.

    When that did not help, the lane is read from its start: a bus that keeps back and appends again has the order in
    which we saw it in its hand.
    """
    if r.frozen_at is not None:
        return r, []
    return replace(r, frozen_at=1 if r.thawed else at), [Effect("alarm", r.tenant, why)]


#: Routine decrees that need nothing of the keys: committed is obeyed.
_QUIET: Final = (d.TenantConfigurationUpdated, d.RevocationConfirmed, d.ApproversSet, d.WorkloadAuthorityTrusted)


def _critical(state: State, r: Residence, e: env.Envelope, m: Arrived) -> tuple[Residence, list[Effect]]:
    mark = r.critical.get(e.epoch, Mark())
    # what lies before it should be here: the mirror brings all in order, and had passed what lane0 tells again
    passed = m.source == "critical" or m.sequence <= state.cursor_critical
    missing = passed and e.counter > mark.add(e.counter).floor
    if e.counter not in mark:
        return _obeyed(state, r, e, m, missing)
    if missing and not r.missing_critical:  # it came on lane0; the mirror lacks what lies before it
        closed = replace(r, missing_critical=True)
        return closed, [
            Effect("alarm", r.tenant, "critical-gap"),
            Effect("close", r.tenant, verdict(closed)),
            Effect("commit"),
        ]
    if m.source != "lane0":
        return r, []
    if _lost(state, r, e, m):  # we have it, and not what it says
        after, effects = _obeyed(state, r, e, m, missing)
        return after, [Effect("alarm", r.tenant, "critical-fact-was-lost"), *effects]
    return r, _affirmed(r)[:-1]  # repeated: governance lacks our ack


def _lost(state: State, r: Residence, e: env.Envelope, m: Arrived) -> bool:
    """Whether a decree that we have counted says something we do not hold: the critical lane only ever adds."""
    try:
        decree = d.read(e.tag, e.data)
        return RULES[type(decree)](r, decree, e, state.region, m.now_ns) != r
    except (EnvelopeError, Refused):
        return False


def _obeyed(state: State, r: Residence, e: env.Envelope, m: Arrived, missing: bool) -> tuple[Residence, list[Effect]]:
    mark = r.critical.get(e.epoch, Mark())
    after = replace(
        r,
        critical={**r.critical, e.epoch: mark.add(e.counter)},
        head_critical=r.head_critical if e.counter in mark else (*r.head_critical, e.id)[-16:],
        missing_critical=missing or (r.missing_critical and not _contiguous(r, e, mark)),
    )
    effects: list[Effect] = []
    try:
        decree = d.read(e.tag, e.data)
        after = RULES[type(decree)](after, decree, e, state.region, m.now_ns)
    except (
        EnvelopeError,
        Refused,
    ):  # fail closed: whatever it orders, the residence serves nobody until we can read it
        after = replace(after, unreadable=after.unreadable | {e.id})
        effects.append(Effect("alarm", r.tenant, f"unreadable {e.tag}"))
    if missing:
        effects.append(Effect("alarm", r.tenant, "critical-gap"))
    if verdict(after) in CLOSED:
        effects.append(Effect("close", r.tenant, verdict(after)))
    if after.floors != r.floors:  # an emergency: older versions refuse from here on, whatever becomes of the rest
        effects.append(Effect("withdraw", r.tenant))
    gone = after.removed - r.removed
    if gone:
        cut = [w.enrolment for w in after.workloads.values() if {w.enrolment, w.registration, w.authority} & gone]
        effects.append(Effect("cut", r.tenant, names=(*cut, *sorted(gone))))
    effects += [Effect("commit")]
    if after.revocations or after.destroyed:  # an ack is cumulative: it promises the older ones' fence record, too
        effects.append(Effect("fence", r.tenant))
    if after.floors != r.floors:
        effects.append(Effect("provision", r.tenant))
    return after, [*effects, Effect("ack", r.tenant, "critical")]


def _affirmed(r: Residence) -> list[Effect]:
    """What says again what we have of a residence: the critical lane, then the routine one."""
    fence = [Effect("fence", r.tenant)] if r.revocations or r.destroyed else []
    return [*fence, Effect("ack", r.tenant, "critical"), Effect("ack", r.tenant, "routine")]


def _contiguous(r: Residence, e: env.Envelope, mark: Mark) -> bool:
    """Whether with this decree nothing is missing below what we hold, in any epoch."""
    others = all(not m.above for epoch, m in r.critical.items() if epoch != e.epoch)
    return others and not mark.add(e.counter).above
