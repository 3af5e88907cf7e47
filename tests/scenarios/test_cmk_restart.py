"""A CMK that is killed and stopped again and again under load: nothing that was acknowledged is lost or doubled, whoever
is signed in stays so, and event streams go on behind the last event they had, without a gap.

CI plays one kill -9 and one SIGTERM; `just soak-restart` as many as it is told, in turn.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec

from governance_ledger import ANNA, BERT
from governance_stack import OPERATOR, b64, ceremony, configuration
from loopback import free_ports
from openkcm.bus.ledger import Ledger
from openkcm.cli import idp as provider
from openkcm.contract.subjects import parse_decree
from openkcm.governance.configuration import Listen
from orbital_fixture import EU, Orbital, running_orbital

ROUNDS = int(os.environ.get("OPENKCM_RESTARTS", "2"))
TENANTS, STREAMS, WRITERS = 3, 2, 2  # streams and writers a tenant
LOAD_S = 1.2  # before each end
ADMIN = ("tenant-admin", "key-admin", "kill-switch", "auditor")


class Process:
    """`openkcm cmk` or `openkcm idp`, at one address however often it is started."""

    def __init__(self, command: str, home: Path, raw: bytes) -> None:
        self.command, self.home, self.process = command, home, None
        (home / f"{command}.json").write_bytes(raw)
        self.ready = home / f"{command}.ready"

    def start(self) -> None:
        self.ready.unlink(missing_ok=True)
        given = ["--config", str(self.home / f"{self.command}.json"), "--ready", str(self.ready)]
        with (self.home / f"{self.command}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "openkcm.cli.main", self.command, *given], stdout=log, stderr=log
            )

    async def until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while not self.ready.exists():
            assert self.process.poll() is None, (self.home / f"{self.command}.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


class Load:
    """Writers and streams that never give up, and what they were told."""

    def __init__(self, url: str, tokens: dict[str, str]) -> None:
        self.url, self.tokens = url, tokens
        self.acknowledged: Counter[str] = Counter()
        self.heard: dict[tuple[str, int], list[int]] = {}
        self.over = False
        self.again = 0
        self.answered_at = time.monotonic()

    async def insist(self, client: httpx.AsyncClient, who: str, method: str, path: str, body: dict, key: str) -> dict:
        """Ask under one idempotency key until it is acknowledged."""
        headers = {"Authorization": f"Bearer {self.tokens[who]}", "Idempotency-Key": key}
        while True:
            with suppress(httpx.HTTPError):
                answer = await client.request(method, f"/cmk/v1{path}", json=body, headers=headers)
                if answer.status_code == 202:
                    self.answered_at = time.monotonic()
                    return answer.json()
                assert answer.status_code in {409, 429, 503}, answer.text  # 409: the same key is under way still
            self.again += 1
            await asyncio.sleep(0.05)

    async def write(self, tenant: str, number: int) -> None:
        """Configure, and every fifth time pull the switch."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=10) as client:
            for n in itertools.count():
                if self.over:
                    return
                key = f"{tenant}-{number}-{n}"
                if n % 5 == 4:
                    body = {"regions": [EU], "reason": "load"}
                    told = await self.insist(client, tenant, "POST", f"/tenants/{tenant}/revocations", body, key)
                    self.acknowledged.update(r["event"] for r in told["revocations"])
                else:
                    path = f"/tenants/{tenant}/regions/{EU}/configuration"
                    told = await self.insist(client, tenant, "PATCH", path, {"labels": {f"w{number}": str(n)}}, key)
                    self.acknowledged.update(told["events"])

    async def listen(self, tenant: str, number: int, after: int) -> None:
        """An event stream as browsers hold it: broken off, it comes back with the last id it had."""
        heard = self.heard[tenant, number] = []
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=30) as client:
            while not self.over:
                headers = {"Authorization": f"Bearer {self.tokens[tenant]}", "Last-Event-ID": str(after)}
                with suppress(httpx.HTTPError):
                    async with client.stream("GET", "/cmk/v1/events", headers=headers) as stream:
                        async for line in stream.aiter_lines():
                            if line.startswith("id:"):
                                after = int(line[3:])
                                heard.append(after)
                await asyncio.sleep(0.05)


async def signed_in(url: str, issuer: str, account: str) -> httpx.AsyncClient:
    """A browser that has signed in by the code flow."""
    browser = httpx.AsyncClient(base_url=url, trust_env=False, timeout=10)
    asked = await browser.get("/login")
    query = {k: v[0] for k, v in parse_qs(urlsplit(asked.headers["location"]).query).items()}
    picked = await browser.get(f"{issuer}/authorize", params={**query, "account": account})
    entered = await browser.get(picked.headers["location"])
    assert entered.status_code == 200, entered.text
    return browser


async def may_order(browser: httpx.AsyncClient, tenant: str) -> bool:
    """Whether the session reads the page and orders from it."""
    page = await browser.get("/")
    csrf = re.search(r'<meta name="csrf" content="([0-9a-f]{64})">', page.text)
    path = f"/cmk/v1/tenants/{tenant}/revocations?dryRun=true"
    answer = await browser.post(path, json={}, headers={"X-CSRF-Token": csrf[1] if csrf else ""})
    return "Tenant regions" in page.text and answer.status_code == 200


@asynccontextmanager
async def started(orbital: Orbital, home: Path) -> AsyncIterator[tuple[Process, dict[str, str]]]:
    await ceremony(orbital)
    portal, issuer = free_ports(2)
    names = [OPERATOR, *(f"t-{n}-admin" for n in range(TENANTS))]
    home.mkdir()  # noqa: ASYNC240 -- before anything runs
    accounts = [{"name": n, "subject": n} for n in names]
    raw = {"issuer": f"http://127.0.0.1:{issuer}", "audience": "openkcm", "key": str(home / "signing.pem"),
           "listen": {"host": "127.0.0.1", "port": issuer}, "accounts": accounts}  # fmt: skip
    idp = Process("idp", home, msgspec.json.encode(raw))
    tokens = {n: provider.mint(home / "idp.json", n) for n in names}

    class Named:
        issuer = raw["issuer"]

    made = configuration(orbital, Named(), home, listen=Listen("127.0.0.1", portal), check_streams=False)  # type: ignore[arg-type]
    cmk = Process("cmk", home, msgspec.json.encode(made))
    try:
        for one in (idp, cmk):
            one.start()
            await one.until_ready()
        yield cmk, tokens
    finally:
        for one in (cmk, idp):
            if one.process is not None and one.process.poll() is None:
                one.end(signal.SIGTERM)


async def test_a_cmk_that_ends_under_load_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    with running_orbital(tmp_path / "orbital") as orbital:
        async with started(orbital, tmp_path / "cmk") as (cmk, minted):
            url = msgspec.json.decode(cmk.ready.read_bytes())["url"]
            issuer = msgspec.json.decode((cmk.home / "idp.json").read_bytes())["issuer"]
            tenants = [f"t-{n}" for n in range(TENANTS)]
            load = Load(url, {**minted, **{t: minted[f"{t}-admin"] for t in tenants}})
            await come_aboard(load, tenants)
            connection = await orbital.connect("cmk")
            ledger = Ledger(connection)
            first = (await ledger.info()).last
            browser = await signed_in(url, issuer, "t-0-admin")
            assert await may_order(browser, "t-0")
            work = [asyncio.create_task(load.write(t, n)) for t in tenants for n in range(WRITERS)]
            streams = [asyncio.create_task(load.listen(t, n, first)) for t in tenants for n in range(STREAMS)]
            gaps = []
            for _, number in zip(range(ROUNDS), itertools.cycle((signal.SIGKILL, signal.SIGTERM)), strict=False):
                await asyncio.sleep(LOAD_S)
                status = await asyncio.to_thread(cmk.end, number)
                assert status == (-9 if number == signal.SIGKILL else 0)
                ended = time.monotonic()
                cmk.start()
                await cmk.until_ready()
                while load.answered_at < ended:  # noqa: ASYNC110 -- the writers come back by themselves
                    await asyncio.sleep(0.01)
                gaps.append(load.answered_at - ended)
                assert await may_order(browser, "t-0"), "signed out by a restart"
            await asyncio.sleep(LOAD_S)
            load.over = True
            await asyncio.gather(*work)
            stored = [s async for s in ledger.read_all(after=first)]
            await drained(load, stored)
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
            await browser.aclose()
            await connection.close()
            judge(load, stored)
            print(f"\n{ROUNDS} ends, {len(load.acknowledged)} acknowledged, {load.again} tries again, {len(stored)} events,"
                  f" {len(streams)} streams; answering again after {', '.join(f'{g:.2f}' for g in gaps)} s")  # fmt: skip


async def come_aboard(load: Load, tenants: list[str]) -> None:
    async with httpx.AsyncClient(base_url=load.url, trust_env=False, timeout=10) as client:
        for tenant in tenants:
            people = [{"person": f"{tenant}-admin", "roles": ADMIN, "approval_key": b64(ANNA.public_key)},
                      {"person": f"{tenant}-second", "roles": ["approver"], "approval_key": b64(BERT.public_key)}]  # fmt: skip
            body = {"id": tenant, "regions": [EU], "people": people}
            await load.insist(client, OPERATOR, "POST", "/tenants", body, f"register-{tenant}")


async def drained(load: Load, stored: list) -> None:
    """Wait until the streams had time for the last events."""
    last = {t: max(s.sequence for s in stored if parse_decree(s.subject).tenant == t) for t, _ in load.heard}
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and any(not h or h[-1] < last[t] for (t, _), h in load.heard.items()):  # noqa: ASYNC110 -- they have no event for it
        await asyncio.sleep(0.05)


def judge(load: Load, stored: list) -> None:
    ids = Counter(s.id for s in stored)
    assert [i for i, n in ids.items() if n > 1] == []
    assert load.acknowledged.keys() - ids.keys() == set()  # (1) acknowledged and in the ledger
    assert [i for i, n in load.acknowledged.items() if n > 1] == []  # each answer names an event of its own
    assert len(load.acknowledged) > 10 * ROUNDS
    assert load.again > 0  # the ends were felt
    for (tenant, _), heard in load.heard.items():  # (2) each event once, in order, none left out
        assert heard == [s.sequence for s in stored if parse_decree(s.subject).tenant == tenant], tenant
