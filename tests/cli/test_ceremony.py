"""The trust root's acts on a real hub: complete, once, and only what is missing."""

from __future__ import annotations

import pytest

from openkcm.bus.ledger import Ledger
from openkcm.cli.ceremony import announce_key, open_epoch, open_ledger, retire_other_keys
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import subjects
from press import seed

EU, US = "eu-frankfurt", "us-virginia"
NODES = [(f"{EU}-1", EU, seed("n1").public_key), (f"{US}-1", US, seed("n2").public_key)]


async def test_a_ledger_is_opened_once_and_only_missing_nodes_are_enrolled_later(orbital):
    trust, cmk = await orbital.connect("trust"), await orbital.connect("cmk")
    writer, governance = Ledger(trust), seed("cmk").public_key
    assert len(await open_ledger(writer, seed("root"), governance, NODES)) == 4
    assert await open_ledger(writer, seed("root"), governance, NODES) == []
    more = [*NODES, (f"{US}-2", US, seed("n3").public_key)]
    assert len(await open_ledger(writer, seed("root"), governance, more)) == 1
    assert (await Ledger(cmk).info()).last == 5
    for connection in (trust, cmk):
        await connection.close()


async def test_a_key_is_announced_once_and_the_others_are_retired_once_and_for_ever(orbital):
    trust = await orbital.connect("trust")
    ledger, root, old, new = Ledger(trust), seed("root"), seed("cmk"), seed("cmk-2")
    await open_ledger(ledger, root, old.public_key, NODES)
    assert await announce_key(ledger, root, new.public_key) == [f"announced {new.key_id}"]
    assert await announce_key(ledger, root, new.public_key) == []
    assert await retire_other_keys(ledger, root, new.public_key) == [f"retired {old.key_id}"]
    assert await retire_other_keys(ledger, root, new.public_key) == []
    with pytest.raises(ValueError, match="was retired"):
        await announce_key(ledger, root, old.public_key)
    assert await open_ledger(ledger, root, old.public_key, NODES) == [], "a start on the old seed must not revive it"
    await trust.close()


async def test_a_restored_ledger_announces_what_governance_has_and_retires_all_else_that_it_lost_sight_of(orbital):
    trust = await orbital.connect("trust")
    ledger, root = Ledger(trust), seed("root")
    stolen, present, upcoming = (seed(name) for name in ("stolen", "cmk", "upcoming"))
    await open_ledger(ledger, root, present.public_key, NODES)
    await announce_key(ledger, root, stolen.public_key)  # that it was retired lay in the lost tail
    before = await ledger.read(str(subjects.ledger_aggregate("critical")))
    for epoch in (2, 3):
        await open_epoch(ledger, root, epoch, epoch << 40, (), [present.public_key, upcoming.public_key])
    after = await ledger.read(str(subjects.ledger_aggregate("critical")), after=before[-1].sequence)
    said = [(e.epoch, d.read(e.tag, e.data)) for e in (env.decode(m.body) for m in after)]
    announced, retired = said
    assert (announced[0], announced[1].key, announced[1].retires) == (2, upcoming.key_id, ())
    assert (retired[0], retired[1].key) == (2, upcoming.key_id)
    assert stolen.key_id in retired[1].retires
    assert not {present.key_id, upcoming.key_id} & set(retired[1].retires)
    await trust.close()
