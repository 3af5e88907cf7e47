"""Tenant regions: configuration, root key, systems, workloads, suspension, rotation; and who has what."""

from __future__ import annotations

import hashlib
import ssl
from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, patch, post, put
from litestar.params import FromPath
from msgspec import Meta

from openkcm.contract import decrees as d
from openkcm.contract.ids import check_token
from openkcm.contract.subjects import residence_aggregate
from openkcm.governance import commands
from openkcm.governance.commands import Asked
from openkcm.governance.errors import Invalid, SecretRefused
from openkcm.governance.portal.requests import Req, answered, desk_of, region_path, token_of

__all__ = ["ROUTES"]

PATH = "/tenants/{tenant:str}/regions/{region:str}"
MAX_CERTIFICATE = 32_768


@get(PATH)
async def show(request: Req, tenant: FromPath[str], region: FromPath[str]) -> Response[bytes]:
    """Show everything about a tenant region; ETag is its generation."""
    desk = desk_of(request)
    await desk.allowed(request, "ReadTenant", tenant, region)
    found = desk.cmk.views.residence(tenant, region)
    return answered(request, found, etag=(found or {}).get("generation"))


@get(f"{PATH}/sync")
async def sync(request: Req, tenant: FromPath[str], region: FromPath[str]) -> Response[bytes]:
    """Show which node has what."""
    desk = desk_of(request)
    await desk.allowed(request, "ReadTenant", tenant, region)
    return answered(request, desk.cmk.watch.sync(tenant, region, desk.cmk.registry.now_ms))


@patch(f"{PATH}/configuration")
async def configure(request: Req, tenant: FromPath[str], region: FromPath[str]) -> Response[bytes]:
    """Merge a patch into the configuration."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "ConfigureResidence", tenant, region)
    changes = await desk.body(request, dict[str, Any])

    async def work(asked: Asked) -> dict[str, Any]:
        done = await commands.configure(desk.cmk, asked, tenant, region, changes)
        return await desk.recorded(region_path(tenant, region), done)

    return await desk.write(request, caller, work)


@put(f"{PATH}/root-key", status_code=202)
async def link(request: Req, tenant: FromPath[str], region: FromPath[str]) -> Response[bytes]:
    """Link the customer's root key."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "LinkRootKey", tenant, region)
    root = await desk.body(request, d.RootReference)

    async def work(asked: Asked) -> dict[str, Any]:
        done = await commands.link_root(desk.cmk, asked, tenant, region, root)
        return await desk.recorded(region_path(tenant, region), done)

    return await desk.write(request, caller, work)


class SystemBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST systems."""

    system: str


@post(f"{PATH}/systems")
async def register_system(request: Req, tenant: FromPath[str], region: FromPath[str]) -> Response[bytes]:
    """Register a system."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "RegisterSystem", tenant, region)
    system = token_of((await desk.body(request, SystemBody)).system, check_token, "system")

    async def work(asked: Asked) -> dict[str, Any]:
        done = await commands.register_system(desk.cmk, asked, tenant, region, system)
        order = asked.order(desk.cmk, tenant, "RegisterSystem")
        made = order.name(residence_aggregate(region, tenant), "registration")
        return await desk.recorded(region_path(tenant, region), done, system=system, registration=made)

    return await desk.write(request, caller, work)


class WorkloadBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST workloads: a certificate in PEM, or its fingerprint, or a SPIFFE id."""

    workload: str
    system: str
    certificate: Annotated[str, Meta(max_length=MAX_CERTIFICATE)] | None = None
    fingerprint: d.Sha256Hex | None = None
    spiffe: str | None = None


@post(f"{PATH}/workloads")
async def enrol(request: Req, tenant: FromPath[str], region: FromPath[str]) -> Response[bytes]:
    """Enrol a client certificate."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "EnrolWorkload", tenant, region)
    body = await desk.body(request, WorkloadBody)
    workload = token_of(body.workload, check_token, "workload")
    system = token_of(body.system, check_token, "system")
    fingerprint = body.fingerprint
    if body.certificate is not None:
        if fingerprint is not None:
            raise Invalid("give the certificate or its fingerprint, not both")
        fingerprint = _fingerprint(body.certificate)
    if body.spiffe is not None:
        _check_spiffe(body.spiffe)

    async def work(asked: Asked) -> dict[str, Any]:
        done = await commands.enrol_workload(
            desk.cmk, asked, tenant, region, workload=workload, system=system, fingerprint=fingerprint,
            spiffe=body.spiffe,
        )  # fmt: skip
        order = asked.order(desk.cmk, tenant, "EnrolWorkload")
        made = order.name(residence_aggregate(region, tenant), "enrolment")
        return await desk.recorded(region_path(tenant, region), done, workload=workload, enrolment=made)

    return await desk.write(request, caller, work)


@delete(f"{PATH}/workloads/{{enrolment:str}}", status_code=202)
async def remove_workload(
    request: Req, tenant: FromPath[str], region: FromPath[str], enrolment: FromPath[str]
) -> Response[bytes]:
    """Cut one enrolment, at once and for ever."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "RemoveWorkload", tenant, region)

    async def work(asked: Asked) -> dict[str, Any]:
        done = await commands.remove_workload(desk.cmk, asked, tenant, region, enrolment)
        return await desk.recorded(region_path(tenant, region), done, enrolment=enrolment)

    return await desk.write(request, caller, work)


class ReasonBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reason, as a short code."""

    reason: d.ReasonCode = "ordered"


@put(f"{PATH}/suspension", status_code=202)
async def suspend(request: Req, tenant: FromPath[str], region: FromPath[str]) -> Response[bytes]:
    """Stop new encryption; reads go on."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "SuspendAccess", tenant, region)
    body = await desk.body(request, ReasonBody)

    async def work(asked: Asked) -> dict[str, Any]:
        done = await commands.suspend(desk.cmk, asked, tenant, region, body.reason)
        return await desk.recorded(region_path(tenant, region), done)

    return await desk.write(request, caller, work)


@delete(f"{PATH}/suspension", status_code=202)
async def resume(request: Req, tenant: FromPath[str], region: FromPath[str]) -> Response[bytes]:
    """Let encryption go on."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "ResumeAccess", tenant, region)

    async def work(asked: Asked) -> dict[str, Any]:
        return await desk.recorded(region_path(tenant, region), await commands.resume(desk.cmk, asked, tenant, region))

    return await desk.write(request, caller, work)


class RotationBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST rotations."""

    level: str
    system: str | None = None


@post(f"{PATH}/rotations")
async def rotate(request: Req, tenant: FromPath[str], region: FromPath[str]) -> Response[bytes]:
    """Order a new version of a key."""
    desk = desk_of(request)
    caller = await desk.allowed(request, "OrderRotation", tenant, region)
    body = await desk.body(request, RotationBody)

    async def work(asked: Asked) -> dict[str, Any]:
        done = await commands.rotate(desk.cmk, asked, tenant, region, body.level, body.system)
        order = asked.order(desk.cmk, tenant, "OrderRotation")
        made = order.name(residence_aggregate(region, tenant), "rotation")
        return await desk.recorded(region_path(tenant, region), done, rotation=made)

    return await desk.write(request, caller, work)


def _fingerprint(pem: str) -> str:
    """Return the SHA-256 of a certificate's DER.

    Raises:
        SecretRefused: A private key came along. It was not stored.
        Invalid: Not exactly one certificate.
    """
    if "PRIVATE KEY" in pem:
        raise SecretRefused("the certificate comes with a private key: send the certificate alone, and keep the key")
    if pem.count("-----BEGIN CERTIFICATE-----") != 1:
        raise Invalid("certificate takes exactly one certificate in PEM")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.strip())).hexdigest()
    except (ssl.SSLError, ValueError) as bad:
        raise Invalid("the certificate cannot be read: is it PEM, and whole?") from bad


def _check_spiffe(spiffe: str) -> None:
    example = {"workload": "w", "system": "s", "registration": "registration", "enrolment": "enrolment"}
    try:
        msgspec.convert({**example, "spiffe": spiffe}, d.WorkloadEnrolled)
    except msgspec.ValidationError as bad:
        raise Invalid("spiffe takes an id like spiffe://domain/path") from bad


ROUTES = [show, sync, configure, link, register_system, enrol, remove_workload, suspend, resume, rotate]
