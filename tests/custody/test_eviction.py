"""More residences than key slots: who is not used gives way, comes back at its next use, and nobody's operation fails."""

from __future__ import annotations

import asyncio

import pytest

from custody.residence_bench import onboard, serving_node
from custody.test_admin import openkcm
from execution.kmip_client import Failed
from openkcm.contract import decrees as d
from openkcm.execution import admin

SLOTS, TENANTS = 8, 11
#: A node that hears of nobody's work: the hardest case, since whoever works gives way all the same.
IMPATIENT = """
from openkcm.execution import warmth
warmth.IDLE_S = 0.3
warmth.Warmth.use = lambda self, tenants: None
from openkcm.cli.main import main
main()
"""


async def test_more_residences_than_slots_are_served_and_none_of_their_operations_fails(tmp_path):
    async with serving_node(tmp_path, limits={"key_slots": SLOTS}, program=IMPATIENT, workers=2) as (governor, node):
        used = []
        for n in range(TENANTS):
            client = await (await onboard(governor, node, f"t{n}")).client(node)
            uid = await client.new_key()
            used.append((client, uid, await client.encrypt(uid, b"kept")))

        async def work(n: int) -> int:
            client, uid, kept = used[n]
            for _ in range(40):
                assert await client.decrypt(uid, kept) == b"kept"
                assert await client.decrypt(uid, await client.encrypt(uid, b"new")) == b"new"
            return 80

        await asyncio.sleep(0.4)
        assert sum(await asyncio.gather(*(work(n) for n in range(SLOTS - 2)))) == 80 * (SLOTS - 2)
        for client, uid, kept in used * 2:
            await asyncio.sleep(0.1)  # eight others were used since: by now one of them counts as idle
            assert await client.decrypt(uid, kept) == b"kept"
        seen = admin.ask(admin.socket_of(node.configuration["database"]), admin.Ask(verb="status"))
        assert seen["memory"]["evicted"] >= 2 * (TENANTS - SLOTS)
        assert sum(r["cold"] for r in seen["residences"]) == TENANTS - SLOTS
        assert {r["failure"] for r in seen["residences"]} == {None}
        cold = next(r["tenant"] for r in seen["residences"] if r["cold"])
        await governor.append(governor.press.residence(cold, d.AccessRevoked(reason="test")))
        await governor.until(lambda: governor.acked(cold, "critical", 1, "revoked"))
        client, uid, kept = used[int(cold[1:])]
        with pytest.raises(Failed, match="revoked"):
            await client.decrypt(uid, kept)
        _, said = await openkcm("node", "status", "--config", node.folder / "node.json")
        assert "gave way" in said
