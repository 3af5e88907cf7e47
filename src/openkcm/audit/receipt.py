"""A receipt: one revocation as a document that proves itself, to file or to print. Pure; opens nothing.

It holds stored events byte for byte: the trust events, the approvers, the revocation, its confirmation with each node's
sealed ack, and the restore if it was lifted; with inclusion proofs under signed checkpoints. `check` needs the document
and the trust root's public key, nothing else:

1. every event is sealed by a key in force, at its place, in order;
2. the confirmation holds each node's own sealed word, a restore two people's signatures (`authority` finds nothing);
3. every event is a leaf under a checkpoint that governance signed;
4. what is written for people is what the events say: it is made anew from them and compared;
5. a page is the document's own: it is made anew and compared byte for byte.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from openkcm.audit.account import Account
from openkcm.audit.asof import CLOCK
from openkcm.audit.authority import Authority, obedience
from openkcm.audit.export import proof_of
from openkcm.audit.page import page_of, read_page
from openkcm.audit.records import utc
from openkcm.audit.trees import Proof, check_signed
from openkcm.audit.verify import AuditError, Event, TrustedLedger
from openkcm.contract import checkpoint as cp
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import merkle, reports, subjects
from openkcm.contract.errors import ContractError
from openkcm.projector import Reader

__all__ = ["BadReceipt", "Checked", "check", "make"]

FORMAT: Final = "openkcm-receipt/1"
KINDS: Final = ("ledger", "tenant", "approval", "residence")


class NoReceipt(AuditError):
    """No such revocation."""


class BadReceipt(AuditError):
    """The document does not prove what it says. The message says what."""


class _Stored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sequence: int
    subject: str
    id: str
    tag: str
    original: bytes


class _Receipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: str
    ledger: str
    made_at: str
    clock: str
    trust_root: bytes
    revocation: str
    summary: dict[str, Any]
    events: tuple[_Stored, ...]
    checkpoints: tuple[str, ...]
    proofs: tuple[Proof, ...]
    outside: dict[str, Any]


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a receipt was found to prove."""

    summary: dict[str, Any]
    events: int
    proven: int
    ledger: str
    trust_root: str
    outside: dict[str, Any]


def make(
    replay: Reader, trust_root: bytes, checkpoints: Mapping[tuple[str, int], cp.Note], revocation: str, *,
    made_at: str, handed_out: list[dict[str, Any]] | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the receipt of a revocation.

    Args:
        replay: A verified ledger, folded.
        revocation: The event's id.
        handed_out: What nodes reported of KMIP Get for this residence, as governance counted it; None: not asked.

    Raises:
        NoReceipt: There is no such revocation.
    """
    found = replay.rows("SELECT tenant, region FROM revocation WHERE event = ?", (revocation,))
    if not found:
        raise NoReceipt(f"the ledger holds no revocation {revocation}")
    stored = _excerpt(replay, revocation, *found[0])
    events = _verified(stored, trust_root, Authority())
    proofs = [proof_of(replay, s.sequence, s.subject, checkpoints) for s in stored]
    used = {(p.tree, p.epoch) for p in proofs if p is not None}
    document: dict[str, Any] = msgspec.to_builtins(
        {
            "format": FORMAT, "ledger": cp.ledger_name(trust_root), "made_at": made_at, "clock": CLOCK,
            "trust_root": trust_root, "revocation": revocation, "summary": _summary(events, revocation),
            "events": stored, "checkpoints": [str(checkpoints[key]) for key in sorted(used)],
            "proofs": [p for p in proofs if p is not None], "outside": _outside(handed_out),
        }
    )  # fmt: skip
    return document


def check(raw: bytes, trust_root: bytes | None = None) -> Checked:
    """Check a receipt, as JSON or as its page.

    Args:
        trust_root: The pinned public key; None believes the one in the document, whose fingerprint is to be compared.

    Raises:
        BadReceipt: It does not prove what it says.
    """
    page = raw.lstrip().startswith(b"<")
    try:
        document = msgspec.json.decode(read_page(raw) if page else raw)
        receipt = msgspec.convert(document, _Receipt)
    except (msgspec.MsgspecError, ValueError) as bad:
        raise BadReceipt(f"not a receipt: {bad}") from bad
    if receipt.format != FORMAT:
        raise BadReceipt(f"of format {receipt.format!r}: use a newer version to check it")
    root = trust_root or receipt.trust_root
    if (root, receipt.ledger) != (receipt.trust_root, cp.ledger_name(root)):
        raise BadReceipt("made for another trust root than the pinned one")
    authority = Authority()
    events = _verified(receipt.events, root, authority)  # (1)
    for finding in authority.findings:  # (2)
        raise BadReceipt(f"sequence {finding.sequence}: {finding.tag}: {finding.why}")
    proven = _check_proofs(receipt, events)  # (3)
    if msgspec.json.encode(_summary(events, receipt.revocation)) != msgspec.json.encode(receipt.summary):  # (4)
        raise BadReceipt("the summary is not what the events say")
    if page and page_of(document) != raw:  # (5)
        raise BadReceipt("the page is not the one of the document in it")
    return Checked(
        summary=receipt.summary, events=len(events), proven=proven, ledger=receipt.ledger,
        trust_root=base64.b64encode(root).decode(), outside=receipt.outside,
    )  # fmt: skip


def _excerpt(replay: Reader, revocation: str, tenant: str, region: str) -> list[_Stored]:
    """The events that the receipt needs, in the ledger's order."""
    rows = replay.rows(
        """
        SELECT e.sequence, e.subject, e.id, e.tag, e.body FROM event AS e
        LEFT JOIN lifted AS l ON l.event = :r
        WHERE (e.tenant = '_' AND e.tag NOT LIKE 'AccessDenied.%')
        OR e.id = :r
        OR (e.tenant = :t AND e.region = :g AND e.tag LIKE 'ApproversSet.%')
        OR (e.tag LIKE 'RevocationConfirmed.%' AND e.tenant = :t AND e.region = :g)
        OR (e.tag LIKE 'AccessRestored.%' AND e.tenant = :t AND e.region = :g)
        OR (e.tag LIKE 'Approval%' AND e.kind = 'approval' AND e.tenant = :t
            AND e.subject LIKE 'kcm.decree.global.' || :t || '.routine.approval.' || l.approval)
        ORDER BY e.sequence""",
        {"r": revocation, "t": tenant, "g": region},
    )
    kept = []
    for sequence, subject, id_, tag, body in rows:
        decree = d.read(tag, env.decode(body).data)
        about = True
        if isinstance(decree, d.RevocationConfirmed):
            about = decree.revocation == revocation
        elif isinstance(decree, d.AccessRestored):  # one that was refused is no part of this story
            lifted = replay.rows("SELECT approval FROM lifted WHERE event = ?", (revocation,))
            about = [decree.approval] == [a for (a,) in lifted] and revocation in {x.event for x in decree.lifts}
        if about:
            kept.append(_Stored(sequence=sequence, subject=subject, id=id_, tag=tag, original=body))
    return kept


def _verified(stored: Iterable[_Stored], trust_root: bytes, authority: Authority) -> list[Event]:
    trusted = TrustedLedger(trust_root, whole=False, skips=KINDS)
    events = []
    for one in stored:
        try:
            event = trusted.add(one.sequence, one.subject, one.original, one.id)
        except AuditError as bad:
            raise BadReceipt(str(bad)) from bad
        if event.envelope.tag != one.tag:
            raise BadReceipt(f"sequence {one.sequence}: {one.tag} is written over {event.envelope.tag}")
        authority.judge(event)
        events.append(event)
    return events


def _check_proofs(receipt: _Receipt, events: list[Event]) -> int:
    keys = [e.decree.public_key for e in events if isinstance(e.decree, d.SigningKeyRotated)]
    notes = {}
    try:
        for text in receipt.checkpoints:
            note = cp.parse_note(text)
            point = note.checkpoint()
            if point.origin != cp.origin_of(receipt.ledger, point.tree, point.epoch):
                raise BadReceipt(f"a checkpoint of another ledger: {point.origin}")
            check_signed(note, keys)
            notes[point.tree, point.epoch] = point
        for proof, stored in zip(receipt.proofs, receipt.events, strict=False):
            point = notes[proof.tree, proof.epoch]
            place = (stored.sequence, subjects.tree_of(stored.subject), cp.epoch_of(stored.sequence))
            if place != (proof.sequence, proof.tree, proof.epoch):
                raise BadReceipt(f"the proof of {proof.sequence} stands at the place of {stored.sequence}")
            leaf = merkle.ledger_leaf(proof.epoch, stored.sequence, stored.subject, stored.original)
            merkle.verify_inclusion(leaf, proof.index, point.size, proof.path, point.root)
    except (ContractError, AuditError, KeyError) as bad:
        raise BadReceipt(f"the proofs do not hold: {bad}") from bad
    if len(receipt.proofs) != len(receipt.events):
        raise BadReceipt(f"{len(receipt.events)} events, {len(receipt.proofs)} proofs: make the receipt again, once a "
                         "checkpoint covers them")  # fmt: skip
    return len(receipt.proofs)


def _summary(events: list[Event], revocation: str) -> dict[str, Any]:
    """What the events say, for people. All of it follows from them."""
    account = Account()
    for event in events:
        account.take(event)
    order = next((o for o in account.orders() if o.event == revocation), None)
    revoked = next((e for e in events if e.envelope.id == revocation), None)
    if order is None or revoked is None or not isinstance(revoked.decree, d.AccessRevoked):
        raise BadReceipt(f"it does not hold revocation {revocation}")
    confirmed = next((e for e in events if isinstance(e.decree, d.RevocationConfirmed)), None)
    lifted = next((e for e in events if isinstance(e.decree, d.AccessRestored)), None)
    e = revoked.envelope
    return {
        "tenant": order.tenant, "region": order.region, "event": revocation, "sequence": order.sequence,
        "epoch": order.epoch, "fence": e.counter, "reason": revoked.decree.reason, "ordered_at": utc(e.at_ms),
        "ordered_by": {"issuer": e.actor.issuer, "subject": e.actor.subject}, "outcome": order.outcome,
        "nodes": [] if confirmed is None else _words(confirmed, e.at_ms), "silent": list(order.silent),
        "confirmed": None if confirmed is None else
        {"sequence": confirmed.sequence, "at": utc(confirmed.envelope.at_ms), "event": confirmed.envelope.id},
        "lifted": None if lifted is None else
        {"sequence": lifted.sequence, "at": utc(lifted.envelope.at_ms), "event": lifted.envelope.id,
         "signed_by": [s.person for s in getattr(lifted.decree, "signatures", ())]},
    }  # fmt: skip


def _words(confirmed: Event, ordered_ms: int) -> list[dict[str, Any]]:
    decree = confirmed.decree
    assert isinstance(decree, d.RevocationConfirmed)
    said = []
    for raw, word in zip(decree.acks, obedience(decree), strict=True):
        sealed = env.decode(bytes(raw))
        ack = reports.read(sealed.tag, sealed.data)
        assert isinstance(ack, reports.SyncAck)
        said.append({
            "node": word.node, "state": word.state, "acked_at": utc(word.at_ms), "after_ms": word.at_ms - ordered_ms,
            "floor": ack.floor, "closed_boottime_ns": ack.closed_boottime_ns, "boot_id": ack.boot_id,
            "key": sealed.key,
        })  # fmt: skip
    return sorted(said, key=lambda one: one["node"])


def _outside(handed_out: list[dict[str, Any]] | None) -> dict[str, Any]:
    """What no revocation can reach, in plain words."""
    return {
        "source": "nodes' sealed reports HandedOut, counted by governance; they are not in the ledger",
        "handed_out": handed_out,
        "words": [
            "Keys that a workload was given by KMIP Get before the revocation are in that workload's hands.",
            "Data that a workload had decrypted before the revocation is outside of every key's reach.",
        ],
    }
