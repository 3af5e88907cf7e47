"""A press for sealed messages: plays governance, the trust root and the tenant's people in tests of whoever reads them."""

from __future__ import annotations

import hashlib
import itertools
import uuid

import msgspec

from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import reports, seal, statements, subjects

_ids = itertools.count(1)


def seed(name: str) -> seal.Signer:
    return seal.Signer(hashlib.sha256(name.encode()).digest())


def new_id(prefix: str = "id") -> str:
    return f"{prefix}-{next(_ids):08d}"


class Press:
    """Seals decrees with the right counters unless told otherwise."""

    def __init__(self, region: str = "eu-frankfurt", *, epoch: int = 1) -> None:
        self.region, self.epoch = region, epoch
        self.root, self.cmk = seed("trust root"), seed("cmk")
        self.people = {"p-ann": seed("ann"), "p-bob": seed("bob")}
        self.counters: dict[str, int] = {}
        self.sequence = 0
        self.sets: dict[str, tuple[int, str | None]] = {}

    def seal(
        self,
        decree: d.Decree,
        subject: str,
        *,
        signer=None,
        counter=None,
        epoch=None,
        event=None,
        raw=None,
        tag=None,
        **changed,
    ):
        tag = tag or d.tag_of(decree)
        if counter is None:
            counter = self.counters[subject] = self.counters.get(subject, 0) + 1
        lane = subject.split(".")[4] if subject.startswith("kcm.decree") else "routine"
        e = env.Envelope(
            id=event or str(uuid.uuid5(uuid.NAMESPACE_URL, f"{subject}/{next(_ids)}")),
            tag=tag,
            subject=subject,
            counter=counter,
            epoch=epoch or self.epoch,
            actor=env.Actor(issuer="https://idp.example", subject="p-ann"),
            correlation=str(uuid.UUID(int=next(_ids))),
            priority=env.PRIORITY_CRITICAL if lane == "critical" else env.PRIORITY_ROUTINE,
            at_ms=0,
            time_source="test",
            key="0" * 32,
            data=msgspec.Raw(raw if raw is not None else msgspec.json.encode(decree)),
        )
        e = msgspec.structs.replace(e, **changed)
        root = isinstance(decree, tuple(d.TRUST_ROOT_DECREES)) if decree is not None else False
        return env.seal_envelope(e, signer or (self.root if root else self.cmk))

    def residence(self, tenant: str, decree: d.Decree, **how):
        lane = how.pop("lane", None) or (d.lane_of(decree) if decree is not None else "routine")
        return self.seal(decree, str(subjects.residence_aggregate(self.region, tenant, lane)), **how)

    def ledger(self, decree: d.Decree, **how):
        return self.seal(decree, str(subjects.ledger_aggregate(d.lane_of(decree))), **how)

    def opening(self, *nodes: tuple[str, str]):
        yield self.ledger(d.SigningKeyRotated(key=self.cmk.key_id, public_key=self.cmk.public_key))
        yield self.ledger(d.LedgerOpened(epoch=self.epoch, first_sequence=1))
        for node, region in nodes:
            s = seed(node)
            yield self.ledger(d.NodeEnrolled(node=node, region=region, key=s.key_id, public_key=s.public_key))

    def approvers(
        self,
        tenant: str,
        people: dict[str, seal.Signer] | None = None,
        *,
        signed_by=(),
        previous="own",
        version=None,
        quorum=2,
        **how,
    ):
        people = people or self.people
        at, known = self.sets.get(tenant, (0, None))
        previous = known if previous == "own" else previous
        version = version or at + 1
        pairs = [(p, s.public_key) for p, s in people.items()]
        own = statements.approvers_hash(tenant, self.region, version, pairs, previous, quorum)
        words = statements.approvers_statement(tenant, self.region, own)
        decree = d.ApproversSet(
            version=version,
            previous=previous,
            approvers=tuple(d.Approver(person=p, public_key=k) for p, k in pairs),
            quorum=quorum,
            signatures=sign(words, {p: self.people[p] for p in signed_by}),
        )
        self.sets[tenant] = version, own
        return self.residence(tenant, decree, **how)

    def onboarded(self, tenant: str, *, lease_s: int = 60):
        yield self.approvers(tenant)
        yield self.residence(tenant, d.TenantConfigurationUpdated(lease_s=lease_s))
        yield self.residence(tenant, d.RootKeyLinked(root=d.RootReference(provider="file", ref="/keys/l1")))
        yield self.residence(tenant, d.SystemRegistered(system="payments", registration=f"reg-{tenant}-payments"))
        yield self.residence(
            tenant,
            d.WorkloadEnrolled(
                workload="app",
                system="payments",
                registration=f"reg-{tenant}-payments",
                enrolment=f"enr-{tenant}-app",
                fingerprint=hashlib.sha256(tenant.encode()).hexdigest(),
            ),
        )

    def restore(
        self, tenant: str, *revocations: env.Envelope, people=None, version=None, region=None, lifts=None, **how
    ):
        approval = new_id("approval")
        lifts = lifts or tuple(statements.Lift(epoch=r.epoch, fence=r.counter, event=r.id) for r in revocations)
        version = version or self.sets[tenant][0]
        words = statements.restore_statement(tenant, region or self.region, approval, lifts, version)
        decree = d.AccessRestored(
            lifts=lifts,
            approval=approval,
            approvers_version=version,
            signatures=sign(words, self.people if people is None else people),
        )
        return self.residence(tenant, decree, **how)

    def beat(self, sequence: int, chain: bytes, *nonces: str, signer=None, epoch=None, region=None, subject=None,
             withheld=()):  # fmt: skip
        data = reports.Beat(
            region=region or self.region,
            ledger_epoch=epoch or self.epoch,
            nonces=nonces,
            head=reports.Head(sequence=sequence, hash=chain.hex()),
        )
        if withheld:
            data = reports.Withholding(**msgspec.structs.asdict(data), withheld=withheld)
        where, tag = subject or subjects.beat(self.region), reports.WITHHOLDING_TAG if withheld else reports.BEAT_TAG
        return self.seal(None, where, raw=msgspec.json.encode(data), tag=tag, signer=signer)


def sign(words: statements.Statement, people) -> tuple[statements.Signature, ...]:
    return tuple(
        statements.Signature(person=p, signature=s.sign(words.signed_bytes())) for p, s in sorted(people.items())
    )
