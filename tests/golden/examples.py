"""One example of every tag, for the golden files. Pure. A new tag gets a line here; `just golden` writes its file.

Never change an example whose file exists: its bytes are what ledgers out there hold. A new shape is a new tag.
"""

import hashlib
from typing import Any, Final

import msgspec

from openkcm.contract import decrees as d
from openkcm.contract import reports as r
from openkcm.contract import subjects
from openkcm.contract.envelope import PRIORITY_CRITICAL, PRIORITY_ROUTINE, Actor, Envelope, encode, seal_envelope
from openkcm.contract.seal import Signer
from openkcm.contract.statements import Lift, Signature

SIGNER: Final = Signer(hashlib.sha256(b"the golden files' seal, worth nothing elsewhere").digest())
REGION: Final = "eu-frankfurt"
NODE: Final = "eu-frankfurt-1"
TENANT: Final = "acme"
EVENT: Final = "11111111-2222-8333-8444-555555555555"
NONCE: Final = "00112233445566778899aabbccddeeff"
BOOT: Final = "0f0e0d0c-0b0a-4908-8706-050403020100"
KEY: Final = Signer(bytes(32))
SHA: Final = hashlib.sha256(b"example").hexdigest()
ANNA: Final = Signature(person="f3b9a6d2-anna", signature=bytes(range(64)))
BEN: Final = Signature(person="f3b9a6d2-ben", signature=bytes(range(64, 128)))
BOTH: Final = (ANNA, BEN)

DECREES: Final[tuple[d.Decree, ...]] = (
    d.LedgerOpened(epoch=1, first_sequence=1 << 40, closes=("epoch 0: nothing lost",)),
    d.SigningKeyRotated(key=KEY.key_id, public_key=KEY.public_key, retires=("0123456789abcdef0123456789abcdef",)),
    d.NodeEnrolled(node=NODE, region=REGION, key=KEY.key_id, public_key=KEY.public_key),
    d.NodeRemoved(node=NODE, region=REGION),
    d.AccessDenied(person="f3b9a6d2-anna", action="POST /tenants", reason="missing-role", tenant=TENANT, region=REGION),
    d.TenantRegistered(
        people=(
            d.Person(person=ANNA.person, roles=("tenant-admin", "kill-switch"), approval_key=KEY.public_key),
            d.Person(person=BEN.person, roles=("approver",)),
        )
    ),
    d.TenantRegionsAssigned(regions=(REGION, "us-virginia"), approval="approval-0001", signatures=BOTH),
    d.RoleGranted(
        person=BEN.person, roles=("auditor",), approval_key=KEY.public_key, approval="approval-0001", signatures=BOTH
    ),
    d.RoleWithdrawn(person=BEN.person, roles=("auditor",), approval="approval-0001", signatures=BOTH),
    d.ApprovalPolicyChanged(quorum=3, approval="approval-0001", signatures=BOTH),
    d.TenantTerminationRequested(regions=(REGION, "us-virginia"), reason="contract-ended"),
    d.TenantTerminated(
        regions=(REGION,), nodes=(NODE,), by_lease=("eu-frankfurt-2",), acks=(msgspec.Raw(b'{"an":"envelope"}'),)
    ),
    d.ApprovalRequested(
        command="RestoreAccess",
        region=REGION,
        arguments=(("lift", f"1:3:{EVENT}"), ("approvers", "1")),
        statement=SHA,
        proposer=ANNA,
        fence_seen=3,
        expires_at_ms=1_750_000_600_000,
    ),
    d.ApprovalGranted(approver=BEN),
    d.ApprovalRejected(person=BEN.person),
    d.ApprovalWithdrawn(reason="voided-by-revocation"),
    d.ApprovalExpired(),
    d.ApprovalExecuted(event=EVENT),
    d.TenantConfigurationUpdated(
        lease_s=172_800,
        hand_out="wrapped-only",
        max_objects=500,
        labels={"tier": "gold"},
        approval="approval-0001",
        signatures=BOTH,
    ),
    d.ApproversSet(
        version=2,
        approvers=(
            d.Approver(person=ANNA.person, public_key=KEY.public_key),
            d.Approver(person=BEN.person, public_key=SIGNER.public_key),
        ),
        previous=SHA,
        signatures=BOTH,
    ),
    d.RootKeyLinked(
        root=d.RootReference(
            provider="aws", ref="arn:aws:kms:eu-central-1:111122223333:alias/acme", credential="acme-external-id"
        ),
        approval="approval-0001",
        signatures=BOTH,
    ),
    d.SystemRegistered(system="payments", registration="reg-00000001", hand_out="wrapped-only"),
    d.SystemConfigured(registration="reg-00000001", hand_out="never"),
    d.WorkloadAuthorityTrusted(
        authority="aut-00000001", certificate=bytes(range(128)), approval="approval-0001", signatures=BOTH
    ),
    d.WorkloadEnrolled(
        workload="payments",
        system="payments",
        registration="reg-00000001",
        enrolment="enr-00000001",
        fingerprint=SHA,
        spiffe="spiffe://acme.example/payments",
        authority="aut-00000001",
    ),
    d.RotationOrdered(level="L3", registration="reg-00000001", rotation="rot-00000001"),
    d.AccessSuspended(reason="contract-dispute"),
    d.AccessResumed(),
    d.AccessRestored(
        lifts=(Lift(epoch=1, fence=3, event=EVENT),), approval="approval-0001", approvers_version=1, signatures=BOTH
    ),
    d.RevocationConfirmed(
        revocation=EVENT, fence=3, outcome="acked", nodes=(NODE,), acks=(msgspec.Raw(b'{"an":"envelope"}'),)
    ),
    d.AccessRevoked(reason="suspected-breach"),
    d.WorkloadRemoved(enrolments=("enr-00000001",)),
    d.WorkloadAuthoritiesRemoved(authorities=("aut-00000001",)),
    d.SystemDecommissioned(registrations=("reg-00000001",)),
    d.EmergencyRotationOrdered(level="L3", registration="reg-00000001", below=4),
    d.ContextDestroyed(approval="approval-0001", approvers_version=1, signatures=BOTH),
)

REPORTS: Final[tuple[r.Report, ...]] = (
    r.SyncAck(
        tenant=TENANT, lane="critical", ledger_epoch=1, floor=3, above=(5,), head=EVENT, obeyed=(EVENT,),
        state="revoked", boot_id=BOOT, closed_boottime_ns=123_456_789, lease_s=86_400, failure=None,
    ),
    r.RotationComplete(
        tenant=TENANT, level="L3", registration="reg-00000001", rotation="rot-00000001", version=2, root_version="v1"
    ),
    r.RotationProgressed(
        tenant=TENANT, level="L3", registration="reg-00000001", version=1, children=12, released=(NODE,),
        destroyed=False,
    ),
    r.ResidenceShredded(
        tenant=TENANT, vault={"l2": 1, "l3": 2, "object": 40}, rows=43, log_truncated=True, kept=("fence", "ring")
    ),
    r.HealthCheck(
        node=NODE, region=REGION, nonce=NONCE, boot_id=BOOT, sent_boottime_ns=123_456_789, ledger_epoch=1,
        cursor=(70, 7), known_tags=("AccessRevoked.1",), workers=1, memory="memfd_secret", sealed_mappings=True,
        dropped=0, alarms=("root-unreachable acme",),
        residences=(r.Mark(tenant=TENANT, generation=9, fence=3, state="revoked", lease_left_s=86_399),),
        digest="1:0123456789abcdef0123456789abcdef",
        told=r.Told(
            first=0, of=1,
            residences=(
                r.ResidenceDigest(
                    tenant=TENANT, generation=9, fence=3, digest="1:fedcba9876543210fedcba9876543210"
                ),
            ),
        ),
        expires={"kmip": 7_776_000},
        vault=r.VaultMark(cursor=4711, digest="0123456789abcdef" * 4),
    ),
    r.RootStateObserved(tenant=TENANT, state="KeyDisabled", detail="DisabledException", root_version="v1"),
    r.WorkloadDenied(tenant=TENANT, workload="payments", reason="removed"),
    r.KeyUsage(
        tenant=TENANT, series="0a0b0c0d-0e0f-4a0b-8c0d-0e0f0a0b0c0d", number=7, since_ms=1_750_000_000_000,
        until_ms=1_750_003_600_000,
        used=(
            r.Used(registration="reg-00000001", workload="payments", object_id="obj-00000001", encrypted=7, decrypted=8),
        ),
    ),
    r.HandedOut(
        tenant=TENANT, series="0a0b0c0d-0e0f-4a0b-8c0d-0e0f0a0b0c0d", number=7,
        handed=(
            r.Handed(registration="reg-00000001", workload="payments", object_id="obj-00000001", wrapped=False,
                     times=3, first_ms=1_750_000_000_000, last_ms=1_750_000_000_100),
        ),
    ),
    r.CheckpointCosigned(
        verifier="openkcm-0123456789abcdef/eu-frankfurt-1+00000000+BAAA",
        note="openkcm-0123456789abcdef/eu-frankfurt/1\n1\nAA==\nopenkcm epoch 1 sequence 9\n\n— someone AAAAAAA=\n",
    ),
)  # fmt: skip
BEAT: Final = r.Beat(region=REGION, ledger_epoch=1, head=r.Head(sequence=7, hash=SHA), nonces=(NONCE,))
WITHHOLDING: Final = r.Withholding(
    region=REGION, ledger_epoch=1, head=r.Head(sequence=7, hash=SHA), nonces=(NONCE,), withheld=("acme", "bolt")
)
RECHECK: Final = r.Recheck(region=REGION, ledger_epoch=1, node=NODE, tenants=(TENANT,))


def _aggregate(kind: d.Kind) -> subjects.DecreeSubject:
    return {
        "ledger": subjects.ledger_aggregate(),
        "tenant": subjects.tenant_aggregate(TENANT),
        "approval": subjects.approval_aggregate(TENANT, "approval-0001"),
        "residence": subjects.residence_aggregate(REGION, TENANT),
    }[kind.aggregate].on(kind.lane)


def sealed(tag: str, subject: str, body: Any, *, critical: bool = False) -> bytes:
    """The bytes a ledger or a report stream would hold for `body`."""
    return encode(
        seal_envelope(
            Envelope(
                id=EVENT,
                tag=tag,
                subject=subject,
                counter=3,
                epoch=1,
                actor=Actor(issuer="https://login.example", subject=ANNA.person),
                correlation=EVENT,
                causation="99999999-2222-8333-8444-555555555555",
                priority=PRIORITY_CRITICAL if critical else PRIORITY_ROUTINE,
                at_ms=1_750_000_000_123,
                time_source="system",
                key=SIGNER.key_id,
                data=msgspec.Raw(msgspec.json.encode(body)),
            ),
            SIGNER,
        )
    )


def every() -> dict[str, bytes]:
    """File name below tests/golden -> bytes, for every example."""
    files: dict[str, bytes] = {}
    for decree in DECREES:
        tag, kind = d.tag_of(decree), d.DECREES[d.tag_of(decree)]
        files[f"decrees/{tag}.json"] = sealed(tag, str(_aggregate(kind)), decree, critical=kind.lane == "critical")
    for report in REPORTS:
        tag = r.tag_of(report)
        tenant = getattr(report, "tenant", "_")
        subject = subjects.ReportSubject(REGION, NODE, tenant, subjects.report_token(tag.partition(".")[0]))
        files[f"reports/{tag}.json"] = sealed(tag, str(subject), report)
    for tag, told in ((r.BEAT_TAG, BEAT), (r.WITHHOLDING_TAG, WITHHOLDING), (r.RECHECK_TAG, RECHECK)):
        files[f"reports/{tag}.json"] = sealed(tag, subjects.beat(REGION), told)
    return files
