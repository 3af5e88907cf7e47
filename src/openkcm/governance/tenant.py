"""The tenant: its people, their roles, its regions. Pure: commands make decrees or raise and change nothing."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from openkcm.contract import decrees as d
from openkcm.contract.subjects import DecreeSubject
from openkcm.governance.aggregate import Decreed, LedgerAggregate
from openkcm.governance.errors import IllegalNow, Invalid

__all__ = ["Tenant", "TenantFacts"]

#: What the provider may not be at a customer of its own, and the customer not at the provider.
PROVIDERS_ROLES: Final = frozenset({"provider-operator"})


class TenantFacts(msgspec.Struct, frozen=True):
    """What the decrees say. `people`: person -> (roles, approval key)."""

    tenant: str
    registered: bool = False
    people: dict[str, tuple[frozenset[str], bytes | None]] = {}
    regions: tuple[str, ...] = ()


def _registered(t: TenantFacts, x: d.TenantRegistered, _: Decreed) -> TenantFacts:
    people = {p.person: (frozenset(p.roles), p.approval_key) for p in x.people}
    return replace(t, registered=True, people={**people, **t.people})


def _regions(t: TenantFacts, x: d.TenantRegionsAssigned, _: Decreed) -> TenantFacts:
    return replace(t, regions=x.regions)


def _granted(t: TenantFacts, x: d.RoleGranted, _: Decreed) -> TenantFacts:
    roles, key = t.people.get(x.person, (frozenset(), None))
    return replace(t, people={**t.people, x.person: (roles | set(x.roles), x.approval_key or key)})


def _withdrawn(t: TenantFacts, x: d.RoleWithdrawn, _: Decreed) -> TenantFacts:
    roles, key = t.people.get(x.person, (frozenset(), None))
    return replace(t, people={**t.people, x.person: (roles - set(x.roles), key)})


class Tenant(LedgerAggregate):
    """A customer."""

    if TYPE_CHECKING:  # at run time `eventsourcing` would make a field of it, and an __init__
        facts: TenantFacts
    RULES = {
        d.TenantRegistered: _registered,
        d.TenantRegionsAssigned: _regions,
        d.RoleGranted: _granted,
        d.RoleWithdrawn: _withdrawn,
    }

    @staticmethod
    def nothing(where: DecreeSubject) -> TenantFacts:
        """Return a tenant nobody knows."""
        return TenantFacts(where.tenant)

    def register(self, people: tuple[d.Person, ...], regions: Collection[str], known: Collection[str]) -> None:
        """Register the tenant with its first people. The very same once more changes nothing: it may have broken off.

        Raises:
            IllegalNow: It is registered with others.
            Invalid: Fewer than two different people, two of them without an approval key, or an unknown region.
        """
        if len({p.person for p in people}) != len(people) or not 2 <= len(people) <= 8:
            raise Invalid("a tenant is registered with 2 to 8 different people")
        if len({p.approval_key for p in people if p.approval_key is not None}) < 2:
            raise Invalid("two of the people need an approval key of their own each: two must sign a restore")
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
