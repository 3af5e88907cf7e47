"""The page's login: authorization code with PKCE at the one-command stack's own provider, and a session that only reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest_asyncio
import uvicorn

from governance_stack import Idp, Stack, running_cmk
from openkcm.cli import idp as provider
from orbital_fixture import EU, Orbital, free_ports


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
        return provider.mint(self.path, subject)


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
        await browser.post("/logout")
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
