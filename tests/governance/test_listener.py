"""Connections before they say anything: handshakes, heads and bodies that come too often, too many, too slowly, too long.

Each limit on a running portal with TLS, from addresses of a crowd; and the switch, which waits for none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from governance_stack import OPERATOR, Idp, Stack, running_cmk
from openkcm.cli import pki
from openkcm.governance.configuration import Tls
from openkcm.governance.portal import admission, edge, listener
from openkcm.governance.portal.admission import Admission
from openkcm.governance.portal.limits import BUDGETS, Budget, Limits
from orbital_fixture import Orbital

NEVER = 0.0001
TRUSTING = ssl.create_default_context()
TRUSTING.check_hostname, TRUSTING.verify_mode = False, ssl.CERT_NONE


@pytest_asyncio.fixture
async def stack(orbital: Orbital, idp: Idp, tmp_path: Path) -> AsyncIterator[Stack]:
    cert, key = pki.authority(tmp_path / "pki").issue("cmk")
    async with running_cmk(orbital, idp, tmp_path / "cmk", tls=Tls(str(cert), str(key))) as running:
        yield running


@pytest_asyncio.fixture
async def crowd(stack: Stack) -> AsyncIterator[Crowd]:
    made = Crowd(stack)
    yield made
    for writer in made.opened:
        writer.close()


class Crowd:
    """Connections from addresses of the test's choice."""

    def __init__(self, stack: Stack) -> None:
        self.url, self.opened = stack.client.base_url, []

    async def connect(self, address: str, *, tls: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(
            self.url.host, self.url.port, local_addr=(address, 0), ssl=TRUSTING if tls else None
        )
        self.opened.append(writer)
        return reader, writer

    async def shakes(self, address: str) -> bool:
        try:
            await self.connect(address)
        except OSError:
            return False
        return True

    async def stays(self, address: str) -> bool:
        try:
            return await open_still((await self.connect(address, tls=False))[0])
        except ConnectionResetError:
            return False


async def test_a_new_certificate_is_shown_from_the_next_handshake_on_and_one_without_its_key_to_nobody(
    stack: Stack, crowd: Crowd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def shown() -> bytes:
        _, writer = await crowd.connect("127.0.0.1")
        return writer.get_extra_info("ssl_object").getpeercert(binary_form=True)

    cert, key = tmp_path / "pki" / "pki" / "cmk.pem", tmp_path / "pki" / "pki" / "cmk.key"
    before = await shown()
    other_cert, other_key = pki.authority(tmp_path / "other").issue("cmk")
    cert.write_bytes(other_cert.read_bytes())
    assert await shown() == before
    assert "the earlier certificate is shown" in caplog.text
    key.write_bytes(other_key.read_bytes())
    assert await shown() == ssl.PEM_cert_to_DER_cert(other_cert.read_text())


async def ended(reader: asyncio.StreamReader, within_s: float = 5.0) -> bytes:
    """Return what came until the other side ended it."""
    try:
        return await asyncio.wait_for(reader.read(), within_s)
    except ConnectionError:
        return b""


async def open_still(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(TimeoutError):
        await ended(reader, 0.2)
        return False
    return True


async def test_connections_are_counted_by_address_and_all_together_and_the_switch_has_its_own(
    stack: Stack, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await stack.tenant()  # from 127.0.0.1, which is known by it
    monkeypatch.setitem(BUDGETS, ("address", "connection"), Budget(4, NEVER))
    monkeypatch.setitem(BUDGETS, ("all", "connection"), Budget(6, NEVER))
    monkeypatch.setitem(BUDGETS, ("rare", "connection"), Budget(1, NEVER))
    assert [await crowd.shakes("127.0.1.1") for _ in range(6)] == [True] * 4 + [False] * 2  # its own
    assert [await crowd.shakes(f"127.0.1.{n}") for n in range(2, 7)] == [True] * 3 + [
        False
    ] * 2  # all, and the rare one
    for _ in range(3):
        async with httpx.AsyncClient(base_url=stack.client.base_url, verify=False, trust_env=False) as fresh:
            token = {"Authorization": f"Bearer {stack.idp.token(f'{tenant}-admin')}"}
            pulled = await fresh.post(f"/cmk/v1/tenants/{tenant}/revocations", json={}, headers=token)
        assert pulled.status_code == 202, pulled.text
    figures = await stack.ask(OPERATOR, "GET", "/metrics")
    assert 'openkcm_cmk_refused_total{why="connections"} 4' in figures.text


async def test_a_handshake_that_does_not_come_is_over_and_new_ones_put_the_oldest_strange_ones_out(
    stack: Stack, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKES_OF_ADDRESS", 3)
    monkeypatch.setattr(listener, "HANDSHAKES", 5)
    await stack.must(OPERATOR, "GET", "/tenants")
    mine, _ = await crowd.connect("127.0.0.1", tls=False)  # of an address that is known
    silent = [(await crowd.connect("127.0.1.1", tls=False))[0] for _ in range(4)]
    assert await ended(silent[0]) == b""  # its address has three others
    others = [(await crowd.connect(f"127.0.1.{n}", tls=False))[0] for n in (2, 3)]
    assert await ended(silent[1]) == b""  # five are under way
    assert [await open_still(r) for r in (mine, *silent[2:], *others)] == [True] * 5
    monkeypatch.setattr(listener, "HANDSHAKE_S", 0.3)
    slow, writer = await crowd.connect("127.0.1.9", tls=False)
    writer.write(b"\x16\x03\x01")
    assert await ended(slow) == b""
    assert await crowd.shakes("127.0.1.9")


async def test_a_request_is_here_in_its_time_and_its_size_or_the_connection_ends(
    stack: Stack, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, asking = await crowd.connect("127.0.1.1")
    asking.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await calm.readuntil(b"}}")).startswith(b"HTTP/1.1 200")
    monkeypatch.setattr(edge, "REQUEST_S", 0.4)
    for sent in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HT"):
        reader, writer = await crowd.connect("127.0.1.1")
        writer.write(sent)
        assert (await ended(reader)).startswith(b"HTTP/1.1 408"), sent
    head = f"POST /cmk/v1/tenants HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.idp.token(OPERATOR)}\r\n"
    reader, writer = await crowd.connect("127.0.1.1")
    writer.write(f"{head}Content-Length: 9\r\n\r\n{{".encode())  # a body that goes on for ever
    assert await ended(reader) == b""
    asking.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")  # who was quiet between two requests is there still
    assert (await calm.readuntil(b"}}")).startswith(b"HTTP/1.1 200")
    asking.write(b"GET /healthz HT")
    assert (await ended(calm)).startswith(b"HTTP/1.1 408")
    monkeypatch.setattr(edge, "REQUEST_S", 15.0)
    reader, writer = await crowd.connect("127.0.1.1")
    writer.write(b"GET / HTTP/1.1\r\nA: " + b"a" * 70_000)  # no end of it
    assert (await ended(reader)).startswith(b"HTTP/1.1 431")
    figures = await stack.ask(OPERATOR, "GET", "/metrics")
    assert 'openkcm_cmk_refused_total{why="slow"} 6' in figures.text


async def test_an_address_nobody_we_know_came_from_has_few_connections_that_show_nothing(
    stack: Stack, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "STRANGE_OF_ADDRESS", 3)
    mine = [(await crowd.connect("127.0.1.1"))[0] for _ in range(3)]
    others = (await crowd.connect("127.0.1.2"))[0]
    more = (await crowd.connect("127.0.1.1"))[0]
    assert await ended(mine[0]) == b""
    assert [await open_still(r) for r in (*mine[1:], others, more)] == [True] * 4
    await stack.must(OPERATOR, "GET", "/tenants")
    known = [(await crowd.connect("127.0.0.1"))[0] for _ in range(5)]
    assert [await open_still(r) for r in known] == [True] * 5


async def test_without_tls_they_are_counted_as_well(
    orbital: Orbital, idp: Idp, tmp_path: Path, monkeypatch: Any
) -> None:
    async with running_cmk(orbital, idp, tmp_path / "cmk") as stack:
        await stack.must(OPERATOR, "GET", "/tenants")
        monkeypatch.setitem(BUDGETS, ("address", "connection"), Budget(4, NEVER))
        crowd = Crowd(stack)
        assert [await crowd.stays("127.0.1.1") for _ in range(6)] == [True] * 4 + [False] * 2
        assert [await crowd.stays("127.0.0.1") for _ in range(6)] == [True] * 6
        monkeypatch.setattr(admission, "FORGED", 2)
        for _ in range(3):
            assert (await stack.ask(None, "GET", "/tenants", token="forged")).status_code == 401
        # an address that forgeries come from is no known one
        assert [await crowd.stays("127.0.0.1") for _ in range(6)] == [True] * 4 + [False] * 2
        for writer in crowd.opened:
            writer.close()


async def test_nobody_is_taken_in_while_a_revocation_is_under_way_and_then_they_are(
    orbital: Orbital, idp: Idp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = True
    monkeypatch.setattr(admission.Slots, "held", property(lambda _: under_way))
    async with running_cmk(orbital, idp, tmp_path / "cmk") as stack:
        crowd = Crowd(stack)
        reader, writer = await crowd.connect("127.0.1.1", tls=False)  # by the kernel
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.3)
        under_way = False
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_nothing_of_a_connection_is_left_to_the_collector_when_it_is_over(
    orbital: Orbital, idp: Idp, tmp_path: Path
) -> None:
    async with running_cmk(orbital, idp, tmp_path / "cmk") as stack:
        crowd = Crowd(stack)
        gc.disable()
        try:
            for head in (b"", b"Authorization: Bearer forged\r\n"):
                reader, writer = await crowd.connect("127.0.1.1", tls=False)
                writer.write(b"GET /cmk/v1/tenants HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 401")
                writer.close()
            for _ in range(100):
                left = sum(isinstance(one, edge.Door) for one in gc.get_objects())
                if not left:
                    break
                await asyncio.sleep(0.05)
            assert not left
        finally:
            gc.enable()


def test_a_household_is_one_address_and_a_proxy_of_ours_is_no_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUDGETS, ("address", "connection"), Budget(2, NEVER))
    at = Admission(Limits(lambda: 1000.0), {}.get, ("10.0.0.1",))
    assert [at.may_connect(f"2001:db8:0:1::{n}") for n in (1, 2, 3)] == [True, True, False]
    assert at.may_connect("2001:db8:0:2::1")
    assert [at.may_connect(a) for a in ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1")] == [True, True, False]
    assert all(at.may_connect("10.0.0.1") for _ in range(500))
    at.vouch("2001:db8:0:1::9")
    assert at.knows("2001:db8:0:1::3")
    assert at.may_connect("2001:db8:0:1::3")
