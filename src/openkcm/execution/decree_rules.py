"""What each decree changes in a residence: one small function a decree, and their table. Pure.

A rule returns the residence after the decree, or raises `Refused`: the decree stays in the ledger and counts, but
changes nothing, and the node says why. Whoever seals for governance can order anything but what the tenant's own people
must sign, two or as many as their set in force says: lifting a revocation, another root key, a longer lease, new
approvers, the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from msgspec.structs import replace

from openkcm.contract import decrees as d
from openkcm.contract import statements
from openkcm.contract.authority import NotARootCa, check_root_ca
from openkcm.contract.envelope import Envelope
from openkcm.execution.residence_state import Residence, Revocation, Workload

__all__ = ["RULES", "Refused"]

Rule = Callable[[Residence, d.Decree, Envelope, str, int], Residence]
MAX_LEASES_KEPT: Final = 8


class Refused(Exception):
    """A well-sealed decree that this node does not carry out. `code` is reported."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


def _signed(r: Residence, statement: statements.Statement, given: Iterable[statements.Signature], code: str) -> None:
    good = statements.signers(statement, given, r.approvers)
    if len(good) < r.quorum:
        raise Refused(code, f"{len(good)} of {r.quorum} approvers signed {statement.command}")


def _unused(r: Residence, approval: str | None, code: str) -> str:
    if approval is None or approval in r.approvals_used:
        raise Refused(code, "no approval, or one used before")
    return approval


def _configuration(r: Residence, x: d.TenantConfigurationUpdated, _e: Envelope, region: str, now_ns: int) -> Residence:
    used = r.approvals_used
    if r.configured and x.lease_s > r.lease_s:
        approval = _unused(r, x.approval, "LongerLeaseRefused")
        words = statements.configuration_statement(r.tenant, region, approval, x.lease_s)
        _signed(r, words, x.signatures, "LongerLeaseRefused")
        used |= {approval}
    leases = r.leases
    if x.lease_s != r.lease_s:
        leases = (*leases, (now_ns, x.lease_s))[-MAX_LEASES_KEPT:]
    if not r.configured:  # before its first configuration a residence was served to nobody
        leases = ((0, x.lease_s),)
    return replace(
        r, configured=True, leases=leases, hand_out=x.hand_out, max_objects=x.max_objects, approvals_used=used
    )


def _approvers(r: Residence, x: d.ApproversSet, _e: Envelope, region: str, _now: int) -> Residence:
    pairs = {a.person: a.public_key for a in x.approvers}
    own = statements.approvers_hash(r.tenant, region, x.version, pairs.items(), x.previous, x.quorum)
    if x.version != r.approvers_version + 1 or x.previous != r.approvers_hash:
        raise Refused("ApproversRefused", f"set {x.version} does not follow set {r.approvers_version}")
    if statements.different_people(pairs.values()) < x.quorum:
        raise Refused("ApproversRefused", f"fewer than {x.quorum} different keys")
    if r.approvers_version:
        _signed(r, statements.approvers_statement(r.tenant, region, own), x.signatures, "ApproversRefused")
    first = r.first_approvers_hash or own
    return replace(
        r, approvers=pairs, approvers_version=x.version, quorum=x.quorum, approvers_hash=own, first_approvers_hash=first
    )


def _link(r: Residence, x: d.RootKeyLinked, _e: Envelope, region: str, _now: int) -> Residence:
    used = r.approvals_used
    if r.root is not None and x.root != r.root:
        approval = _unused(r, x.approval, "LinkRefused")
        words = statements.link_statement(r.tenant, region, approval, x.root.provider, x.root.ref, x.root.credential)
        _signed(r, words, x.signatures, "LinkRefused")
        used |= {approval}
    return replace(r, root=x.root, root_refusal=None, approvals_used=used)


def _system(r: Residence, x: d.SystemRegistered, _e: Envelope, _region: str, _now: int) -> Residence:
    if x.registration in r.systems:
        raise Refused("RegistrationReused", f"registration {x.registration} exists")
    hand_outs = r.hand_outs if x.hand_out is None else {**r.hand_outs, x.registration: x.hand_out}
    return replace(r, systems={**r.systems, x.registration: x.system}, hand_outs=hand_outs)


def _system_configured(r: Residence, x: d.SystemConfigured, _e: Envelope, _region: str, _now: int) -> Residence:
    if x.registration not in r.systems:
        raise Refused("UnknownSystem", f"no system under registration {x.registration}")
    others = {known: said for known, said in r.hand_outs.items() if known != x.registration}
    return replace(r, hand_outs=others if x.hand_out is None else {**others, x.registration: x.hand_out})


def _authority(r: Residence, x: d.WorkloadAuthorityTrusted, _e: Envelope, region: str, _now: int) -> Residence:
    approval = _unused(r, x.approval, "AuthorityRefused")
    words = statements.authority_statement(r.tenant, region, approval, x.certificate)
    _signed(r, words, x.signatures, "AuthorityRefused")
    if x.authority in r.authorities:
        raise Refused("AuthorityRefused", f"authority {x.authority} exists")
    try:
        check_root_ca(x.certificate)
    except NotARootCa as bad:
        raise Refused("AuthorityRefused", str(bad)) from bad
    used = r.approvals_used | {approval}
    return replace(r, authorities={**r.authorities, x.authority: x.certificate}, approvals_used=used)


def _authorities_removed(
    r: Residence, x: d.WorkloadAuthoritiesRemoved, _e: Envelope, _region: str, _now: int
) -> Residence:
    return replace(r, removed=r.removed | set(x.authorities))


def _workload(r: Residence, x: d.WorkloadEnrolled, _e: Envelope, _region: str, _now: int) -> Residence:
    if x.enrolment in r.workloads:
        raise Refused("EnrolmentReused", f"enrolment {x.enrolment} exists")
    if r.systems.get(x.registration) != x.system:
        raise Refused("UnknownSystem", f"no system {x.system} under registration {x.registration}")
    if (x.fingerprint is None) == (x.spiffe is None):
        raise Refused("AmbiguousIdentity", "an enrolment names a fingerprint or a SPIFFE id")
    if x.authority is not None and x.authority not in r.authorities:
        raise Refused("UnknownAuthority", f"no workload CA {x.authority}")
    workload = Workload(x.workload, x.system, x.registration, x.enrolment, x.fingerprint, x.spiffe, x.authority)
    return replace(r, workloads={**r.workloads, x.enrolment: workload})


def _rotation(r: Residence, x: d.RotationOrdered, _e: Envelope, _region: str, _now: int) -> Residence:
    return replace(r, rotations=(*r.rotations, (x.level, x.registration, x.rotation)))


def _suspended(r: Residence, _x: d.AccessSuspended, _e: Envelope, _region: str, _now: int) -> Residence:
    return replace(r, suspended=True)


def _resumed(r: Residence, _x: d.AccessResumed, _e: Envelope, _region: str, _now: int) -> Residence:
    return replace(r, suspended=False)


def _restored(r: Residence, x: d.AccessRestored, _e: Envelope, region: str, _now: int) -> Residence:
    # (1) the set of approvers that signed is the set in force; (2) two different people of it signed these very ids;
    # (3) only the ids named are lifted, whatever else was revoked meanwhile.
    if x.approvers_version != r.approvers_version:  # (1)
        raise Refused(
            "RestoreRefused", f"signed under approvers {x.approvers_version}, in force is {r.approvers_version}"
        )
    words = statements.restore_statement(r.tenant, region, x.approval, x.lifts, x.approvers_version)
    _signed(r, words, x.signatures, "RestoreRefused")  # (2)
    return replace(r, lifted=r.lifted | {lift.event for lift in x.lifts})  # (3)


def _unchanged(r: Residence, _x: d.Decree, _e: Envelope, _region: str, _now: int) -> Residence:
    return r


def _revoked(r: Residence, _x: d.AccessRevoked, e: Envelope, _region: str, _now: int) -> Residence:
    highest = r.revocations.get(e.epoch)
    if highest is not None and highest.fence >= e.counter:
        return r
    return replace(r, revocations={**r.revocations, e.epoch: Revocation(e.counter, e.id)})


def _workload_removed(r: Residence, x: d.WorkloadRemoved, _e: Envelope, _region: str, _now: int) -> Residence:
    return replace(r, removed=r.removed | set(x.enrolments))


def _system_removed(r: Residence, x: d.SystemDecommissioned, _e: Envelope, _region: str, _now: int) -> Residence:
    return replace(r, removed=r.removed | set(x.registrations))


def _emergency(r: Residence, x: d.EmergencyRotationOrdered, _e: Envelope, _region: str, _now: int) -> Residence:
    key = f"{x.level}/{x.registration or ''}"
    return replace(r, floors={**r.floors, key: max(x.below, r.floors.get(key, 0))})


def _destroyed(r: Residence, x: d.ContextDestroyed, _e: Envelope, region: str, _now: int) -> Residence:
    words = statements.destroy_statement(r.tenant, region, x.approval, x.approvers_version)
    _signed(r, words, x.signatures, "DestroyRefused")
    return replace(r, destroyed=True)


RULES: Final[dict[type[d.Decree], Rule]] = {
    d.TenantConfigurationUpdated: _configuration,  # type: ignore[dict-item]  # each rule takes its own decree
    d.ApproversSet: _approvers,  # type: ignore[dict-item]
    d.RootKeyLinked: _link,  # type: ignore[dict-item]
    d.SystemRegistered: _system,  # type: ignore[dict-item]
    d.SystemConfigured: _system_configured,  # type: ignore[dict-item]
    d.WorkloadAuthorityTrusted: _authority,  # type: ignore[dict-item]
    d.WorkloadEnrolled: _workload,  # type: ignore[dict-item]
    d.RotationOrdered: _rotation,  # type: ignore[dict-item]
    d.AccessSuspended: _suspended,  # type: ignore[dict-item]
    d.AccessResumed: _resumed,  # type: ignore[dict-item]
    d.AccessRestored: _restored,  # type: ignore[dict-item]
    d.RevocationConfirmed: _unchanged,
    d.AccessRevoked: _revoked,  # type: ignore[dict-item]
    d.WorkloadAuthoritiesRemoved: _authorities_removed,  # type: ignore[dict-item]
    d.WorkloadRemoved: _workload_removed,  # type: ignore[dict-item]
    d.SystemDecommissioned: _system_removed,  # type: ignore[dict-item]
    d.EmergencyRotationOrdered: _emergency,  # type: ignore[dict-item]
    d.ContextDestroyed: _destroyed,  # type: ignore[dict-item]
}
