"""What people may order, who may, and what it comes to: the whole surface as one table. Free functions; no HTTP.

`MAY` names the roles per command; whatever is not in it, nobody may. Whoever has no role in a tenant learns nothing of
it, not even that it exists.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TypeVar

import msgspec

from openkcm.contract import bodies
from openkcm.contract import decrees as d
from openkcm.contract.envelope import Actor
from openkcm.contract.ids import event_id
from openkcm.contract.subjects import DecreeSubject, residence_aggregate, tenant_aggregate
from openkcm.governance.aggregate import LedgerAggregate, Order
from openkcm.governance.errors import Forbidden, Foreign, IllegalNow, Invalid, NeedsApproval, NotFound
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
    "TerminateTenant":    frozenset({ADMIN}),
    "DecommissionSystem": frozenset({ADMIN, KEYS}),
    "OrderEmergencyRotation": frozenset({KEYS, SWITCH}),
}
# fmt: on


#: What a machine may do with its token, whatever the ledger says of it.
SERVICE_COMMANDS: Final = frozenset({"RevokeAccess"})


class Caller(msgspec.Struct, frozen=True):
    """Who asks: an identity that a token has proved, and the roles the ledger gives it."""

    issuer: str
    subject: str
    roles: dict[str, frozenset[str]] = {}
    operator: bool = False
    kind: Literal["bearer", "session", "service"] = "bearer"

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
    if caller.kind == "service" and command not in SERVICE_COMMANDS:
        raise Forbidden("a service may cut access, and nothing else")
    if tenant is not None and (not roles or not cmk.views.is_tenant(tenant)):
        raise Foreign(f"no tenant {tenant[:80]}")
    if not roles & MAY.get(command, frozenset()):
        raise Forbidden(f"{command} takes one of the roles {', '.join(sorted(MAY.get(command, ())))}")


def tenant_region(cmk: Cmk, tenant: str, region: str) -> None:
    """Check that a tenant lives in a region.

    Raises:
        NotFound: It does not.
    """
    if region not in cmk.views.regions_of(tenant) or region not in cmk.regions:
        raise NotFound(f"tenant {tenant} has no region {region[:80]}")


# --- tenants --------------------------------------------------------------------------------------------------------


async def register_tenant(cmk: Cmk, asked: Asked, body: bodies.TenantBody) -> list[Recorded]:
    """Register a tenant, and give each of its regions the first approvers and the defaults.

    A request that broke off half-way is completed by its repetition: each event has an id of its own.
    """
    people = tuple(
        d.Person(
            person=p.person, roles=p.roles, approval_key=p.approval_key or cmk.views.offered_key(p.person)
        )
        for p in body.people
    )  # fmt: skip
    done: list[Recorded] = []

    async def go_on(where: DecreeSubject, kind: type[_A], command: str, decide: Callable[[_A], None]) -> None:
        done.extend(await cmk.registry.execute(where, kind, asked.order(cmk, body.id, command), decide))

    draining = sorted(r for r in set(body.regions) & cmk.regions.keys() if cmk.regions[r].draining)
    where = tenant_aggregate(body.id)
    if draining and not set(draining) <= set(cmk.views.regions_of(body.id)):
        raise IllegalNow(f"region {', '.join(draining)} is being drained and takes in no tenant")
    await go_on(where, Tenant, "RegisterTenant", lambda t: t.register(people, body.regions, cmk.regions))
    await go_on(where, Tenant, "AssignRegions", lambda t: t.assign_regions(body.regions))
    done += await settle_regions(cmk, asked, body.id)
    if not done:
        raise IllegalNow(f"tenant {body.id} is registered already")
    return done


async def settle_regions(cmk: Cmk, asked: Asked, tenant: str) -> list[Recorded]:
    """Give each region of a tenant its first approvers and the defaults. Once more changes nothing."""
    done = await appoint_first(cmk, asked, tenant)
    regions = (await cmk.registry.load(tenant_aggregate(tenant), Tenant)).facts.regions
    order = asked.order(cmk, tenant, "SetDefaults")
    return done + await _everywhere(cmk, tenant, regions, order, lambda r: r.set_defaults())


async def appoint_first(cmk: Cmk, asked: Asked, tenant: str) -> list[Recorded]:
    """Give each region its first approvers, as soon as two different people have a key. Once more changes nothing."""
    facts = (await cmk.registry.load(tenant_aggregate(tenant), Tenant)).facts
    if not facts.consents:
        return []
    approvers = tuple(d.Approver(person=person, public_key=key) for person, key in sorted(facts.keys.items()))
    order = asked.order(cmk, tenant, "AppointApprovers")
    return await _everywhere(cmk, tenant, facts.regions, order, lambda r: r.appoint(approvers, facts.quorum))


async def _everywhere(
    cmk: Cmk, tenant: str, regions: Iterable[str], order: Order, decide: Callable[[Residence], None]
) -> list[Recorded]:
    """Give one order in each region at the same time; what failed in one is raised when all others are through."""
    places = [residence_aggregate(region, tenant) for region in regions]
    work = (cmk.registry.execute(where, Residence, order, decide) for where in places)
    found = await asyncio.gather(*work, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [recorded for done in found if isinstance(done, list) for recorded in done]


async def offer_key(cmk: Cmk, asked: Asked, key: bytes) -> list[str]:
    """Keep a person's own approval key, and put it in force where nobody could consent to it yet; return where."""
    person, in_force = asked.caller.subject, []
    row: dict[str, str | int] = {
        "issuer": asked.caller.issuer, "person": person, "approval_key": base64.b64encode(key).decode(),
        "at_ms": cmk.registry.now_ms,
    }  # fmt: skip
    await asyncio.to_thread(cmk.writer.apply, [("offered_key", row)])
    for tenant in sorted(asked.caller.roles):
        order = asked.order(cmk, tenant, "RegisterApprovalKey")
        try:
            done = await cmk.registry.execute(
                tenant_aggregate(tenant), Tenant, order, lambda t: t.register_own_key(person, key)
            )
        except NeedsApproval:
            continue
        done += await appoint_first(cmk, asked, tenant)
        for one in done:
            await cmk.projected(one.sequence)
        in_force.append(tenant)
    return in_force


async def terminate(cmk: Cmk, asked: Asked, tenant: str, reason: str) -> list[Recorded]:
    """Begin a tenant's end."""
    order = asked.order(cmk, tenant, "TerminateTenant")
    return await cmk.registry.execute(tenant_aggregate(tenant), Tenant, order, lambda t: t.request_termination(reason))


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


async def register_system(
    cmk: Cmk, asked: Asked, tenant: str, region: str, system: str, hand_out: d.HandOut | None = None
) -> list[Recorded]:
    """Register a system."""
    return await _residence(cmk, asked, tenant, region, "RegisterSystem", lambda r: r.register_system(system, hand_out))


async def configure_system(
    cmk: Cmk, asked: Asked, tenant: str, region: str, registration: str, hand_out: d.HandOut | None
) -> list[Recorded]:
    """Give a system another hand-out policy."""
    return await _residence(
        cmk, asked, tenant, region, "ConfigureResidence", lambda r: r.configure_system(registration, hand_out)
    )


async def enrol_workload(
    cmk: Cmk, asked: Asked, tenant: str, region: str, *, workload: str, system: str, fingerprint: str | None,
    spiffe: str | None, authority: str | None = None,
) -> list[Recorded]:  # fmt: skip
    """Enrol a client certificate."""
    return await _residence(
        cmk, asked, tenant, region, "EnrolWorkload",
        lambda r: r.enrol_workload(workload, system, fingerprint=fingerprint, spiffe=spiffe, authority=authority),
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
        raise NotFound(f"no enrolment {enrolment[:80]}")
    where = residence_aggregate(region, tenant, "critical")
    order = asked.order(cmk, tenant, "RemoveWorkload")
    decree = d.WorkloadRemoved(enrolments=(enrolment,))
    return await cmk.registry.execute(where, Residence, order, lambda r: r.decree(decree))


async def remove_authority(cmk: Cmk, asked: Asked, tenant: str, region: str, authority: str) -> list[Recorded]:
    """Cut one of the tenant's own workload CAs with all it vouches for, on the critical lane."""
    if not cmk.views.authority_counts(tenant, region, authority):
        raise NotFound(f"no workload CA {authority[:80]}")
    where = residence_aggregate(region, tenant, "critical")
    order = asked.order(cmk, tenant, "RemoveWorkloadAuthority")
    decree = d.WorkloadAuthoritiesRemoved(authorities=(authority,))
    return await cmk.registry.execute(where, Residence, order, lambda r: r.decree(decree))


async def decommission(cmk: Cmk, asked: Asked, tenant: str, region: str, registration: str) -> list[Recorded]:
    """Cut one system for ever, on the critical lane."""
    if not cmk.views.registration_exists(tenant, region, registration):
        raise NotFound(f"no registration {registration[:80]}")
    where = residence_aggregate(region, tenant, "critical")
    order = asked.order(cmk, tenant, "DecommissionSystem")
    decree = d.SystemDecommissioned(registrations=(registration,))
    return await cmk.registry.execute(where, Residence, order, lambda r: r.decree(decree))


async def rotate_at_once(
    cmk: Cmk, asked: Asked, tenant: str, region: str, level: str, system: str | None
) -> list[Recorded]:
    """Withdraw all versions of a key, on the critical lane: a new one is made, and everything moves under it."""
    if level not in {"L2", "L3"} or (level == "L3") != (system is not None):
        raise Invalid("L2, or L3 of a system")
    registration = None if system is None else cmk.views.registration_of(tenant, region, system)
    if system is not None and registration is None:
        raise NotFound(f"no system {system[:80]}")
    below = cmk.views.newest_version(tenant, region, level, registration) + 1
    where = residence_aggregate(region, tenant, "critical")
    order = asked.order(cmk, tenant, "OrderEmergencyRotation")
    decree = d.EmergencyRotationOrdered(level=level, registration=registration, below=below)  # type: ignore[arg-type]
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
