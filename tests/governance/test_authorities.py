"""CAs of tenants' own over the API: two people let one in, one person cuts it, nobody names another tenant's."""

from __future__ import annotations

import base64

from governance_ledger import ANNA, BERT, ROGUE
from governance_stack import OPERATOR, Stack, sign
from orbital_fixture import EU, US
from own_ca import OwnCa, weak

COMMAND = "TrustWorkloadAuthority"


async def proposed(stack: Stack, tenant: str, ca: OwnCa, region: str = EU) -> tuple[str, dict]:
    path = f"/tenants/{tenant}/approvals"
    asked = {"command": COMMAND, "region": region, "arguments": {"certificate": ca.pem}}
    words = await stack.must(f"{tenant}-admin", "POST", f"{path}/prepare", asked)
    body = {"approval": words["approval"], "command": COMMAND, "region": region,
            "arguments": words["statement"]["arguments"], "signature": sign(ANNA, words)}  # fmt: skip
    await stack.must(f"{tenant}-admin", "POST", path, body)
    return f"{path}/{words['approval']}/grants", words


async def trusted(stack: Stack, tenant: str, ca: OwnCa, region: str = EU) -> str:
    grants, words = await proposed(stack, tenant, ca, region)
    await stack.must(f"{tenant}-approver", "POST", grants, {"signature": sign(BERT, words)})
    listed = await stack.must(f"{tenant}-admin", "GET", f"/tenants/{tenant}/regions/{region}/workload-authorities")
    return listed["value"][-1]["authority"]


async def test_two_people_let_a_ca_in_workloads_are_enrolled_under_it_and_one_person_cuts_both(stack: Stack) -> None:
    tenant, ca = await stack.tenant(), OwnCa("Acme Root")
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
    workload = {"workload": "own", "system": "payments", "spiffe": "spiffe://acme.example/app"}
    refused = await stack.ask(admin, "POST", f"{path}/workloads", {**workload, "authority": "aut-00000000"})
    assert refused.status_code == 404
    grants, words = await proposed(stack, tenant, ca)
    assert dict(words["statement"]["arguments"])["certificate"] == base64.b64encode(ca.der).decode()
    for who, key, status in ((admin, ANNA, 403), (f"{tenant}-approver", ROGUE, 422)):  # the same person, another's key
        assert (await stack.ask(who, "POST", grants, {"signature": sign(key, words)})).status_code == status
    assert (await stack.must(admin, "GET", f"{path}/workload-authorities"))["value"] == []
    await stack.must(f"{tenant}-approver", "POST", grants, {"signature": sign(BERT, words)})
    (shown,) = (await stack.must(admin, "GET", f"{path}/workload-authorities"))["value"]
    assert (shown["subject"], shown["certificate"]) == ("CN=Acme Root", ca.pem)
    await stack.must(admin, "POST", f"{path}/workloads", {**workload, "authority": shown["authority"]})
    assert (await stack.must(admin, "GET", f"{path}/workloads"))["value"][0]["authority"] == shown["authority"]
    again = await stack.ask(admin, "POST", f"{path}/workloads", {**workload, "authority": shown["authority"]})
    assert again.status_code == 409
    await stack.must(admin, "DELETE", f"{path}/workload-authorities/{shown['authority']}")
    assert (await stack.must(admin, "GET", f"{path}/workload-authorities"))["value"] == []
    assert (await stack.must(admin, "GET", f"{path}/workloads"))["value"] == []
    assert (await stack.ask(admin, "DELETE", f"{path}/workload-authorities/{shown['authority']}")).status_code == 404
    tags = [e["tag"] for e in (await stack.must(f"{tenant}-auditor", "GET", "/ledger", tenant=tenant))["value"]]
    assert {"WorkloadAuthorityTrusted.1", "WorkloadEnrolled.2", "WorkloadAuthoritiesRemoved.1"} <= set(tags)


async def test_what_is_no_root_ca_or_comes_with_its_key_is_refused_and_nothing_is_kept(stack: Stack) -> None:
    tenant = await stack.tenant()
    last = await stack.last()
    below = OwnCa("below", issuer=OwnCa("above"))
    behind = base64.b64encode(OwnCa("a").der + b"more").decode()
    for certificate, code in (
        (behind, "invalid-request"), (weak().pem, "invalid-request"),
        (OwnCa("x", issuer=OwnCa("x")).pem, "invalid-request"),
        ("", "invalid-request"), ("no certificate", "invalid-request"), (below.pem, "invalid-request"),
        (OwnCa("leaf", ca=False).pem, "invalid-request"), (OwnCa("a").pem + OwnCa("b").pem, "invalid-request"),
        (OwnCa("a").pem + "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n", "secret-refused"),
    ):  # fmt: skip
        body = {"command": COMMAND, "region": EU, "arguments": {"certificate": certificate}}
        answer = await stack.ask(f"{tenant}-admin", "POST", f"/tenants/{tenant}/approvals/prepare", body)
        assert (answer.status_code, answer.json()["code"]) == (422, code), certificate[:60]
    assert await stack.last() == last


async def test_a_name_that_another_tenants_ca_has_is_refused_without_saying_whose_and_only_in_that_region(
    stack: Stack,
) -> None:
    one, two = await stack.tenant(regions=(EU, US)), await stack.tenant(regions=(EU, US))
    authority = await trusted(stack, one, OwnCa("Shared Name"))
    body = {"command": COMMAND, "region": EU, "arguments": {"certificate": OwnCa("shared  NAME").pem}}
    answer = await stack.ask(f"{two}-admin", "POST", f"/tenants/{two}/approvals/prepare", body)
    assert (answer.status_code, one in answer.text) == (409, False)
    await trusted(stack, two, OwnCa("Shared Name"), US)
    foreign = f"/tenants/{two}/regions/{EU}/workload-authorities/{authority}"
    assert (await stack.ask(f"{two}-admin", "DELETE", foreign)).status_code == 404
    assert (await stack.ask(f"{two}-admin", "DELETE", foreign.replace(two, one))).status_code == 404


async def test_two_people_add_a_region_and_nobody_does_it_alone_or_with_other_words(stack: Stack) -> None:
    tenant = await stack.tenant()
    admin, approver, path = f"{tenant}-admin", f"{tenant}-approver", f"/tenants/{tenant}/approvals"
    last = await stack.last()
    people = [
        {"person": f"{tenant}-admin", "roles": ["tenant-admin"]},
        {"person": f"{tenant}-approver", "roles": ["approver"]},
    ]
    body = {"id": tenant, "regions": [EU, US], "people": people}
    assert (await stack.ask(OPERATOR, "POST", "/tenants", body)).status_code == 409  # the provider alone
    for given in ({"add": EU}, {"add": "mars"}, {}, {"regions": US}, {"regions": f"{EU} {US} mars"}):
        answer = await stack.ask(admin, "POST", f"{path}/prepare", {"command": "AddRegion", "arguments": given})
        assert answer.status_code in {409, 422}, (given, answer.text)
    assert await stack.last() == last
    words = await stack.must(admin, "POST", f"{path}/prepare", {"command": "AddRegion", "arguments": {"add": US}})
    assert words["statement"]["arguments"] == [["regions", f"{EU} {US}"]]
    asked = {"approval": words["approval"], "command": "AddRegion", "arguments": words["statement"]["arguments"]}
    wrong = {**asked, "arguments": [["regions", US]], "signature": sign(ANNA, words)}
    assert (await stack.ask(admin, "POST", path, wrong)).status_code == 409
    await stack.must(admin, "POST", path, {**asked, "signature": sign(ANNA, words)})
    grants = f"{path}/{words['approval']}/grants"
    assert (await stack.ask(admin, "POST", grants, {"signature": sign(ANNA, words)})).status_code == 403
    assert (await stack.ask(approver, "POST", grants, {"signature": sign(ROGUE, words)})).status_code == 422
    assert (await stack.ask(admin, "GET", f"/tenants/{tenant}/regions/{US}")).status_code == 404
    await stack.must(approver, "POST", grants, {"signature": sign(BERT, words)})
    there = await stack.must(admin, "GET", f"/tenants/{tenant}/regions/{US}")
    assert (there["state"], there["approvers"]["approvers"], there["lease_s"]) == (
        "Requested",
        [admin, approver],
        86400,
    )
    again = await stack.ask(approver, "POST", grants, {"signature": sign(BERT, words)})
    assert again.status_code == 409  # an approval counts once
    await stack.must(admin, "PUT", f"/tenants/{tenant}/regions/{US}/root-key", {"provider": "file", "ref": "/keys/us"})
