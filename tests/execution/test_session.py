"""Connections that do not behave: silent, slow, too many. A real worker with tight limits."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from execution.custodian_double import CustodianDouble
from execution.kmip_client import create_request
from openkcm.contract.fleet import Limits
from openkcm.kmip import encode_request
from openkcm.kmip.payloads.server import QueryRequest


@pytest.fixture
async def custodian(tmp_path):
    limits = Limits(handshake_s=1, idle_s=1, connections_per_worker=3)
    async with CustodianDouble(tmp_path, limits=limits) as double:
        double.system("acme", "pay")
        yield double


async def ended(reader):
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""


async def test_who_never_shakes_hands_is_sent_away(custodian):
    reader, writer = await asyncio.open_connection("127.0.0.1", custodian.port)
    await ended(reader)
    writer.close()


async def test_who_speaks_no_tls_is_sent_away_and_counted(custodian):
    before = custodian.counts()["handshakes_failed"]
    reader, writer = await asyncio.open_connection("127.0.0.1", custodian.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    with contextlib.suppress(ConnectionResetError):
        await reader.read()
    assert custodian.counts()["handshakes_failed"] > before
    writer.close()


async def test_an_idle_client_is_sent_away(custodian):
    client = await custodian.client(custodian.enrol("acme", "pay", "p"))
    await client.call(QueryRequest())
    await ended(client.reader)
    await client.close()


async def test_one_connection_too_many_is_refused_and_the_others_go_on(custodian):
    files = custodian.enrol("acme", "pay", "p")
    while custodian.counts()["overflows"] == 0:
        first = await custodian.client(files)
        held = [await asyncio.open_connection("127.0.0.1", custodian.port) for _ in range(3)]
        await ended(held[-1][0])
        await first.call(QueryRequest())
        for _, writer in held:
            writer.close()
        await first.close()
    assert custodian.counts()["overflows"] >= 1


async def test_a_client_that_goes_away_while_the_custodian_thinks_harms_nobody(custodian):
    gone = asyncio.Event()

    async def slowly(_):
        custodian.before_put = None
        await gone.wait()

    files = custodian.enrol("acme", "pay", "p")
    client = await custodian.client(files)
    custodian.before_put = slowly
    client.writer.write(encode_request(create_request()))
    await client.writer.drain()
    while custodian.before_put is not None:  # noqa: ASYNC110 -- another process asks
        await asyncio.sleep(0.01)  # until the worker has asked
    client.writer.transport.abort()
    gone.set()
    other = await custodian.client(files)
    assert await other.new_key()
    await other.close()
    assert custodian.crew.ready
