"""A ledger written by hand for tests: sealed envelopes with right counters, no server. Shared by several rooms' tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import msgspec

from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import seal, statements, subjects
from openkcm.contract.subjects import DecreeSubject

TRUST = seal.Signer(b"t" * 32)
CMK = seal.Signer(b"c" * 32)
ANNA = seal.Signer(b"a" * 32)
BERT = seal.Signer(b"b" * 32)
ROGUE = seal.Signer(b"x" * 32)
EU, US = "eu-frankfurt", "us-virginia"
SOMEBODY = env.Actor(issuer="https://idp.test", subject="1f0c-anna")


class Stored(msgspec.Struct, frozen=True):
    sequence: int
    subject: str
    body: bytes
    id: str


class Ledger:
    """Seals decrees one after another, as governance would."""

    def __init__(self, *, opened: bool = True) -> None:
        self.messages: list[Stored] = []
        self.counters: dict[tuple[str, int], int] = {}
        if opened:
            self.add(subjects.ledger_aggregate(), d.LedgerOpened(epoch=1, first_sequence=1), signer=TRUST)
            rotated = d.SigningKeyRotated(key=CMK.key_id, public_key=CMK.public_key)
            self.add(subjects.ledger_aggregate(), rotated, signer=TRUST)

    def add(
        self,
        where: DecreeSubject,
        decree: d.Decree,
        *,
        signer: seal.Signer = CMK,
        epoch: int = 1,
        counter: int | None = None,
        lane: str | None = None,
    ) -> env.Envelope:
        on = where.on(lane or d.lane_of(decree))  # type: ignore[arg-type]
        subject = str(on)
        number = counter or self.counters.get((subject, epoch), 0) + 1
        self.counters[subject, epoch] = max(number, self.counters.get((subject, epoch), 0))
        e = env.seal_envelope(
            env.Envelope(
                id=str(uuid.uuid4()), tag=d.tag_of(decree), subject=subject, counter=number, epoch=epoch, actor=SOMEBODY,
                correlation=str(uuid.uuid4()), at_ms=1_700_000_000_000 + len(self.messages), time_source="test",
                priority=env.PRIORITY_CRITICAL if on.lane == "critical" else env.PRIORITY_ROUTINE,
                key=signer.key_id, data=msgspec.Raw(msgspec.json.encode(decree)),
            ),
            signer,
        )  # fmt: skip
        self.messages.append(Stored(len(self.messages) + 1, subject, env.encode(e), e.id))
        return e


def signature(person: str, signer: seal.Signer, statement: statements.Statement) -> statements.Signature:
    return statements.Signature(person=person, signature=signer.sign(statement.signed_bytes()))


def approvers(people: Iterable[tuple[str, seal.Signer]] = (("anna", ANNA), ("bert", BERT))) -> d.ApproversSet:
    return d.ApproversSet(
        version=1, approvers=tuple(d.Approver(person=p, public_key=s.public_key) for p, s in sorted(people))
    )


def restored(
    region: str, tenant: str, lifts: Iterable[statements.Lift], signers: Iterable[tuple[str, seal.Signer]]
) -> d.AccessRestored:
    words = statements.restore_statement(tenant, region, "approval-1", lifts, 1)
    return d.AccessRestored(
        lifts=tuple(sorted(lifts)), approval="approval-1", approvers_version=1,
        signatures=tuple(signature(p, s, words) for p, s in signers),
    )  # fmt: skip
