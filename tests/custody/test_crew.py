"""The workers of a node: replaced when killed or hung, more or fewer of them without a lost connection."""

from __future__ import annotations

import asyncio
import os
import signal

from execution.custodian_double import CustodianDouble
from openkcm.execution import crew


async def until(what, timeout_s: float = 25.0):
    async with asyncio.timeout(timeout_s):
        while not (found := what()):  # noqa: ASYNC110 -- a process at the other end, not a task of ours
            await asyncio.sleep(0.02)
        return found


async def serves(client, uid) -> bool:
    return await client.decrypt(uid, await client.encrypt(uid, b"x")) == b"x"


async def test_more_and_fewer_workers_lose_no_connection(tmp_path):
    async with CustodianDouble(tmp_path) as custodian:
        custodian.system("acme", "pay")
        files = custodian.enrol("acme", "pay", "app")
        clients = [await custodian.client(files) for _ in range(4)]
        uid = await clients[0].new_key()
        custodian.crew.resize(3)
        await until(lambda: custodian.crew.ready and len(custodian.crew.pids) == 3)
        while not all(custodian.counts(worker)["connections"] for worker in range(3)):  # the kernel spreads them
            clients.append(await custodian.client(files))
        assert all([await serves(client, uid) for client in clients])
        custodian.crew.resize(1)
        assert all([await serves(client, uid) for client in clients])  # those who retire serve to the end
        assert len(custodian.crew.pids) == 3
        for client in clients[4:]:
            await client.close()
        await until(lambda: len(custodian.crew.pids) == 1)
        assert custodian.crew.ready
        assert all([await serves(client, uid) for client in clients[:4]])
        for client in clients[:4]:
            await client.close()


async def test_a_worker_that_hangs_is_replaced_without_anybody_asking_it_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "HUNG_CHECKS", 3)
    async with CustodianDouble(tmp_path) as custodian:
        watching = asyncio.ensure_future(custodian.crew.watch())
        (pid,) = custodian.crew.pids
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: custodian.crew.ready and custodian.crew.pids != [pid])
        os.kill(custodian.crew.pids[0], signal.SIGKILL)
        gone = custodian.crew.pids
        await until(lambda: custodian.crew.ready and custodian.crew.pids != gone)
        watching.cancel()
