"""A ledger made in memory, sealed by real keys: what the hub would hold. For tests that then break it."""

import hashlib
import uuid

import msgspec

from openkcm.contract import decrees as d
from openkcm.contract import envelope, reports, statements, subjects
from openkcm.contract.envelope import PRIORITY_CRITICAL, PRIORITY_ROUTINE, Actor, Envelope
from openkcm.contract.seal import Signer

ROOT, CMK, NODE, ANNA, BEN = (
    Signer(hashlib.sha256(name.encode()).digest()) for name in ("root", "cmk", "node", "a", "b")
)
REGION, TENANT, NODE_NAME = "eu-frankfurt", "acme", "eu-frankfurt-1"
PEOPLE = {"anna": ANNA, "ben": BEN}


class SealedLedger:
    """Entries as (sequence, subject, body, id), appended with the right counter, epoch, seal."""

    def __init__(self):
        self.entries = []
        self.counters = {}
        self.epoch = 1

    def append(
        self, subject, decree, *, signer=None, counter=None, epoch=None, priority=None, event=None, sequence=None
    ):
        subject = str(subject)
        by_root = type(decree) in d.TRUST_ROOT_DECREES
        epoch = self.epoch if epoch is None else epoch
        count = self.counters.get((epoch, subject), 0) + 1
        self.counters[epoch, subject] = count
        lane = PRIORITY_CRITICAL if d.lane_of(decree) == "critical" else PRIORITY_ROUTINE
        id_ = event or str(uuid.UUID(int=len(self.entries) + 1))
        sealed = envelope.seal_envelope(
            Envelope(
                id=id_, tag=d.tag_of(decree), subject=subject, counter=counter or count, epoch=epoch,
                actor=Actor(issuer="https://idp.test", subject="anna"), correlation=id_, priority=priority or lane,
                at_ms=1_000_000 + 10 * len(self.entries), time_source="system", key="0" * 32,
                data=msgspec.Raw(msgspec.json.encode(decree)),
            ),
            signer or (ROOT if by_root else CMK),
        )  # fmt: skip
        last = self.entries[-1][0] if self.entries else 0
        self.entries.append((sequence or last + 1, subject, envelope.encode(sealed), id_))
        return sealed

    def ledger(self, decree, **how):
        return self.append(subjects.ledger_aggregate(d.lane_of(decree)), decree, **how)

    def residence(self, decree, **how):
        return self.append(subjects.residence_aggregate(REGION, TENANT, d.lane_of(decree)), decree, **how)

    def tenant(self, decree, **how):
        return self.append(subjects.tenant_aggregate(TENANT), decree, **how)

    def approval(self, id_, decree, **how):
        return self.append(subjects.approval_aggregate(TENANT, id_), decree, **how)

    def open(self):
        self.ledger(d.LedgerOpened(epoch=1, first_sequence=1))
        self.ledger(d.SigningKeyRotated(key=CMK.key_id, public_key=CMK.public_key))
        self.ledger(d.NodeEnrolled(node=NODE_NAME, region=REGION, key=NODE.key_id, public_key=NODE.public_key))
        self.tenant(
            d.TenantRegistered(
                people=tuple(
                    d.Person(person=name, roles=("approver",), approval_key=key.public_key)
                    for name, key in PEOPLE.items()
                )
            )
        )
        self.residence(
            d.ApproversSet(
                version=1, approvers=tuple(d.Approver(person=n, public_key=k.public_key) for n, k in PEOPLE.items())
            )
        )
        self.residence(d.TenantConfigurationUpdated())
        return self

    def ack(self, floor, *, signer=NODE, node=NODE_NAME, tenant=TENANT, epoch=1):
        report = reports.SyncAck(
            tenant=tenant, lane="critical", ledger_epoch=epoch, floor=floor, state="revoked",
            boot_id="b", closed_boottime_ns=5, lease_s=86_400,
        )  # fmt: skip
        id_ = str(uuid.UUID(int=10_000 + len(self.entries)))
        sealed = envelope.seal_envelope(
            Envelope(
                id=id_, tag="SyncAck.1", subject=str(subjects.ReportSubject(REGION, node, tenant, "sync-ack")), counter=1,
                epoch=epoch, actor=Actor(issuer="node", subject=node), correlation=id_, time_source="system",
                at_ms=1_000_000 + 10 * len(self.entries), key="0" * 32, data=msgspec.Raw(msgspec.json.encode(report)),
            ),
            signer,
        )  # fmt: skip
        return msgspec.Raw(envelope.encode(sealed))

    def revoke(self):
        sealed = self.residence(d.AccessRevoked(reason="test"))
        return statements.Lift(epoch=sealed.epoch, fence=sealed.counter, event=sealed.id)

    def confirm(self, lift, acks, nodes=(NODE_NAME,), outcome="acked"):
        return self.residence(
            d.RevocationConfirmed(revocation=lift.event, fence=lift.fence, outcome=outcome, nodes=nodes, acks=acks)
        )

    def restore(
        self, lift, signers=("anna", "ben"), *, approval="approval-0001", granted_by="ben", version=1, words=None
    ):
        statement = words or statements.restore_statement(TENANT, REGION, approval, [lift], version)
        signed = {
            name: statements.Signature(person=name, signature=PEOPLE[name].sign(statement.signed_bytes()))
            for name in PEOPLE
        }
        if granted_by is not None:
            self.approval(
                approval,
                d.ApprovalRequested(
                    command="RestoreAccess", region=REGION, arguments=statement.arguments, statement=statement.sha256(),
                    proposer=signed["anna"], fence_seen=lift.fence, expires_at_ms=2_000_000,
                ),
            )  # fmt: skip
            self.approval(approval, d.ApprovalGranted(approver=signed[granted_by]))
        return self.residence(
            d.AccessRestored(
                lifts=(lift,),
                approval=approval,
                approvers_version=version,
                signatures=tuple(signed[n] for n in signers),
            )
        )


def whole():
    """A short life: opened, revoked, confirmed, restored."""
    ledger = SealedLedger().open()
    lift = ledger.revoke()
    ledger.confirm(lift, (ledger.ack(lift.fence),))
    ledger.restore(lift)
    return ledger
