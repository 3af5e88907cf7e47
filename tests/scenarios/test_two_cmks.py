"""Two CMKs on one ledger, under load, with kill -9 of either and of the hub: nothing acknowledged is lost or doubled.

And with a hub of three servers that loses its leader while revocations are ordered, killed or standing still for longer
than the others wait before they elect another. CI plays two rounds and one; `just two-cmks` as many as it is told.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import httpx
import msgspec
import pytest

from cluster import ClusteredOrbital, running_cluster
from governance_ledger import ANNA, BERT, TRUST
from governance_stack import OPERATOR, Idp, b64, ceremony, configuration, issuer
from openkcm.audit.examine import examine
from openkcm.bus.ledger import Ledger
from orbital_fixture import EU, Orbital, running_orbital

ROUNDS = int(os.environ.get("OPENKCM_ROUNDS", "2"))
LEADERS = int(os.environ.get("OPENKCM_LEADER_ROUNDS", "1"))
STILL_S = 11.0  # the others elect another leader after 4 to 9 s without a word
WRITERS = 6
TENANT, REVOKED = "t-busy", "t-revoked"
QUIET_S = 90.0


class Process:
    """One CMK in a process of its own, started again whenever it is gone."""

    def __init__(self, orbital: Orbital, idp: Idp, home: Path) -> None:
        self.home = home
        made = configuration(orbital, idp, home, check_streams=False)
        (home / "cmk.json").write_bytes(msgspec.json.encode(made))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        ready = self.home / "ready"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "openkcm.cli.main", "cmk", "--config", str(self.home / "cmk.json"),
                   "--ready", str(ready)]  # fmt: skip
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def url(self) -> str | None:
        if self.process is None or self.process.poll() is not None:
            self.start()
            return None
        try:
            return msgspec.json.decode((self.home / "ready").read_bytes())["url"]
        except (OSError, msgspec.MsgspecError):
            return None

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Client:
    """Asks until it is answered: the same order with the same key, at whichever CMK is there."""

    def __init__(self, cmks: list[Process], idp: Idp) -> None:
        self.cmks, self.idp = cmks, idp
        self.http = httpx.AsyncClient(trust_env=False, timeout=5)
        self.acknowledged: list[str] = []
        self.refused: list[str] = []

    async def order(self, who: str, path: str, body: object, key: str, *, method: str = "POST") -> dict:
        turn = itertools.cycle(random.sample(self.cmks, len(self.cmks)))
        deadline = time.monotonic() + QUIET_S
        while time.monotonic() < deadline:
            url = next(turn).url
            try:
                if url is not None:
                    headers = {"Authorization": f"Bearer {self.idp.token(who)}", "Idempotency-Key": key}
                    answer = await self.http.request(method, f"{url}/cmk/v1{path}", json=body, headers=headers)
                    if answer.status_code == 202:
                        told = answer.json()
                        self.acknowledged += told.get("events", []) or [r["event"] for r in told["revocations"]]
                        return told
                    assert answer.status_code in {409, 404, 401, 403, 500, 503}, answer.text
                    self.refused.append(answer.text)
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.05)
        raise AssertionError(f"{method} {path} was never acknowledged; the last words: {self.refused[-3:]}")


async def busy(client: Client, writer: int, end: asyncio.Event) -> int:
    done = 0
    while not end.is_set():
        name = f"s-{writer}-{done}"
        await client.order(f"{TENANT}-admin", f"/tenants/{TENANT}/regions/{EU}/systems", {"system": name}, name)
        done += 1
    return done


async def the_hub_dies(orbital: Orbital) -> None:
    orbital.kill("hub")
    await asyncio.sleep(0.3)
    await asyncio.to_thread(orbital.start, "hub")


async def its_leader_is_lost(cluster: Orbital) -> None:
    assert isinstance(cluster, ClusteredOrbital)
    leader = await cluster.led()
    if LEADERS == 1 or random.random() < 0.5:
        cluster.kill(leader)
        await asyncio.sleep(random.uniform(0.3, 4.0))
        cluster.spawn(leader)
    else:
        process = cluster.servers[leader].process
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(STILL_S)
        process.send_signal(signal.SIGCONT)
    await cluster.led()


async def play(
    orbital: Orbital, idp: Idp, home: Path, victims: Sequence[int], lose: Callable[[Orbital], Awaitable[None]]
) -> tuple[Client, int, int]:
    """One round a victim: 0 and 1 are the CMKs, 2 is what `lose` takes away for a while."""
    await ceremony(orbital)
    cmks = [Process(orbital, idp, home / name) for name in ("one", "two")]
    for cmk in cmks:
        cmk.start()
    client, end = Client(cmks, idp), asyncio.Event()
    try:
        for tenant in (TENANT, REVOKED):
            people = [
                {"person": f"{tenant}-admin", "roles": ["tenant-admin", "key-admin", "kill-switch"],
                 "approval_key": b64(ANNA.public_key)},
                {"person": f"{tenant}-approver", "roles": ["approver"], "approval_key": b64(BERT.public_key)},
            ]  # fmt: skip
            await client.order(OPERATOR, "/tenants", {"id": tenant, "regions": [EU], "people": people}, f"new-{tenant}")
            await client.order(f"{tenant}-admin", f"/tenants/{tenant}/regions/{EU}/root-key",
                               {"provider": "file", "ref": "/keys/l1.keys"}, f"root-{tenant}", method="PUT")  # fmt: skip
        writers = [asyncio.create_task(busy(client, n, end)) for n in range(WRITERS)]
        for round_, victim in enumerate(victims):
            await asyncio.sleep(0.5)
            revocation = asyncio.create_task(
                client.order(f"{REVOKED}-admin", f"/tenants/{REVOKED}/revocations", {"reason": "drill"}, f"r-{round_}")
            )
            await asyncio.sleep(random.random() * 0.2)
            if victim == 2:
                await lose(orbital)
            else:
                cmks[victim].kill()
            await revocation
        await asyncio.sleep(0.5)
        end.set()
        done = sum(await asyncio.gather(*writers))
        return client, done, await settled(orbital, client)
    finally:
        await client.http.aclose()
        for cmk in cmks:
            if cmk.process is not None and cmk.process.poll() is None:
                cmk.kill()


async def settled(orbital: Orbital, client: Client) -> int:
    """Read the ledger once all that was acknowledged is in it; verify it; return how many events it has."""
    connection = await orbital.connect("cmk")
    try:
        deadline = time.monotonic() + QUIET_S
        while True:
            stored = [one async for one in Ledger(connection).read_all()]
            ids = [one.id for one in stored]
            lost = set(client.acknowledged) - set(ids)
            if not lost or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)  # a revocation may still be in a spool
        assert lost == set()
        assert len(ids) == len(set(ids))
        result = examine(stored, TRUST.public_key)  # seals, counters without gaps, nothing twice
        assert result.findings == ()
        return len(stored)
    finally:
        await connection.close()


def judged(client: Client, done: int, events: int, rounds: int) -> None:
    assert done > rounds
    assert len(set(client.acknowledged)) >= done + rounds
    print(
        f"{rounds} rounds: {done} orders and {rounds} revocations acknowledged, {events} events, none lost, none doubled"
    )


@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_no_acknowledged_event_is_lost_or_doubled(tmp_path):
    victims = [round_ % 3 if ROUNDS > 2 else round_ + 1 for round_ in range(ROUNDS)]  # the hub is among two, as well
    with running_orbital(tmp_path / "orbital") as orbital, issuer() as idp:
        judged(*asyncio.run(play(orbital, idp, tmp_path, victims, the_hub_dies)), ROUNDS)


@pytest.mark.timeout(120 + 90 * LEADERS)
def test_nothing_is_lost_or_doubled_when_a_clustered_hub_loses_its_leader_during_revocations(tmp_path):
    with running_cluster(tmp_path / "orbital") as cluster, issuer() as idp:
        judged(*asyncio.run(play(cluster, idp, tmp_path, [2] * LEADERS, its_leader_is_lost)), LEADERS)
