"""Two CMKs order at the same instant: each decree has a counter of its own, and none is lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import seal, subjects
from press import Press
from simulation.clockwork import cheap_seals
from simulation.clockwork import run as run_loop
from simulation.governance import Cmk
from simulation.history import History
from simulation.network import Hub


@pytest.mark.parametrize("revocations", [False, True])
def test_two_cmks_at_once_never_give_one_counter_twice(revocations):
    with cheap_seals():
        press = Press()
        hub = Hub(random.Random(1))

        async def main() -> None:
            for e in press.opening():
                hub.store(e.subject, env.encode(e), e.id)
            clock = asyncio.get_running_loop().time
            cmks = [
                Cmk(f"cmk-{n}", hub, {}, seal.Signer(press.cmk._private), press.root.public_key, hub.rng, History(clock))
                for n in range(2)
            ]  # fmt: skip
            for cmk in cmks:
                cmk.start()
            await asyncio.sleep(1)

            async def order(cmk: Cmk, n: int) -> None:
                if revocations:
                    await cmk.switch.pull(
                        "acme", [press.region], "test", cmk.order("acme", "Revoke", f"{cmk.name}-{n}")
                    )
                else:
                    decree = d.TenantConfigurationUpdated(labels={"n": f"{cmk.name}-{n}"})
                    await cmk.do("acme", press.region, f"{cmk.name}-{n}", lambda r: r.decree(decree))

            for n in range(6):
                await asyncio.gather(*(order(cmk, n) for cmk in cmks))

        run_loop(main)
        lane = "critical" if revocations else "routine"
        subject = str(subjects.residence_aggregate(press.region, "acme", lane))
        assert [env.decode(m.body).counter for m in hub.ledger if m.subject == subject] == list(range(1, 13))
