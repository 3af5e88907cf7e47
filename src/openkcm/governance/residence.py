"""The residence: one tenant in one region. Pure: commands make decrees, or raise and change nothing.

`LEGAL` says in which states a command may be given. A revocation and the removal of a workload are not in it: they are
legal always, need one person, and wait for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from openkcm.contract import decrees as d
from openkcm.contract import statements
from openkcm.contract.fleet import RegionConfiguration
from openkcm.contract.subjects import DecreeSubject
from openkcm.governance.aggregate import LedgerAggregate
from openkcm.governance.approval import Approved
from openkcm.governance.errors import BadSignature, IllegalNow, Invalid, NeedsApproval, NotFound
from openkcm.governance.references import check_root, refuse_secrets
from openkcm.governance.residence_facts import RULES, ResidenceFacts

__all__ = ["LEGAL", "Residence"]

MAX_AUTHORITIES: Final = 16
LEGAL: Final[dict[str, frozenset[str]]] = {
    "configure": frozenset({"Requested", "Linked", "Active", "Suspended", "Revoked"}),
    "link the root key": frozenset({"Requested", "Linked", "Active", "Suspended"}),
    "register a system": frozenset({"Linked", "Active", "Suspended"}),
    "enrol a workload": frozenset({"Active", "Suspended"}),
    "trust a workload CA": frozenset({"Linked", "Active", "Suspended"}),
    "rotate": frozenset({"Active", "Suspended"}),
    "suspend": frozenset({"Linked", "Active", "Suspended"}),
    "resume": frozenset({"Linked", "Active", "Suspended"}),
    "restore": frozenset({"Revoked"}),
    "destroy": frozenset({"Requested", "Linked", "Active", "Suspended", "Revoked"}),
}


class Residence(LedgerAggregate):
    """One tenant in one region."""

    if TYPE_CHECKING:  # at run time `eventsourcing` would make a field of it, and an __init__
        facts: ResidenceFacts
    RULES = RULES

    @staticmethod
    def nothing(where: DecreeSubject) -> ResidenceFacts:
        """Return a residence nobody has ordered."""
        return ResidenceFacts(where.tenant, where.region)

    @property
    def generation(self) -> int:
        """The routine counter of the newest epoch."""
        return self.counters.get(("routine", self.epoch), 0)

    # --- onboarding -------------------------------------------------------------------------------------------------

    def appoint(self, approvers: tuple[d.Approver, ...], quorum: int = statements.REQUIRED_SIGNATURES) -> None:
        """Give a new residence its first approvers. Once more changes nothing.

        Raises:
            Invalid: Fewer different keys than people who are to sign.
        """
        if self.facts.approvers_version == 0:
            if statements.different_people(a.public_key for a in approvers) < quorum:
                raise Invalid(f"approvers need {quorum} different keys")
            ordered = tuple(sorted(approvers, key=lambda a: a.person))
            self.decree(d.ApproversSet(version=1, approvers=ordered, quorum=quorum))

    def set_approvers(self, approvers: tuple[d.Approver, ...], quorum: int, approved: Approved) -> None:
        """Put other approvers, or another number of them who sign, in force; as many as now in force sign for it.

        Raises:
            BadSignature: Too few approvers' over this very set.
        """
        self._take(
            d.ApproversSet(
                version=self.facts.approvers_version + 1, approvers=approvers, quorum=quorum,
                previous=self.facts.approvers_hash, signatures=approved.signatures,
            )
        )  # fmt: skip

    def set_defaults(self) -> None:
        """Give a new residence its configuration. Once more changes nothing."""
        if self.facts.configuration is None:
            self.decree(d.TenantConfigurationUpdated())

    def configure(self, changes: dict[str, Any], approved: Approved | None = None) -> None:
        """Change the configuration by a merge patch (RFC 7396) of lease_s, hand_out, max_objects and labels.

        Raises:
            Invalid: An unknown field, or a value outside its bounds.
            SecretRefused: A label looks like a secret.
            NeedsApproval: A longer lease.
            IllegalNow: Destroyed.
        """
        self._legal("configure")
        present = self.facts.configuration or d.TenantConfigurationUpdated()
        wanted = _patched(present, changes)
        if self.facts.configuration is not None and wanted.lease_s > present.lease_s:
            if approved is None:
                raise NeedsApproval(f"a lease longer than {present.lease_s} s takes two people: approve LengthenLease")
            wanted = replace(wanted, approval=approved.approval, signatures=approved.signatures)
        self._take(wanted)

    def link_root(self, root: d.RootReference, region: RegionConfiguration, approved: Approved | None = None) -> None:
        """Link the customer's root key.

        Raises:
            SecretRefused, InvalidReference: It is no reference of a key that may serve this region.
            NeedsApproval: Another root key is linked.
            IllegalNow: Revoked or destroyed.
        """
        check_root(root, region, self.facts.tenant)
        self._legal("link the root key")
        if not self.facts.approvers_version:  # L2 is bound to the first approvers for ever
            raise IllegalNow("two people register their approval keys first: without them nothing could be restored")
        if self.facts.root is None or self.facts.root == root:
            self.decree(d.RootKeyLinked(root=root))
            return
        if approved is None:
            raise NeedsApproval("another root key is linked: replacing it takes two people, approve LinkRootKey")
        self._take(d.RootKeyLinked(root=root, approval=approved.approval, signatures=approved.signatures))

    def register_system(self, system: str, hand_out: d.HandOut | None = None) -> str:
        """Register a system; return its registration.

        Raises:
            IllegalNow: It is registered, or the state forbids it.
        """
        self._legal("register a system")
        if self.facts.registration_of(system) is not None:
            raise IllegalNow(f"system {system} is registered already")
        registration = self.fresh("registration")
        self.decree(d.SystemRegistered(system=system, registration=registration, hand_out=hand_out))
        return registration

    def configure_system(self, registration: str, hand_out: d.HandOut | None) -> None:
        """Give a system another hand-out policy; None: the residence's.

        Raises:
            NotFound: No such system.
            IllegalNow: Destroyed.
        """
        self._legal("configure")
        if registration not in self.facts.systems or registration in self.facts.removed:
            raise NotFound(f"no system under registration {registration}")
        self.decree(d.SystemConfigured(registration=registration, hand_out=hand_out))

    def trust_authority(self, certificate: bytes, approved: Approved) -> str:
        """Let the tenant's own CA vouch for its workloads here; return the authority's id.

        Raises:
            IllegalNow: It does already, or the state forbids it.
            BadSignature: Not two approvers' over this very certificate.
        """
        self.check_authority(certificate)
        authority = self.fresh("authority")
        self._take(
            d.WorkloadAuthorityTrusted(
                authority=authority, certificate=certificate, approval=approved.approval,
                signatures=approved.signatures,
            )
        )  # fmt: skip
        return authority

    def check_authority(self, certificate: bytes) -> None:
        """Check that this CA could be trusted now.

        Raises:
            IllegalNow: It is already, there are too many, or the state forbids it.
        """
        self._legal("trust a workload CA")
        live = self.facts.live_authorities()
        if certificate in live.values():
            raise IllegalNow("this CA vouches for workloads here already")
        if len(live) >= MAX_AUTHORITIES:
            raise IllegalNow(f"{MAX_AUTHORITIES} CAs vouch for workloads here: remove one first")

    def enrol_workload(
        self, workload: str, system: str, *, fingerprint: str | None, spiffe: str | None, authority: str | None = None
    ) -> str:
        """Let a client certificate speak for a system; return the enrolment.

        Raises:
            Invalid: Not exactly one of fingerprint and SPIFFE id, or the certificate is enrolled already.
            NotFound: No such system, or no such CA of the tenant's own.
            IllegalNow: The state forbids it.
        """
        self._legal("enrol a workload")
        if (fingerprint is None) == (spiffe is None):
            raise Invalid("a workload is known by its certificate or by its SPIFFE id: give exactly one")
        registration = self.facts.registration_of(system)
        if registration is None:
            raise NotFound(f"no system {system}")
        if authority is not None and authority not in self.facts.live_authorities():
            raise NotFound(f"no workload CA {authority[:80]}")
        for other in self.facts.live_workloads().values():
            if (other.fingerprint, other.spiffe, other.authority) == (fingerprint, spiffe, authority):
                raise IllegalNow(f"this certificate is enrolled already, as {other.workload} of {other.system}")
        enrolment = self.fresh("enrolment")
        self.decree(
            d.WorkloadEnrolled(
                workload=workload, system=system, registration=registration, enrolment=enrolment,
                fingerprint=fingerprint, spiffe=spiffe, authority=authority,
            )
        )  # fmt: skip
        return enrolment

    def order_rotation(self, level: str, system: str | None) -> str:
        """Order a new version of L2, or of a system's L3; return the rotation's id.

        Raises:
            Invalid: L1 is the customer's own; L3 needs a system.
            NotFound: No such system.
            IllegalNow: The state forbids it.
        """
        self._legal("rotate")
        if level not in ("L2", "L3"):
            raise Invalid("L2 or L3; L1 is rotated in the customer's own KMS, and noticed")
        registration = None
        if level == "L3":
            registration = self.facts.registration_of(system or "")
            if registration is None:
                raise NotFound(f"no system {system}")
        rotation = self.fresh("rotation")
        self.decree(d.RotationOrdered(level=level, registration=registration, rotation=rotation))  # type: ignore[arg-type]
        return rotation

    # --- the switch -------------------------------------------------------------------------------------------------

    def revoke(self, reason: str) -> None:
        """Cut access. Legal in every state."""
        self.decree(d.AccessRevoked(reason=reason))

    def remove_workload(self, enrolment: str) -> None:
        """Cut one enrolment, for ever. Legal in every state.

        Raises:
            NotFound: Nobody is enrolled under it.
        """
        if enrolment not in self.facts.workloads:
            raise NotFound(f"no enrolment {enrolment}")
        self.decree(d.WorkloadRemoved(enrolments=(enrolment,)))

    def suspend(self, reason: str) -> None:
        """Stop new encryption; reads go on.

        Raises:
            IllegalNow: The state forbids it.
        """
        self._legal("suspend")
        self.decree(d.AccessSuspended(reason=reason))

    def resume(self) -> None:
        """Let encryption go on.

        Raises:
            IllegalNow: Not suspended.
        """
        self._legal("resume")
        if not self.facts.suspended:
            raise IllegalNow("access is not suspended")
        self.decree(d.AccessResumed())

    def restore(self, approved: Approved) -> None:
        """Lift the highest revocation of every epoch, with the signatures of two people over those ids.

        Raises:
            IllegalNow: Not revoked.
            BadSignature: Not two approvers' over these very revocations.
        """
        self._legal("restore")
        self._take(
            d.AccessRestored(
                lifts=self.facts.highest_revocations, approval=approved.approval,
                approvers_version=self.facts.approvers_version, signatures=approved.signatures,
            )
        )  # fmt: skip

    def confirm(self, decree: d.RevocationConfirmed) -> None:
        """Write the nodes' proofs of obedience down. Once more changes nothing."""
        if decree.revocation not in self.facts.confirmed:
            self.decree(decree)

    def destroy(self, approved: Approved) -> None:
        """End the residence for good.

        Raises:
            IllegalNow: It is.
            BadSignature: Not two approvers'.
        """
        self._legal("destroy")
        self._take(
            d.ContextDestroyed(
                approval=approved.approval, approvers_version=self.facts.approvers_version,
                signatures=approved.signatures,
            )
        )  # fmt: skip

    # --- inside -----------------------------------------------------------------------------------------------------

    def _legal(self, command: str) -> None:
        if self.facts.state not in LEGAL[command]:
            raise IllegalNow(f"cannot {command}: this tenant region is {self.facts.state}")

    def _take(self, decree: d.Decree) -> None:
        """Make a decree that must change something: where its signatures do not carry it, refuse the command."""
        if self.RULES[type(decree)](self.facts, decree, None) is self.facts:  # type: ignore[arg-type]  # asks no place
            raise BadSignature(f"{self.facts.quorum} different approvers' signatures over these very words are needed")
        self.decree(decree)


def _patched(present: d.TenantConfigurationUpdated, changes: dict[str, Any]) -> d.TenantConfigurationUpdated:
    open_fields = {"lease_s", "hand_out", "max_objects", "labels"}
    unknown = sorted(set(changes) - open_fields)
    if unknown:
        raise Invalid(f"unknown field {', '.join(unknown)}: the configuration has {', '.join(sorted(open_fields))}")
    defaults = msgspec.to_builtins(d.TenantConfigurationUpdated())
    merged: dict[str, Any] = {field: getattr(present, field) for field in open_fields}
    for field, value in changes.items():
        if value is None:
            merged[field] = defaults[field]
        elif field == "labels" and isinstance(value, dict):
            kept = {**present.labels, **value}
            merged[field] = {name: text for name, text in kept.items() if text is not None}
        else:
            merged[field] = value
    try:
        wanted = msgspec.convert(merged, d.TenantConfigurationUpdated)
    except msgspec.ValidationError as bad:
        raise Invalid(f"configuration: {bad}") from bad
    for name, text in wanted.labels.items():
        refuse_secrets(name, "a label's name")
        refuse_secrets(text, f"label {name}")
    return wanted
