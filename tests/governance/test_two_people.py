"""What takes two people, over the API and by passkeys: done right, and tried alone, again, changed, or for another page."""

from __future__ import annotations

import base64
import hashlib
import uuid
from typing import Any

import httpx
import pytest_asyncio

from authenticator import Authenticator
from governance_ledger import ANNA, BERT
from governance_stack import OPERATOR, Stack, b64
from openkcm.contract import reports
from orbital_fixture import EU


class Company:
    """A tenant whose people sign with passkeys."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.stack, self.name = stack, name
        self.admin, self.approver, self.auditor = (f"{name}-{who}" for who in ("admin", "approver", "auditor"))
        self.device = {self.admin: Authenticator("ES256"), self.approver: Authenticator("EdDSA")}
        self.path = f"/tenants/{name}"
        self.region = f"{self.path}/regions/{EU}"

    async def aboard(self) -> Company:
        roles = {
            self.admin: ["tenant-admin", "key-admin", "kill-switch"],
            self.approver: ["approver"],
            self.auditor: ["auditor"],
        }
        people = [
            {"person": p, "roles": r, **({"approval_key": b64(self.device[p].key)} if p in self.device else {})}
            for p, r in roles.items()
        ]
        await self.stack.must(OPERATOR, "POST", "/tenants", {"id": self.name, "regions": [EU], "people": people})
        await self.stack.must(
            self.admin, "PUT", f"{self.region}/root-key", {"provider": "file", "ref": f"/keys/{self.name}"}
        )
        await self.stack.must(self.admin, "POST", f"{self.region}/systems", {"system": "payments"})
        return self

    def signed(self, who: str, words: dict[str, Any], **wrong: Any) -> dict[str, Any]:
        answer = self.device[who].assertion(base64.b64decode(words["signed_bytes"]), **wrong)
        return {
            "assertion": {
                "authenticator_data": b64(answer.authenticator_data), "client_data": b64(answer.client_data),
                "signature": b64(answer.signature),
            }
        }  # fmt: skip

    async def words(self, command: str, region: str | None = EU, **arguments: str) -> dict[str, Any]:
        body = {"command": command, "region": region, "arguments": arguments}
        return await self.stack.must(self.admin, "POST", f"{self.path}/approvals/prepare", body)

    def asking(self, command: str, words: dict[str, Any], region: str | None = EU, **changed: Any) -> dict[str, Any]:
        return {
            "approval": words["approval"], "command": command, "region": region,
            "arguments": words["statement"]["arguments"], **self.signed(self.admin, words), **changed,
        }  # fmt: skip

    async def ask(self, command: str, region: str | None = EU, **arguments: str) -> dict[str, Any]:
        words = await self.words(command, region, **arguments)
        await self.stack.must(self.admin, "POST", f"{self.path}/approvals", self.asking(command, words, region))
        return words

    async def agree(self, command: str, region: str | None = EU, **arguments: str) -> dict[str, Any]:
        words = await self.ask(command, region, **arguments)
        path = f"{self.path}/approvals/{words['approval']}/grants"
        await self.stack.must(self.approver, "POST", path, self.signed(self.approver, words))
        await self.stack.has_read()
        return words

    async def state(self) -> str:
        return (await self.stack.must(self.admin, "GET", self.region))["state"]

    async def cut(self, reason: str = "operator") -> None:
        """Pull the kill switch."""
        await self.stack.must(self.admin, "POST", f"{self.path}/revocations", {"reason": reason})
        await self.stack.has_read()

    async def denied(self) -> set[tuple[str, str]]:
        return set(
            self.stack.cmk.views.reader.rows("SELECT person, reason FROM access_denied WHERE tenant = ?", (self.name,))
        )


@pytest_asyncio.fixture
async def company(stack: Stack) -> Company:
    return await Company(stack, f"t-{uuid.uuid4().hex[:8]}").aboard()


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


async def test_two_passkeys_restore_and_everything_else_does_not(stack: Stack, company: Company) -> None:
    await company.cut()
    assert await company.state() == "Revoked"
    words = await company.words("RestoreAccess")
    assert words["rp_id"] == "localhost"
    assert base64.b64decode(words["credential"]) == company.device[company.admin].credential
    approvals = f"{company.path}/approvals"
    for wrong in ({"origin": "https://evil.example"}, {"rp_id": "evil.example"}, {"flags": 1}, {"challenge": "AAAA"}):
        body = company.asking("RestoreAccess", words, **company.signed(company.admin, words, **wrong))
        refused(await stack.ask(company.admin, "POST", approvals, body), 422, "bad-signature")
    await stack.must(company.admin, "POST", approvals, company.asking("RestoreAccess", words))
    grants = f"{approvals}/{words['approval']}/grants"
    refused(await stack.ask(company.admin, "POST", grants, company.signed(company.admin, words)), 403, "forbidden")
    refused(
        await stack.ask(company.approver, "POST", grants, company.signed(company.admin, words)), 422, "bad-signature"
    )
    assert await company.state() == "Revoked"
    shown = await stack.must(company.approver, "GET", f"{approvals}/{words['approval']}/words")
    assert shown["signed_bytes"] == words["signed_bytes"]
    await stack.must(company.approver, "POST", grants, company.signed(company.approver, shown))
    await stack.has_read()
    assert await company.state() == "Active"

    # The very same signatures once more, on the used approval and for a new revocation: nothing.
    refused(
        await stack.ask(company.approver, "POST", grants, company.signed(company.approver, shown)),
        409,
        "illegal-in-this-state",
    )
    await company.cut("again")
    refused(
        await stack.ask(company.admin, "POST", approvals, company.asking("RestoreAccess", words)),
        409,
        "illegal-in-this-state",
    )
    assert await company.state() == "Revoked"
    assert {(company.admin, "bad-signature"), (company.approver, "bad-signature"), (company.admin, "forbidden"),
            (company.approver, "illegal-in-this-state")} <= await stack.until(company.denied)  # fmt: skip


async def test_an_approval_of_a_changed_command_is_refused(stack: Stack, company: Company) -> None:
    approvals = f"{company.path}/approvals"
    words = await company.words("LengthenLease", lease_s="172800")
    changed = company.asking("LengthenLease", words, arguments=[["lease_s", "604800"]])
    refused(await stack.ask(company.admin, "POST", approvals, changed), 422, "bad-signature")
    other = company.asking("DestroyContext", words, arguments=[["approvers", "1"]])
    refused(await stack.ask(company.admin, "POST", approvals, other), 422, "bad-signature")
    odd = company.asking("LengthenLease", words, arguments=[["lease_s", "0172800"]])
    refused(await stack.ask(company.admin, "POST", approvals, odd), 409, "illegal-in-this-state")
    assert (await stack.must(company.admin, "GET", company.region))["lease_s"] == 86_400


async def test_nobody_switches_the_root_key_or_the_policy_alone(stack: Stack, company: Company) -> None:
    elsewhere = {"provider": "file", "ref": "/keys/somebody-elses"}
    refused(await stack.ask(company.admin, "PUT", f"{company.region}/root-key", elsewhere), 409, "approval-required")
    refused(
        await stack.ask(company.admin, "PATCH", f"{company.region}/configuration", {"lease_s": 604_800}),
        409,
        "approval-required",
    )
    words = await company.ask("ChangeApprovalPolicy", None, quorum="2")
    grants = f"{company.path}/approvals/{words['approval']}/grants"
    refused(await stack.ask(company.admin, "POST", grants, company.signed(company.admin, words)), 403, "forbidden")
    key = {"ed25519": b64(ANNA.public_key)}
    offered = await stack.must(company.admin, "POST", "/me/approval-key", key)
    assert offered["registered"] == []  # kept, in force nowhere
    people = {p["person"]: p for p in (await stack.must(company.admin, "GET", company.path))["people"]}
    assert people[company.admin]["signs_with"] == "passkey"
    assert people[company.admin]["offers"] == hashlib.sha256(ANNA.public_key).hexdigest()
    assert (company.admin, "approval-required") in await stack.until(company.denied)


async def test_a_third_person_gets_a_key_by_two_and_then_three_must_sign(stack: Stack, company: Company) -> None:
    await stack.must(company.auditor, "POST", "/me/approval-key", {"ed25519": b64(BERT.public_key)})
    await company.agree("GrantRole", None, person=company.auditor, roles="approver", approval_key="offered")
    people = {p["person"]: p for p in (await stack.must(company.admin, "GET", company.path))["people"]}
    assert (people[company.auditor]["roles"], people[company.auditor]["signs_with"]) == (
        ["approver", "auditor"],
        "ed25519",
    )
    await company.agree("SetApprovers")
    shown = await stack.must(company.admin, "GET", company.region)
    assert (shown["approvers"]["version"], len(shown["approvers"]["approvers"])) == (2, 3)
    await company.agree("ChangeApprovalPolicy", None, quorum="3")
    await company.cut()
    words = await company.ask("RestoreAccess")
    grants = f"{company.path}/approvals/{words['approval']}/grants"
    await stack.must(company.approver, "POST", grants, company.signed(company.approver, words))
    assert await company.state() == "Revoked"  # two of three

    async def thirdly(words: dict) -> None:
        third = {"signature": b64(BERT.sign(base64.b64decode(words["signed_bytes"])))}
        await stack.must(company.auditor, "POST", f"{company.path}/approvals/{words['approval']}/grants", third)
        await stack.has_read()

    await thirdly(words)
    assert await company.state() == "Active"
    await thirdly(await company.agree("SetApprovers"))  # from now on nodes ask for three as well
    shown = await stack.must(company.admin, "GET", company.region)
    assert (shown["approvers"]["version"], shown["approvers"]["quorum"]) == (3, 3)
    await thirdly(await company.agree("ChangeApprovalPolicy", None, quorum="2"))
    assert (await stack.must(company.admin, "GET", company.path))["quorum"] == 2
    await company.cut("again")
    words = await company.agree("RestoreAccess")
    assert await company.state() == "Revoked"  # in this region three sign until its set says otherwise
    await thirdly(words)
    assert await company.state() == "Active"


async def test_an_approval_is_withdrawn_rejected_and_void_after_a_revocation(stack: Stack, company: Company) -> None:
    one = await company.ask("LengthenLease", lease_s="172800")
    await stack.must(company.admin, "DELETE", f"{company.path}/approvals/{one['approval']}")
    two = await company.ask("LengthenLease", lease_s="172800")
    await stack.must(company.approver, "POST", f"{company.path}/approvals/{two['approval']}/rejections")
    await company.cut()
    three = await company.ask("RestoreAccess")
    await company.cut("again")
    grants = f"{company.path}/approvals/{three['approval']}/grants"
    refused(
        await stack.ask(company.approver, "POST", grants, company.signed(company.approver, three)),
        409,
        "illegal-in-this-state",
    )
    found = {
        a["approval"]: (a["state"], a["reason"])
        for a in (await stack.must(company.admin, "GET", f"{company.path}/approvals"))["value"]
    }
    assert found == {
        one["approval"]: ("Withdrawn", "withdrawn"),
        two["approval"]: ("Rejected", company.approver),
        three["approval"]: ("Withdrawn", "stale"),
    }
    assert await company.state() == "Revoked"


async def test_a_tenants_end_waits_for_approval_then_for_the_node_it_names(stack: Stack, company: Company) -> None:
    terminations = f"{company.path}/terminations"
    refused(await stack.ask(company.approver, "POST", terminations, {"reason": "contract-ended"}), 403, "forbidden")
    await stack.must(company.admin, "POST", terminations, {"reason": "contract-ended"})

    async def shown() -> list[dict[str, Any]]:
        return (await stack.must(company.admin, "GET", terminations))["value"]

    await stack.has_read()
    (now,) = await shown()
    assert (now["status"], now["regions"][0]["state"]) == ("AwaitingApproval", "Active")
    await company.agree("DestroyContext")
    (now,) = await shown()
    assert (now["status"], now["regions"][0]["waiting_for"]) == ("Destroying", ["eu-frankfurt-1"])
    async with stack.node() as node:
        body = await node.ack(company.name, "critical", 1, state="destroyed")

        async def over() -> bool:
            (now,) = await shown()
            return now["status"] == "Terminated"

        await stack.until(over)
        gone = reports.ResidenceShredded(
            tenant=company.name, vault={"l2": 1, "object": 4}, rows=5, log_truncated=True, kept=("fence", "ring")
        )
        await node.say(company.name, gone)

        async def removed() -> list[dict[str, Any]]:
            (now,) = await shown()
            return now["regions"][0]["removed"]

        (said,) = await stack.until(removed)
        assert (said["node"], said["vault"], said["rows_removed"]) == ("eu-frankfurt-1", {"l2": 1, "object": 4}, 5)
        assert said["log_truncated"] is True
    events = (await stack.must(OPERATOR, "GET", "/ledger", tenant=company.name))["value"]
    (end,) = [e for e in events if e["tag"] == "TenantTerminated.1"]
    assert (end["data"]["nodes"], end["data"]["by_lease"]) == (["eu-frankfurt-1"], [])
    import msgspec

    assert msgspec.json.encode(end["data"]["acks"][0]) == body


async def test_people_who_come_without_keys_make_their_own_and_are_then_the_approvers(stack: Stack) -> None:
    name = "t-keyless"
    people = [
        {"person": f"{name}-{n}", "roles": r}
        for n, r in (("admin", ["tenant-admin", "key-admin"]), ("approver", ["approver"]))
    ]
    await stack.must(OPERATOR, "POST", "/tenants", {"id": name, "regions": [EU], "people": people})
    link = {"provider": "file", "ref": f"/keys/{name}"}
    refused(
        await stack.ask(f"{name}-admin", "PUT", f"/tenants/{name}/regions/{EU}/root-key", link),
        409,
        "illegal-in-this-state",
    )
    for who, key in (("admin", ANNA), ("approver", BERT)):
        made = await stack.must(f"{name}-{who}", "POST", "/me/approval-key", {"ed25519": b64(key.public_key)})
        assert made["registered"] == [name]
    shown = await stack.must(f"{name}-admin", "GET", f"/tenants/{name}/regions/{EU}")
    assert shown["approvers"]["approvers"] == [f"{name}-admin", f"{name}-approver"]
    await stack.must(f"{name}-admin", "PUT", f"/tenants/{name}/regions/{EU}/root-key", link)
