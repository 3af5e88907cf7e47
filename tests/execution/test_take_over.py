"""A node's next process takes over while clients work: no operation fails, and nothing that was revoked is served."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import ssl
from pathlib import Path

import pytest

from node_bench import Governor, RunningNode, new_key_file, onboarding, opening
from openkcm.cli.endpoints import Kmip, Workload
from openkcm.cli.load import Load, Task, make_key
from openkcm.contract import decrees as d
from openkcm.contract import resources
from openkcm.execution.hold import Hold, InUse
from openkcm.projector.statements import migrations
from orbital_fixture import EU_NODE, running_orbital
from other_tables import OTHER_TABLES
from press import Press


class Here:
    """A node with one residence, its governance, and a client's certificate."""

    def __init__(self, governor: Governor, node: RunningNode) -> None:
        self.governor, self.node = governor, node
        cert, key = node.authority.issue_workload("acme", "app")
        self.kmip = Kmip(host="127.0.0.1", port=node.port)
        self.workload = Workload(cert=str(cert), key=str(key), ca=str(node.authority.ca))
        self.fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert.read_text())).hexdigest()

    async def key(self) -> str:
        for _ in range(100):
            uid = await asyncio.to_thread(make_key, self.kmip, self.workload)
            if uid is not None:
                return uid
            await asyncio.sleep(0.1)
        raise AssertionError(self.node.tail())

    def served(self) -> str:
        """The certificate that clients are shown."""
        return ssl.get_server_certificate((self.kmip.host, self.kmip.port), timeout=10)

    def renew(self) -> None:
        """Put new certificates and keys in the place of the node's."""
        for name in ("kmip-test", EU_NODE):
            for end in ("pem", "key"):
                (self.node.authority.directory / f"{name}.{end}").unlink()
            self.node.authority.issue(name)

    async def taken_over(self) -> int:
        """Start the next process and return the exit status of the one before, once that has ended."""
        before = self.node.process
        self.node.start("--take-over")
        await self.node.wait_ready()
        return await asyncio.to_thread(before.wait, 20)

    async def not_taken_over(self) -> str:
        """Start a next process that ends, while the one before serves on; return what it said."""
        before, said = self.node.process, len((self.node.folder / "node.log").read_text())
        self.node.start("--take-over")
        status = await asyncio.to_thread(self.node.process.wait, 60)
        self.node.process = before
        await asyncio.sleep(1)
        assert (status != 0, before.poll()) == (True, None)
        return (self.node.folder / "node.log").read_text()[said:]


@pytest.fixture
async def here(tmp_path):
    press = Press()
    with running_orbital(tmp_path / "stack") as orbital, contextlib.ExitStack() as ended:
        node = RunningNode(orbital, press, tmp_path / "node")
        new_key_file(node.key_file)
        here = Here(None, node)
        async with Governor(orbital, press) as governor:
            ended.callback(node.stop)
            here.governor = governor
            for e in opening(press):
                await governor.append(e)
            node.start()
            await node.wait_ready()
            for e in onboarding(press, "acme", node.key_file, fingerprint=here.fingerprint):
                await governor.append(e)
            await governor.until(lambda: governor.acked("acme", "routine", 5, "active"))
            yield here


@pytest.mark.timeout(240)
async def test_no_operation_fails_while_the_next_process_takes_over(here):
    task = Task(kmip=here.kmip, workload=here.workload, uid=await here.key(), connections=4, rate=100, patience_s=60)
    with Load(task) as load:
        await asyncio.sleep(1)
        for old in (None, here.served()):
            if old is not None:  # and with new certificates, for clients and for the bus
                here.renew()
            assert await here.taken_over() == 0
            assert (here.served() == old) is False
            await asyncio.sleep(1)
        records = await asyncio.to_thread(load.end)
    assert [r for r in records if r.outcome != "served"] == []
    assert len(records) > 100
    assert "not unsealed" not in (here.node.folder / "node.log").read_text()


@pytest.mark.timeout(240)
async def test_a_revocation_amid_a_take_over_is_acknowledged_by_whoever_obeys_it_and_nothing_is_served_after(here):
    governor = here.governor
    task = Task(kmip=here.kmip, workload=here.workload, uid=await here.key(), connections=4, rate=100, patience_s=60)
    with Load(task) as load:
        await asyncio.sleep(0.5)
        before = here.node.process
        here.node.start("--take-over")
        while "making way" not in here.node.tail():  # noqa: ASYNC110 -- a log has no events
            await asyncio.sleep(0.005)
        await governor.append(governor.press.residence("acme", d.AccessRevoked(reason="test")))
        ack = await governor.until(lambda: governor.acked("acme", "critical", 1, "revoked"))
        await asyncio.to_thread(before.wait, 20)
        await asyncio.sleep(1)
        records = await asyncio.to_thread(load.end)
    closed = ack.closed_boottime_ns
    late = [r for r in records if r.outcome == "served" and closed is not None and r.sent_ns > closed]
    assert late == []
    assert any(r.outcome == "refused" for r in records)


def another_release(folder: Path, *, max_age: int | None = None) -> str:
    """Lay out what ships beside the code, with other tables and maybe another stream; return a program that uses it."""
    for name in ("projections", "streams", "nodes"):
        shutil.copytree(resources.ROOT / name, folder / name)
    tables, usage = folder / "projections" / "node", folder / "streams" / "region" / "USAGE.json"
    (tables / f"{len(migrations(tables)) + 1:04}_other.sql").write_text(OTHER_TABLES)
    if max_age is not None:
        usage.write_text(json.dumps({**json.loads(usage.read_text()), "max_age": max_age}))
    return (
        f"from pathlib import Path\nfrom openkcm.contract import resources\nresources.ROOT = Path({str(folder)!r})\n"
        "from openkcm.cli.main import main\nmain()\n"
    )


@pytest.mark.timeout(240)
async def test_other_tables_cost_clients_a_start_and_no_answer_and_there_is_no_way_back(here, tmp_path):
    task = Task(kmip=here.kmip, workload=here.workload, uid=await here.key(), connections=4, rate=100, patience_s=60)
    with Load(task) as load:
        await asyncio.sleep(1)
        here.node.program = another_release(tmp_path / "next")
        assert await here.taken_over() == 0
        await asyncio.sleep(1)
        here.node.program = None
        assert "use the newer one" in await here.not_taken_over()
        records = await asyncio.to_thread(load.end)
    assert {r.outcome for r in records} <= {"served", "lost"}
    assert [r for r in records if r.outcome == "lost" and "ConnectionRefused" not in r.detail] == []  # nobody was there
    assert records[-1].outcome == "served"


@pytest.mark.timeout(240)
async def test_a_next_process_that_the_bus_does_not_suit_ends_and_the_earlier_one_serves_on(here, tmp_path):
    here.node.program = another_release(tmp_path / "next", max_age=3_600_000_000_000)
    assert "max_age" in await here.not_taken_over()
    assert await here.key()


async def test_a_second_process_does_not_share_a_database(here):
    hold = Hold(str(here.node.folder / "node.sqlite"))
    with pytest.raises(InUse, match=str(here.node.process.pid)):
        hold.take(0.1)
    hold.close()
