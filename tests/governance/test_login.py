"""The page's login: authorization code with PKCE at the one-command stack's own provider, and a session that only reads."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest_asyncio
import uvicorn

from governance_stack import Idp, Stack, running_cmk
from loopback import free_ports
from openkcm.cli import idp as provider
from orbital_fixture import EU, Orbital


class Provider(Idp):
    """The shipped provider, in this process."""

    def __init__(self, home: Path) -> None:
        (port,) = free_ports(1)
        self.issuer = f"http://127.0.0.1:{port}"
        self.path = home / "idp.json"
        accounts = [{"name": name, "subject": name} for name in ("operator-1", "acme/admin")]
        accounts[1]["subject"] = "acme-admin"
        self.path.write_bytes(
            msgspec.json.encode(
                {"issuer": self.issuer, "audience": "openkcm", "listen": {"host": "127.0.0.1", "port": port},
                 "key": str(home / "signing.pem"), "accounts": accounts}
            )
        )  # fmt: skip
        app = provider._app(provider._load(self.path))
        self.server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None))

    def token(self, subject: str, **_: object) -> str:
        configuration = provider._load(self.path)
        account = configuration.account(subject) or provider._Account(subject, subject)
        return provider._token(configuration, provider._key(configuration), account)


@pytest_asyncio.fixture
async def stack(orbital: Orbital, tmp_path: Path) -> AsyncIterator[Stack]:
    idp = Provider(tmp_path)
    serving = asyncio.create_task(idp.server.serve())
    while not idp.server.started:  # noqa: ASYNC110 -- uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        async with running_cmk(orbital, idp, tmp_path / "cmk") as running:
            yield running
    finally:
        idp.server.should_exit = True
        await serving


def token_in(page: str) -> str:
    found = re.search(r'<meta name="csrf" content="([0-9a-f]{64})">', page)
    assert found is not None
    return found[1]


async def go(stack: Stack, browser: httpx.AsyncClient, account: str = "operator-1") -> httpx.Response:
    """Press "Sign in", pick an account, come back."""
    asked = await browser.get("/login")
    assert asked.status_code == 302
    query = {k: v[0] for k, v in parse_qs(urlsplit(asked.headers["location"]).query).items()}
    assert query["code_challenge_method"] == "S256"
    async with httpx.AsyncClient(trust_env=False) as other:
        page = await other.get(asked.headers["location"])
        assert account in page.text
        picked = await other.get(f"{stack.idp.issuer}/authorize", params={**query, "account": account})
    return await browser.get(picked.headers["location"])


async def test_a_browser_logs_in_sees_its_page_and_can_order_nothing_by_its_cookie(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=str(stack.client.base_url), trust_env=False) as browser:
        entered = await go(stack, browser)
        assert entered.status_code == 200, entered.text
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Tenant regions" in (await browser.get("/")).text
        assert (await browser.get("/cmk/v1/tenants")).status_code == 200
        assert (await browser.post("/cmk/v1/tenants", json={})).status_code == 403
        assert (await browser.post("/logout")).status_code == 403  # not from a page of ours
        assert "Tenant regions" in (await browser.get("/")).text
        await browser.post("/logout", data={"csrf": token_in((await browser.get("/")).text)})
        assert "Sign in" in (await browser.get("/")).text


async def test_a_callback_that_this_browser_did_not_begin_opens_nothing(stack: Stack) -> None:
    url = str(stack.client.base_url)
    async with (
        httpx.AsyncClient(base_url=url, trust_env=False) as one,
        httpx.AsyncClient(base_url=url, trust_env=False) as two,
    ):
        asked = await one.get("/login")
        state = parse_qs(urlsplit(asked.headers["location"]).query)["state"][0]
        for browser in (two, one):
            answer = await browser.get("/callback", params={"state": state, "code": "x"})
            assert answer.status_code in {400, 401}
            assert "openkcm_session" not in answer.headers.get("set-cookie", "")


async def test_a_minted_token_is_an_identity_and_no_role(stack: Stack) -> None:
    answer = await stack.ask(None, "GET", f"/tenants/acme/regions/{EU}", token=stack.idp.token("acme/admin"))
    assert answer.status_code == 404
    answer = await stack.ask(None, "GET", "/tenants", token=stack.idp.token("acme/admin"))
    assert answer.status_code == 403
    assert (await stack.ask(None, "GET", "/tenants", token=stack.idp.token("operator-1"))).status_code == 200


async def denials(stack: Stack) -> set[tuple[str, str]]:
    rows = stack.cmk.views.reader.rows("SELECT person, reason FROM access_denied")
    return set(rows)


BODY = {"id": "nova", "regions": [EU], "people": [{"person": "a-1", "roles": ["tenant-admin"]}, {"person": "b-1", "roles": ["approver"]}]}  # fmt: skip


async def test_a_session_orders_only_from_a_page_of_ours_and_the_refusal_is_in_the_ledger(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=str(stack.client.base_url), trust_env=False) as browser:
        await go(stack, browser)
        token = token_in((await browser.get("/")).text)
        own = str(browser.base_url).rstrip("/")
        forged = [
            {}, {"X-CSRF-Token": "0" * 64}, {"X-CSRF-Token": token[:-1]}, {"X-CSRF-Token": "\xe4"},
            {"X-CSRF-Token": token, "Origin": "https://evil.example"}, {"X-CSRF-Token": token, "Origin": "null"},
            {"X-CSRF-Token": token, "Sec-Fetch-Site": "cross-site"}, {"X-CSRF-Token": token, "Sec-Fetch-Site": "same-site"},
        ]  # fmt: skip
        last = await stack.last()
        for headers in forged:
            sent = {k: v.encode("latin-1") for k, v in headers.items()}
            answer = await browser.post("/cmk/v1/tenants", json=BODY, headers=sent)
            assert (answer.status_code, answer.json()["code"]) == (403, "cross-site-request"), headers

        async def noted() -> bool:  # the ledger is the module's: an earlier test's refusal may be in it
            return await stack.last() > last and ("nobody", "cross-site-request") in await denials(stack)

        await stack.until(noted)
        assert await stack.last() == last + 1
        good = {"X-CSRF-Token": token, "Origin": own, "Sec-Fetch-Site": "same-origin"}
        assert (await browser.post("/cmk/v1/tenants", json=BODY, headers=good)).status_code == 202


async def test_signing_out_everywhere_ends_every_browser_and_another_persons_goes_on(stack: Stack) -> None:
    base = str(stack.client.base_url)
    async with (
        httpx.AsyncClient(base_url=base, trust_env=False) as one,
        httpx.AsyncClient(base_url=base, trust_env=False) as two,
        httpx.AsyncClient(base_url=base, trust_env=False) as other,
    ):
        for browser, account in ((one, "operator-1"), (two, "operator-1"), (other, "acme/admin")):
            await go(stack, browser, account)
        headers = {"X-CSRF-Token": token_in((await one.get("/")).text)}
        assert (await one.delete("/cmk/v1/me/sessions", headers=headers)).status_code == 200
        assert [(await b.get("/cmk/v1/me")).status_code for b in (one, two, other)] == [401, 401, 200]


async def test_a_restart_of_the_cmk_signs_nobody_out(orbital: Orbital, tmp_path: Path) -> None:
    idp = Provider(tmp_path)
    serving = asyncio.create_task(idp.server.serve())
    while not idp.server.started:  # noqa: ASYNC110 -- uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        async with (
            running_cmk(orbital, idp, tmp_path / "cmk") as stack,
            httpx.AsyncClient(base_url=str(stack.client.base_url), trust_env=False) as browser,
        ):
            await go(stack, browser)
            cookies = dict(browser.cookies)
        async with running_cmk(orbital, idp, tmp_path / "cmk") as again:
            again.client.cookies.update(cookies)
            answer = await again.client.get("/cmk/v1/me")
            assert (answer.status_code, answer.json()["subject"]) == (200, "operator-1")
    finally:
        idp.server.should_exit = True
        await serving


async def test_a_login_leads_to_no_other_host_and_carries_no_header_in(stack: Stack) -> None:
    for onward in (
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/x\r\nSet-Cookie: a=b",
        "javascript:alert(1)",
    ):
        async with httpx.AsyncClient(base_url=str(stack.client.base_url), trust_env=False) as browser:
            asked = await browser.get("/login", params={"next": onward})
            query = {k: v[0] for k, v in parse_qs(urlsplit(asked.headers["location"]).query).items()}
            assert "evil" not in asked.headers["location"]
            async with httpx.AsyncClient(trust_env=False) as outside:
                picked = await outside.get(f"{stack.idp.issuer}/authorize", params={**query, "account": "operator-1"})
            entered = await browser.get(picked.headers["location"])
            assert 'content="0;url=/"' in entered.text, onward
            assert "evil" not in entered.text


async def test_words_of_a_tenant_are_words_on_its_pages_and_no_markup(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=str(stack.client.base_url), trust_env=False) as browser:
        await go(stack, browser)
        tenant = await stack.tenant()
        evil = "<script>alert(1)</script>"
        answer = await stack.ask(f"{tenant}-admin", "PATCH", f"/tenants/{tenant}/regions/{EU}/configuration", {"labels": {evil: evil}})  # fmt: skip
        assert answer.status_code == 202
        await stack.must(f"{tenant}-admin", "PUT", f"/tenants/{tenant}/regions/{EU}/root-key", {"provider": "file", "ref": f"/keys/{tenant}.keys"})  # fmt: skip
        for path in (
            "/",
            f"/tenants/{tenant}/regions/{EU}",
            f"/tenants/{tenant}/audit?q={evil}",
            f"/tenants/{tenant}/people",
            "/tenants/%3Cscript%3E/people",
        ):
            page = await browser.get(path)
            assert "<script>alert" not in page.text, path
            assert "script-src 'self'" in page.headers["content-security-policy"]
            assert "unsafe" not in page.headers["content-security-policy"]


async def test_a_stranger_to_a_tenant_gets_none_of_its_pages(stack: Stack) -> None:
    tenant = await stack.tenant()
    async with httpx.AsyncClient(base_url=str(stack.client.base_url), trust_env=False) as browser:
        await go(stack, browser, "acme/admin")
        for path in ("people", "audit", "kill-switch", "approvals", f"regions/{EU}", f"regions/{EU}/live", f"regions/{EU}/workloads", f"regions/{EU}/onboarding"):  # fmt: skip
            page = await browser.get(f"/tenants/{tenant}/{path}")
            assert page.status_code == 404, path
        assert (await browser.get("/fleet")).status_code == 403
        assert (await browser.get("/onboarding")).status_code == 403
