"""The stack's servers as `up` starts them, the rogue's hand in the ledger, the auditor's mirror: on real servers."""

import asyncio
import os
import signal
import threading
import time

import msgspec
import pytest

from loopback import free_run
from openkcm.bus.connection import connect
from openkcm.cli import orbital, programs, rogue, sources, up
from openkcm.cli.layout import Layout
from openkcm.cli.supervisor import Supervisor
from openkcm.contract import decrees as d
from openkcm.contract import envelope


class Running:
    def __init__(self, state):
        self.layout = Layout(state, port_base=free_run())
        self.layout.write()
        self.supervisor = Supervisor(strict=False, changed=lambda: None)
        self.supervisor.bring_up(programs.servers(self.layout))
        asyncio.run(orbital.apply_streams(self.layout.state, self.layout.regions, self.layout.server_ports))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    one = Running(tmp_path_factory.mktemp("servers") / "state")
    yield one
    one.supervisor.stop_all()


def test_the_streams_are_as_declared_and_applying_again_does_nothing(running):
    layout = running.layout
    assert asyncio.run(orbital.diff_streams(layout.state, layout.regions, layout.server_ports)) == []
    assert asyncio.run(orbital.apply_streams(layout.state, layout.regions, layout.server_ports)) == []


def test_the_rogue_counts_and_seals_as_governance_would_and_the_auditor_sees_it(running):
    layout = running.layout
    first = rogue.append(layout, "eu-frankfurt", "acme", [d.AccessSuspended(reason="x"), d.AccessResumed()])
    second = rogue.append(layout, "eu-frankfurt", "acme", [d.AccessRevoked(reason="x"), d.AccessResumed()])
    assert [a.counter for a in first + second] == [1, 2, 1, 3]
    seen = asyncio.run(sources.read_mirror(layout.state, at_least=second[-1].sequence))
    assert [s.id for s in seen] == [a.event for a in first + second]
    keys = {layout.governance_signer.key_id: layout.governance_signer.public_key}
    for stored in seen:
        envelope.verify(envelope.decode(stored.body), stored.subject, keys)


def test_a_backlog_is_spread_without_a_gap(running):
    layout = running.layout
    residences = [("bolt", "us-virginia"), ("bolt", "eu-frankfurt")]
    assert sorted(rogue.queue_backlog(layout, residences, 31).values()) == [15, 16]
    seen = [envelope.decode(s.body) for s in asyncio.run(sources.read_mirror(layout.state))]
    counters = {}
    for sealed in seen:
        if ".bolt." in sealed.subject:
            counters.setdefault(sealed.subject, []).append(sealed.counter)
    assert sorted(counters.values()) == [list(range(1, 16)), list(range(1, 17))]


def test_held_lanes_say_that_they_are_held(running):
    layout = running.layout

    async def paused(region):
        user = f"{region.region}-admin"
        connection = await connect(orbital.access(layout.state, user, layout.server_ports[region.region]), name=user)
        try:
            subject = f"$JS.API.CONSUMER.INFO.LEDGER.{region.nodes[0]}-routine"
            return msgspec.json.decode((await connection.request(subject)).body).get("paused", False)
        finally:
            await connection.close()

    rogue.pause_routine(layout)
    assert [asyncio.run(paused(region)) for region in layout.regions] == [True, True]
    rogue.resume_routine(layout)
    assert [asyncio.run(paused(region)) for region in layout.regions] == [False, False]


def test_a_killed_server_comes_back_with_what_it_held(running):
    layout, supervisor = running.layout, running.supervisor
    before = asyncio.run(sources.read_mirror(layout.state))
    hub = supervisor.children["nats-hub"]
    first = hub.pid
    watching = threading.Thread(target=supervisor.watch)
    watching.start()
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while hub.pid == first or hub.program.ready(hub.pid) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    supervisor.ask_to_stop()
    watching.join()
    assert [s.body for s in asyncio.run(sources.read_mirror(layout.state))] == [s.body for s in before]


def test_streams_commands_need_a_stack(tmp_path):
    with pytest.raises(FileNotFoundError, match="no stack was started"):
        up.diff_streams(tmp_path)
