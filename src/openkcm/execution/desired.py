"""The node's one pure function: `step(state, input) -> (state, effects)`. It alone decides; it opens nothing.

Invariants (the scenario and guard tests carry the same numbers):

- S2 A mark never shrinks; only what is in it is a duplicate.
- S3 Only a restore that names the revocation, signed by two of the tenant's people, lifts it.
- S5 The lanes are independent: nothing routine delays or undoes anything critical.
- S6 The lease runs from the sending of a nonce that governance echoed, and only once the head named is applied.
- S8 A node that sees less than its mark, or a fork of the ledger, enables nothing: routine decrees wait, critical ones
  are obeyed.
- S10 A decree of one tenant changes nothing of another.
- Effects come in the order in which they must happen: close, commit, fence, acknowledge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import reports, seal, subjects
from openkcm.contract.errors import ContractError, EnvelopeError
from openkcm.contract.ids import NOBODY, Lane
from openkcm.execution import rows
from openkcm.execution.decree_rules import RULES, Refused
from openkcm.execution.residence_state import CLOSED, Effect, Mark, Residence, State, verdict

__all__ = [
    "Arrived",
    "BeatArrived",
    "BroughtAbout",
    "ForkSeen",
    "Input",
    "MirrorMeasured",
    "NonceSent",
    "ReadAgain",
    "RootObserved",
    "step",
]

HEADS_KEPT: Final = 256
NONCES_KEPT: Final = 64
#: What the customer's root answers that locks the residence until a canary unwraps again (DESIGN section 7).
LOCKING: Final = frozenset({"AccessDenied", "KeyDisabled", "KeyPendingDeletion", "KeyNotFound", "WrongContext"})


class Arrived(msgspec.Struct, frozen=True):
    """A message of the ledger, under its own subject even when it came on lane0.

    Attributes:
        final: Do not wait any longer for a key that may still be announced.
    """

    source: Literal["lane0", "critical", "routine"]
    sequence: int
    subject: str
    body: bytes
    now_ns: int
    final: bool = False


class BeatArrived(msgspec.Struct, frozen=True):
    """Governance's sign of life."""

    subject: str
    body: bytes


class NonceSent(msgspec.Struct, frozen=True):
    """A HealthCheck with this nonce is about to leave; its lease would count from now."""

    nonce: str
    now_ns: int


class RootObserved(msgspec.Struct, frozen=True):
    """What the customer's root answered, as the watch has confirmed it."""

    tenant: str
    state: str


class BroughtAbout(msgspec.Struct, frozen=True):
    """The custodian has brought a residence to its desired state, or could not; `rotations` are done."""

    tenant: str
    failure: str | None
    rotations: tuple[str, ...] = ()


class MirrorMeasured(msgspec.Struct, frozen=True):
    """The mirrors' last sequences, read at start."""

    last_routine: int
    last_critical: int


class ForkSeen(msgspec.Struct, frozen=True):
    """The ledger has two histories; `why` names the checkpoints. Holds until an epoch is opened."""

    why: str


class ReadAgain(msgspec.Struct, frozen=True):
    """A lane is about to be read again: the routine one from where a residence froze, the critical one from its start
    (the head that governance names is not ours).
    """

    lane: Lane


Input = ForkSeen | Arrived | BeatArrived | NonceSent | RootObserved | BroughtAbout | MirrorMeasured | ReadAgain
Outcome = tuple[State, list[Effect]]


def step(state: State, given: Input) -> Outcome:
    """Return what the node knows after `given`, and what must now be done, in order."""
    return _STEPS[type(given)](state, given)


# --- the ledger -----------------------------------------------------------------------------------------------------


def _arrived(state: State, m: Arrived) -> Outcome:
    after, effects = _judge(state, m)
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


def _drop(state: State, reason: str) -> Outcome:
    return replace(state, dropped={**state.dropped, reason: state.dropped.get(reason, 0) + 1}), [
        Effect("alarm", detail=reason)
    ]


def _judge(state: State, m: Arrived) -> Outcome:
    """Decide about one message: who sealed it, where it belongs, whether it is new, what it changes."""
    try:  # (1) a subject of ours and one whole envelope
        where = subjects.parse_decree(m.subject)
        e = env.decode(m.body)
    except ContractError:
        return _drop(state, "malformed")
    if where.region != state.region and (where.region, where.tenant) != ("global", NOBODY):
        return _drop(state, "foreign-region")
    kind = d.kind_of(e.tag)
    root_sealed = kind is not None and kind.decree in d.TRUST_ROOT_DECREES
    book = {seal.key_id(state.trust_root): state.trust_root} if root_sealed else state.sealing_keys(m.sequence)
    if e.key not in book and not root_sealed and not m.final and m.source == "routine":
        return state, [Effect("defer", detail="unknown-key")]  # its SigningKeyRotated may be on the other lane still
    try:  # (2) sealed by governance (by the trust root, where that is asked), for this very subject
        env.verify(e, str(where), book)
    except ContractError:
        return _drop(state, "bad-seal")
    if kind is not None and (kind.aggregate, kind.lane) != (where.kind, where.lane):  # (3) a class decides its lane
        return _drop(state, "wrong-lane")
    if (e.priority == env.PRIORITY_CRITICAL) != (where.lane == "critical"):
        return _drop(state, "wrong-lane")
    if where.kind == "ledger":
        return _ledger(state, where, e, m)
    if where.kind != "residence" or where.id != where.tenant:
        return _drop(state, "wrong-aggregate")
    residence = state.residences.get(where.tenant) or Residence(tenant=where.tenant)
    judge = _critical if where.lane == "critical" else _routine
    after, effects = judge(state, residence, e, m)
    if after is not residence:
        state = replace(state, residences={**state.residences, where.tenant: after})
    return state, effects


def _ledger(state: State, where: subjects.DecreeSubject, e: env.Envelope, m: Arrived) -> Outcome:
    marks = state.ledger_critical if where.lane == "critical" else state.ledger_routine
    mark = marks.get(e.epoch, Mark())
    if e.counter in mark:
        return state, []
    marked = {**marks, e.epoch: mark.add(e.counter)}
    after = (
        replace(state, ledger_critical=marked) if where.lane == "critical" else replace(state, ledger_routine=marked)
    )
    try:
        decree = d.read(e.tag, e.data)
    except EnvelopeError:
        return after, [Effect("alarm", detail="unreadable-ledger-event")]
    if isinstance(decree, d.LedgerOpened):
        if decree.epoch > state.epoch:  # the trust root accepts what was lost, and ends what two histories froze
            again = [x for r in after.residences.values() for x in _affirmed(r)]  # acks count anew: say what we have
            return replace(after, epoch=decree.epoch, fork=None, behind_mark=False), [Effect("commit"), *again]
    elif isinstance(decree, d.SigningKeyRotated):
        after = _rotated(after, decree, m.sequence)
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
        return r, []
    if any(epoch > e.epoch for epoch in r.routine):  # a closed epoch's straggler: it would undo what came after it
        return r, [Effect("alarm", r.tenant, "late-epoch")]
    if e.epoch > state.epoch:  # the opening of its epoch lies before it in this lane
        return _frozen(r, r.routine_sequence + 1, "epoch-not-opened")
    if state.fork is not None:
        return _frozen(r, m.sequence, "forked-ledger")
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
        after = RULES[type(decree)](r, decree, e, state.region, m.now_ns)
    except Refused as no:  # it counts, it changes nothing, and we say so
        refusal = no.code
        effects.append(Effect("alarm", r.tenant, no.code))
    after = replace(
        after,
        routine={**r.routine, e.epoch: mark.add(e.counter)},
        head_routine=e.id,
        routine_sequence=m.sequence if r.frozen_at is None else r.routine_sequence,  # what was skipped lies before it
        refusal=refusal,
    )
    if verdict(after) in CLOSED and verdict(r) not in CLOSED:
        effects.append(Effect("close", r.tenant, verdict(after)))
    settle = after.root is not r.root or verdict(after) != verdict(r) or not isinstance(decree, _QUIET)
    effects += [Effect("commit")]
    if after.leases is not r.leases:
        effects.append(Effect("lease", r.tenant))
    if settle:
        effects.append(Effect("provision", r.tenant))
    return after, [*effects, Effect("ack", r.tenant, "routine")]


def _frozen(r: Residence, at: int, why: str) -> tuple[Residence, list[Effect]]:
    """Leave the residence as it is until the decree at this sequence is read again, and can be taken."""
    if r.frozen_at is not None:
        return r, []
    return replace(r, frozen_at=at), [Effect("alarm", r.tenant, why)]


#: Routine decrees that need nothing of the keys: committed is obeyed.
_QUIET: Final = (d.TenantConfigurationUpdated, d.RevocationConfirmed, d.ApproversSet)


def _critical(state: State, r: Residence, e: env.Envelope, m: Arrived) -> tuple[Residence, list[Effect]]:
    mark = r.critical.get(e.epoch, Mark())
    missing = m.source == "critical" and e.counter > mark.add(e.counter).floor
    if e.counter in mark:
        if missing and not r.missing_critical:  # it came on lane0; the mirror lacks what lies before it
            closed = replace(r, missing_critical=True)
            return closed, [
                Effect("alarm", r.tenant, "critical-gap"),
                Effect("close", r.tenant, verdict(closed)),
                Effect("commit"),
            ]
        return r, _affirmed(r)[:-1] if m.source == "lane0" else []  # repeated: governance lacks our ack
    after = replace(
        r,
        critical={**r.critical, e.epoch: mark.add(e.counter)},
        head_critical=(*r.head_critical, e.id)[-16:],
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
        cut = [w.enrolment for w in after.workloads.values() if w.enrolment in gone or w.registration in gone]
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


def _rotated(state: State, x: d.SigningKeyRotated, sequence: int) -> State:
    """Take a new key of governance in. A retired one is retired for ever, in whatever order the two arrive."""
    keys, retired = dict(state.keys), dict(state.retired)
    for key in x.retires:
        public, _ = keys.pop(key, (retired.get(key, (b"", 0))[0], ""))
        retired[key] = (public, retired[key][1] if key in retired else sequence)
    if x.key in retired:
        retired[x.key] = (x.public_key, retired[x.key][1])
    else:
        keys[x.key] = (x.public_key, "cmk")
    return replace(state, keys=keys, retired=retired)


def _contiguous(r: Residence, e: env.Envelope, mark: Mark) -> bool:
    """Whether with this decree nothing is missing below what we hold, in any epoch."""
    others = all(not m.above for epoch, m in r.critical.items() if epoch != e.epoch)
    return others and not mark.add(e.counter).above


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
        env.verify(e, b.subject, book)
        beat = reports.read_beat(e.data) if e.tag == reports.BEAT_TAG else None
    except ContractError:
        return _drop(state, "bad-beat")
    if beat is None or beat.region != state.region or b.subject != subjects.beat(state.region):
        return _drop(state, "bad-beat")
    sent = max((state.nonces[n] for n in beat.nonces if n in state.nonces), default=None)
    if sent is None:  # somebody else's, or of another boot: worth nothing to us
        return state, []
    if beat.ledger_epoch != state.epoch:
        return _drop(state, "beat-of-another-epoch")
    if state.waiting_beat is None or state.waiting_beat[2] <= sent:
        state = replace(state, waiting_beat=(beat.head.sequence, beat.head.hash, sent))
    known = state.recent_heads.get(beat.head.sequence)
    if known is not None and known.hex() != beat.head.hash:
        return replace(state, waiting_beat=None, forked=True), [Effect("alarm", detail="forked-head")]
    granted = _grant(state)
    if granted is None:
        return state, []
    return granted, [Effect("commit", rows=(rows.node_row(granted),)), Effect("lease")]


def _grant(state: State) -> State | None:
    """Honour the waiting beat once its head is applied; None while there is nothing to decide."""
    if state.waiting_beat is None or state.waiting_beat[0] > state.cursor_critical:
        return None
    sequence, head, sent = state.waiting_beat
    state = replace(state, waiting_beat=None)
    if state.recent_heads.get(sequence, b"").hex() != head:
        return replace(state, forked=state.forked or sequence in state.recent_heads)  # not our history: renews nothing
    if state.beat is not None and state.beat[0] == state.boot_id and state.beat[1] >= sent:
        return state
    nonces = {n: at for n, at in state.nonces.items() if at > sent}
    return replace(state, beat=(state.boot_id, sent), nonces=nonces, forked=False)


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


def _again(state: State, a: ReadAgain) -> Outcome:
    """Move a lane's cursor back. Marks stay: what we have is a duplicate, what we lack is taken."""
    if a.lane == "critical":
        fresh = bytes(32)
        after = replace(state, cursor_critical=0, chain=fresh, recent_heads={0: fresh}, waiting_beat=None, forked=False)
        return after, [Effect("commit", rows=(rows.node_row(after),))]
    frozen = {t: r for t, r in state.residences.items() if r.frozen_at is not None}
    if not frozen:
        return state, []
    first = min(r.frozen_at for r in frozen.values() if r.frozen_at is not None)
    thawed = {t: replace(r, frozen_at=None) for t, r in frozen.items()}
    after = replace(
        state, residences={**state.residences, **thawed}, cursor_routine=min(state.cursor_routine, first - 1)
    )
    return after, rows.committed(state, after, [])


_STEPS: Final[dict[type, Callable[[State, Any], Outcome]]] = {
    Arrived: _arrived,
    BeatArrived: _beat,
    NonceSent: _nonce,
    RootObserved: _root,
    BroughtAbout: _brought_about,
    MirrorMeasured: _measured,
    ForkSeen: _fork,
    ReadAgain: _again,
}
