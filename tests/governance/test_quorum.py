"""Two of the hub's three servers are gone: writers are told so, nothing is half-done, a revocation waits for the quorum."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import HUBS, OTHERS, ClusteredOrbital, running_cluster
from governance_ledger import TRUST
from governance_stack import OPERATOR, Idp, Stack, issuer, running_cmk
from openkcm.audit.examine import examine
from openkcm.bus.connection import connect
from openkcm.bus.errors import Unavailable
from openkcm.bus.ledger import Ledger, last_at_leader
from openkcm.bus.spool import Spool
from openkcm.cli import orbital as servers
from orbital_fixture import EU, US


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusteredOrbital]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def idp() -> Iterator[Idp]:
    with issuer() as one:
        yield one


async def refused_for_want_of_a_quorum(stack: Stack, tenant: str, system: str) -> None:
    answer = await stack.ask(
        f"{tenant}-admin", "POST", f"/tenants/{tenant}/regions/{EU}/systems", {"system": system}, key=system
    )
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["code"] == "ledger-unavailable"
    assert answer.headers["retry-after"]


async def revoked_into_the_spool(stack: Stack, tenant: str) -> list[str]:
    path = f"/tenants/{tenant}/revocations"
    pulled = await stack.must(f"{tenant}-admin", "POST", path, {"reason": "stolen"}, key="pull")
    assert [(one["recorded"], one["fence"]) for one in pulled["revocations"]] == [("spool", None)] * 2
    again = await stack.must(f"{tenant}-admin", "POST", path, {"reason": "stolen"}, key="pull")
    events = [one["event"] for one in pulled["revocations"]]
    assert [one["event"] for one in again["revocations"]] == events
    assert (await stack.must(OPERATOR, "GET", "/fleet"))["spooled_revocations"] == 2
    return events


async def revoked_in_the_ledger(stack: Stack, tenant: str) -> None:
    async def arrived() -> bool:
        answers = [await stack.ask(f"{tenant}-admin", "GET", f"/tenants/{tenant}/regions/{r}") for r in (EU, US)]
        return [a.json().get("state") for a in answers] == ["Revoked", "Revoked"]

    async def forgotten() -> bool:
        return (await stack.must(OPERATOR, "GET", "/fleet"))["spooled_revocations"] == 0

    await stack.until(arrived, 30)
    await stack.until(forgotten, 30)


async def test_a_leader_whom_nobody_follows_any_more_names_no_head_though_it_goes_on_answering(
    cluster: ClusteredOrbital,
) -> None:
    leader, clock, all_ = await cluster.led(), asyncio.get_running_loop().time, ["kcm.decree.>"]
    connection = await connect(servers.access(cluster.state_dir, "cmk", cluster.ports[leader]), name="cmk")
    ledger, others = Ledger(connection), [cluster.servers[name].process for name in HUBS if name != leader]
    await ledger.leader_last(all_, since_s=clock())
    for follower in others:
        follower.send_signal(signal.SIGSTOP)
    try:
        await last_at_leader(connection, "LEDGER", "kcm.decree.>")  # it does not know it yet, and may be behind
        with pytest.raises(Unavailable):
            await ledger.leader_last(all_, since_s=clock())
    finally:
        for follower in others:
            follower.send_signal(signal.SIGCONT)
    deadline = clock() + 30
    while clock() < deadline:
        with contextlib.suppress(Unavailable):
            await ledger.leader_last(all_, since_s=clock())
            break
        await asyncio.sleep(0.2)
    else:
        raise AssertionError("nobody leads the ledger any more")
    await connection.close()


async def test_without_a_quorum_writers_get_503_and_a_revocation_waits_over_a_restart_of_the_cmk(
    cluster: ClusteredOrbital, idp: Idp, tmp_path: Path
) -> None:
    home = tmp_path / "cmk"
    async with running_cmk(cluster, idp, home, check_streams=False) as stack:
        tenant, other = [await stack.tenant(regions=(EU, US)) for _ in range(2)]
        for name in OTHERS:
            cluster.kill(name)
        await refused_for_want_of_a_quorum(stack, tenant, "late")
        events = await revoked_into_the_spool(stack, tenant)
    assert {entry.id for entry in Spool(home / "spool").entries()} == set(events)
    cluster.start_hubs(OTHERS)
    await cluster.led()
    async with running_cmk(cluster, idp, home, check_streams=False) as stack:
        await revoked_in_the_ledger(stack, tenant)
        # Once more, and this time the CMK lives through it.
        for name in OTHERS:
            cluster.kill(name)
        await refused_for_want_of_a_quorum(stack, other, "late")
        events += await revoked_into_the_spool(stack, other)
        cluster.start_hubs(OTHERS)
        begun = time.monotonic()
        await revoked_in_the_ledger(stack, other)
        assert stack.cmk.switch.waiting == 0, f"{time.monotonic() - begun:.2f} s after the quorum was back"
        done = await stack.ask(
            f"{other}-admin", "POST", f"/tenants/{other}/regions/{EU}/systems", {"system": "late"}, key="late"
        )
        assert done.status_code in (202, 409), done.text  # revoked by now; what was tried may have come in before
        stored = [s async for s in stack.cmk.ledger.read_all()]
        for event in events:
            assert [s.id for s in stored].count(event) == 1
        # Nothing half-done: what is there is whole, once, and without a gap.
        assert examine(stored, TRUST.public_key).events == len(stored)
