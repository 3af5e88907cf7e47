"""A sealed ledger as evidence: folded, under signed checkpoints, exported. For tests that then break it."""

from audit.sealed_ledger import CMK, REGION, ROOT, TENANT, SealedLedger
from openkcm.audit import export
from openkcm.audit.examine import examine
from openkcm.audit.exported import Export
from openkcm.audit.replay import Line, Replay
from openkcm.audit.trees import SignedTrees
from openkcm.contract import checkpoint as cp
from openkcm.contract import decrees as d
from openkcm.contract import subjects
from openkcm.projector.trees import heads

MADE = "2026-01-01T00:00:00.000Z"


def lines(ledger):
    return [Line(sequence=n, subject=s, body=b, id=i) for n, s, b, i in ledger.entries]


def life(*, lifted=True):
    """Two tenants: `acme` revoked, confirmed, restored; `bolt` beside it; two denied attempts, one at each door."""
    ledger = SealedLedger().open()
    people = tuple(d.Person(person=f"b-{n}", roles=("approver",)) for n in ("one", "two"))
    ledger.append(subjects.tenant_aggregate("bolt"), d.TenantRegistered(people=people))
    ledger.append(subjects.tenant_aggregate("bolt"), d.TenantRegionsAssigned(regions=(REGION,)))
    ledger.tenant(d.TenantRegionsAssigned(regions=(REGION,)))
    ledger.residence(d.RootKeyLinked(root=d.RootReference(provider="file", ref="acme.keys")))
    ledger.residence(d.SystemRegistered(system="payments", registration="reg-00000001"))
    ledger.residence(
        d.WorkloadEnrolled(
            workload="app",
            system="payments",
            registration="reg-00000001",
            enrolment="enr-00000001",
            fingerprint="0" * 64,
        )
    )
    ledger.append(subjects.residence_aggregate(REGION, "bolt"), d.TenantConfigurationUpdated())
    for tenant in ("bolt", TENANT):
        ledger.ledger(d.AccessDenied(person="mallory-1", action="RevokeAccess", reason="not-found", tenant=tenant))
    lift = ledger.revoke()
    ledger.confirm(lift, (ledger.ack(lift.fence),))
    if lifted:
        ledger.restore(lift)
    return ledger, lift.event


def replayed(ledger):
    """The ledger, verified and folded."""
    replay = Replay(ROOT.public_key)
    examine(lines(ledger), ROOT.public_key, fold=replay.take)
    return replay


def signed(replay, signer=CMK):
    """What a notary would have signed of it."""
    notes = {}
    for head in heads(replay.writer):
        origin = cp.origin_of(cp.ledger_name(ROOT.public_key), head.tree, head.epoch)
        point = cp.Checkpoint(
            origin=origin, size=head.edge.size, root=head.edge.root(), epoch=head.epoch, sequence=head.sequence
        )
        text = point.text()
        notes[head.tree, head.epoch] = cp.Note(text, (cp.sign(text, origin, signer), cp.vouch(text, origin, signer)))
    return notes


def exported(ledger, folder, tenant=None):
    with replayed(ledger) as replay:
        export.write(folder, replay.writer, ROOT.public_key, signed(replay), tenant=tenant, made_at=MADE)
    return folder


def examined(folder, *, every_seal=False):
    """What `openkcm audit verify --export` does; returns what it found, and how many events are proven."""
    made = Export(folder)
    made.check_files()
    trees = made.trees()
    if isinstance(trees, SignedTrees):
        how = {"see": [trees.see], "vouched": None if every_seal else trees.vouched}
    else:
        how = {"hear": [trees.hear]}
    result = examine(made.events(), ROOT.public_key, whole=made.manifest.whole, **how)
    return result, trees.check(result.keys)


def verify(folder, **how):
    """The same, as (events, proven, findings)."""
    result, proven = examined(folder, **how)
    return result.events, proven, result.findings
