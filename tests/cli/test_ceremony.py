"""The trust root's acts on a real hub: complete, once, and nobody else's."""

from __future__ import annotations

import pytest
from press import seed

from openkcm.bus.ledger import Ledger
from openkcm.cli.ceremony import NotOurs, open_ledger

NODES = [("eu-frankfurt-1", "eu-frankfurt", seed("n1").public_key), ("us-virginia-1", "us-virginia", seed("n2").public_key)]


async def test_a_ledger_is_opened_once_and_only_missing_nodes_are_enrolled_later(orbital):
    trust, cmk = await orbital.connect("trust"), await orbital.connect("cmk")
    writer, reader = Ledger(trust), Ledger(cmk)
    assert await open_ledger(writer, reader, seed("root"), seed("cmk").public_key, NODES) == 4
    assert await open_ledger(writer, reader, seed("root"), seed("cmk").public_key, NODES) == 0
    more = [*NODES, ("us-virginia-2", "us-virginia", seed("n3").public_key)]
    assert await open_ledger(writer, reader, seed("root"), seed("cmk").public_key, more) == 1
    with pytest.raises(NotOurs):
        await open_ledger(writer, reader, seed("another root"), seed("cmk").public_key, NODES)
    assert (await reader.info()).last == 5
    for connection in (trust, cmk):
        await connection.close()
