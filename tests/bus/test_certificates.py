"""Certificates of the bus that end: nobody gets in by them, it is said before, and new files are all that mends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from openkcm.bus import expiry
from openkcm.bus.errors import Unavailable
from openkcm.cli import orbital as servers
from openkcm.cli import pki
from orbital_fixture import EU, EU_NODE, Orbital, running_orbital
from own_ca import shorten

BRIEF_S = 3


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orbital]:
    with running_orbital(tmp_path_factory.mktemp("certificates")) as running:
        yield running


def restarted(own: Orbital, name: str) -> None:
    own.kill(name)
    own.start(name)


async def test_a_client_whose_certificate_ended_keeps_its_connection_gets_no_other_and_comes_back_by_new_files(own):
    certificate = own.state_dir / "pki" / f"{EU_NODE}.pem"
    shorten(certificate, own.state_dir / "pki" / "ca.pem", BRIEF_S)
    connection = await own.connect(EU_NODE)
    await asyncio.sleep(BRIEF_S + 0.5)
    await connection.flush()
    await asyncio.to_thread(restarted, own, EU)
    await asyncio.sleep(1)
    with pytest.raises(Unavailable):
        await connection.flush()
    assert connection.reconnects == 0
    certificate.unlink()
    pki.authority(own.state_dir).issue(EU_NODE)
    async with asyncio.timeout(10):
        while not connection.is_connected:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)
    await connection.flush()
    assert connection.reconnects == 1
    await connection.close()


async def test_files_that_do_not_fit_one_another_are_not_shown_to_anybody(own, caplog):
    connection = await own.connect(EU_NODE)
    key = own.state_dir / "pki" / f"{EU_NODE}.key"
    kept = key.read_bytes()
    key.write_bytes((own.state_dir / "pki" / "hub.key").read_bytes())
    await asyncio.to_thread(restarted, own, EU)
    async with asyncio.timeout(10):
        while connection.reconnects == 0:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)
    await connection.flush()
    assert "cannot be read, the earlier ones are shown" in caplog.text
    key.write_bytes(kept)
    await connection.close()


async def test_a_servers_certificate_is_seen_to_end_and_after_a_reload_to_last(own, monkeypatch):
    monkeypatch.setattr(expiry, "LOOK_S", 0.2)
    seen = expiry.Expiry(own.access("cmk"), {})
    connection = await own.connect("cmk")
    watching = asyncio.ensure_future(seen.watch())
    shown = own.state_dir / "nats" / "hub" / "server.pem"
    kept = shown.read_bytes()
    await until(lambda: seen.left().get("nats-server", 0) > 300 * 86_400)
    assert seen.left().keys() == {"nats", "nats-ca", "nats-server"}
    shorten(shown, own.state_dir / "pki" / "ca.pem", BRIEF_S)
    servers.reload(own.servers["hub"].pid, own.ports["hub"])
    await until(lambda: 0 < seen.left()["nats-server"] <= BRIEF_S)
    await asyncio.sleep(BRIEF_S)
    await until(lambda: seen.left()["nats-server"] <= 0)  # and is not taken any more
    shown.write_bytes(kept)
    servers.reload(own.servers["hub"].pid, own.ports["hub"])
    await until(lambda: seen.left()["nats-server"] > 300 * 86_400)
    await connection.flush()
    assert connection.reconnects == 0
    watching.cancel()
    await connection.close()


async def test_of_several_certificates_in_a_file_the_first_to_end_counts(own, tmp_path):
    both, ca = tmp_path / "both.pem", own.state_dir / "pki" / "ca.pem"
    brief = tmp_path / "brief.pem"
    brief.write_bytes((own.state_dir / "pki" / "hub.pem").read_bytes())
    shorten(brief, ca, 100)
    both.write_text(f"a comment\n{ca.read_text()}between\n{brief.read_text()}")
    seen = expiry.Expiry(own.access("cmk"), {"both": str(both), "none": str(tmp_path / "none.pem")})
    assert 90 < seen.left()["both"] <= 100
    assert "none" not in seen.left()
    both.write_bytes(ca.read_bytes())
    assert seen.left()["both"] > 3000 * 86_400


async def until(what) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
