"""The CMK when things die: a revocation survives the hub's death and its own; a shorter ledger is not served."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from governance_ledger import CMK, ROGUE
from governance_stack import OPERATOR, Idp, Stack, ceremony, configuration, running_cmk
from openkcm.bus.beat import subscribe_beats
from openkcm.bus.lanes import subscribe_lane0
from openkcm.bus.messages import Stored
from openkcm.contract import envelope as env
from openkcm.contract import reports
from openkcm.contract.subjects import residence_aggregate
from openkcm.execution.voice import Voice
from openkcm.governance.beat import filters_of
from openkcm.governance.configuration import ConfigurationError, Listen, read_configuration
from openkcm.governance.errors import LedgerUnavailable
from openkcm.governance.service import open_cmk
from orbital_fixture import EU, EU_NODE, Orbital, running_orbital

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def fence(stack: Stack, tenant: str) -> int:
    return (await stack.must(f"{tenant}-admin", "GET", f"/tenants/{tenant}/regions/{EU}"))["fence"]


async def test_a_revocation_ordered_while_the_hub_is_dead_is_in_the_ledger_after_its_return(
    tmp_path: Path, idp: Idp
) -> None:
    with running_orbital(tmp_path / "orbital") as orbital:
        async with running_cmk(orbital, idp, tmp_path / "cmk") as stack:
            tenant = await stack.tenant()
            last = await stack.last()
            orbital.kill("hub")

            async def noticed() -> bool:
                return not stack.cmk.connection.is_connected

            await stack.until(noticed)
            pulled = await stack.must(f"{tenant}-admin", "POST", f"/tenants/{tenant}/revocations", {}, key="k")
            again = await stack.must(f"{tenant}-admin", "POST", f"/tenants/{tenant}/revocations", {}, key="k")
            assert pulled == again
            assert pulled["revocations"][0]["recorded"] == "spool"
            other = await stack.ask(
                f"{tenant}-admin", "POST", f"/tenants/{tenant}/revocations", {"reason": "x"}, key="k"
            )
            assert other.status_code == 409
            assert len(list((tmp_path / "cmk" / "spool").glob("*.json"))) == 1
            routine = await stack.ask(f"{tenant}-admin", "PUT", f"/tenants/{tenant}/regions/{EU}/suspension", {})
            assert (routine.status_code, routine.json()["code"]) == (503, "ledger-unavailable")
            assert (await stack.ask(None, "GET", "/readyz")).status_code == 503
            orbital.start("hub")

            async def arrived() -> bool:
                return await fence(stack, tenant) == 1

            await stack.until(arrived)
            assert list((tmp_path / "cmk" / "spool").glob("*.json")) == []
            assert await stack.last() == last + 1
            assert stack.cmk.views.open_revocations()[0]["event"] == pulled["revocations"][0]["event"]


async def test_a_spooled_revocation_survives_the_death_of_the_cmk_too(tmp_path: Path, idp: Idp) -> None:
    home = tmp_path / "cmk"
    with running_orbital(tmp_path / "orbital") as orbital:
        async with running_cmk(orbital, idp, home) as stack:
            tenant = await stack.tenant()
        # A process of its own, to be killed.
        config = configuration(orbital, idp, home)
        path, ready = tmp_path / "cmk.json", tmp_path / "ready.json"
        path.write_bytes(msgspec.json.encode(config))
        process = subprocess.Popen(  # noqa: ASYNC220 -- starting it takes no time worth a thread
            [sys.executable, "-W", "ignore", "-m", "openkcm.cli.main", "cmk", "--config", path, "--ready", ready]
        )
        try:
            while not ready.exists():
                assert process.poll() is None
                await asyncio.sleep(0.02)
            facts = msgspec.json.decode(ready.read_bytes())
            assert facts["pid"] == process.pid
            orbital.kill("hub")
            async with httpx.AsyncClient(base_url=facts["url"], trust_env=False) as client:
                lost = Stack(None, client, idp, orbital)  # type: ignore[arg-type]
                pulled = await lost.must(
                    f"{tenant}-admin", "POST", f"/tenants/{tenant}/revocations", {"reason": "stolen"},
                    headers={"traceparent": TRACE},
                )  # fmt: skip
            assert pulled["revocations"][0]["recorded"] == "spool"
        finally:
            process.kill()
            process.wait()
        orbital.start("hub")
        async with running_cmk(orbital, idp, home) as stack:

            async def arrived() -> bool:
                return await fence(stack, tenant) == 1

            await stack.until(arrived)
            stored = await stack.cmk.ledger.last(str(residence_aggregate(EU, tenant, "critical")))
            assert stored is not None
            assert stored.trace == TRACE, "the spool keeps whose request it was"


async def test_a_ledger_shorter_than_what_was_read_is_not_served(tmp_path: Path, idp: Idp, orbital: Orbital) -> None:
    async with running_cmk(orbital, idp, tmp_path / "cmk") as stack:
        await stack.tenant()
        cursor = stack.cmk.projection.cursor
    from openkcm.contract import resources
    from openkcm.projector import open_writer

    writer = open_writer(tmp_path / "cmk" / "registry.sqlite", resources.ROOT / "projections" / "cmk")
    writer.apply([("cursor", {"sequence": cursor + 5, "epoch": 1})])
    writer.close()
    with pytest.raises(ConfigurationError, match="lost its tail"):
        await open_cmk(configuration(orbital, idp, tmp_path / "cmk"))


async def test_a_second_cmk_and_a_restarted_one_show_the_same(tmp_path: Path, idp: Idp, orbital: Orbital) -> None:
    async with running_cmk(orbital, idp, tmp_path / "one") as one:
        tenant = await one.tenant()
        path = f"/tenants/{tenant}/regions/{EU}"
        async with running_cmk(orbital, idp, tmp_path / "two") as two:
            await two.must(f"{tenant}-admin", "POST", f"{path}/systems", {"system": "archive"})
            await one.must(
                f"{tenant}-admin", "POST", f"{path}/systems", {"system": "ledger"}
            )  # read behind the other's write
            shown = await two.must(f"{tenant}-admin", "GET", path)

            async def same() -> bool:
                return await one.must(f"{tenant}-admin", "GET", path) == await two.must(f"{tenant}-admin", "GET", path)

            await one.until(same)
            shown = await two.must(f"{tenant}-admin", "GET", path)
    async with running_cmk(orbital, idp, tmp_path / "one") as again:
        assert await again.must(f"{tenant}-admin", "GET", path) == shown
        assert [s["system"] for s in shown["systems"]] == ["payments", "archive", "ledger"]


async def test_a_busy_residence_does_not_hold_its_revocation_back(tmp_path: Path, idp: Idp, orbital: Orbital) -> None:
    async with running_cmk(orbital, idp, tmp_path / "cmk") as stack:
        tenant = await stack.tenant()
        admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
        busy = [
            asyncio.create_task(stack.must(admin, "PATCH", f"{path}/configuration", {"labels": {"n": str(i)}}))
            for i in range(60)
        ]
        await asyncio.sleep(0.05)
        await stack.must(admin, "POST", f"/tenants/{tenant}/revocations", {})
        waiting = sum(not task.done() for task in busy)
        assert waiting > 0  # it overtook them
        done = await asyncio.gather(*busy)
        assert sorted(a["generation"] for a in done) == list(range(5, 65))
        assert stack.cmk.views.reader.rows("SELECT * FROM rejected") == []


async def test_an_unacknowledged_revocation_is_repeated_on_lane0_until_it_is_acked(
    tmp_path: Path, idp: Idp, orbital: Orbital
) -> None:
    async with running_cmk(orbital, idp, tmp_path / "cmk") as stack, stack.node() as node:
        tenant = await stack.tenant()
        heard: list[Stored] = []

        async def hear(stored: Stored) -> None:
            if f".{tenant}.critical." in stored.subject:
                heard.append(stored)

        end = await subscribe_lane0(node.connection, EU, hear)
        pulled = await stack.must(f"{tenant}-admin", "POST", f"/tenants/{tenant}/revocations", {})

        async def thrice() -> bool:
            return len(heard) >= 3  # the hub's own, and two repetitions

        await stack.until(thrice)
        assert len({(s.subject, s.body, s.id) for s in heard}) == 1
        assert heard[0].id == pulled["revocations"][0]["event"]
        await node.ack(tenant, "critical", 1, state="revoked")

        async def acked() -> bool:
            return tenant not in str(stack.cmk.watch.unacknowledged())

        await stack.until(acked)
        await end()


async def test_a_beat_echoes_the_nonces_of_enrolled_nodes_and_names_the_leaders_head(
    tmp_path: Path, idp: Idp, orbital: Orbital
) -> None:
    async with running_cmk(orbital, idp, tmp_path / "cmk") as stack, stack.node() as node:
        tenant = await stack.tenant()
        beats: list[env.Envelope] = []

        async def hear(stored: Stored) -> None:
            e = env.decode(stored.body)
            env.verify(e, stored.subject, {CMK.key_id: CMK.public_key})
            beats.append(e)

        end = await subscribe_beats(node.connection, EU, hear)

        for round_ in range(2):
            await node.live(f"{round_:032x}")

            async def answered(wanted: int = round_ + 1) -> bool:
                return len(beats) >= wanted

            await stack.until(answered)
            beat = reports.read_beat(beats[-1].tag, beats[-1].data)
            assert f"{round_:032x}" in beat.nonces
            head = await stack.cmk.ledger.leader_last(filters_of(EU), since_s=asyncio.get_running_loop().time())
            assert head is not None
            chain = bytes(32)
            async for stored in stack.cmk.ledger.read_all():
                parts = stored.subject.split(".")
                if parts[4] == "critical" and (parts[2] == EU or parts[2:4] == ["global", "_"]):
                    chain = hashlib.sha256(chain + hashlib.sha256(stored.body).digest()).digest()
            assert (beat.head.sequence, beat.head.hash, beat.ledger_epoch) == (head.sequence, chain.hex(), 1)
            await stack.must(f"{tenant}-admin", "POST", f"/tenants/{tenant}/revocations", {})
        dropped, sent = stack.cmk.beats.dropped, stack.cmk.beats.sent
        await node.live("f" * 32, voice=Voice(EU_NODE, EU, ROGUE))

        async def refused() -> bool:
            return stack.cmk.beats.dropped == dropped + 1

        await stack.until(refused)
        assert stack.cmk.beats.sent == sent
        sync = await stack.must(f"{tenant}-admin", "GET", f"/tenants/{tenant}/regions/{EU}/sync")
        assert sync["nodes"][0]["last_seen_ms"] is not None
        fleet = await stack.must(OPERATOR, "GET", "/fleet")
        assert fleet["count"] == 2
        await end()


def test_plain_http_beyond_loopback_is_refused(tmp_path: Path, idp: Idp, orbital: Orbital) -> None:
    config = configuration(orbital, idp, tmp_path / "cmk", listen=Listen("0.0.0.0", 0))
    path = tmp_path / "cmk.json"
    path.write_bytes(msgspec.json.encode(config))
    with pytest.raises(ConfigurationError, match="loopback"):
        read_configuration(path)
    path.write_bytes(msgspec.json.encode(configuration(orbital, idp, tmp_path / "cmk")))
    assert read_configuration(path).listen.loopback


async def test_the_ceremony_twice_enrols_nobody_twice(orbital: Orbital, tmp_path: Path, idp: Idp) -> None:
    await ceremony(orbital)
    await ceremony(orbital)
    async with running_cmk(orbital, idp, tmp_path / "cmk") as stack:
        assert len(stack.cmk.views.nodes()) == 2
        assert stack.cmk.projection.epoch == 1


async def test_a_hanging_hub_does_not_hold_the_answer_back_and_the_revocation_arrives_once(
    tmp_path: Path, idp: Idp
) -> None:
    with running_orbital(tmp_path / "orbital") as orbital:
        async with running_cmk(orbital, idp, tmp_path / "cmk") as stack:
            tenant = await stack.tenant()
            hub = orbital.servers["hub"].process
            hub.send_signal(signal.SIGSTOP)
            try:
                pulled = await stack.must(f"{tenant}-admin", "POST", f"/tenants/{tenant}/revocations", {})
                assert pulled["revocations"][0]["recorded"] == "spool"
            finally:
                hub.send_signal(signal.SIGCONT)

            async def arrived() -> bool:
                return await fence(stack, tenant) == 1 and stack.cmk.switch.waiting == 0

            await stack.until(arrived, 20)
            found = stack.cmk.views.above(tenant, EU, "critical", 1, 0)
            assert [event for _, event, *_ in found] == [pulled["revocations"][0]["event"]]


async def test_a_registration_that_broke_off_is_completed_by_its_repetition(
    tmp_path: Path, idp: Idp, orbital: Orbital
) -> None:
    async with running_cmk(orbital, idp, tmp_path / "cmk") as stack:
        cut = stack.cmk.registry.execute
        calls = 0

        async def breaks(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise LedgerUnavailable("cut here")
            return await cut(*args, **kwargs)

        stack.cmk.registry.execute = breaks  # type: ignore[method-assign]
        body = {
            "id": "t-broken", "regions": [EU],
            "people": [
                {"person": f"t-broken-{p}", "roles": ["tenant-admin"], "approval_key": base64.b64encode(s.public_key).decode()}
                for p, s in (("anna", CMK), ("bert", ROGUE))
            ],
        }  # fmt: skip
        assert (await stack.ask(OPERATOR, "POST", "/tenants", body)).status_code == 503
        await stack.must(OPERATOR, "POST", "/tenants", body)
        shown = await stack.must(OPERATOR, "GET", f"/tenants/t-broken/regions/{EU}")
        assert (shown["generation"], shown["approvers"]["version"], shown["lease_s"]) == (2, 1, 86400)
        assert (await stack.ask(OPERATOR, "POST", "/tenants", body)).status_code == 409


async def test_nothing_is_ordered_that_a_node_cannot_read_but_a_revocation_is(
    tmp_path: Path, idp: Idp, orbital: Orbital
) -> None:
    async with running_cmk(orbital, idp, tmp_path / "cmk") as stack:
        tenant = await stack.tenant()
        check = reports.HealthCheck(
            node=EU_NODE, region=EU, nonce="0" * 32, boot_id="b", sent_boottime_ns=1, ledger_epoch=1, cursor=(0, 0),
            known_tags=("SystemRegistered.2",), workers=1, memory="mlock", sealed_mappings=False, dropped=0,
        )  # fmt: skip
        stack.cmk.watch.heard(check, 0)
        admin, path = f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}"
        last = await stack.last()
        refused = await stack.ask(admin, "PUT", f"{path}/suspension", {})
        assert (refused.status_code, refused.json()["code"]) == (409, "illegal-in-this-state")
        assert EU_NODE in refused.json()["detail"]
        assert await stack.last() == last
        await stack.must(admin, "POST", f"{path}/systems", {"system": "archive"})
        await stack.must(admin, "POST", f"/tenants/{tenant}/revocations", {})


async def test_the_process_stops_in_order_on_sigterm_with_a_stream_open(
    tmp_path: Path, idp: Idp, orbital: Orbital
) -> None:
    await ceremony(orbital)
    path, ready = tmp_path / "cmk.json", tmp_path / "ready.json"
    path.write_bytes(msgspec.json.encode(configuration(orbital, idp, tmp_path / "cmk")))
    command = [sys.executable, "-W", "ignore", "-m", "openkcm.cli.main", "cmk", "--config", path, "--ready", ready]
    process = subprocess.Popen(command)  # noqa: ASYNC220 -- as above
    try:
        while not ready.exists():
            assert process.poll() is None
            await asyncio.sleep(0.02)
        url = msgspec.json.decode(ready.read_bytes())["url"]
        headers = {"Authorization": f"Bearer {idp.token(OPERATOR)}"}
        async with (
            httpx.AsyncClient(base_url=url, trust_env=False) as client,
            client.stream("GET", "/cmk/v1/events", headers=headers) as stream,
        ):
            assert stream.status_code == 200
            process.terminate()
            assert await asyncio.to_thread(process.wait, 5) == 0
    finally:
        process.kill()
        process.wait()
