"""Brings the demo's tenants aboard, through the API and as their own people would. Idempotent; measures each change."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from openkcm.cli import idp
from openkcm.cli.customer import customer_of
from openkcm.cli.endpoints import Endpoints
from openkcm.cli.layout import ACCOUNTS, TENANTS, Layout, Tenant
from openkcm.client import Client, Problem, SyncTimeout
from openkcm.contract import api, bodies
from openkcm.contract.seal import Signer

__all__ = ["Change", "bring_aboard", "onboard", "portal_of"]

VISIBLE_S: Final = 10.0


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change that was ordered and obeyed: milliseconds from the API's 202 to the last node's SyncAck seen there."""

    what: str
    residence: str
    sync_ms: float


def portal_of(endpoints: Endpoints, account: str) -> Client:
    """Return the API as one of the demo's people."""
    provider = Path(endpoints.log_dir).parent / "idp" / "idp.json"
    return Client(
        endpoints.cmk.url,
        endpoints.people[account].token,
        ca=endpoints.cmk.ca,
        renew=lambda: idp.mint(provider, account),
    )


def onboard(layout: Layout, endpoints: Endpoints) -> Iterator[Change]:
    """Register what is missing of the demo's tenants, and yield each change once every node obeys it.

    Raises:
        Problem: The API refused.
        SyncTimeout: A node did not acknowledge.
    """
    for tenant, demo in TENANTS.items():
        yield from bring_aboard(layout, endpoints, tenant, demo)


def bring_aboard(layout: Layout, endpoints: Endpoints, tenant: str, demo: Tenant) -> Iterator[Change]:
    """Register what is missing of one tenant, and yield each change once every node obeys it.

    Raises:
        Problem: The API refused.
        SyncTimeout: A node did not acknowledge.
    """
    subjects = layout.subjects()
    with portal_of(endpoints, "provider/operator") as operator:
        if tenant not in {known.id for known in operator.tenants()}:
            people = tuple(
                bodies.PersonBody(person=subjects[name], roles=account.roles, approval_key=_approval_key(layout, name))
                for name, account in ACCOUNTS.items()
                if name.startswith(f"{tenant}/")
            )
            order = operator.register_tenant(bodies.TenantBody(id=tenant, regions=demo.regions, people=people))
            at_ns = operator.last.at_ns
            for region in demo.regions:
                yield _settled(operator, f"register {tenant}", tenant, region, order, at_ns)
    with portal_of(endpoints, f"{tenant}/admin") as admin:
        for region in demo.regions:
            yield from _residence(layout, admin, tenant, region, demo.systems)


def _approval_key(layout: Layout, account: str) -> bytes | None:
    return Signer(layout.approval_key(account).read_bytes()).public_key if ACCOUNTS[account].approves else None


def _residence(layout: Layout, admin: Client, tenant: str, region: str, wanted: tuple[str, ...]) -> Iterator[Change]:
    """L1, then systems, then workloads: each needs the one before."""
    now = _visible(admin, tenant, region)
    if now.root is None:
        root = customer_of(layout, tenant, region).make()
        order = admin.link_root_key(tenant, region, root.provider, root.ref)
        yield _settled(admin, "link L1", tenant, region, order, admin.last.at_ns)
    systems = {system.system for system in now.systems}
    known = {workload.fingerprint for workload in now.workloads}
    for system in wanted:
        if system not in systems:
            order = admin.register_system(tenant, region, system)
            yield _settled(admin, f"register system {system}", tenant, region, order, admin.last.at_ns)
        certificate = Path(layout.workload(tenant, system).cert).read_text()
        if hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest() not in known:  # it may have been renewed
            body = bodies.WorkloadBody(workload=system, system=system, certificate=certificate)
            order = admin.enrol_workload(tenant, region, body)
            yield _settled(admin, f"enrol workload {system}", tenant, region, order, admin.last.at_ns)


def _visible(admin: Client, tenant: str, region: str) -> api.Region_:
    """Read a residence that has just been ordered: the read model takes it in a moment later."""
    deadline = time.monotonic() + VISIBLE_S
    while True:
        try:
            return admin.region(tenant, region)
        except Problem as problem:
            if problem.status not in {403, 404} or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _settled(portal: Client, what: str, tenant: str, region: str, order: api.Accepted, at_ns: int) -> Change:
    _visible(portal, tenant, region)
    try:
        portal.in_sync(tenant, region, order.generation or 0)
    except SyncTimeout as late:
        raise SyncTimeout(f"{what}: {late}") from late
    took_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - at_ns
    return Change(what=what, residence=f"{tenant}/{region}", sync_ms=took_ns / 1e6)
