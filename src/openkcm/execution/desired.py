"""The node's one pure function: `step(state, input) -> (state, effects)`. It alone decides; it opens nothing.

Invariants (the scenario and guard tests carry the same numbers):

- S2 A mark never shrinks; only what is in it is a duplicate.
- S3 Only a restore that names the revocation, signed by two of the tenant's people, lifts it.
- S5 The lanes are independent: nothing routine delays or undoes anything critical.
- S6 The lease runs from the sending of a nonce that governance echoed, and only once the head named is applied; for a
  tenant that the beat leaves out it runs on from the last beat that did not.
- S8 A node that sees less than its mark or than was signed, or a fork of the ledger, enables nothing: routine decrees
  wait, critical ones are obeyed.
- S10 A decree of one tenant changes nothing of another.
- Effects come in the order in which they must happen: close, commit, fence, acknowledge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace

from openkcm.contract import envelope as env
from openkcm.contract import reports, subjects
from openkcm.contract.errors import ContractError
from openkcm.execution import rows
from openkcm.execution.inputs import (
    Arrived,
    BeatArrived,
    BroughtAbout,
    ForkSeen,
    Input,
    MirrorMeasured,
    MirrorShort,
    NonceSent,
    ReadAgain,
    Reread,
    RootObserved,
    StrangerMet,
)
from openkcm.execution.judge import Outcome, dropped, judged
from openkcm.execution.reread import reread
from openkcm.execution.residence_state import Effect, State, verdict

__all__ = ["LOCKING", "step"]

HEADS_KEPT: Final = 256
NONCES_KEPT: Final = 64
#: What the customer's root answers that locks the residence until a canary unwraps again (DESIGN section 7).
LOCKING: Final = frozenset({"AccessDenied", "KeyDisabled", "KeyPendingDeletion", "KeyNotFound", "WrongContext"})


def step(state: State, given: Input) -> Outcome:
    """Return what the node knows after `given`, and what must now be done, in order."""
    return _STEPS[type(given)](state, given)


# --- the ledger -----------------------------------------------------------------------------------------------------


def _arrived(state: State, m: Arrived) -> Outcome:
    after, effects = judged(state, m)
    if effects and effects[-1].kind == "defer":
        return state, effects
    after = _advance(after, m)
    if m.source != "lane0" or after is not state:
        effects = rows.committed(state, after, effects)
    granted = _grant(after)
    if granted is not None:
        after = granted
        effects = [*effects, Effect("commit", rows=(rows.node_row(after),)), Effect("lease")]
    return after, effects


def _advance(state: State, m: Arrived) -> State:
    """Move the cursor, and on the critical lane the rolling hash, over any message, good or bad."""
    if m.source == "routine":
        seen = max(state.seen_routine, m.sequence)
        return replace(state, cursor_routine=max(state.cursor_routine, m.sequence), seen_routine=seen)
    if m.source == "lane0" or m.sequence <= state.cursor_critical:
        return state
    chain = reports.grown_head(state.chain, state.cursor_critical, m.sequence, m.body)
    heads = dict(list(state.recent_heads.items())[-HEADS_KEPT + 1 :])
    return replace(
        state,
        cursor_critical=m.sequence,
        seen_critical=max(state.seen_critical, m.sequence),
        chain=chain,
        recent_heads={**heads, m.sequence: chain},
    )


# --- beats, roots, ourselves ----------------------------------------------------------------------------------------


def _nonce(state: State, n: NonceSent) -> Outcome:
    kept = dict(list(state.nonces.items())[-NONCES_KEPT + 1 :])
    return replace(state, nonces={**kept, n.nonce: n.now_ns}), []


def _beat(state: State, b: BeatArrived) -> Outcome:
    book = {k: p for k, (p, who) in state.keys.items() if who == "cmk"}
    if not book:  # the ledger has not told us yet who governs: neither good nor bad
        return state, []
    try:
        e = env.decode(b.body)
        if e.key not in book and e.key not in state.retired:  # was its announcement kept from us? read the lane again
            state, alarms = dropped(state, "beat-of-unknown-key")
            return replace(state, forked=True), alarms
        env.verify(e, b.subject, book)
        if e.tag == reports.RECHECK_TAG:
            return _recheck(state, b, reports.read_recheck(e.data))
        beat = reports.read_beat(e.tag, e.data)
    except ContractError:
        return dropped(state, "bad-beat")
    if beat.region != state.region or b.subject != subjects.beat(state.region):
        return dropped(state, "bad-beat")
    sent = max((state.nonces[n] for n in beat.nonces if n in state.nonces), default=None)
    if sent is None:  # somebody else's, or of another boot: worth nothing to us
        return state, []
    if beat.ledger_epoch != state.epoch:
        return dropped(state, "beat-of-another-epoch")
    if state.waiting_beat is None or state.waiting_beat[2] <= sent:
        withheld = beat.withheld if isinstance(beat, reports.Withholding) else ()
        state = replace(state, waiting_beat=(beat.head.sequence, beat.head.hash, sent, withheld))
    known = state.recent_heads.get(beat.head.sequence)
    if known is not None and known.hex() != beat.head.hash:
        return replace(state, waiting_beat=None, forked=True), [Effect("alarm", detail="forked-head")]
    granted = _grant(state)
    if granted is None:
        return state, []
    return granted, [Effect("commit", rows=(rows.node_row(granted),)), Effect("lease")]


def _recheck(state: State, b: BeatArrived, asked: reports.Recheck) -> Outcome:
    """Governance finds that we hold something else than the ledger says, or wants to know where."""
    if asked.region != state.region or b.subject != subjects.beat(state.region):
        return dropped(state, "bad-beat")
    if asked.node != state.node or asked.ledger_epoch != state.epoch:
        return state, []
    return state, [Effect("reread", tenant) for tenant in asked.tenants] or [Effect("tell")]


def _grant(state: State) -> State | None:
    """Honour the waiting beat once its head is applied; None while there is nothing to decide."""
    if state.waiting_beat is None or state.waiting_beat[0] > state.cursor_critical:
        return None
    sequence, head, sent, left_out = state.waiting_beat
    state = replace(state, waiting_beat=None)
    if state.recent_heads.get(sequence, b"").hex() != head:
        return replace(state, forked=state.forked or sequence in state.recent_heads)  # not our history: renews nothing
    if state.beat is not None and state.beat[0] == state.boot_id and state.beat[1] >= sent:
        return state
    nonces = {n: at for n, at in state.nonces.items() if at > sent}
    withheld = {t: state.withheld.get(t, state.beat) for t in left_out}  # their lease goes on from where it was
    return replace(state, beat=(state.boot_id, sent), withheld=withheld, nonces=nonces, forked=False)


def _root(state: State, o: RootObserved) -> Outcome:
    r = state.residences.get(o.tenant)
    if r is None:
        return state, []
    refusal = o.state if o.state in LOCKING else None if o.state == "ok" else r.root_refusal
    if refusal == r.root_refusal:
        return state, []
    after = replace(r, root_refusal=refusal)
    state = replace(state, residences={**state.residences, o.tenant: after})
    commit = Effect("commit", rows=(rows.residence_row(after),))
    if refusal is not None:  # a local lock, below any revocation
        return state, [Effect("close", o.tenant, verdict(after)), commit, Effect("ack", o.tenant, "routine")]
    return state, [commit, Effect("provision", o.tenant), Effect("ack", o.tenant, "routine")]


def _brought_about(state: State, b: BroughtAbout) -> Outcome:
    r = state.residences.get(b.tenant)
    if r is None:
        return state, []
    after = replace(r, failure=b.failure, rotations=tuple(x for x in r.rotations if x[2] not in b.rotations))
    state = replace(state, residences={**state.residences, b.tenant: after})
    return state, [Effect("commit", rows=(rows.residence_row(after),))]


def _measured(state: State, m: MirrorMeasured) -> Outcome:
    behind = m.last_routine < state.seen_routine or m.last_critical < state.seen_critical
    effects = [Effect("alarm", detail="smaller-than-mark")] if behind else []
    if state.behind_mark and not behind:
        effects = [Effect("provision", t) for t in state.residences]
    return replace(state, behind_mark=behind), effects


def _fork(state: State, f: ForkSeen) -> Outcome:
    after = replace(state, fork=f.why)
    return after, [Effect("commit", rows=(rows.node_row(after),)), Effect("alarm", detail=f"forked ledger: {f.why}")]


def _short(state: State, s: MirrorShort) -> Outcome:
    if s.why == state.short:
        return state, []
    after = replace(state, short=s.why)
    commit = Effect("commit", rows=(rows.node_row(after),))
    if s.why is None:
        return after, [commit, *(Effect("provision", t) for t in state.residences)]
    return after, [commit, Effect("alarm", detail=f"mirror incomplete: {s.why}")]


def _stranger(state: State, _: StrangerMet) -> Outcome:
    return replace(state, again_from=1), [Effect("alarm", detail="record-of-unknown-key")]


def _again(state: State, a: ReadAgain) -> Outcome:
    """Move a lane's cursor back. Marks stay: what we have is a duplicate, what we lack is taken."""
    if a.lane == "critical":
        fresh = bytes(32)
        after = replace(state, cursor_critical=0, chain=fresh, recent_heads={0: fresh}, waiting_beat=None, forked=False)
        return after, [Effect("commit", rows=(rows.node_row(after),))]
    frozen = {t: r for t, r in state.residences.items() if r.frozen_at is not None}
    starts = [r.frozen_at for r in frozen.values() if r.frozen_at is not None]
    starts += [state.again_from] if state.again_from is not None else []
    if not starts:
        return state, []
    thawed = {t: replace(r, frozen_at=None, thawed=True) for t, r in frozen.items()}
    cursor = min(state.cursor_routine, min(starts) - 1)
    after = replace(state, residences={**state.residences, **thawed}, cursor_routine=cursor, again_from=None)
    return after, rows.committed(state, after, [])


_STEPS: Final[dict[type, Callable[[State, Any], Outcome]]] = {
    Arrived: _arrived,
    BeatArrived: _beat,
    NonceSent: _nonce,
    RootObserved: _root,
    BroughtAbout: _brought_about,
    MirrorMeasured: _measured,
    ForkSeen: _fork,
    MirrorShort: _short,
    ReadAgain: _again,
    Reread: reread,
    StrangerMet: _stranger,
}
