"""Acknowledgements that governance hears before the stream brings them: believed by the same rules, and not too many."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from governance_stack import Idp, Stack, running_cmk
from openkcm.bus.declare import declared
from openkcm.bus.lanes import subscribe_lane0
from openkcm.bus.messages import Stored
from openkcm.bus.publish import api
from openkcm.contract import envelope as env
from openkcm.governance import service
from openkcm.governance.early import MOST, Early
from orbital_fixture import EU, Orbital


def ack(number: int) -> Stored:
    return Stored(0, f"kcm.report.{EU}.{EU}-1.acme.sync-ack", b"%d" % number, "")


async def overdue(early: Early) -> list[Stored]:
    async for found in early.overdue():
        return found
    raise AssertionError("for ever")


async def test_only_what_the_stream_has_not_brought_is_overdue_and_in_order() -> None:
    early = Early()
    for number in range(4):
        early.hear(ack(number))
    early.brought(Stored(7, ack(1).subject, ack(1).body, "id"))
    assert await overdue(early) == [ack(0), ack(2), ack(3)]
    early.hear(ack(5))
    assert await overdue(early) == [ack(5)]


async def test_what_the_stream_brings_while_it_is_waited_for_is_not_overdue() -> None:
    early = Early()
    early.hear(ack(0))
    early.hear(ack(1))
    waiting = asyncio.create_task(overdue(early))
    await asyncio.sleep(0)
    early.brought(ack(0))
    assert await waiting == [ack(1)]


async def test_what_the_stream_brings_in_time_is_looked_at_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openkcm.governance.early.WAIT_S", 60)
    await asyncio.sleep(0.3)  # the wait that is under way is a short one
    heard: list[Stored] = []
    before = stack.cmk.early.brought
    monkeypatch.setattr(stack.cmk.early, "brought", lambda report: (heard.append(report), before(report)))
    async with stack.node() as node:
        await node.ack("nobody", "routine", 1)

    async def brought() -> bool:
        return bool(heard)

    await stack.until(brought)
    assert not stack.cmk.early._heard


async def test_of_a_flood_of_acks_the_first_are_kept_and_the_stream_brings_the_others() -> None:
    early = Early()
    for number in range(3 * MOST):
        early.hear(ack(number))
    assert await overdue(early) == [ack(number) for number in range(MOST)]
    early.hear(ack(5))
    assert await overdue(early) == [ack(5)]


async def test_an_ack_that_the_stream_does_not_bring_is_shown_and_a_forged_one_changes_nothing(stack: Stack) -> None:
    last = await dry(stack.orbital)
    tenant = await stack.tenant()
    path = f"/tenants/{tenant}/regions/{EU}/sync"
    shown = await stack.must(f"{tenant}-admin", "GET", path)
    async with stack.node() as node:
        wrong = type(node)(node.connection, node.name, node.region)
        wrong.voice = type(node.voice)(node.name, node.region, stack.cmk.signer)
        await wrong.ack(tenant, "critical", 99)
        await node.ack(tenant, "routine", shown["routine"]["counter"])

    async def in_sync() -> bool:
        nonlocal shown
        shown = await stack.must(f"{tenant}-admin", "GET", path)
        return shown["routine"]["status"] == "InSync"

    await stack.until(in_sync)
    assert shown["nodes"][0]["critical"] == 0
    assert await dry(stack.orbital) == last  # the stream has brought none


async def test_after_a_restart_of_the_hub_a_routine_decree_is_said_again_until_it_is_acknowledged(
    orbital: Orbital, idp: Idp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DRY_S", 0.0)  # not at the start
    async with running_cmk(orbital, idp, tmp_path / "cmk") as stack, stack.node() as node:
        tenant = await stack.tenant()
        path = f"/tenants/{tenant}/regions/{EU}"
        configured = await stack.must(f"{tenant}-admin", "PATCH", f"{path}/configuration", {"labels": {"a": "b"}})
        heard: list[Stored] = []

        async def hear(stored: Stored) -> None:
            if f".{tenant}.routine." in stored.subject:
                heard.append(stored)

        end = await subscribe_lane0(node.connection, EU, hear)
        monkeypatch.setattr(service, "DRY_S", 60.0)
        await asyncio.sleep(2 * service.SOON_S)
        assert heard == []
        orbital.kill("hub")
        orbital.start("hub")

        async def twice() -> bool:
            return len(heard) >= 2

        await stack.until(twice, timeout_s=20)
        assert {env.decode(s.body).counter for s in heard} == {configured["generation"]}
        await node.ack(tenant, "routine", configured["generation"])

        async def acked() -> bool:
            return tenant not in str(stack.cmk.watch.unacknowledged_lately())

        await stack.until(acked)
        await end()


async def dry(orbital: Orbital) -> int:
    """Have REPORTS source nothing, as for some seconds after the hub's restart; return its last sequence."""
    (body,) = [x.body for x in declared("reports", orbital.regions) if x.stream == "REPORTS"]
    admin = await orbital.connect("reports-admin")
    answer = await api(admin, "$JS.API.STREAM.UPDATE.REPORTS", {**body, "sources": []})
    await admin.close()
    assert "error" not in answer, answer
    return int(answer["state"]["last_seq"])
