"""The tenant: its people, their roles and keys, its regions, its end. Pure: commands make decrees or change nothing.

Until two different people have an approval key nobody could consent to anything: so long a person may register its own
first key alone. From then on every role, key and policy takes two people's signatures over its very words.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from openkcm.contract import decrees as d
from openkcm.contract import passkey, statements
from openkcm.contract.errors import SealError
from openkcm.contract.subjects import DecreeSubject
from openkcm.governance.aggregate import Decreed, LedgerAggregate
from openkcm.governance.approval import Approved
from openkcm.governance.errors import BadSignature, IllegalNow, Invalid, NeedsApproval, NotFound

__all__ = ["SERVICE_ROLES", "Tenant", "TenantFacts"]

#: What the provider may not be at a customer of its own, and the customer not at the provider.
PROVIDERS_ROLES: Final = frozenset({"provider-operator"})
#: What a machine may be: it may cut access, and nothing else.
SERVICE_ROLES: Final = frozenset({"kill-switch"})
SERVICE: Final = "service-"


class TenantFacts(msgspec.Struct, frozen=True):
    """What the decrees say. `people`: person -> (roles, approval key)."""

    tenant: str
    registered: bool = False
    people: dict[str, tuple[frozenset[str], bytes | None]] = {}
    regions: tuple[str, ...] = ()
    quorum: int = statements.REQUIRED_SIGNATURES
    approvals_used: frozenset[str] = frozenset()
    terminating: tuple[str, ...] | None = None
    terminated: bool = False

    @property
    def keys(self) -> dict[str, bytes]:
        """The approval key of everybody who has one."""
        return {person: key for person, (_, key) in self.people.items() if key is not None}

    @property
    def consents(self) -> bool:
        """Whether two different people can sign."""
        return statements.different_people(self.keys.values()) >= statements.REQUIRED_SIGNATURES


def _registered(t: TenantFacts, x: d.TenantRegistered, _: Decreed) -> TenantFacts:
    people = {p.person: (frozenset(p.roles), p.approval_key) for p in x.people}
    return replace(t, registered=True, people={**people, **t.people})


def _regions(t: TenantFacts, x: d.TenantRegionsAssigned, _: Decreed) -> TenantFacts:
    if not t.regions:
        return replace(t, regions=x.regions)
    agreed = _agreed(t, x) if set(t.regions) < set(x.regions) else None
    return t if agreed is None else replace(agreed, regions=x.regions)


Agreed = d.RoleGranted | d.RoleWithdrawn | d.ApprovalPolicyChanged | d.TenantRegionsAssigned


def _agreed(t: TenantFacts, x: Agreed) -> TenantFacts | None:
    """Return the facts with the approval used up; None when too few people have signed these very words."""
    approval = x.approval
    if approval is None or approval in t.approvals_used:
        return None
    if isinstance(x, d.ApprovalPolicyChanged):
        words = statements.policy_statement(t.tenant, approval, x.quorum)
    elif isinstance(x, d.TenantRegionsAssigned):
        words = statements.regions_statement(t.tenant, approval, x.regions)
    else:
        command = "GrantRole" if isinstance(x, d.RoleGranted) else "WithdrawRole"
        words = statements.role_statement(
            t.tenant, command, approval, x.person, x.roles, getattr(x, "approval_key", None)
        )
    if len(statements.signers(words, x.signatures, t.keys)) < t.quorum:
        return None
    return replace(t, approvals_used=t.approvals_used | {approval})


def _granted(t: TenantFacts, x: d.RoleGranted, _: Decreed) -> TenantFacts:
    roles, key = t.people.get(x.person, (frozenset(), None))
    first = not t.consents and x.approval is None and not x.roles and key is None and x.person in t.people
    agreed = t if first else _agreed(t, x)
    if agreed is None:
        return t
    return replace(agreed, people={**t.people, x.person: (roles | set(x.roles), x.approval_key or key)})


def _withdrawn(t: TenantFacts, x: d.RoleWithdrawn, _: Decreed) -> TenantFacts:
    agreed = _agreed(t, x)
    if agreed is None:
        return t
    roles, key = t.people.get(x.person, (frozenset(), None))
    return replace(agreed, people={**t.people, x.person: (roles - set(x.roles), key)})


def _policy(t: TenantFacts, x: d.ApprovalPolicyChanged, _: Decreed) -> TenantFacts:
    agreed = _agreed(t, x)
    return t if agreed is None else replace(agreed, quorum=x.quorum)


def _ending(t: TenantFacts, x: d.TenantTerminationRequested, _: Decreed) -> TenantFacts:
    return t if t.terminating is not None else replace(t, terminating=x.regions)


def _ended(t: TenantFacts, _x: d.TenantTerminated, _: Decreed) -> TenantFacts:
    return replace(t, terminated=True)


class Tenant(LedgerAggregate):
    """A customer."""

    if TYPE_CHECKING:  # at run time `eventsourcing` would make a field of it, and an __init__
        facts: TenantFacts
    RULES = {
        d.TenantRegistered: _registered,
        d.TenantRegionsAssigned: _regions,
        d.RoleGranted: _granted,
        d.RoleWithdrawn: _withdrawn,
        d.ApprovalPolicyChanged: _policy,
        d.TenantTerminationRequested: _ending,
        d.TenantTerminated: _ended,
    }

    @staticmethod
    def nothing(where: DecreeSubject) -> TenantFacts:
        """Return a tenant nobody knows."""
        return TenantFacts(where.tenant)

    def register(self, people: tuple[d.Person, ...], regions: Collection[str], known: Collection[str]) -> None:
        """Register the tenant with its first people. The very same once more changes nothing: it may have broken off.

        Raises:
            IllegalNow: It is registered with others.
            Invalid: Fewer than two different people, a key that is none, keys of one person only, an unknown region.
        """
        if len({p.person for p in people}) != len(people) or not 2 <= len(people) <= 8:
            raise Invalid("a tenant is registered with 2 to 8 different people")
        keys = [p.approval_key for p in people if p.approval_key is not None]
        for key in keys:
            _check_key(key)
        if len(keys) > 1 and statements.different_people(keys) < statements.REQUIRED_SIGNATURES:
            raise Invalid("the people need an approval key of their own each: two must sign a restore")
        if any(PROVIDERS_ROLES & set(p.roles) for p in people):
            raise Invalid("provider-operator is no role of a tenant's people")
        unknown = sorted(set(regions) - set(known))
        if unknown or not regions:
            raise Invalid(f"unknown region {', '.join(unknown)}" if unknown else "a tenant needs at least one region")
        if not self.facts.registered:
            self.decree(d.TenantRegistered(people=people))
        elif self.facts.people != {p.person: (frozenset(p.roles), p.approval_key) for p in people}:
            raise IllegalNow(f"tenant {self.facts.tenant} is registered already")

    def assign_regions(self, regions: Collection[str]) -> None:
        """Give a new tenant its regions. The very same once more changes nothing.

        Raises:
            IllegalNow: It has others.
        """
        wanted = tuple(sorted(set(regions)))
        if not self.facts.regions:
            self.decree(d.TenantRegionsAssigned(regions=wanted))
        elif self.facts.regions != wanted:
            raise IllegalNow(f"tenant {self.facts.tenant} has other regions")

    def add_region(self, regions: Collection[str], approved: Approved) -> None:
        """Let the tenant live in one region more; `regions`: all that it then has.

        Raises:
            IllegalNow: Not just one more than it has.
            BadSignature: Not two people's over these very regions.
        """
        self.check_regions(regions)
        self._take(
            d.TenantRegionsAssigned(
                regions=tuple(sorted(regions)), approval=approved.approval, signatures=approved.signatures
            )
        )

    def check_regions(self, regions: Collection[str]) -> None:
        """Check that these are the tenant's regions and one more.

        Raises:
            IllegalNow: They are not, or the tenant's end has begun.
        """
        if self.facts.terminating is not None:
            raise IllegalNow("the tenant's end has begun: it gets no further region")
        if not set(self.facts.regions) < set(regions) or len(set(regions)) != len(self.facts.regions) + 1:
            raise IllegalNow("AddRegion takes one region that the tenant does not have yet")

    def register_own_key(self, person: str, key: bytes) -> None:
        """Give a person its first approval key. The very same once more changes nothing.

        Raises:
            Invalid: It is no approval key.
            NotFound: Not one of the tenant's people.
            NeedsApproval: Two people can sign already: from now on they do.
        """
        _check_key(key)
        if person not in self.facts.people:
            raise NotFound(f"no person {person} at this tenant")
        present = self.facts.people[person][1]
        if present == key:
            return
        if present is not None or self.facts.consents:
            raise NeedsApproval("two people can sign here: a new approval key takes both, approve GrantRole")
        self.decree(d.RoleGranted(person=person, roles=(), approval_key=key))

    def grant(self, person: str, roles: Iterable[str], key: bytes | None, approved: Approved) -> None:
        """Let a person do more, or sign with another key.

        Raises:
            Invalid: No role or key, the provider's own role, or a machine that is to do more than cut access.
            BadSignature: Not two people's.
        """
        wanted = self.check_grant(person, roles, key)
        self._take(
            d.RoleGranted(
                person=person, roles=wanted, approval_key=key, approval=approved.approval,
                signatures=approved.signatures,
            )
        )  # fmt: skip

    @staticmethod
    def check_grant(person: str, roles: Iterable[str], key: bytes | None) -> tuple[d.Role, ...]:
        """Return the roles, sorted.

        Raises:
            Invalid: No role or key, the provider's own role, or a machine that is to do more than cut access.
        """
        wanted = _roles(person, roles)
        if key is not None:
            _check_key(key)
        if not wanted and key is None:
            raise Invalid("GrantRole names roles, an approval key, or both")
        return wanted

    def withdraw(self, person: str, roles: Iterable[str], approved: Approved) -> None:
        """Let a person do less.

        Raises:
            NotFound: The person has none of these roles.
            BadSignature: Not two people's.
        """
        wanted = _roles(person, roles)
        if not set(wanted) & self.facts.people.get(person, (frozenset(), None))[0]:
            raise NotFound(f"{person} has none of these roles")
        self._take(
            d.RoleWithdrawn(person=person, roles=wanted, approval=approved.approval, signatures=approved.signatures)
        )

    def change_policy(self, quorum: int, approved: Approved) -> None:
        """Have so many people sign from now on.

        Raises:
            Invalid: More than there are people with a key.
            BadSignature: Not two people's.
        """
        if quorum > statements.different_people(self.facts.keys.values()):
            raise Invalid("the quorum is larger than the number of people with an approval key")
        self._take(d.ApprovalPolicyChanged(quorum=quorum, approval=approved.approval, signatures=approved.signatures))

    def request_termination(self, reason: str) -> None:
        """Begin the end: every region is to be destroyed, each by its own approval.

        Raises:
            IllegalNow: It has begun.
        """
        if self.facts.terminating is not None:
            raise IllegalNow("the termination has begun already")
        self.decree(d.TenantTerminationRequested(regions=self.facts.regions, reason=reason))

    def terminated(self, decree: d.TenantTerminated) -> None:
        """Write the proofs of the end down. Once more changes nothing."""
        if not self.facts.terminated:
            self.decree(decree)

    def _take(self, decree: d.Decree) -> None:
        if self.RULES[type(decree)](self.facts, decree, None) is self.facts:  # type: ignore[arg-type]  # asks no place
            raise BadSignature("two different people's signatures over these very words are needed")
        self.decree(decree)


def _roles(person: str, roles: Iterable[str]) -> tuple[d.Role, ...]:
    wanted = tuple(sorted(set(roles)))
    unknown = sorted(set(wanted) - set(d.ROLES) | set(wanted) & PROVIDERS_ROLES)
    if unknown:
        raise Invalid(f"no role of a tenant's people: {', '.join(unknown)}")
    if person.startswith(SERVICE) and set(wanted) - SERVICE_ROLES:
        raise Invalid("a service may be given the role kill-switch, and no other")
    return wanted  # type: ignore[return-value]  # each is one of ROLES, see above


def _check_key(key: bytes) -> None:
    try:
        passkey.read_key(key)
    except SealError as bad:
        raise Invalid(f"approval_key: {bad}") from bad
