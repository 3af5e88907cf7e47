"""What a residence's decrees say of it: facts, and one small rule a decree. Pure.

Governance checks what nodes check: a decree that would need two people's signatures and has them not changes nothing,
whoever sealed it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec.structs import replace

from openkcm.contract import decrees as d
from openkcm.contract import statements
from openkcm.contract.authority import NotARootCa, check_root_ca
from openkcm.contract.statements import Lift
from openkcm.governance.aggregate import Decreed, Rule

__all__ = ["RULES", "ResidenceFacts"]


class ResidenceFacts(msgspec.Struct, frozen=True):
    """One tenant in one region.

    Attributes:
        revocations: By epoch the highest fence and its event.
        removed: Enrolments and registrations that count no more.
        labels: Only of the configuration in force.
    """

    tenant: str
    region: str
    configuration: d.TenantConfigurationUpdated | None = None
    approvers: dict[str, bytes] = {}
    approvers_version: int = 0
    quorum: int = statements.REQUIRED_SIGNATURES
    approvers_hash: str | None = None
    root: d.RootReference | None = None
    systems: dict[str, str] = {}
    workloads: dict[str, d.WorkloadEnrolled] = {}
    authorities: dict[str, bytes] = {}
    suspended: bool = False
    revocations: dict[int, tuple[int, str]] = {}
    lifted: frozenset[str] = frozenset()
    confirmed: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    approvals_used: frozenset[str] = frozenset()
    destroyed: bool = False

    @property
    def open_revocations(self) -> tuple[Lift, ...]:
        """The highest revocation of each epoch that no restore has named yet."""
        return tuple(
            Lift(epoch=epoch, fence=fence, event=event)
            for epoch, (fence, event) in sorted(self.revocations.items())
            if event not in self.lifted
        )

    @property
    def highest_revocations(self) -> tuple[Lift, ...]:
        """The highest revocation of every epoch: what a restore names."""
        return tuple(Lift(epoch=e, fence=f, event=i) for e, (f, i) in sorted(self.revocations.items()))

    @property
    def state(self) -> str:
        """What people are shown."""
        if self.destroyed:
            return "Destroyed"
        if self.open_revocations:
            return "Revoked"
        if self.suspended:
            return "Suspended"
        if self.root is None:
            return "Requested"
        return "Active" if self.systems else "Linked"

    def registration_of(self, system: str) -> str | None:
        """Return the registration under which a system lives now."""
        live = (r for r, name in self.systems.items() if name == system and r not in self.removed)
        return next(live, None)

    def live_workloads(self) -> dict[str, d.WorkloadEnrolled]:
        """Return the enrolments that count."""
        gone = self.removed
        return {e: w for e, w in self.workloads.items() if not {e, w.registration, w.authority} & gone}

    def live_authorities(self) -> dict[str, bytes]:
        """Return the tenant's own CAs that count: id -> certificate (DER)."""
        return {a: certificate for a, certificate in self.authorities.items() if a not in self.removed}


def _signed(r: ResidenceFacts, words: statements.Statement, given: Iterable[statements.Signature]) -> bool:
    return len(statements.signers(words, given, r.approvers)) >= r.quorum


def _configured(r: ResidenceFacts, x: d.TenantConfigurationUpdated, _: Decreed) -> ResidenceFacts:
    used = r.approvals_used
    if r.configuration is not None and x.lease_s > r.configuration.lease_s:
        words = statements.configuration_statement(r.tenant, r.region, x.approval or "", x.lease_s)
        if x.approval is None or x.approval in used or not _signed(r, words, x.signatures):
            return r
        used |= {x.approval}
    return replace(r, configuration=x, approvals_used=used)


def _approvers(r: ResidenceFacts, x: d.ApproversSet, _: Decreed) -> ResidenceFacts:
    pairs = {a.person: a.public_key for a in x.approvers}
    own = statements.approvers_hash(r.tenant, r.region, x.version, pairs.items(), x.previous, x.quorum)
    if x.version != r.approvers_version + 1 or x.previous != r.approvers_hash:
        return r
    if statements.different_people(pairs.values()) < x.quorum:
        return r
    if r.approvers_version and not _signed(r, statements.approvers_statement(r.tenant, r.region, own), x.signatures):
        return r
    return replace(r, approvers=pairs, approvers_version=x.version, quorum=x.quorum, approvers_hash=own)


def _linked(r: ResidenceFacts, x: d.RootKeyLinked, _: Decreed) -> ResidenceFacts:
    used = r.approvals_used
    if r.root is not None and r.root != x.root:
        words = statements.link_statement(
            r.tenant, r.region, x.approval or "", x.root.provider, x.root.ref, x.root.credential
        )
        if x.approval is None or x.approval in used or not _signed(r, words, x.signatures):
            return r
        used |= {x.approval}
    return replace(r, root=x.root, approvals_used=used)


def _system(r: ResidenceFacts, x: d.SystemRegistered, _: Decreed) -> ResidenceFacts:
    return replace(r, systems={x.registration: x.system, **r.systems})


def _same(r: ResidenceFacts, _x: d.Decree, _: Decreed) -> ResidenceFacts:
    return r  # decides about nothing


def _authority(r: ResidenceFacts, x: d.WorkloadAuthorityTrusted, _: Decreed) -> ResidenceFacts:
    words = statements.authority_statement(r.tenant, r.region, x.approval, x.certificate)
    if x.approval in r.approvals_used or not _signed(r, words, x.signatures):
        return r
    try:
        check_root_ca(x.certificate)
    except NotARootCa:
        return r
    used = r.approvals_used | {x.approval}
    return replace(r, authorities={x.authority: x.certificate, **r.authorities}, approvals_used=used)


def _authorities_removed(r: ResidenceFacts, x: d.WorkloadAuthoritiesRemoved, _: Decreed) -> ResidenceFacts:
    return replace(r, removed=r.removed | set(x.authorities))


def _workload(r: ResidenceFacts, x: d.WorkloadEnrolled, _: Decreed) -> ResidenceFacts:
    return replace(r, workloads={x.enrolment: x, **r.workloads})


def _suspended(r: ResidenceFacts, _x: d.AccessSuspended, _: Decreed) -> ResidenceFacts:
    return replace(r, suspended=True)


def _resumed(r: ResidenceFacts, _x: d.AccessResumed, _: Decreed) -> ResidenceFacts:
    return replace(r, suspended=False)


def _restored(r: ResidenceFacts, x: d.AccessRestored, _: Decreed) -> ResidenceFacts:
    words = statements.restore_statement(r.tenant, r.region, x.approval, x.lifts, x.approvers_version)
    if x.approvers_version != r.approvers_version or not _signed(r, words, x.signatures):
        return r
    return replace(r, lifted=r.lifted | {lift.event for lift in x.lifts})


def _confirmed(r: ResidenceFacts, x: d.RevocationConfirmed, _: Decreed) -> ResidenceFacts:
    return replace(r, confirmed=r.confirmed | {x.revocation})


def _revoked(r: ResidenceFacts, _x: d.AccessRevoked, at: Decreed) -> ResidenceFacts:
    if r.revocations.get(at.epoch, (0, ""))[0] >= at.counter:
        return r
    return replace(r, revocations={**r.revocations, at.epoch: (at.counter, at.event)})


def _workload_removed(r: ResidenceFacts, x: d.WorkloadRemoved, _: Decreed) -> ResidenceFacts:
    return replace(r, removed=r.removed | set(x.enrolments))


def _system_removed(r: ResidenceFacts, x: d.SystemDecommissioned, _: Decreed) -> ResidenceFacts:
    return replace(r, removed=r.removed | set(x.registrations))


def _destroyed(r: ResidenceFacts, x: d.ContextDestroyed, _: Decreed) -> ResidenceFacts:
    words = statements.destroy_statement(r.tenant, r.region, x.approval, x.approvers_version)
    if x.approvers_version != r.approvers_version or not _signed(r, words, x.signatures):
        return r
    return replace(r, destroyed=True)


RULES: Final[dict[type[d.Decree], Rule]] = {
    d.TenantConfigurationUpdated: _configured,
    d.ApproversSet: _approvers,
    d.RootKeyLinked: _linked,
    d.SystemRegistered: _system,
    d.SystemConfigured: _same,
    d.WorkloadAuthorityTrusted: _authority,
    d.WorkloadEnrolled: _workload,
    d.AccessSuspended: _suspended,
    d.AccessResumed: _resumed,
    d.AccessRestored: _restored,
    d.RevocationConfirmed: _confirmed,
    d.AccessRevoked: _revoked,
    d.WorkloadRemoved: _workload_removed,
    d.WorkloadAuthoritiesRemoved: _authorities_removed,
    d.SystemDecommissioned: _system_removed,
    d.ContextDestroyed: _destroyed,
}
