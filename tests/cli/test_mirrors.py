"""A mirror that passed over events is found by their number and made anew; one that is whole is left alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from openkcm.bus import copies
from openkcm.bus.ledger import Ledger
from openkcm.bus.publish import api
from openkcm.cli import flow, mirrors
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from orbital_fixture import EU, Orbital, running_orbital
from press import Press


@pytest.fixture
def orbital(tmp_path):
    with running_orbital(tmp_path) as running:
        yield running


async def test_a_mirror_that_passed_over_the_first_events_is_made_anew(orbital: Orbital) -> None:
    layout = SimpleNamespace(state=orbital.state_dir, regions=orbital.regions, server_ports=orbital.ports)
    press = Press()
    cmk = await orbital.connect("cmk")
    for e in (*press.opening(), *press.onboarded("acme"), press.residence("acme", d.AccessRevoked(reason="test"))):
        await Ledger(cmk).append(e.subject, env.encode(e), id=e.id, tag=e.tag, expected_last=None)
    await flow.wait_until_flowing(layout)
    assert await mirrors.make_whole(layout) == []
    admin = await orbital.connect(f"{EU}-admin")
    declared = (await api(admin, "$JS.API.STREAM.INFO.LEDGER"))["config"]
    await copies.remove(admin, "LEDGER")
    assert "error" not in await api(admin, "$JS.API.STREAM.CREATE.LEDGER", {**declared, "deny_delete": False})
    await flow.wait_until_flowing(layout)
    first = (await copies.extent(admin, "LEDGER")).first
    assert "error" not in await api(admin, "$JS.API.STREAM.MSG.DELETE.LEDGER", {"seq": first})
    (short,) = [c for c in await mirrors.compare(layout) if c.is_short]
    assert (short.region, short.stream, short.hub - short.mirror) == (EU, "LEDGER", 1)
    assert await mirrors.make_whole(layout, [EU]) == [
        f"{EU}: made LEDGER anew, it had {short.mirror} of {short.hub} events"
    ]
    assert not [c for c in await mirrors.compare(layout) if c.is_short]
    assert (await api(admin, "$JS.API.STREAM.INFO.LEDGER"))["config"]["deny_delete"] is True
    await admin.close()
    await cmk.close()
