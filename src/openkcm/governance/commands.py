"""What people may order, who may, and what it comes to: the whole surface as one table. Free functions; no HTTP.

`MAY` names the roles per command; whatever is not in it, nobody may. Whoever has no role in a tenant learns nothing of
it, not even that it exists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from openkcm.contract import decrees as d
from openkcm.contract.envelope import Actor
from openkcm.contract.errors import ContractError
from openkcm.contract.ids import PersonId, check_token, event_id
from openkcm.contract.subjects import DecreeSubject, residence_aggregate, tenant_aggregate
from openkcm.governance.aggregate import LedgerAggregate, Order
from openkcm.governance.errors import Forbidden, IllegalNow, Invalid, NotFound
from openkcm.governance.killswitch import Pulled
from openkcm.governance.registry import Recorded
from openkcm.governance.residence import Residence
from openkcm.governance.service import Cmk
from openkcm.governance.tenant import Tenant

__all__ = ["MAY", "Asked", "Caller", "allow", "tenant_region"]

_A = TypeVar("_A", bound=LedgerAggregate)
ADMIN, KEYS, SWITCH = "tenant-admin", "key-admin", "kill-switch"
APPROVER, AUDITOR, OPERATOR = "approver", "auditor", "provider-operator"
EVERYBODY: Final = frozenset({ADMIN, KEYS, SWITCH, APPROVER, AUDITOR, OPERATOR})

# fmt: off
MAY: Final[dict[str, frozenset[str]]] = {
    "RegisterTenant":     frozenset({OPERATOR}),
    "ReadTenant":         EVERYBODY,
    "ReadLedger":         frozenset({AUDITOR, OPERATOR}),
    "ReadCheckpoints":    EVERYBODY,
    "Cosign":             frozenset({AUDITOR, OPERATOR}),
    "ReadFleet":          frozenset({AUDITOR, OPERATOR, ADMIN}),
    "ReadFigures":        frozenset({OPERATOR}),
    "ConfigureResidence": frozenset({ADMIN}),
    "LinkRootKey":        frozenset({KEYS}),
    "RegisterSystem":     frozenset({ADMIN, KEYS}),
    "EnrolWorkload":      frozenset({ADMIN, KEYS}),
    "RemoveWorkload":     frozenset({ADMIN, KEYS, SWITCH}),
    "SuspendAccess":      frozenset({ADMIN, SWITCH}),
    "ResumeAccess":       frozenset({ADMIN}),
    "OrderRotation":      frozenset({KEYS}),
    "RevokeAccess":       frozenset({SWITCH}),
    "ProposeApproval":    frozenset({ADMIN, APPROVER}),
    "AnswerApproval":     frozenset({ADMIN, APPROVER}),
}
# fmt: on


class Caller(msgspec.Struct, frozen=True):
    """Who asks: an identity that a token has proved, and the roles the ledger gives it."""

    issuer: str
    subject: str
    roles: dict[str, frozenset[str]] = {}
    operator: bool = False

    def roles_in(self, tenant: str | None) -> frozenset[str]:
        """Return the roles towards one tenant (None: towards all together)."""
        own = (
            self.roles.get(tenant, frozenset()) if tenant is not None else frozenset[str]().union(*self.roles.values())
        )
        own -= {OPERATOR}
        return own | {OPERATOR} if self.operator else own

    @property
    def actor(self) -> Actor:
        """As it stands in the ledger."""
        return Actor(issuer=self.issuer, subject=self.subject)


class Asked(msgspec.Struct, frozen=True):
    """One request: who, what, under which idempotency key, and the hash of its content."""

    caller: Caller
    key: str
    content: str
    if_match: int | None = None

    def order(self, cmk: Cmk, tenant: str, command: str) -> Order:
        """Return the order this request makes of a command."""
        who = f"{self.caller.issuer}|{self.caller.subject}"
        return Order(
            tenant=tenant, actor=self.caller.actor, command=command, key=self.key, at_ms=cmk.registry.now_ms,
            correlation=event_id(tenant, who, f"request/{command}", self.key, self.content),
        )  # fmt: skip


def allow(cmk: Cmk, caller: Caller, command: str, tenant: str | None) -> None:
    """Let a caller pass who may give a command.

    Raises:
        NotFound: The caller has nothing to do with that tenant, or there is none.
        Forbidden: None of the caller's roles may.
    """
    roles = caller.roles_in(tenant)
    if tenant is not None and (not roles or cmk.views.tenant(tenant) is None):
        raise NotFound(f"no tenant {tenant}")
    if not roles & MAY.get(command, frozenset()):
        raise Forbidden(f"{command} takes one of the roles {', '.join(sorted(MAY.get(command, ())))}")


def tenant_region(cmk: Cmk, tenant: str, region: str) -> None:
    """Check that a tenant lives in a region.

    Raises:
        NotFound: It does not.
    """
    if region not in cmk.views.regions_of(tenant) or region not in cmk.regions:
        raise NotFound(f"tenant {tenant} has no region {region}")


# --- tenants --------------------------------------------------------------------------------------------------------


class PersonBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the first people."""

    person: PersonId
    roles: tuple[d.Role, ...]
    approval_key: d.PublicKey | None = None


class TenantBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /tenants."""

    id: str
    regions: tuple[str, ...]
    people: tuple[PersonBody, ...]


async def register_tenant(cmk: Cmk, asked: Asked, body: TenantBody) -> list[Recorded]:
    """Register a tenant, and give each of its regions the first approvers and the defaults.

    A request that broke off half-way is completed by its repetition: each event has an id of its own.
    """
    try:
        check_token(body.id, "tenant")
    except ContractError as bad:
        raise Invalid(str(bad)) from bad
    people = tuple(d.Person(person=p.person, roles=p.roles, approval_key=p.approval_key) for p in body.people)
    done: list[Recorded] = []

    async def go_on(where: DecreeSubject, kind: type[_A], command: str, decide: Callable[[_A], None]) -> None:
        done.extend(await cmk.registry.execute(where, kind, asked.order(cmk, body.id, command), decide))

    draining = sorted(r for r in set(body.regions) & cmk.regions.keys() if cmk.regions[r].draining)
    where = tenant_aggregate(body.id)
    if draining and not set(draining) <= set(cmk.views.regions_of(body.id)):
        raise IllegalNow(f"region {', '.join(draining)} is being drained and takes in no tenant")
    await go_on(where, Tenant, "RegisterTenant", lambda t: t.register(people, body.regions, cmk.regions))
    await go_on(where, Tenant, "AssignRegions", lambda t: t.assign_regions(body.regions))
    approvers = tuple(
        d.Approver(person=p.person, public_key=p.approval_key) for p in people if p.approval_key is not None
    )
    for region in sorted(set(body.regions)):
        home = residence_aggregate(region, body.id)
        await go_on(home, Residence, "AppointApprovers", lambda r: r.appoint(approvers))
        await go_on(home, Residence, "SetDefaults", lambda r: r.set_defaults())
    if not done:
        raise IllegalNow(f"tenant {body.id} is registered already")
    return done


# --- tenant regions -------------------------------------------------------------------------------------------------


async def _residence(cmk: Cmk, asked: Asked, tenant: str, region: str, command: str, decide: Any) -> list[Recorded]:
    where = residence_aggregate(region, tenant)
    order = asked.order(cmk, tenant, command)
    return await cmk.registry.execute(where, Residence, order, decide, if_match=asked.if_match)


async def configure(cmk: Cmk, asked: Asked, tenant: str, region: str, changes: dict[str, Any]) -> list[Recorded]:
    """Merge a patch into the configuration."""
    return await _residence(cmk, asked, tenant, region, "ConfigureResidence", lambda r: r.configure(changes))


async def link_root(cmk: Cmk, asked: Asked, tenant: str, region: str, root: d.RootReference) -> list[Recorded]:
    """Link the customer's root key."""
    rules = cmk.regions[region]
    return await _residence(cmk, asked, tenant, region, "LinkRootKey", lambda r: r.link_root(root, rules))


async def register_system(cmk: Cmk, asked: Asked, tenant: str, region: str, system: str) -> list[Recorded]:
    """Register a system."""
    return await _residence(cmk, asked, tenant, region, "RegisterSystem", lambda r: r.register_system(system))


async def enrol_workload(
    cmk: Cmk, asked: Asked, tenant: str, region: str, *, workload: str, system: str, fingerprint: str | None,
    spiffe: str | None,
) -> list[Recorded]:  # fmt: skip
    """Enrol a client certificate."""
    return await _residence(
        cmk, asked, tenant, region, "EnrolWorkload",
        lambda r: r.enrol_workload(workload, system, fingerprint=fingerprint, spiffe=spiffe),
    )  # fmt: skip


async def suspend(cmk: Cmk, asked: Asked, tenant: str, region: str, reason: str) -> list[Recorded]:
    """Stop new encryption."""
    return await _residence(cmk, asked, tenant, region, "SuspendAccess", lambda r: r.suspend(reason))


async def resume(cmk: Cmk, asked: Asked, tenant: str, region: str) -> list[Recorded]:
    """Let encryption go on."""
    return await _residence(cmk, asked, tenant, region, "ResumeAccess", lambda r: r.resume())


async def rotate(cmk: Cmk, asked: Asked, tenant: str, region: str, level: str, system: str | None) -> list[Recorded]:
    """Order a new version of a key."""
    return await _residence(cmk, asked, tenant, region, "OrderRotation", lambda r: r.order_rotation(level, system))


async def remove_workload(cmk: Cmk, asked: Asked, tenant: str, region: str, enrolment: str) -> list[Recorded]:
    """Cut one enrolment: on the critical lane alone, so that it waits for nothing."""
    if not cmk.views.enrolment_exists(tenant, region, enrolment):
        raise NotFound(f"no enrolment {enrolment}")
    where = residence_aggregate(region, tenant, "critical")
    order = asked.order(cmk, tenant, "RemoveWorkload")
    decree = d.WorkloadRemoved(enrolments=(enrolment,))
    return await cmk.registry.execute(where, Residence, order, lambda r: r.decree(decree))


async def revoke(cmk: Cmk, asked: Asked, tenant: str, regions: tuple[str, ...], reason: str) -> list[Pulled]:
    """Pull the kill switch: no If-Match, no approval, no other change is waited for."""
    return await cmk.switch.pull(tenant, regions, reason, asked.order(cmk, tenant, "RevokeAccess"))


def content_hash(*parts: bytes) -> str:
    """Return the hash of a request's content, hex."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
