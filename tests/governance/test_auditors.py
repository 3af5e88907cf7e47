"""What auditors are given: the ledger by pages of lines, exactly their tenant's; and a mirror in an account of its own."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from governance_ledger import CMK, TRUST
from governance_stack import OPERATOR, Idp, Stack, issuer, running_cmk
from openkcm.audit.examine import examine
from openkcm.bus.errors import BusError, Refused
from openkcm.bus.ledger import Ledger
from openkcm.bus.publish import api
from openkcm.contract import envelope
from orbital_fixture import EU, Orbital, orbital

__all__ = ["orbital"]


@pytest.fixture(scope="module")
def idp() -> Iterator[Idp]:
    with issuer() as one:
        yield one


@pytest.fixture
async def stack(orbital: Orbital, idp: Idp, tmp_path) -> AsyncIterator[Stack]:
    async with running_cmk(orbital, idp, tmp_path) as running:
        yield running


async def lines(stack: Stack, who: str, **query: object) -> list[dict]:
    """Every page, by the links."""
    found: list[dict] = []
    answer = await stack.ask(who, "GET", "/ledger", headers={"Accept": "application/x-ndjson"}, **query)
    while True:
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        page = [json.loads(line) for line in answer.content.splitlines()]
        assert len(page) <= int(str(query.get("limit", 1000)))
        found += page
        link = answer.headers.get("link")
        if link is None:
            return found
        path = httpx.URL(link[1 : link.index(">")])
        answer = await stack.ask(who, "GET", str(path), headers={"Accept": "application/x-ndjson"})


async def test_an_auditor_pages_through_exactly_its_tenant(stack: Stack) -> None:
    tenant, other = await stack.tenant(), await stack.tenant()
    assert (await stack.ask(f"{other}-admin", "GET", f"/tenants/{tenant}")).status_code == 404

    async def denied() -> list[dict]:
        return [e for e in await lines(stack, f"{tenant}-auditor", tenant=tenant) if e["tag"] == "AccessDenied.2"]

    (tried,) = await stack.until(denied)
    assert (tried["data"]["person"], tried["data"]["tenant"]) == (f"{other}-admin", tenant)
    found = await lines(stack, f"{tenant}-auditor", tenant=tenant, limit=2)
    whole = await lines(stack, OPERATOR)
    assert [e["sequence"] for e in found] == sorted(e["sequence"] for e in found)
    assert found == [e for e in whole if f".{tenant}." in e["subject"] or e["data"].get("tenant") == tenant]
    assert other not in {e["subject"].split(".")[3] for e in found}
    for event in found:  # the stored bytes are there, sealed
        sealed = envelope.decode(base64.b64decode(event["body"]))
        envelope.verify(sealed, event["subject"], {CMK.key_id: CMK.public_key})
    answer = await stack.ask(f"{tenant}-auditor", "GET", "/ledger", tenant=tenant)
    assert answer.json()["count"] == len(found)
    for who, whose in ((f"{tenant}-auditor", other), (f"{other}-auditor", tenant), ("stranger-1", tenant)):
        assert (await stack.ask(who, "GET", "/ledger", tenant=whose)).status_code == 404


async def test_the_auditors_mirror_is_the_whole_ledger_and_its_account_can_do_nothing_else(stack: Stack) -> None:
    tenant = await stack.tenant()
    connection = await stack.orbital.connect("auditor")
    try:
        mirror = Ledger(connection)
        last = await stack.last()

        async def caught_up() -> bool:
            return (await mirror.info()).last >= last

        await stack.until(caught_up)
        theirs = [stored async for stored in mirror.read_all(until=last)]
        ours = [stored async for stored in stack.cmk.ledger.read_all(until=last)]
        assert theirs == ours
        assert examine(theirs, TRUST.public_key).sequence == last
        subject = f"kcm.decree.{EU}.{tenant}.critical.residence.{tenant}"
        with pytest.raises(Refused):
            await mirror.append(subject, b"{}", id="x", tag="AccessRevoked.1", expected_last=None)
        for forbidden in (
            "$JS.API.STREAM.DELETE.LEDGER", "$JS.API.STREAM.PURGE.LEDGER", "$JS.API.STREAM.UPDATE.LEDGER",
            "$JS.API.STREAM.MSG.DELETE.LEDGER", "$JS.API.STREAM.INFO.REPORTS", "$JS.ledger.API.STREAM.INFO.LEDGER",
        ):  # fmt: skip
            with pytest.raises(BusError):
                await api(connection, forbidden, {})
    finally:
        await connection.close()
