"""The API on a real hub: onboarding, pending, the switch, approvals, and every bad input refused without an event."""

from __future__ import annotations

import base64

import httpx
import msgspec
from joserfc.jwk import ECKey, OctKey

from governance_ledger import ANNA, BERT, ROGUE
from governance_stack import CERTIFICATE, OPERATOR, Stack, b64, sign
from openkcm.contract import envelope as env
from openkcm.contract import reports
from openkcm.execution.voice import Voice
from orbital_fixture import EU, EU_NODE, US, US_NODE


def problem(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["requestId"] == answer.headers["x-request-id"]


async def test_a_tenant_comes_aboard_and_each_change_is_pending_until_the_nodes_ack(stack: Stack) -> None:
    tenant = await stack.tenant(regions=(EU, US))
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
    body = {"workload": "payments", "system": "payments", "certificate": CERTIFICATE.read_text()}
    enrolled = await stack.must(admin, "POST", f"{path}/workloads", body)
    shown = await stack.ask(admin, "GET", path)
    now = shown.json()
    assert (now["state"], now["generation"], now["fence"]) == ("Active", 5, 0)
    assert shown.headers["etag"] == '"5"'
    assert enrolled["generation"] == 5
    assert now["workloads"][0]["enrolment"] == enrolled["enrolment"]
    assert now["root"] == {"provider": "file", "ref": f"/keys/{tenant}.keys", "credential": None}
    assert now["approvers"]["approvers"] == [f"{tenant}-admin", f"{tenant}-approver"]
    sync = await stack.must(admin, "GET", f"{path}/sync")
    assert (sync["routine"]["status"], sync["routine"]["acked"], sync["routine"]["of"]) == ("Pending", 0, 1)
    async with stack.node() as node:
        await node.ack(tenant, "routine", 5)

        async def in_sync() -> bool:
            return (await stack.must(admin, "GET", f"{path}/sync"))["routine"]["status"] == "InSync"

        await stack.until(in_sync)
    assert [t["id"] for t in (await stack.must(admin, "GET", "/tenants"))["value"]] == [tenant]


async def test_a_system_has_a_hand_out_policy_with_the_regions_as_its_ceiling_and_the_dry_run_shows_it(
    stack: Stack,
) -> None:
    tenant = await stack.tenant()
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
    made = await stack.must(admin, "POST", f"{path}/systems", {"system": "vault", "hand_out": "wrapped-only"})
    registration = made["registration"]

    async def policies() -> dict[str, tuple[str | None, str]]:
        found = await stack.must(admin, "GET", f"{path}/systems")
        return {s["system"]: (s["hand_out"], s["hand_out_in_force"]) for s in found["value"]}

    assert await policies() == {"payments": (None, "allowed"), "vault": ("wrapped-only", "wrapped-only")}
    await stack.must(admin, "PUT", f"{path}/systems/{registration}/hand-out", {"hand_out": "allowed"})
    await stack.must(admin, "PATCH", f"{path}/configuration", {"hand_out": "never"})
    assert await policies() == {"payments": (None, "never"), "vault": ("allowed", "never")}
    await stack.must(admin, "PATCH", f"{path}/configuration", {"hand_out": None})
    await stack.must(admin, "PUT", f"{path}/systems/{registration}/hand-out", {})
    assert await policies() == {"payments": (None, "allowed"), "vault": (None, "allowed")}
    for body, status in (({"hand_out": "sometimes"}, 422), ({"hand_out": "never", "more": 1}, 422)):
        answer = await stack.ask(admin, "PUT", f"{path}/systems/{registration}/hand-out", body)
        problem(answer, status, "invalid-request")
    gone = await stack.ask(admin, "PUT", f"{path}/systems/reg-nobodys/hand-out", {"hand_out": "never"})
    assert gone.status_code == 404
    async with stack.node() as node:
        one = reports.Handed(registration=registration, workload="app", object_id="key-1", wrapped=True, times=3)
        report = reports.HandedOut(
            tenant=tenant, series="0a0b0c0d-0e0f-4a0b-8c0d-0e0f0a0b0c0d", number=1, handed=(one,)
        )
        await node.say(tenant, report)

        async def counted() -> bool:
            pulled = await stack.must(admin, "POST", f"/tenants/{tenant}/revocations", {"reason": "x"}, dryRun="true")
            handed = {h["system"]: (h["hand_out"], h["times"]) for h in pulled["regions"][0]["handed_out"]}
            return handed == {"payments": ("allowed", 0), "vault": ("allowed", 3)}

        await stack.until(counted)


async def test_a_revocation_is_revoked_when_every_node_acked_and_confirmed_with_the_sealed_acks(stack: Stack) -> None:
    tenant = await stack.tenant()
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
    last = await stack.last()
    dry = await stack.must(admin, "POST", f"/tenants/{tenant}/revocations", {"reason": "drill"}, dryRun="true")
    assert dry["regions"][0]["systems"] == 1
    assert await stack.last() == last
    pulled = await stack.must(admin, "POST", f"/tenants/{tenant}/revocations", {"reason": "stolen"})
    assert [(p["region"], p["fence"], p["recorded"]) for p in pulled["revocations"]] == [(EU, 1, "ledger")]

    async def critical(status: str) -> bool:
        return (await stack.must(admin, "GET", f"{path}/sync"))["critical"]["status"] == status

    await stack.until(lambda: critical("Revoking"))
    assert (await stack.must(admin, "GET", f"{path}/sync"))["critical"][
        "certain_by"
    ] is None  # the node was never heard
    async with stack.node() as node:
        body = await node.ack(tenant, "critical", 1, state="revoked")
        await stack.until(lambda: critical("Revoked"))

        async def confirmed() -> list[bytes]:
            events = (await stack.must(f"{tenant}-auditor", "GET", "/ledger", tenant=tenant))["value"]
            return [e for e in events if e["tag"] == "RevocationConfirmed.1"]

        found = (await stack.until(confirmed))[0]["data"]
    assert found["revocation"] == pulled["revocations"][0]["event"]
    assert (found["outcome"], found["nodes"]) == ("acked", [EU_NODE])
    assert msgspec.json.encode(found["acks"][0]) == body
    assert (await stack.must(admin, "GET", path))["state"] == "Revoked"
    receipt = await stack.must(admin, "GET", f"/tenants/{tenant}/revocations/{found['revocation']}/receipt")
    assert (receipt["revocation"]["tag"], receipt["confirmation"]["data"]["outcome"]) == ("AccessRevoked.1", "acked")
    sealed = env.decode(base64.b64decode(receipt["revocation"]["body"]))
    env.verify(sealed, receipt["revocation"]["subject"], stack.cmk.projection.signing_keys)


async def test_two_people_restore_and_one_does_not(stack: Stack) -> None:
    tenant = await stack.tenant()
    admin, approver, path = f"{tenant}-admin", f"{tenant}-approver", f"/tenants/{tenant}"
    await stack.must(admin, "POST", f"{path}/revocations", {})

    async def revoked() -> bool:
        return (await stack.must(admin, "GET", f"{path}/regions/{EU}"))["state"] == "Revoked"

    await stack.until(revoked)
    prepared = await stack.must(admin, "POST", f"{path}/approvals/prepare", {"command": "RestoreAccess", "region": EU})
    assert prepared["fence_seen"] == 1
    ask = {
        "approval": prepared["approval"],
        "command": "RestoreAccess",
        "region": EU,
        "arguments": prepared["statement"]["arguments"],
    }
    problem(
        await stack.ask(admin, "POST", f"{path}/approvals", {**ask, "signature": sign(BERT, prepared)}),
        422,
        "bad-signature",
    )
    await stack.must(admin, "POST", f"{path}/approvals", {**ask, "signature": sign(ANNA, prepared)})
    grants = f"{path}/approvals/{prepared['approval']}/grants"
    problem(await stack.ask(admin, "POST", grants, {"signature": sign(ANNA, prepared)}), 403, "forbidden")
    problem(await stack.ask(approver, "POST", grants, {"signature": sign(ROGUE, prepared)}), 422, "bad-signature")
    assert await revoked()
    granted = await stack.must(approver, "POST", grants, {"signature": sign(BERT, prepared)}, key="g1")
    assert (await stack.must(admin, "GET", f"{path}/regions/{EU}"))["state"] == "Active"
    again = await stack.must(approver, "POST", grants, {"signature": sign(BERT, prepared)}, key="g1")
    assert again == granted
    shown = await stack.must(admin, "GET", f"{path}/approvals/{prepared['approval']}")
    assert (shown["state"], shown["granted_by"], shown["event"]) == ("Executed", [approver], granted["event"])


async def test_a_revocation_meanwhile_voids_a_pending_restore(stack: Stack) -> None:
    tenant = await stack.tenant()
    admin, approver, path = f"{tenant}-admin", f"{tenant}-approver", f"/tenants/{tenant}"
    await stack.must(admin, "POST", f"{path}/revocations", {})
    prepared = await stack.must(admin, "POST", f"{path}/approvals/prepare", {"command": "RestoreAccess", "region": EU})
    ask = {
        "approval": prepared["approval"],
        "command": "RestoreAccess",
        "region": EU,
        "arguments": prepared["statement"]["arguments"],
    }
    await stack.must(admin, "POST", f"{path}/approvals", {**ask, "signature": sign(ANNA, prepared)})
    await stack.must(admin, "POST", f"{path}/revocations", {})
    grants = f"{path}/approvals/{prepared['approval']}/grants"
    problem(
        await stack.ask(approver, "POST", grants, {"signature": sign(BERT, prepared)}), 409, "illegal-in-this-state"
    )
    assert (await stack.must(admin, "GET", f"{path}/approvals/{prepared['approval']}"))["state"] == "Withdrawn"
    assert (await stack.must(admin, "GET", f"{path}/regions/{EU}"))["state"] == "Revoked"


async def test_a_longer_lease_and_another_root_take_two_people(stack: Stack) -> None:
    tenant = await stack.tenant()
    admin, approver, path = f"{tenant}-admin", f"{tenant}-approver", f"/tenants/{tenant}"
    region = f"{path}/regions/{EU}"
    await stack.must(admin, "PATCH", f"{region}/configuration", {"lease_s": 60, "labels": {"a": "b"}})
    problem(await stack.ask(admin, "PATCH", f"{region}/configuration", {"lease_s": 3600}), 409, "approval-required")
    problem(
        await stack.ask(admin, "PUT", f"{region}/root-key", {"provider": "file", "ref": "/keys/other"}),
        409,
        "approval-required",
    )
    for command, arguments in (
        ("LengthenLease", {"lease_s": "3600"}),
        ("LinkRootKey", {"provider": "file", "ref": "/keys/other"}),
    ):
        body = {"command": command, "region": EU, "arguments": arguments}
        prepared = await stack.must(admin, "POST", f"{path}/approvals/prepare", body)
        ask = {
            "approval": prepared["approval"],
            "command": command,
            "region": EU,
            "arguments": prepared["statement"]["arguments"],
        }
        await stack.must(admin, "POST", f"{path}/approvals", {**ask, "signature": sign(ANNA, prepared)})
        grants = f"{path}/approvals/{prepared['approval']}/grants"
        await stack.must(approver, "POST", grants, {"signature": sign(BERT, prepared)})
    now = await stack.must(admin, "GET", region)
    assert (now["lease_s"], now["root"]["ref"], now["configuration"]["labels"]) == (3600, "/keys/other", {"a": "b"})


async def test_the_same_key_and_body_is_the_first_answer_and_another_body_is_refused(stack: Stack) -> None:
    tenant = await stack.tenant()
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
    first = await stack.must(admin, "POST", f"{path}/systems", {"system": "archive"}, key="k1")
    last = await stack.last()
    assert await stack.must(admin, "POST", f"{path}/systems", {"system": "archive"}, key="k1") == first
    problem(
        await stack.ask(admin, "POST", f"{path}/systems", {"system": "other"}, key="k1"), 409, "idempotency-key-reused"
    )
    stack.cmk.writer.apply(
        [
            (
                "request",
                {
                    "forget_before_ms": 1 << 60,
                    "actor": "",
                    "method": "",
                    "path": "",
                    "key": "",
                    "body_hash": "",
                    "status": 0,
                    "answer": b"",
                    "at_ms": 0,
                },
            )
        ]
    )
    problem(
        await stack.ask(admin, "POST", f"{path}/systems", {"system": "other"}, key="k1"), 409, "idempotency-key-reused"
    )
    again = await stack.must(admin, "POST", f"{path}/systems", {"system": "archive"}, key="k1")  # now from the ledger
    assert (again["event"], again["registration"]) == (first["event"], first["registration"])
    assert await stack.last() == last
    one = await stack.must(admin, "POST", f"/tenants/{tenant}/revocations", {"reason": "drill"}, key="r1")
    last = await stack.last()
    two = await stack.must(admin, "POST", f"/tenants/{tenant}/revocations", {"reason": "drill"}, key="r1")
    assert [p["event"] for p in one["revocations"]] == [p["event"] for p in two["revocations"]]
    problem(
        await stack.ask(admin, "POST", f"/tenants/{tenant}/revocations", {"reason": "other"}, key="r1"),
        409,
        "idempotency-key-reused",
    )
    assert await stack.last() == last


BAD = [
    ("PUT", "root-key", {"provider": "aws", "ref": "arn:aws:kms:eu-central-1:12:key/x"}, 422, "invalid-reference"),
    ("PUT", "root-key", {"provider": "aws", "ref": "arn:aws:kms:us-east-1:123456789012:alias/acme"}, 422, "invalid-reference"),
    ("PUT", "root-key", {"provider": "gcp", "ref": "projects/p/x"}, 422, "invalid-reference"),
    ("PUT", "root-key", {"provider": "file", "ref": "/keys/../etc/shadow"}, 422, "invalid-reference"),
    ("PUT", "root-key", {"provider": "aws", "ref": "AKIAIOSFODNN7EXAMPLE"}, 422, "secret-refused"),
    ("PUT", "root-key", {"provider": "file", "ref": "/k", "credential": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}, 422, "secret-refused"),
    ("PUT", "root-key", {"provider": "file", "ref": "password=hunter2"}, 422, "secret-refused"),
    ("PUT", "root-key", {"provider": "file", "ref": "-----BEGIN PRIVATE KEY-----"}, 422, "secret-refused"),
    ("PUT", "root-key", {"provider": "file"}, 422, "invalid-request"),
    ("PUT", "root-key", {"provider": "file", "ref": "/k", "secret": "x"}, 422, "invalid-request"),
    ("POST", "systems", {"system": "Not A Token"}, 422, "invalid-request"),
    ("POST", "systems", {"system": "payments"}, 409, "illegal-in-this-state"),
    ("POST", "systems", b"{", 422, "invalid-request"),
    ("POST", "systems", b"\xff\xfe", 422, "invalid-request"),
    ("POST", "systems", b"[" * 30_000, 422, "invalid-request"),
    ("POST", "systems", b"x" * 70_000, 413, "too-large"),
    ("POST", "workloads", {"workload": "w", "system": "nobody", "fingerprint": "0" * 64}, 404, "not-found"),
    ("POST", "workloads", {"workload": "w", "system": "payments"}, 422, "invalid-request"),
    ("POST", "workloads", {"workload": "w", "system": "payments", "certificate": "x"}, 422, "invalid-request"),
    ("POST", "workloads", {"workload": "w", "system": "payments", "certificate": "-----BEGIN EC PRIVATE KEY-----"}, 422, "secret-refused"),
    ("POST", "workloads", {"workload": "w", "system": "payments", "spiffe": "spiffe://no path"}, 422, "invalid-request"),
    ("DELETE", "workloads/nobody-known", None, 404, "not-found"),
    ("PATCH", "configuration", {"lease_s": 1}, 422, "invalid-request"),
    ("PATCH", "configuration", {"colour": "red"}, 422, "invalid-request"),
    ("PATCH", "configuration", {"labels": {"a": "AKIAIOSFODNN7EXAMPLE"}}, 422, "secret-refused"),
    ("DELETE", "suspension", None, 409, "illegal-in-this-state"),
    ("POST", "rotations", {"level": "L1"}, 422, "invalid-request"),
    ("POST", "emergency-rotations", {"level": "L2", "system": "payments"}, 422, "invalid-request"),
    ("POST", "emergency-rotations", {"level": "L3", "system": "unknown"}, 404, "not-found"),
]  # fmt: skip


async def test_an_emergency_rotation_withdraws_every_version_that_nodes_reported(stack: Stack) -> None:
    tenant = await stack.tenant()
    last = await stack.last()
    await stack.must(f"{tenant}-admin", "POST", f"/tenants/{tenant}/regions/{EU}/emergency-rotations", {"level": "L2"})
    (event,) = (await stack.must(OPERATOR, "GET", "/ledger", after=last))["value"]
    assert event["tag"] == "EmergencyRotationOrdered.1"
    assert b'"below":2' in base64.b64decode(event["body"])


async def test_bad_input_is_a_clear_problem_and_no_event(stack: Stack) -> None:
    tenant = await stack.tenant(onboarded=False)
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
    last = await stack.last()
    for what, body in (("systems", {"system": "payments"}), ("rotations", {"level": "L2"})):
        problem(await stack.ask(admin, "POST", f"{path}/{what}", body), 409, "illegal-in-this-state")
    assert await stack.last() == last
    tenant = await stack.tenant()
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
    last = await stack.last()
    for method, what, body, status, code in BAD:
        answer = await stack.ask(admin, method, f"{path}/{what}", body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), (what, body, answer.text)
        assert "hunter2" not in answer.text
        assert "AKIA" not in answer.text
    stale = {"If-Match": '"1"'}
    problem(
        await stack.ask(admin, "PATCH", f"{path}/configuration", {"labels": {"a": "b"}}, headers=stale),
        412,
        "stale-generation",
    )
    problem(
        await stack.ask(admin, "PATCH", f"{path}/configuration", {}, headers={"If-Match": "x"}), 422, "invalid-request"
    )
    problem(await stack.ask(admin, "GET", f"/tenants/{tenant}/regions/{US}"), 404, "not-found")
    problem(await stack.ask(admin, "GET", f"/tenants/{tenant}/regions/mars"), 404, "not-found")
    problem(await stack.ask(admin, "POST", f"/tenants/{tenant}/revocations", {"regions": ["mars"]}), 404, "not-found")
    problem(await stack.ask(admin, "GET", "/tenants/nobody"), 404, "not-found")
    problem(await stack.ask(admin, "GET", "/nothing/here"), 404, "not-found")
    for body in (
        {"id": "X Y", "regions": [EU], "people": []},
        {"id": "fine", "regions": [EU], "people": []},
        {"id": "fine"},
    ):
        answer = await stack.ask(OPERATOR, "POST", "/tenants", body)
        assert answer.status_code == 422, answer.text
    assert await stack.last() == last


async def test_a_matching_if_match_passes_and_a_revocation_asks_for_none(stack: Stack) -> None:
    tenant = await stack.tenant()
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
    etag = (await stack.ask(admin, "GET", path)).headers["etag"]
    await stack.must(admin, "PATCH", f"{path}/configuration", {"labels": {"a": "b"}}, headers={"If-Match": etag})
    await stack.must(admin, "POST", f"/tenants/{tenant}/revocations", {}, headers={"If-Match": etag})


async def test_only_our_issuers_tokens_for_us_count(stack: Stack) -> None:
    tenant = await stack.tenant()
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}"
    last = await stack.last()
    make = stack.idp.token
    header = base64.urlsafe_b64encode(b'{"alg":"none","kid":"k1"}').rstrip(b"=").decode()
    payload = make(admin).split(".")[1]
    other = ECKey.import_key({**ECKey.generate_key("P-256").as_dict(private=True), "kid": "k1"})
    bad = [
        make(admin, aud="somebody-else"), make(admin, iss="https://evil.test"), make(admin, exp=1), make(admin, exp=None),
        make(admin, nbf=9_999_999_999), make(admin, key=other), f"{header}.{payload}.", "x", "a.b.c", "x" * 9000,
        make(admin, alg="HS256", key=OctKey.import_key("k" * 32)), make("not a person"),
    ]  # fmt: skip
    for token in bad:
        problem(await stack.ask(None, "GET", path, token=token), 401, "unauthenticated")
    problem(await stack.ask(None, "GET", path), 401, "unauthenticated")
    problem(await stack.ask(None, "GET", path, headers={"Authorization": "Basic eDp5"}), 401, "unauthenticated")
    assert (await stack.ask(admin, "GET", path)).status_code == 200

    async def written() -> list[dict]:
        events = (await stack.must(OPERATOR, "GET", "/ledger", after=last))["value"]
        return [e["data"] for e in events if e["tag"] == "AccessDenied.2"]

    (denied,) = await stack.until(written)  # one for all of them: a flood of forged tokens is no flood of events
    assert (denied["person"], denied["reason"], denied["tenant"]) == ("nobody", "unauthenticated", tenant)


ROLES = {
    ("GET", ""): {"admin", "approver", "auditor", "operator"},
    ("GET", "/regions/{r}"): {"admin", "approver", "auditor", "operator"},
    ("GET", "/regions/{r}/sync"): {"admin", "approver", "auditor", "operator"},
    ("PATCH", "/regions/{r}/configuration"): {"admin"},
    ("PUT", "/regions/{r}/root-key"): {"admin"},
    ("POST", "/regions/{r}/systems"): {"admin"},
    ("POST", "/regions/{r}/workloads"): {"admin"},
    ("DELETE", "/regions/{r}/workloads/some-enrolment"): {"admin"},
    ("PUT", "/regions/{r}/suspension"): {"admin"},
    ("DELETE", "/regions/{r}/suspension"): {"admin"},
    ("POST", "/regions/{r}/rotations"): {"admin"},
    ("POST", "/revocations"): {"admin"},
    ("POST", "/approvals/prepare"): {"admin", "approver"},
    ("POST", "/approvals"): {"admin", "approver"},
    ("GET", "/approvals"): {"admin", "approver", "auditor", "operator"},
    ("POST", "/approvals/some-approval/grants"): {"admin", "approver"},
    ("POST", "/approvals/some-approval/rejections"): {"admin", "approver"},
    ("DELETE", "/approvals/some-approval"): {"admin", "approver"},
}


async def test_nobody_may_but_whom_the_table_names_and_strangers_see_nothing(stack: Stack) -> None:
    tenant, other = await stack.tenant(), await stack.tenant()
    for (method, path), may in ROLES.items():
        url = f"/tenants/{tenant}{path.format(r=EU)}"
        body = None if method in {"GET", "DELETE"} else {"nonsense": 1}
        for who in ("admin", "approver", "auditor", "operator"):
            answer = await stack.ask(OPERATOR if who == "operator" else f"{tenant}-{who}", method, url, body)
            if who not in may:
                problem(answer, 403, "forbidden")
            else:
                assert answer.status_code not in {401, 403, 500, 503}, (who, method, url, answer.text)
        problem(await stack.ask(f"{other}-admin", method, url, body), 404, "not-found")
        problem(await stack.ask("nobody-1", method, url, body), 404, "not-found")
        problem(await stack.ask(None, method, url, body), 401, "unauthenticated")
    problem(await stack.ask(f"{tenant}-admin", "POST", "/tenants", {}), 403, "forbidden")
    problem(await stack.ask(f"{tenant}-auditor", "GET", "/ledger", tenant=other), 404, "not-found")
    problem(await stack.ask(f"{tenant}-auditor", "GET", "/ledger"), 422, "invalid-request")
    assert (await stack.ask(OPERATOR, "GET", "/ledger", limit=5)).json()["value"][0]["tag"] == "LedgerOpened.1"

    async def denials() -> list[tuple[str, str]]:
        return stack.cmk.views.reader.rows(
            "SELECT person, action FROM access_denied WHERE person LIKE ?", (f"{tenant}%",)
        )

    denied = await stack.until(denials)
    assert len(denied) == len(set(denied))  # each once, however often


async def test_reports_that_no_enrolled_node_sealed_for_itself_change_nothing(stack: Stack) -> None:
    tenant = await stack.tenant(regions=(EU, US))
    admin = f"{tenant}-admin"
    async with stack.node() as node:
        rogue, foreign = Voice(EU_NODE, EU, ROGUE), Voice(EU_NODE, EU, node.voice.signer)
        foreign.signer = __import__("governance_stack").NODE_KEYS[US_NODE]
        from openkcm.contract.reports import SyncAck

        ack = SyncAck(tenant=tenant, lane="routine", floor=99, state="active", boot_id="b", lease_s=1, ledger_epoch=1)
        before = stack.cmk.dropped_reports
        await node.say(tenant, ack, voice=rogue)
        await node.say(tenant, ack, voice=foreign)
        await node.say("somebody", ack)

        async def dropped() -> bool:
            return stack.cmk.dropped_reports >= before + 3

        await stack.until(dropped)
    assert (await stack.must(admin, "GET", f"/tenants/{tenant}/regions/{EU}/sync"))["routine"]["status"] == "Pending"


async def test_news_reach_only_whom_they_concern(stack: Stack) -> None:
    tenant, other = await stack.tenant(), await stack.tenant()
    headers = {"Authorization": f"Bearer {stack.idp.token(f'{tenant}-admin')}"}
    async with stack.client.stream("GET", "/cmk/v1/events", headers=headers) as stream:
        lines = stream.aiter_lines()
        assert "hello" in await anext(lines)
        for name in (other, tenant):
            await stack.must(f"{name}-admin", "PUT", f"/tenants/{name}/regions/{EU}/suspension", {"reason": "drill"})
        async for line in lines:
            if line.startswith("data: {") and "event" in line:
                item = msgspec.json.decode(line[6:])
                assert (item["tenant"], item["event"], item["region"]) == (tenant, "AccessSuspended", EU)
                break


async def test_the_page_is_closed_to_strangers_and_sends_nothing_elsewhere(stack: Stack) -> None:
    page = await stack.ask(None, "GET", "/")
    assert "Sign in" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")
    for name in ("portal.css", "portal.js"):
        assert (await stack.client.get(f"/static/{name}")).status_code == 200
    assert (await stack.client.get("/static/layout.html")).status_code == 404
    assert (await stack.ask(None, "GET", "/healthz")).status_code == 200
    assert (await stack.ask(None, "GET", "/readyz")).status_code == 200


async def test_every_event_a_cmk_writes_is_sealed_counted_and_named(stack: Stack) -> None:
    tenant = await stack.tenant()
    events = (await stack.must(f"{tenant}-auditor", "GET", "/ledger", tenant=tenant))["value"]
    assert [e["tag"] for e in events if ".residence." in e["subject"]] == [
        "ApproversSet.2", "TenantConfigurationUpdated.1", "RootKeyLinked.1", "SystemRegistered.2",
    ]  # fmt: skip
    for event in events:
        e = env.decode(base64.b64decode(event["body"]))
        env.verify(e, event["subject"], stack.cmk.projection.signing_keys)
        assert e.actor.issuer == stack.idp.issuer
    assert b64(b"x") == "eA=="


async def test_what_a_customers_tool_asks_its_own_kms_for_is_told_and_no_token_of_it_passes_here(stack: Stack) -> None:
    tenant = await stack.tenant(onboarded=False)
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}/root-key"
    problem(await stack.ask(admin, "GET", f"{path}/import"), 409, "illegal-in-this-state")
    arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    await stack.must(admin, "PUT", path, {"provider": "aws", "ref": arn})
    told = await stack.must(admin, "GET", f"{path}/import")
    assert (told["provider"], told["ref"], told["material"], told["token_hours"]) == ("aws", arn, "32 bytes", 24)
    assert told["parameters_from"] == "kms:GetParametersForImport"
    assert told["command"] == f"openkcm root import aws {arn} --material l1.bin --wrapping aes-kwp"
    other = await stack.tenant()  # its root is a file: nothing is imported into one
    answer = await stack.ask(f"{other}-admin", "GET", f"/tenants/{other}/regions/{EU}/root-key/import")
    problem(answer, 404, "not-found")


async def test_nothing_routine_is_appended_that_a_node_of_the_region_cannot_read(stack):
    tenant = await stack.tenant()
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
    older = reports.HealthCheck(
        node=EU_NODE, region=EU, nonce="0" * 32, boot_id="b", sent_boottime_ns=1, ledger_epoch=1, cursor=(0, 0),
        known_tags=("AccessRevoked.1", "TenantConfigurationUpdated.1"), workers=1, memory="mlock",
        sealed_mappings=False, dropped=0,
    )  # fmt: skip
    stack.cmk.watch.heard(older, 0)
    try:
        before = await stack.last()
        refused = await stack.ask(admin, "POST", f"{path}/systems", {"system": "another"})
        assert refused.status_code == 409
        assert EU_NODE in refused.text
        assert "SystemRegistered" in refused.text
        assert await stack.last() == before
        stack.cmk.watch.heard(msgspec.structs.replace(older, known_tags=()), 0)
        await stack.must(admin, "POST", f"{path}/systems", {"system": "another"})
    finally:
        del stack.cmk.watch.health[EU_NODE]
