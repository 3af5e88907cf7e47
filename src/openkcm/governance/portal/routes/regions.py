"""Tenant regions: configuration, root key, systems, workloads, suspension, rotation; and who has what."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec
from litestar import Response

from openkcm.contract import api, bodies
from openkcm.contract import decrees as d
from openkcm.contract.subjects import residence_aggregate
from openkcm.governance import byok, commands, lists
from openkcm.governance.authorities import shown
from openkcm.governance.commands import Asked
from openkcm.governance.errors import IllegalNow, Invalid, NotFound, SecretRefused
from openkcm.governance.portal.requests import region_path
from openkcm.governance.portal.surface import Call, operation
from openkcm.governance.registry import Recorded

__all__: list[str] = []

PATH: Final = "/tenants/{tenant}/regions/{region}"
Command = Callable[..., Awaitable[list[Recorded]]]


async def _order(
    call: Call, command: Command, *given: Any, made: tuple[str, str] | None = None, said: dict[str, str] | None = None
) -> Response[bytes]:
    """Give a command about the tenant region, and answer with the event.

    Args:
        given: What the command takes beyond who, whose and where.
        made: (command, what) of the name that the order gave.
        said: What the answer repeats.
    """
    cmk, answer = call.desk.cmk, dict(said or {})

    async def run(asked: Asked) -> dict[str, Any]:
        done = await command(cmk, asked, call.tenant, call.region, *given)
        if made is not None:
            order = asked.order(cmk, call.tenant, made[0])
            answer[made[1]] = order.name(residence_aggregate(call.region, call.tenant), made[1])
        return await call.desk.recorded(region_path(call.tenant, call.region), done, **answer)

    return await call.write(run)


async def _order_of(call: Call, part: str, command: Command, *given: Any) -> Response[bytes]:
    """Give a command about what a part of the path names."""
    return await _order(call, command, call.part(part), *given, said={part: call.part(part)})


def _shown(call: Call) -> dict[str, Any]:
    return call.desk.cmk.views.residence(call.tenant, call.region) or {}


@operation("GET", PATH, "ReadTenant", name="showRegion", answer=api.Region_)
async def show(call: Call) -> Response[bytes]:
    """Show everything about a tenant region; ETag is its generation."""
    found = _shown(call)
    return call.answer(found, etag=found.get("generation"))


@operation("GET", f"{PATH}/sync", "ReadTenant", name="showSync", answer=api.Sync)
async def sync(call: Call) -> Response[bytes]:
    """Show which node has what, and by when nobody can serve any more."""
    cmk = call.desk.cmk
    return call.answer(cmk.watch.sync(call.tenant, call.region, cmk.registry.now_ms))


@operation("PATCH", f"{PATH}/configuration", "ConfigureResidence", name="configure", body=dict[str, Any],
           answer=api.Accepted, example={"labels": {"tier": "gold"}, "lease_s": 3600})  # fmt: skip
async def configure(call: Call) -> Response[bytes]:
    """Merge a patch (RFC 7396) into the configuration. A longer lease takes the approval LengthenLease."""
    return await _order(call, commands.configure, call.body)


@operation("GET", f"{PATH}/root-key", "ReadTenant", name="showRootKey", answer=api.RootKey)
async def root(call: Call) -> Response[bytes]:
    """Show the root key's name, its state as each node sees it, and the versions of the keys below it."""
    found = _shown(call)
    return call.answer(
        {
            "root": found.get("root"), "states": found.get("root_states", []),
            "key_versions": found.get("key_versions", []), "rotations": found.get("rotations", []),
        },
        etag=found.get("generation"),
    )  # fmt: skip


@operation("PUT", f"{PATH}/root-key", "LinkRootKey", name="linkRootKey", body=d.RootReference, answer=api.Accepted,
           example={"provider": "aws", "ref": "arn:aws:kms:eu-central-1:111122223333:alias/acme"})  # fmt: skip
async def link(call: Call) -> Response[bytes]:
    """Link the customer's root key. Another one over a linked one takes the approval LinkRootKey."""
    return await _order(call, commands.link_root, call.body)


@operation("GET", f"{PATH}/root-key/import", "ReadTenant", name="showImportParameters", answer=api.ImportParameters)
async def import_parameters(call: Call) -> Response[bytes]:
    """Show what to ask the linked key's own KMS for, to bring your own key material, and how to wrap it.

    The wrapping key and the import token go from that KMS to your own tool: the provider of this service sees neither.
    """
    root = _shown(call).get("root")
    if root is None:
        raise IllegalNow("no root key is linked here yet: link the key that was made for the import first")
    told = byok.parameters(d.RootReference(**root))
    if told is None:
        raise NotFound(f"a {root['provider']} root takes no import: its key is made where it lies")
    return call.answer(told)


@operation("GET", f"{PATH}/systems", "ReadTenant", name="listSystems", answer=api.Page[api.System], paged=True)
async def systems(call: Call) -> Response[bytes]:
    """List the systems that are registered."""
    return call.listed(call.page(lists.SYSTEMS))


@operation("POST", f"{PATH}/systems", "RegisterSystem", name="registerSystem", body=bodies.SystemBody,
           answer=api.Accepted, example={"system": "payments", "hand_out": "never"})  # fmt: skip
async def register_system(call: Call) -> Response[bytes]:
    """Register a system: it gets keys of its own, and may have a stricter hand-out policy than the tenant region."""
    name = call.body.system
    made = ("RegisterSystem", "registration")
    return await _order(call, commands.register_system, name, call.body.hand_out, made=made, said={"system": name})


@operation("PUT", f"{PATH}/systems/{{registration}}/hand-out", "ConfigureResidence", name="setHandOut",
           body=bodies.HandOutBody, answer=api.Accepted, example={"hand_out": "wrapped-only"})  # fmt: skip
async def hand_out(call: Call) -> Response[bytes]:
    """Say whether KMIP Get gives a system's keys away; the stricter of it and the tenant region's policy counts."""
    return await _order_of(call, "registration", commands.configure_system, call.body.hand_out)


@operation("DELETE", f"{PATH}/systems/{{registration}}", "DecommissionSystem", name="decommissionSystem",
           answer=api.Accepted)  # fmt: skip
async def decommission(call: Call) -> Response[bytes]:
    """Cut a system with all its workloads, at once and for ever."""
    return await _order_of(call, "registration", commands.decommission)


@operation("GET", f"{PATH}/workloads", "ReadTenant", name="listWorkloads", answer=api.Page[api.Workload], paged=True)
async def workloads(call: Call) -> Response[bytes]:
    """List the workloads that are enrolled."""
    return call.listed(call.page(lists.WORKLOADS))


@operation("POST", f"{PATH}/workloads", "EnrolWorkload", name="enrolWorkload", body=bodies.WorkloadBody,
           answer=api.Accepted, example={"workload": "app", "system": "payments", "fingerprint": "0" * 64})  # fmt: skip
async def enrol(call: Call) -> Response[bytes]:
    """Enrol a client certificate: PEM, its fingerprint, or the SPIFFE id it carries; under a CA of the tenant's own."""
    body, fingerprint = call.body, call.body.fingerprint
    if body.certificate is not None:
        if fingerprint is not None:
            raise Invalid("give the certificate or its fingerprint, not both")
        fingerprint = _fingerprint(body.certificate)
    if body.spiffe is not None:
        _check_spiffe(body.spiffe)
    command = partial(
        commands.enrol_workload, workload=body.workload, system=body.system, fingerprint=fingerprint,
        spiffe=body.spiffe, authority=body.authority,
    )  # fmt: skip
    return await _order(call, command, made=("EnrolWorkload", "enrolment"), said={"workload": body.workload})


@operation("DELETE", f"{PATH}/workloads/{{enrolment}}", "RemoveWorkload", name="removeWorkload", answer=api.Accepted)
async def remove_workload(call: Call) -> Response[bytes]:
    """Cut one enrolment, at once and for ever."""
    return await _order_of(call, "enrolment", commands.remove_workload)


@operation("GET", f"{PATH}/workload-authorities", "ReadTenant", name="listWorkloadAuthorities",
           answer=api.Page[api.WorkloadAuthority], paged=True)  # fmt: skip
async def authorities(call: Call) -> Response[bytes]:
    """List the tenant's own CAs that vouch for its workloads. One is added by the approval TrustWorkloadAuthority."""
    page = call.page(lists.AUTHORITIES)
    return call.listed(page, shown(page.rows))


@operation("DELETE", f"{PATH}/workload-authorities/{{authority}}", "RemoveWorkload", name="removeWorkloadAuthority",
           answer=api.Accepted)  # fmt: skip
async def remove_authority(call: Call) -> Response[bytes]:
    """Cut one of the tenant's own CAs with every workload enrolled under it, at once and for ever."""
    return await _order_of(call, "authority", commands.remove_authority)


@operation("PUT", f"{PATH}/suspension", "SuspendAccess", name="suspend", body=bodies.ReasonBody, answer=api.Accepted,
           example={"reason": "contract-dispute"})  # fmt: skip
async def suspend(call: Call) -> Response[bytes]:
    """Stop new encryption; reads go on."""
    return await _order(call, commands.suspend, call.body.reason)


@operation("DELETE", f"{PATH}/suspension", "ResumeAccess", name="resume", answer=api.Accepted)
async def resume(call: Call) -> Response[bytes]:
    """Let encryption go on."""
    return await _order(call, commands.resume)


@operation("GET", f"{PATH}/rotations", "ReadTenant", name="listRotations", answer=api.Page[api.Rotation], paged=True)
async def rotations(call: Call) -> Response[bytes]:
    """List the rotations that were ordered."""
    return call.listed(call.page(lists.ROTATIONS))


@operation("POST", f"{PATH}/rotations", "OrderRotation", name="rotate", body=bodies.RotationBody, answer=api.Accepted,
           example={"level": "L3", "system": "payments"})  # fmt: skip
async def rotate(call: Call) -> Response[bytes]:
    """Order a new version of L2, or of a system's L3. L1 is rotated in the customer's own KMS, and noticed."""
    made = ("OrderRotation", "rotation")
    return await _order(call, commands.rotate, call.body.level, call.body.system, made=made)


@operation("POST", f"{PATH}/emergency-rotations", "OrderEmergencyRotation", name="rotateAtOnce",
           body=bodies.RotationBody, answer=api.Accepted, example={"level": "L3", "system": "payments"})  # fmt: skip
async def rotate_at_once(call: Call) -> Response[bytes]:
    """Withdraw all versions of a key at once: reads fail until nodes have moved what is under them to a new version."""
    return await _order(call, commands.rotate_at_once, call.body.level, call.body.system)


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
