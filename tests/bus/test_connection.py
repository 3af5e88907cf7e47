"""A connection while its server stands still, comes back and goes; what becomes of what was asked meanwhile."""

from __future__ import annotations

import asyncio
import gc
import signal

import msgspec
import pytest

from openkcm.bus.errors import Refused, Unavailable
from openkcm.bus.lanes import mirror_head
from orbital_fixture import EU, EU_NODE, Orbital

INFO = "$JS.API.STREAM.INFO"


async def test_a_pong_that_comes_too_late_leaves_the_connection_listening(orbital: Orbital) -> None:
    server = orbital.servers[EU].process
    connection = await orbital.connect(EU_NODE)
    server.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="did not answer"):
            await connection.flush(timeout_s=0.2)
        waiting = asyncio.ensure_future(connection.flush(timeout_s=5))
        await asyncio.sleep(0.1)
        waiting.cancel()
    finally:
        server.send_signal(signal.SIGCONT)
    await connection.flush()
    await connection.flush()
    assert connection.reconnects == 0
    await connection.close()


async def test_an_answer_that_comes_too_late_is_nobodys(orbital: Orbital) -> None:
    server = orbital.servers[EU].process
    connection = await orbital.connect(EU_NODE)
    server.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="within"):
            await connection.request(f"{INFO}.LEDGER", timeout_s=0.2)
    finally:
        server.send_signal(signal.SIGCONT)
    answers = await asyncio.gather(*(connection.request(f"{INFO}.{s}") for s in ("VAULT", "LEDGER-CRITICAL")))
    assert [msgspec.json.decode(a.body)["config"]["name"] for a in answers] == ["VAULT", "LEDGER-CRITICAL"]
    assert not connection._asked
    await connection.close()


async def test_what_is_refused_while_others_ask_fails_alone(orbital: Orbital) -> None:
    connection = await orbital.connect(EU_NODE)
    asked = (connection.request(f"{INFO}.VAULT"), connection.request("kcm.decree.x", timeout_s=60))
    async with asyncio.timeout(20):
        answered, refused = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(refused, Refused)
    assert not isinstance(answered, BaseException)
    assert not connection._refusals
    await connection.close()


async def test_what_was_asked_is_given_up_when_the_connection_breaks(orbital: Orbital) -> None:
    server = orbital.servers[EU].process
    connection = await orbital.connect(EU_NODE)
    server.send_signal(signal.SIGSTOP)
    back = asyncio.Event()
    connection.on_reconnect(back.set)
    asked = asyncio.ensure_future(connection.request(f"{INFO}.VAULT", timeout_s=60))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(orbital.kill, EU)
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable, match="broke"):
            await asked
        await asyncio.to_thread(orbital.start, EU)
        await back.wait()
        await mirror_head(connection, "VAULT")  # the answers are heard again
    await connection.close()


async def test_a_question_that_could_not_be_sent_leaves_no_complaint(orbital: Orbital, monkeypatch) -> None:
    """The connection breaks while the question is written: who asked hears of that, once."""
    connection, said = await orbital.connect(EU_NODE), []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: said.append(context))

    async def breaks(*_: object, **__: object) -> None:
        await connection._on_disconnect()
        raise OSError("broken")

    monkeypatch.setattr(connection._client, "publish", breaks)
    with pytest.raises(Unavailable, match="cannot send"):
        await connection.request(f"{INFO}.LEDGER")
    gc.collect()
    assert not said
    await connection.close()
