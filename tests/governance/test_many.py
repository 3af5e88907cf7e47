"""Pages of whoever has many: a part is shown, the rest is found by state, by name, and page by page."""

from __future__ import annotations

import asyncio
import html
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from governance_stack import OPERATOR, Stack
from openkcm.cli import profiles
from openkcm.cli.main import main
from openkcm.client import transport
from openkcm.governance import views
from openkcm.governance.portal.routes import pages
from orbital_fixture import EU


async def look(stack: Stack, who: str, path: str) -> str:
    answer = await stack.client.get(path, headers={"Authorization": f"Bearer {stack.idp.token(who)}"})
    assert answer.status_code == 200, answer.text
    return answer.text


def cards(page: str) -> list[str]:
    return re.findall(r'<article data-tenant="([^"]+)"', page)


def onward(page: str) -> str | None:
    found = re.search(r'rel="next" href="([^"]+)"', page)
    return None if found is None else html.unescape(found[1])


async def test_an_overview_goes_on_page_by_page_and_is_narrowed_by_state(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "CARDS_SHOWN", 2)
    tenants = [await stack.tenant() for _ in range(3)]
    first = await look(stack, OPERATOR, "/")
    assert "2 of 3 tenant regions" in first
    following = onward(first)
    assert following is not None
    second = await look(stack, OPERATOR, following)
    assert "First ones" in second
    assert onward(second) is None
    assert cards(first) + cards(second) == sorted(tenants)
    live = re.search(r'hx-get="(/overview/live[^"]+)"', second)
    assert live is not None
    assert cards(await look(stack, OPERATOR, html.unescape(live[1]))) == cards(
        second
    )  # news bring this very part again
    await stack.must(f"{tenants[1]}-admin", "POST", f"/tenants/{tenants[1]}/revocations", {})
    await stack.has_read()
    assert cards(await look(stack, OPERATOR, "/?state=Revoked")) == [tenants[1]]
    assert cards(await look(stack, f"{tenants[0]}-admin", "/?state=Revoked")) == []
    assert cards(await look(stack, f"{tenants[0]}-admin", "/")) == [tenants[0]]
    wrong = await stack.client.get("/?after=x", headers={"Authorization": f"Bearer {stack.idp.token(OPERATOR)}"})
    assert wrong.status_code == 422


async def test_the_command_line_reads_a_list_to_its_end_and_an_answer_has_no_more_rows_than_it_may(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tenants = [await stack.tenant() for _ in range(3)]
    assert (await stack.ask(OPERATOR, "GET", "/tenants?$top=251")).status_code == 422
    monkeypatch.setenv("OPENKCM_CONFIG", str(tmp_path))
    monkeypatch.setattr(transport, "PAGE", 2)
    profiles.save(
        "default", profiles.Profile(url=str(stack.client.base_url), issuer="x", token=stack.idp.token(OPERATOR))
    )
    said = await asyncio.to_thread(CliRunner().invoke, main, ["tenant", "list", "-o", "json"])
    assert {row["id"] for row in json.loads(said.output)["value"]} >= set(tenants)
    one = await asyncio.to_thread(
        CliRunner().invoke, main, ["tenant", "list", "-o", "json", "--filter", f"id eq '{tenants[1]}'"]
    )
    assert [row["id"] for row in json.loads(one.output)["value"]] == [tenants[1]]


async def test_a_workload_among_many_is_found_by_its_name_or_its_systems(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MANY", 2)
    tenant = await stack.tenant()
    admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
    for system in ("billing", "crm"):
        await stack.must(admin, "POST", f"{path}/systems", {"system": system})
    for n, name in enumerate(("app-one", "app-two", "batch")):
        body = {"workload": name, "system": "payments", "fingerprint": f"{n:064x}"}
        await stack.must(admin, "POST", f"{path}/workloads", body)
    monkeypatch.setattr(views, "WORKLOADS_SHOWN", 2)
    assert len((await stack.must(admin, "GET", path))["workloads"]) == 2
    shown = await look(stack, admin, f"{path}/workloads")
    live = shown[: shown.index('id="add"')]
    assert ("app-two" in live, "batch" in live, "<h2>crm" in live) == (True, False, False)
    assert live.count("and 1 more") == 2
    found = await look(stack, admin, f"{path}/workloads/live?q=batch")
    assert ("batch" in found, "app-one" in found, "billing" in found) == (True, False, False)
    assert "<h2>crm" in await look(stack, admin, f"{path}/workloads/live?q=CRM")
    assert "app-one" in await look(stack, admin, f"{path}/workloads/live?q=payments")
