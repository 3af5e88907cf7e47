"""`just bench portal`: how the portal answers with 1,000 tenants in 3 regions, with 500 open event streams, in a flood.

(0) The read model, folded from sealed events: CPU ms of what lists and pages ask. Then a real hub, three regions and a
CMK in a process of its own: (1) lists and pages over HTTP with 1,000 tenants, from request to last byte; (2) 60 more
come aboard over the API, and the switch right after; (3) the CMK's share of a core while events come, without and with
500 open streams. Then a whole one-command stack: (4) a flood beside the switch and KMIP (`flood.py`), and
(5) one of TLS handshakes. Writes `docs/bench/portal.json`; `--only` measures some of them anew and keeps the others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import uvloop

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import flood  # noqa: E402 -- beside this file; the tests' stack is found by the line above

from governance_ledger import ANNA, BERT, TRUST, Ledger, approvers  # noqa: E402
from governance_stack import Idp, b64, ceremony, configuration, issuer  # noqa: E402
from openkcm.contract import decrees as d  # noqa: E402
from openkcm.contract import envelope as env  # noqa: E402
from openkcm.contract import resources, subjects  # noqa: E402
from openkcm.contract.fleet import parse_region  # noqa: E402
from openkcm.governance import lists  # noqa: E402
from openkcm.governance.views import Views  # noqa: E402
from openkcm.governance.watch import Watch  # noqa: E402
from openkcm.projector import open_reader, open_writer  # noqa: E402
from openkcm.projector.ledger import Projection  # noqa: E402
from orbital_fixture import EU, US, Orbital, run_apart, servers, shipped_regions  # noqa: E402

TOKYO: Final = "ap-tokyo"
REGIONS: Final = (EU, US, TOKYO)
OPERATORS: Final = tuple(f"operator-{n}" for n in range(10))
WRITERS: Final = 32
BATCH: Final = 500
OVER_HTTP: Final = 60  # tenants that come aboard one by one
EVENTS_S: Final = 10
LISTS: Final = (
    "/tenants", "/tenants?$top=50", "/tenants/{t}", "/tenants/{t}/regions", "/tenants/{t}/people",
    "/tenants/{t}/regions/{r}", "/tenants/{t}/regions/{r}/sync", "/tenants/{t}/regions/{r}/root-key",
    "/tenants/{t}/regions/{r}/systems", "/tenants/{t}/regions/{r}/workloads", "/tenants/{t}/approvals",
    "/tenants/{t}/revocations", "/tenants/{t}/terminations", "/fleet", "/ledger?limit=100", "/ledger?limit=1000",
    "/tenants/{t}/verification", "/tenants/{t}/export",
)  # fmt: skip
PAGES: Final = (
    "/", "/?q=bench-05", "/fleet", "/tenants/{t}/regions/{r}", "/tenants/{t}/regions/{r}/onboarding",
    "/tenants/{t}/regions/{r}/workloads", "/tenants/{t}/kill-switch", "/tenants/{t}/approvals", "/tenants/{t}/people",
    "/tenants/{t}/audit",
)  # fmt: skip


# --- (0) the read model ---------------------------------------------------------------------------------------------


def ready_made(tenants: int, *, opened: bool) -> Ledger:
    """Seal the events of so many tenants in three regions: each linked, with a system."""
    ledger = Ledger(opened=opened)
    for name in (f"bench-{n:04d}" for n in range(tenants)):
        roles: dict[str, tuple[d.Role, ...]] = {
            "admin": ("tenant-admin", "key-admin", "kill-switch"), "approver": ("approver",),
        }  # fmt: skip
        people = tuple(
            d.Person(person=f"{name}-{who}", roles=roles[who], approval_key=key.public_key)
            for who, key in (("admin", ANNA), ("approver", BERT))
        )
        ledger.add(subjects.tenant_aggregate(name), d.TenantRegistered(people=people))
        ledger.add(subjects.tenant_aggregate(name), d.TenantRegionsAssigned(regions=REGIONS))
        for region in REGIONS:
            where = subjects.residence_aggregate(region, name)
            root = d.RootReference(provider="file", ref="l1.keys")
            for decree in (approvers(), d.TenantConfigurationUpdated(lease_s=3600), d.RootKeyLinked(root=root),
                           d.SystemRegistered(system="payments", registration="payments-1")):  # fmt: skip
                ledger.add(where, decree)
    return ledger


async def append(orbital: Orbital, ledger: Ledger) -> float:
    """Append sealed events to the hub in atomic batches; return the seconds."""
    connection, began = await orbital.connect("cmk"), time.monotonic()
    for at in range(0, len(ledger.messages), BATCH):
        share, batch = ledger.messages[at : at + BATCH], uuid.uuid4().hex
        for number, message in enumerate(share, 1):
            headers = {"Nats-Msg-Id": message.id, "Kcm-Tag": env.decode(message.body).tag, "Nats-Batch-Id": batch,
                       "Nats-Batch-Sequence": str(number)}  # fmt: skip
            if number < len(share):
                await connection.publish(message.subject, message.body, headers=headers)
        headers["Nats-Batch-Commit"] = "1"
        answer = await connection.request(share[-1].subject, share[-1].body, headers=headers, timeout_s=60)
        if b'"error"' in answer.body:
            raise SystemExit(answer.body.decode())
    await connection.close()
    return time.monotonic() - began


def scale(tenants: int, home: Path) -> dict[str, Any]:
    """Fold so many tenants in three regions, and return the CPU ms of each reading."""
    writer = open_writer(home / "scale.sqlite", resources.ROOT / "projections" / "cmk", synchronous="NORMAL")
    ledger = ready_made(tenants, opened=True)
    projection = Projection(writer, TRUST.public_key)
    for at in range(0, len(ledger.messages), 500):
        projection.apply(ledger.messages[at : at + 500])
    views = Views(open_reader(home / "scale.sqlite"))
    watch = Watch(views)
    assert len(views.rows(lists.ALL_REGIONS)) == 3 * tenants
    asked: dict[str, Callable[[], Any]] = {
        "every tenant region, as JSON": lambda: msgspec.json.encode(views.rows(lists.ALL_REGIONS)),
        "one tenant": lambda: views.tenant("bench-0500"),
        "one tenant region": lambda: views.residence("bench-0500", EU),
        "who has what": lambda: watch.sync("bench-0500", EU, 0),
        "the overview's 24 cards": lambda: [
            watch.sync(r["tenant"], r["region"], 0) for r in views.rows(lists.ALL_REGIONS, top=24)
        ],
        "history of a tenant": lambda: views.history("bench-0500", limit=200),
        "what nodes have not acknowledged": watch.unacknowledged,
    }
    found = {}
    for what, ask in asked.items():
        took = []
        for _ in range(9):
            began = time.process_time()
            ask()
            took.append((time.process_time() - began) * 1000)
        found[what] = round(statistics.median(took), 2)
    writer.close()
    views.reader.close()
    return {"tenants": tenants, "regions": len(REGIONS), "events": len(ledger.messages), "cpu_ms": found}


# --- a CMK in its own process ---------------------------------------------------------------------------------------


class Portal:
    """The CMK's process and whoever asks it: within the budgets, however long that takes."""

    def __init__(self, client: httpx.AsyncClient, pid: int, idp: Idp) -> None:
        self.client, self.pid, self.idp = client, pid, idp
        self.tokens: dict[str, str] = {}
        self.refused: Counter[int] = Counter()

    def headers(self, who: str) -> dict[str, str]:
        """One token a person, as clients hold it."""
        if who not in self.tokens:
            self.tokens[who] = self.idp.token(who, exp=int(time.time()) + 7200)
        return {"Authorization": f"Bearer {self.tokens[who]}"}

    async def order(self, who: str, method: str, path: str, body: Any) -> dict[str, Any]:
        """Give an order until it is taken."""
        while True:
            answer = await self.client.request(method, f"/cmk/v1{path}", json=body, headers=self.headers(who))
            if answer.status_code == 202:
                taken: dict[str, Any] = answer.json()
                return taken
            if answer.status_code not in {429, 503}:
                raise SystemExit(f"{method} {path}: {answer.status_code} {answer.text}")
            self.refused[answer.status_code] += 1
            await asyncio.sleep(float(answer.headers.get("retry-after", 1)))


@contextlib.contextmanager
def three_regions(home: Path) -> Iterator[Orbital]:
    """A hub and three leaves: the two that are shipped and one more of their kind."""
    tokyo = parse_region((ROOT / "nodes" / EU / "node.toml").read_bytes().replace(EU.encode(), TOKYO.encode()))
    regions = [*shipped_regions(), msgspec.structs.replace(tokyo, nodes=(f"{TOKYO}-1",))]
    orbital = Orbital(home, regions)
    pattern = (ROOT / "nodes" / EU / "leaf.conf").read_text().replace(EU, TOKYO)
    (home / "leaf.conf").parent.mkdir(parents=True)
    (home / "leaf.conf").write_text(pattern)
    leaves = {r.region: ROOT / "nodes" / r.region / "leaf.conf" for r in shipped_regions()}
    servers.lay_out(home, regions, orbital.ports, {**leaves, TOKYO: home / "leaf.conf"})
    try:
        for name in orbital.ports:
            orbital.start(name)
        run_apart(servers.apply_streams(home, regions, orbital.ports))
        yield orbital
    finally:
        orbital.stop()


@contextlib.asynccontextmanager
async def portal(orbital: Orbital, idp: Idp, home: Path) -> AsyncIterator[Portal]:
    """Run `openkcm cmk`."""
    made = configuration(orbital, idp, home, operators=OPERATORS, check_streams=False)
    text = (home / "regions" / EU / "node.toml").read_text().replace(EU, TOKYO)
    (home / "regions" / TOKYO).mkdir()
    (home / "regions" / TOKYO / "node.toml").write_text(text)
    (home / "cmk.json").write_bytes(msgspec.json.encode(made))
    ready = home / "ready"
    command = [
        sys.executable,
        "-m",
        "openkcm.cli.main",
        "cmk",
        "--config",
        str(home / "cmk.json"),
        "--ready",
        str(ready),
    ]
    with (home / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        while not ready.exists():
            if process.returncode is not None:
                raise SystemExit((home / "log").read_text())
            await asyncio.sleep(0.05)
        url = msgspec.json.decode(ready.read_bytes())["url"]
        limits = httpx.Limits(max_connections=WRITERS)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60, limits=limits) as client:
            yield Portal(client, process.pid, idp)
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


# --- (1) lists and pages, (2) coming aboard -------------------------------------------------------------------------


async def fill(at: Portal, tenants: int) -> tuple[list[str], dict[str, Any]]:
    """Register tenants, many at a time; each region gets its root key and a system."""
    names = [f"aboard-{n:04d}" for n in range(tenants)]
    gate = asyncio.Semaphore(WRITERS)
    took: dict[str, list[float]] = {}

    async def timed(what: str, *order: Any) -> None:
        began = time.perf_counter()
        await at.order(*order)
        took.setdefault(what, []).append((time.perf_counter() - began) * 1000)

    async def one(n: int, name: str) -> None:
        admin = ["tenant-admin", "key-admin", "kill-switch"]
        people = [
            {"person": f"{name}-admin", "roles": admin, "approval_key": b64(ANNA.public_key)},
            {"person": f"{name}-approver", "roles": ["approver"], "approval_key": b64(BERT.public_key)},
        ]
        async with gate:
            body = {"id": name, "regions": REGIONS, "people": people}
            await timed("register", OPERATORS[n % len(OPERATORS)], "POST", "/tenants", body)
            for region in REGIONS:
                path, key = f"/tenants/{name}/regions/{region}", {"provider": "file", "ref": f"/keys/{name}"}
                await timed("root key", f"{name}-admin", "PUT", f"{path}/root-key", key)
                await timed("system", f"{name}-admin", "POST", f"{path}/systems", {"system": "payments"})

    began, busy = time.monotonic(), flood.cpu_s(at.pid)
    await asyncio.gather(*(one(n, name) for n, name in enumerate(names)))
    wall, cpu = time.monotonic() - began, flood.cpu_s(at.pid) - busy
    events = 14 * tenants
    return names, {
        "seconds": round(wall, 1), "events": events, "events_s": round(events / wall), "writers": WRITERS,
        "cmk_cpu_ms_an_event": round(cpu * 1000 / events, 2), "told_to_come_back": dict(at.refused),
        **{f"{what}, ms": _spread(values) for what, values in took.items()},
    }  # fmt: skip


def _spread(took: list[float]) -> dict[str, float]:
    ordered = sorted(took)
    return {"p50": round(ordered[len(ordered) // 2], 2), "p99": round(ordered[int(len(ordered) * 0.99)], 2),
            "worst": round(ordered[-1], 2)}  # fmt: skip


async def read(at: Portal, path: str, rounds: int = 40) -> dict[str, float]:
    """Milliseconds from the request to the last byte, as a client on the same machine sees them; the CMK's CPU."""
    took, busy = [], 0.0
    for n in range(rounds + 1):
        if n == 1:
            busy = flood.cpu_s(at.pid)
        began = time.perf_counter()
        answer = await at.client.get(path, headers=at.headers(OPERATORS[n % len(OPERATORS)]))
        took.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:200])
    cpu_ms = (flood.cpu_s(at.pid) - busy) * 1000 / rounds
    return {"first": round(took[0], 2), **_spread(took[1:]), "cpu": round(cpu_ms, 2), "bytes": len(answer.content)}


async def pulled(at: Portal, names: list[str]) -> dict[str, Any]:
    """The switch right after so much was written: where each order was recorded, and how long its answer took."""
    took, recorded = [], Counter[str]()
    for name in names:
        began = time.perf_counter()
        answer = await at.order(f"{name}-admin", "POST", f"/tenants/{name}/revocations", {"regions": [EU]})
        took.append((time.perf_counter() - began) * 1000)
        recorded[answer["revocations"][0]["recorded"]] += 1
    return {**_spread(took), "recorded": dict(recorded)}


# --- (3) event streams ----------------------------------------------------------------------------------------------


async def share(at: Portal, names: list[str], seconds: float) -> dict[str, float]:
    """The CMK's share of a core while so many events a second are ordered."""
    busy, began, n = flood.cpu_s(at.pid), time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        name = names[n % len(names)]
        await at.order(
            f"{name}-admin", "PATCH", f"/tenants/{name}/regions/{EU}/configuration", {"labels": {"n": str(n)}}
        )
        n += 1
        await asyncio.sleep(max(0.0, n / EVENTS_S - (time.monotonic() - began)))
    return {"core": round((flood.cpu_s(at.pid) - busy) / passed, 3), "events_s": round(n / passed, 1)}


async def streams(at: Portal, names: list[str], count: int, seconds: float) -> dict[str, Any]:
    """Events without a listener, then with so many, in another process; and what reached them."""
    alone = await share(at, names, seconds)
    tokens = [at.headers(who)["Authorization"] for who in OPERATORS]
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--listen", str(count), "--url", str(at.client.base_url), "--tokens", *tokens,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    await child.stdout.readline()
    busy, began = flood.cpu_s(at.pid), time.monotonic()
    await asyncio.sleep(seconds / 2)
    idle = (flood.cpu_s(at.pid) - busy) / (time.monotonic() - began)
    heard = await share(at, names, seconds)
    await asyncio.sleep(1)
    child.send_signal(signal.SIGTERM)
    out, _ = await child.communicate()
    return {
        "streams": count, "idle_core": round(idle, 3), "events without streams": alone, "events with streams": heard,
        "events_received_a_stream": json.loads(out),
    }  # fmt: skip


async def listen(count: int, url: str, tokens: list[str]) -> None:
    """The other process: hold the streams open until it is ended."""
    heard, opened, over = [0] * count, 0, asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with httpx.AsyncClient(
        base_url=url, trust_env=False, timeout=3600, limits=httpx.Limits(max_connections=None)
    ) as client:

        async def one(n: int) -> None:
            nonlocal opened
            headers = {"Authorization": tokens[n % len(tokens)]}
            async with client.stream("GET", "/cmk/v1/events", headers=headers) as stream:
                assert stream.status_code == 200, stream.status_code
                opened += 1
                async for piece in stream.aiter_raw():
                    heard[n] += piece.count(b"event: event")

        tasks = [asyncio.create_task(one(n)) for n in range(count)]
        while opened < count and not any(task.done() for task in tasks):  # noqa: ASYNC110 -- each of them counts
            await asyncio.sleep(0.05)
        print("open", opened, flush=True)
        await over.wait()
        print(json.dumps({"least": min(heard), "most": max(heard)}), flush=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def over_http(tenants: int, count: int) -> dict[str, Any]:
    """(1) to (3)."""
    with tempfile.TemporaryDirectory() as folder, issuer() as idp, three_regions(Path(folder) / "orbital") as orbital:
        await ceremony(orbital)
        ledger = ready_made(tenants, opened=False)
        appended = await append(orbital, ledger)
        found: dict[str, Any] = {"tenants": tenants, "regions": len(REGIONS), "events": len(ledger.messages),
                                 "appended in atomic batches, s": round(appended, 1)}  # fmt: skip
        began = time.monotonic()
        async with portal(orbital, idp, Path(folder) / "cmk") as at:
            found["CMK reads all of it and serves, s"] = round(time.monotonic() - began, 1)
            names = [f"bench-{n:04d}" for n in range(tenants)]
            shown = names[tenants // 2]
            found["lists, ms"] = {p: await read(at, f"/cmk/v1{p}".format(t=shown, r=EU)) for p in LISTS}
            found["pages, ms"] = {p: await read(at, p.format(t=shown, r=EU)) for p in PAGES}
            found["aboard over HTTP"] = (await fill(at, OVER_HTTP))[1]
            found["switch right after, ms"] = await pulled(at, names[:20])
            found["streams"] = await streams(at, names[20:120], count, 10)
            return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--flood-rate", type=float, default=5000)
    parser.add_argument("--port-base", type=int, default=29000)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench" / "portal.json")
    parser.add_argument("--only", choices=["read_model", "http", "flood", "handshakes"], action="append")
    parser.add_argument("--listen", type=int)
    parser.add_argument("--url")
    parser.add_argument("--tokens", nargs="*")
    given = parser.parse_args()
    if given.listen:
        uvloop.run(listen(given.listen, given.url, given.tokens))
        sys.exit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # and what was started ends with it
    target: Path = given.out
    result: dict[str, Any] = json.loads(target.read_text()) if target.exists() and given.only else {}
    parts = given.only or ["read_model", "http", "flood", "handshakes"]
    if "read_model" in parts:
        with tempfile.TemporaryDirectory() as folder_:
            result["read_model"] = scale(1000, Path(folder_))
    if "http" in parts:
        result["http"] = {**uvloop.run(over_http(given.tenants, given.streams)), "load_average": os.getloadavg()[0]}
    if "flood" in parts:
        figures = flood.run(given.port_base, rate=given.flood_rate, seconds=15, loose=False)
        result["flood"] = {**figures, "load_average": os.getloadavg()[0]}
    if "handshakes" in parts:
        figures = flood.run(given.port_base, rate=2000, seconds=15, loose=False, handshakes=True)
        result["handshakes"] = {**figures, "load_average": os.getloadavg()[0]}
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
