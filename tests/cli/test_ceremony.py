"""The trust root's acts on a real hub: complete, once, and only what is missing."""

from __future__ import annotations

from openkcm.bus.ledger import Ledger
from openkcm.cli.ceremony import open_ledger
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
