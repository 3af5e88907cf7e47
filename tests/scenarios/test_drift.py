"""A real node whose database is not what was written, beside a real CMK: it is found, told again, and agrees."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
import time

import msgspec
import pytest
from msgspec.structs import replace

from governance_stack import OPERATOR, Stack, configuration, issuer
from node_bench import Governor, RunningNode, new_key_file, onboarding, opening
from openkcm.contract import decrees as d
from openkcm.contract.reports import HealthCheck
from openkcm.execution import rows
from openkcm.execution.residence_state import Residence
from openkcm.governance.portal.server import serving
from orbital_fixture import EU_NODE, running_orbital
from press import Press

READ = msgspec.json.Decoder(Residence)


class Drifting:
    """The CMK, the node, and a hand in the node's database."""

    def __init__(self, cmk, ask: Stack, governor: Governor, node: RunningNode) -> None:
        self.cmk, self.ask, self.governor, self.node = cmk, ask, governor, node
        self.checks: list[HealthCheck] = []
        heard = cmk.telling.drift.heard

        def counted(check):
            self.checks.append(check)
            return heard(check)

        cmk.telling.drift.heard = counted

    def _database(self) -> contextlib.closing[sqlite3.Connection]:
        return contextlib.closing(sqlite3.connect(self.node.folder / "node.sqlite", timeout=10))

    def alter(self, change) -> None:
        """Write another residence over the row, as if it had always been there."""
        with self._database() as database, database:
            (body,) = database.execute("SELECT body FROM residence WHERE tenant = 'acme'").fetchone()
            row = rows.residence_row(change(READ.decode(body)))[1] if callable(change) else {"body": change}
            columns = ", ".join(f"{name} = :{name}" for name in row)
            database.execute(f"UPDATE residence SET {columns} WHERE tenant = 'acme'", {**row, "tenant": "acme"})

    def held(self) -> Residence:
        with self._database() as database:
            return READ.decode(database.execute("SELECT body FROM residence WHERE tenant = 'acme'").fetchone()[0])

    async def until(self, what, timeout_s: float = 30.0):
        until = time.monotonic() + timeout_s
        while not (found := what()):
            assert time.monotonic() < until, (self.cmk.telling.drift.differs(EU_NODE), self.node.tail())
            await asyncio.sleep(0.02)
        return found

    async def agreed(self, healed: int) -> None:
        await self.until(
            lambda: self.cmk.telling.drift.healed >= healed and not self.cmk.telling.drift.differs(EU_NODE)
        )

    def beats(self) -> int:
        return sum(check.told is None for check in self.checks)


@pytest.fixture
async def drifting(tmp_path):
    press = Press()
    with running_orbital(tmp_path / "stack") as orbital, issuer() as idp:
        home = tmp_path / "cmk"
        settings = configuration(orbital, idp, home, trust_root=press.root.public_key)
        (home / "signing.seed").write_bytes(hashlib.sha256(b"cmk").digest())
        node = RunningNode(orbital, press, tmp_path / "node")
        new_key_file(node.key_file)
        async with Governor(orbital, press) as governor:
            governor.beating = False
            for e in opening(press):
                await governor.append(e)
            import httpx

            async with serving(settings) as (cmk, url), httpx.AsyncClient(base_url=url, trust_env=False) as client:
                node.start()
                await node.wait_ready()
                for e in onboarding(press, "acme", node.key_file):
                    await governor.append(e)
                await governor.until(lambda: governor.acked("acme", "routine", 5, "active"))
                here = Drifting(cmk, Stack(cmk, client, idp, orbital), governor, node)
                await here.until(lambda: here.checks and here.checks[-1].digest is not None)
                yield here
                node.stop()


@pytest.mark.timeout(240)
async def test_a_live_nodes_altered_database_is_found_and_healed_within_two_beats(drifting):
    true = drifting.held()
    wrong = (
        lambda r: replace(r, suspended=True),
        lambda r: replace(r, workloads={}, routine={1: r.routine[1].__class__(4)}),
        b"\x00not a residence",
    )
    for number, change in enumerate(wrong, start=1):
        drifting.alter(change)
        before = drifting.beats()
        await drifting.agreed(number)
        assert drifting.beats() - before <= 3  # one may have been under way; one finds it; one agrees
        assert drifting.held() == true
    answer = await drifting.ask.must(OPERATOR, "GET", "/fleet")
    (node,) = [n for region in answer["value"] for n in region["nodes"] if n["node"] == EU_NODE]
    assert (node["differs"], drifting.cmk.telling.drift.found, drifting.cmk.telling.drift.healed) == ([], 3, 3)


@pytest.mark.timeout(240)
async def test_a_node_that_starts_with_what_it_should_not_hold_is_told_again(drifting):
    """A lost revocation, on a node whose cursors say that it has everything: nothing is served, and it comes back."""
    governor, node = drifting.governor, drifting.node
    before = drifting.held()
    revoked = governor.press.residence("acme", d.AccessRevoked(reason="test"))
    await governor.append(revoked)
    await governor.until(lambda: governor.acked("acme", "critical", 1, "revoked"))
    node.kill()
    drifting.alter(lambda r: replace(r, revocations={}))
    node.start()
    await node.wait_ready()
    await drifting.agreed(1)
    assert drifting.held().revocations[1].event == revoked.id
    await governor.until(lambda: governor.acked("acme", "routine", 6))  # the CMK's own confirmation
    await governor.append(governor.press.restore("acme", revoked, counter=7))
    await governor.until(lambda: governor.acked("acme", "routine", 7, "active"))

    node.kill()  # and an older row altogether, behind cursors at the end: what lies between was passed over
    drifting.alter(lambda _: before)
    node.start()
    await node.wait_ready()
    await drifting.agreed(2)
    await governor.until(lambda: drifting.held().lifted == {revoked.id})
    assert drifting.held().critical[1].floor == 1
