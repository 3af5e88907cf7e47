"""The whole surface, enumerated from the OpenAPI document: who may what, and that nothing is open by forgetting."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Iterator

import msgspec
import pytest

from governance_stack import OPERATOR, Stack
from openkcm.client import client, transport
from openkcm.contract import api
from openkcm.governance.commands import MAY
from openkcm.governance.portal import limits
from openkcm.governance.portal.auth import SERVICE_TOKEN
from openkcm.governance.portal.openapi import API, document
from openkcm.governance.portal.surface import SURFACE
from orbital_fixture import EU

PUBLIC = {"healthz", "readyz", "openapi"}
#: Every command, and who of a test tenant's people may give it: written by hand, not read from the code's table.
MAY_GIVE = {
    "RegisterTenant": {"operator"}, "ReadLedger": {"auditor", "operator"}, "ReadTenant": {"admin", "approver", "auditor", "operator"},
    "ReadFigures": {"operator"}, "ReadFleet": {"admin", "auditor", "operator"}, "ReadCheckpoints": {"admin", "approver", "auditor", "operator"},
    "Cosign": {"auditor", "operator"}, "ConfigureResidence": {"admin"}, "LinkRootKey": {"admin"},
    "RegisterSystem": {"admin"}, "EnrolWorkload": {"admin"}, "RemoveWorkload": {"admin"}, "SuspendAccess": {"admin"},
    "ResumeAccess": {"admin"}, "OrderRotation": {"admin"}, "RevokeAccess": {"admin"},
    "ProposeApproval": {"admin", "approver"}, "AnswerApproval": {"admin", "approver"}, "TerminateTenant": {"admin"},
    "DecommissionSystem": {"admin"}, "OrderEmergencyRotation": {"admin"},
}  # fmt: skip


def operations() -> Iterator[tuple[str, str, dict]]:
    for path, methods in document()["paths"].items():
        for method, described in methods.items():
            yield method.upper(), path, described


def test_the_document_describes_every_operation_with_its_problems_and_every_command_has_roles() -> None:
    described = {one["operationId"]: one for _, _, one in operations()}
    assert set(described) == {one.name for one in SURFACE}
    for name, one in described.items():
        responses = {status: r for status, r in one["responses"].items() if status[0] in "45"}
        assert one["summary"], name
        if name not in PUBLIC:
            assert {"401", "403", "422", "429"} <= set(responses), name
        for status, response in responses.items():
            if (name, status) != ("readyz", "503"):
                example = response["content"]["application/problem+json"]["example"]
                assert example["status"] == int(status)
        if "requestBody" in one and name != "cosign":
            assert next(iter(one["requestBody"]["content"].values()))["example"], name
    commands = {one.command for one in SURFACE if one.command is not None}
    assert commands <= set(MAY)
    assert commands <= set(MAY_GIVE)
    assert {one.name for one in SURFACE if one.public} == PUBLIC
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document())))
    assert references <= set(document()["components"]["schemas"])


async def test_role_by_route_by_tenant_and_whatever_is_not_allowed_is_denied(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for whose in ("address", "all", "known"):  # hundreds of a stranger's requests at once: budgets are another test's
        monkeypatch.setitem(limits.BUDGETS, (whose, "stranger"), limits.Budget(10_000, 1_000))
    tenant, other = await stack.tenant(), await stack.tenant()
    before = await stack.last()
    parts = {"tenant": tenant, "region": EU, "tree": "global", "approval": "nothing-here", "enrolment": "nothing-here",
             "registration": "nothing-here", "event": "nothing-here", "authority": "nothing-here"}  # fmt: skip
    tried = 0
    for method, path, described in operations():
        if described["operationId"] in {"streamEvents", "signOutEverywhere"}:
            continue
        url = re.sub(r"\{(\w+)\}", lambda found: parts[found[1]], path)
        body = None if method in {"GET", "DELETE"} else {"nonsense": 1}
        command = described["x-command"]
        for who in ("admin", "approver", "auditor", "operator"):
            person = OPERATOR if who == "operator" else f"{tenant}-{who}"
            answer = await stack.ask(person, method, url, body)
            tried += 1
            if command is not None and who not in MAY_GIVE[command]:
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (who, method, url)
            else:
                assert answer.status_code not in {401, 403, 500, 503}, (who, method, url, answer.text)
            assert str(answer.status_code) in described["responses"], (method, url, answer.status_code)
        for stranger, expected in ((f"{other}-admin", 404), ("nobody-1", 404)):
            answer = await stack.ask(stranger, method, url, body)
            tried += 1
            if "{tenant}" in path:
                assert answer.status_code == expected, (stranger, method, url, answer.text)
        answer = await stack.ask(None, method, url, body)
        assert answer.status_code == (200 if described["operationId"] in PUBLIC else 401), (method, url)
    assert tried > 200
    events = (await stack.must(OPERATOR, "GET", "/ledger", after=before))["value"]
    assert {e["tag"] for e in events} <= {"AccessDenied.2"}


async def test_a_service_cuts_access_and_does_nothing_else(stack: Stack) -> None:
    tenant = await stack.tenant()
    token = "okcm-" + secrets.token_hex(32)
    assert SERVICE_TOKEN.match(token)
    path = f"/tenants/{tenant}/revocations"
    assert (await stack.ask(None, "POST", path, {}, token=token)).status_code == 404  # nobody granted it anything
    person = "service-" + __import__("hashlib").sha256(token.encode()).hexdigest()
    stack.cmk.writer._connection.execute(
        "INSERT INTO person_role (tenant, person, role) VALUES (?, ?, 'kill-switch')", (tenant, person)
    )
    for method, url in (("GET", f"/tenants/{tenant}"), ("GET", "/tenants"), ("GET", "/events"), ("POST", f"/tenants/{tenant}/approvals/prepare")):  # fmt: skip
        assert (await stack.ask(None, method, url, token=token)).status_code == 403, url
    assert (await stack.ask(None, "POST", path, {"reason": "siem"}, token=token)).status_code == 202


async def test_the_kill_switch_and_approvals_ask_for_somebody_who_was_there_just_now(stack: Stack) -> None:
    tenant = await stack.tenant()
    stale = stack.idp.token(f"{tenant}-admin", auth_time=1_000_000)
    unsaid = stack.idp.token(f"{tenant}-admin", auth_time=None)
    for token in (stale, unsaid):
        for url in ("revocations", "terminations", "approvals"):
            body = {"reason": "x"} if url != "approvals" else {}
            answer = await stack.ask(None, "POST", f"/tenants/{tenant}/{url}", body, token=token)
            assert (answer.status_code, answer.json()["code"]) == (401, "step-up-required"), answer.text
            assert "insufficient_user_authentication" in answer.headers["www-authenticate"]
    dry = await stack.ask(None, "POST", f"/tenants/{tenant}/revocations", {}, token=stale, dryRun="true")
    assert dry.status_code == 200
    fresh = await stack.ask(f"{tenant}-admin", "POST", f"/tenants/{tenant}/revocations", {})
    assert fresh.status_code == 202


async def test_lists_are_filtered_paged_and_capped(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = await stack.tenant()
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
    for name in ("s-a", "s-b", "s-c"):
        await stack.must(admin, "POST", f"{path}/systems", {"system": name})
    page = await stack.must(admin, "GET", f"{path}/systems", **{"$top": 2, "$skip": 1})
    assert ([s["system"] for s in page["value"]], page["count"]) == (["s-a", "s-b"], 4)
    only = await stack.must(admin, "GET", f"{path}/systems", **{"$filter": "system eq 's-b'"})
    assert [s["system"] for s in only["value"]] == ["s-b"]
    for query in ({"$top": 0}, {"$top": 1001}, {"$top": "x"}, {"$filter": "system"}, {"$filter": "a eq 'b' or c eq 'd'"}, {"$filter": "ceiling eq 'b'"}, {"$after": "x"}, {"nonsense": 1}):  # fmt: skip
        assert (await stack.ask(admin, "GET", f"{path}/systems", **query)).status_code == 422, query
    whole = await stack.must(admin, "GET", f"{path}/systems")
    assert whole["count"] == len(whole["value"]) == 4
    first = await stack.ask(admin, "GET", f"{path}/systems", **{"$top": 2, "$skip": 1})
    url = first.links["next"]["url"]
    assert "skip" not in url
    await stack.must(admin, "POST", f"{path}/systems", {"system": "s-d"})
    rest = await stack.ask(admin, "GET", url)
    assert first.json()["value"] + rest.json()["value"][:-1] == whole["value"][1:]
    assert "Link" not in rest.headers
    monkeypatch.setattr(transport, "PAGE", 2)
    with client.Client(str(stack.client.base_url), stack.idp.token(admin)) as typed:
        followed = await asyncio.to_thread(typed._all, f"{path}/systems", api.System)
    assert [one.system for one in followed] == ["payments", "s-a", "s-b", "s-c", "s-d"]
    deep = b"[" * 33 + b"]" * 33
    answer = await stack.ask(admin, "POST", f"{path}/systems", deep)
    assert "nested deeper" in answer.text
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await stack.ask(admin, "POST", f"{path}/systems", b"system=x", headers=form)
    assert answer.status_code == 415


async def test_a_flood_is_answered_with_too_many_and_leaves_the_switch_its_budget(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await stack.tenant()
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}"
    monkeypatch.setitem(limits.BUDGETS, ("subject", "write"), limits.Budget(3, 0.0001))  # whatever the machine's pace
    answers = [await stack.ask(admin, "DELETE", f"{path}/regions/{EU}/suspension") for _ in range(5)]
    assert [a.status_code for a in answers] == [409, 409, 409, 429, 429]
    assert answers[-1].json()["code"] == "too-many-requests"
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert (await stack.ask(admin, "POST", f"{path}/revocations", {})).status_code == 202


async def test_events_are_caught_up_without_a_gap_and_are_nobody_elses(stack: Stack) -> None:
    tenant, other = await stack.tenant(), await stack.tenant()
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
    last = await stack.last()
    for _ in range(3):
        await stack.must(admin, "PUT", f"{path}/suspension", {})
        await stack.must(f"{other}-admin", "PUT", f"/tenants/{other}/regions/{EU}/suspension", {})
    headers = {"Authorization": f"Bearer {stack.idp.token(admin)}", "Last-Event-ID": str(last)}
    seen: list[dict] = []
    async with stack.client.stream("GET", f"{API}/events", headers=headers) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: {") and '"event"' in line:
                seen.append(msgspec.json.decode(line[6:]))
                if len(seen) == 3:
                    await stack.must(admin, "DELETE", f"{path}/suspension")
                if len(seen) == 4:
                    break
    assert [s["event"] for s in seen] == ["AccessSuspended"] * 3 + ["AccessResumed"]
    assert {s["tenant"] for s in seen} == {tenant}
    assert len({s["sequence"] for s in seen}) == 4
    assert (await stack.ask(admin, "GET", "/events", headers={"Last-Event-ID": "x"})).status_code == 422
