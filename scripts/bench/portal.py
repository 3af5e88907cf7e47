"""`just bench portal`: how the portal answers with 1,000 tenants in 3 regions, with 500 open event streams, in a flood.

(0) The read model at 1,000 tenants in 3 regions, folded from sealed events: CPU ms of what lists and pages ask. Then a
real hub and one CMK with fewer tenants: (1) lists and pages over HTTP; (2) CPU of the CMK while 500 streams are open,
with events; (3) an open loop past capacity on the public API while the kill switch is pulled: its time to the 202,
beside quiet. Writes `docs/bench/portal.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from governance_ledger import ANNA, BERT, TRUST, Ledger, approvers  # noqa: E402 -- the tests' stack, see above
from governance_stack import OPERATOR, Stack, b64, issuer, running_cmk  # noqa: E402
from openkcm.contract import decrees as d  # noqa: E402
from openkcm.contract import resources, subjects  # noqa: E402
from openkcm.governance.views import Views  # noqa: E402
from openkcm.governance.watch import Watch  # noqa: E402
from openkcm.projector import open_reader, open_writer  # noqa: E402
from openkcm.projector.ledger import Projection  # noqa: E402
from orbital_fixture import EU, US, running_orbital  # noqa: E402

PAGES: Final = ("/", "/fleet")
LISTS: Final = (
    "/cmk/v1/tenants", "/cmk/v1/tenants?$top=50", "/cmk/v1/tenants/{t}", "/cmk/v1/tenants/{t}/regions",
    "/cmk/v1/tenants/{t}/regions/{r}", "/cmk/v1/tenants/{t}/regions/{r}/sync", "/cmk/v1/tenants/{t}/approvals",
    "/cmk/v1/fleet", "/cmk/v1/ledger?limit=100",
)  # fmt: skip


async def fill(stack: Stack, tenants: int, regions: tuple[str, ...]) -> list[str]:
    """Register tenants, many at a time; each region gets its root key and a system."""
    names = [f"bench-{n:04d}" for n in range(tenants)]
    gate = asyncio.Semaphore(16)

    async def one(name: str) -> None:
        admin = ["tenant-admin", "key-admin", "kill-switch"]
        people = [
            {"person": f"{name}-admin", "roles": admin, "approval_key": b64(ANNA.public_key)},
            {"person": f"{name}-approver", "roles": ["approver"], "approval_key": b64(BERT.public_key)},
        ]
        async with gate:
            await stack.must(OPERATOR, "POST", "/tenants", {"id": name, "regions": regions, "people": people})
            for region in regions:
                path = f"/tenants/{name}/regions/{region}"
                await stack.must(
                    f"{name}-admin", "PUT", f"{path}/root-key", {"provider": "file", "ref": f"/keys/{name}"}
                )
                await stack.must(f"{name}-admin", "POST", f"{path}/systems", {"system": "payments"})

    await asyncio.gather(*(one(name) for name in names))
    return names


async def timed(client: httpx.AsyncClient, path: str, rounds: int, **more: Any) -> dict[str, float]:
    """Return median and worst of the answers' milliseconds."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        answer = await client.get(path, **more)
        took.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:200])
    return {"p50_ms": round(statistics.median(took), 2), "worst_ms": round(max(took), 2), "bytes": len(answer.content)}


def cpu_s() -> float:
    """CPU seconds of this process, in which the CMK runs."""
    return time.process_time()


async def listened(stack: Stack, streams: int, seconds: float, token: str) -> dict[str, Any]:
    """Open streams from another process, let events come, and return the CMK's share of a core."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--listen", str(streams), "--url", str(stack.client.base_url), "--token", token,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    opened = int((await child.stdout.readline()).split()[-1])
    idle, began = cpu_s(), time.monotonic()
    await asyncio.sleep(seconds / 2)
    idle_share = (cpu_s() - idle) / (time.monotonic() - began)
    busy, began, told = cpu_s(), time.monotonic(), 0
    while time.monotonic() - began < seconds / 2:  # ten events a second, each to every stream
        stack.cmk.news.tell(_news(told))
        told += 1
        await asyncio.sleep(0.1)
    busy_share = (cpu_s() - busy) / (time.monotonic() - began)
    child.terminate()
    await child.wait()
    return {
        "streams": opened,
        "events_a_second": 10,
        "idle_core": round(idle_share, 3),
        "busy_core": round(busy_share, 3),
    }


def _news(number: int) -> Any:
    from openkcm.governance.news import Item

    return Item(kind="event", tenant="bench-0000", region=EU, event="AccessSuspended", sequence=10**9 + number)


async def listen(streams: int, url: str, token: str) -> None:
    """The other process: hold the streams open until it is ended."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=3600, limits=limits) as client:
        opened = 0

        async def one() -> None:
            nonlocal opened
            async with client.stream("GET", "/cmk/v1/events", headers={"Authorization": f"Bearer {token}"}) as stream:
                opened += stream.status_code == 200
                async for _ in stream.aiter_raw():
                    pass

        tasks = [asyncio.create_task(one()) for _ in range(streams)]
        while opened < streams and not any(task.done() for task in tasks):  # noqa: ASYNC110 -- each of them counts
            await asyncio.sleep(0.05)
        print("open", opened, flush=True)
        await asyncio.gather(*tasks)


async def flood(url: str, token: str, seconds: float) -> None:
    """The other process: an open loop, as many requests as it can begin."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as client:
        until, tasks, answers = time.monotonic() + seconds, set(), {}

        async def one() -> None:
            with contextlib.suppress(httpx.HTTPError):
                answer = await client.get("/cmk/v1/tenants/bench-0001", headers={"Authorization": f"Bearer {token}"})
                answers[answer.status_code] = answers.get(answer.status_code, 0) + 1

        while time.monotonic() < until:
            task = asyncio.create_task(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.0005)
        await asyncio.gather(*tasks)
        print(json.dumps(answers), flush=True)


async def pulled(stack: Stack, names: list[str]) -> dict[str, float]:
    """Pull the switch of tenants one after another; ms to the 202, and to the event in the ledger's read model."""
    took = []
    for name in names:
        began = time.perf_counter()
        answer = await stack.ask(f"{name}-admin", "POST", f"/tenants/{name}/revocations", {"regions": [EU]})
        took.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 202, answer.text
        assert answer.json()["revocations"][0]["recorded"] == "ledger"
    return {"p50_ms": round(statistics.median(took), 1), "worst_ms": round(max(took), 1)}


def scale(tenants: int, home: Path) -> dict[str, Any]:
    """Fold so many tenants in three regions, and return the CPU ms of each reading."""
    regions = (EU, US, "ap-tokyo")
    writer = open_writer(home / "scale.sqlite", resources.ROOT / "projections" / "cmk", synchronous="NORMAL")
    ledger = Ledger()
    for name in (f"bench-{n:04d}" for n in range(tenants)):
        people = tuple(
            d.Person(person=f"{name}-{who}", roles=("tenant-admin", "approver"), approval_key=key.public_key)
            for who, key in (("anna", ANNA), ("bert", BERT))
        )
        ledger.add(subjects.tenant_aggregate(name), d.TenantRegistered(people=people))
        ledger.add(subjects.tenant_aggregate(name), d.TenantRegionsAssigned(regions=regions))
        for region in regions:
            where = subjects.residence_aggregate(region, name)
            root = d.RootReference(provider="file", ref="l1.keys")
            for decree in (approvers(), d.TenantConfigurationUpdated(lease_s=3600), d.RootKeyLinked(root=root),
                           d.SystemRegistered(system="payments", registration="payments-1")):  # fmt: skip
                ledger.add(where, decree)
    projection = Projection(writer, TRUST.public_key)
    for at in range(0, len(ledger.messages), 500):
        projection.apply(ledger.messages[at : at + 500])
    views = Views(open_reader(home / "scale.sqlite"))
    watch = Watch(views, epoch=lambda: 1)
    assert len(views.residences()) == 3 * tenants
    asked: dict[str, Callable[[], Any]] = {
        "every tenant region, as JSON": lambda: msgspec.json.encode(views.residences()),
        "one tenant": lambda: views.tenant("bench-0500"),
        "one tenant region": lambda: views.residence("bench-0500", EU),
        "who has what": lambda: watch.sync("bench-0500", EU, 0),
        "the overview's 24 cards": lambda: [
            watch.sync(r["tenant"], r["region"], 0) for r in views.residences(limit=24)
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
    return {"tenants": tenants, "regions": len(regions), "events": len(ledger.messages), "cpu_ms": found}


async def main(tenants: int, streams: int) -> dict[str, Any]:
    """Measure all three."""
    from openkcm.governance.portal import limits

    with tempfile.TemporaryDirectory() as home, issuer() as idp, running_orbital(Path(home) / "orbital") as orbital:
        budgets = dict(limits.BUDGETS)
        limits.BUDGETS.clear()  # filling is a flood of ours
        async with running_cmk(orbital, idp, Path(home) / "cmk") as stack:
            regions = (EU, US)
            began = time.monotonic()
            names = await fill(stack, tenants, regions)
            print(f"{tenants} tenants in {len(regions)} regions, {time.monotonic() - began:.0f} s", flush=True)
            token = idp.token(OPERATOR)
            headers = {"Authorization": f"Bearer {token}"}
            found: dict[str, Any] = {"cpus": os.cpu_count(), "tenants": tenants, "regions": len(regions)}
            found["lists"] = {
                path: await timed(stack.client, path.format(t=names[0], r=EU), 15, headers=headers) for path in LISTS
            }
            found["pages"] = {path: await timed(stack.client, path, 15, headers=headers) for path in PAGES}
            found["streams"] = await listened(stack, streams, 10, token)
            found["switch_quiet"] = await pulled(stack, names[:20])
            limits.BUDGETS.update(budgets)
            child = await asyncio.create_subprocess_exec(
                sys.executable, __file__, "--flood", "8", "--url", str(stack.client.base_url), "--token",
                idp.token("bench-0001-admin"), stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            await asyncio.sleep(2)
            found["switch_in_flood"] = await pulled(stack, names[20:40])
            out, _ = await child.communicate()
            found["flood"] = json.loads(out.splitlines()[-1])
            return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=100)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--listen", type=int)
    parser.add_argument("--flood", type=float)
    parser.add_argument("--url")
    parser.add_argument("--token")
    given = parser.parse_args()
    if given.listen:
        asyncio.run(listen(given.listen, given.url, given.token))
    elif given.flood:
        asyncio.run(flood(given.url, given.token, given.flood))
    else:
        with tempfile.TemporaryDirectory() as folder:
            model = scale(1000, Path(folder))
        print(json.dumps(model), flush=True)
        result = {"read_model": model, **asyncio.run(main(given.tenants, given.streams))}
        target = ROOT / "docs" / "bench" / "portal.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps(result, indent=2))
