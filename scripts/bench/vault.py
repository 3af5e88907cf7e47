"""`just bench vault`: a whole node on its region's real vault, with a thousand to a million objects in one residence.

Hub, leaf and node as in production (every write synced); the objects are truly wrapped, named, grouped and sealed, and
come into the vault as another node of the region would write them. While they do, the leaf syncs by the interval, so
that filling takes minutes (`--slow-fill` leaves it as it is); it is started anew, synced always, before anything is
measured. At each size: how long a node takes to be ready with its catalogue, and with none (then the whole vault is
read); Get, Locate by name, by group (ten members) and by an attribute of one's own, Create, one client, one after
another; memory and disk. `--realtime` measures those under SCHED_FIFO, so that other work on the machine shows less (it
needs the right to). Writes `docs/bench/vault.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT / "tests")  # not this folder: it has a kmip.py

import msgspec  # noqa: E402

from custody.residence_bench import REGION, Residence, Thief, descendants, onboard, settled, workers_of  # noqa: E402
from execution.kmip_client import Failed, attribute, create_request  # noqa: E402
from node_bench import Governor, RunningNode, opening  # noqa: E402
from openkcm.bus.errors import BusError  # noqa: E402
from openkcm.bus.lanes import mirror_head  # noqa: E402
from openkcm.bus.vault import Vault  # noqa: E402
from openkcm.contract import envelope as env  # noqa: E402
from openkcm.contract import subjects  # noqa: E402
from openkcm.contract.seal import Signer  # noqa: E402
from openkcm.execution import keyring  # noqa: E402
from openkcm.execution.objects import context_of  # noqa: E402
from openkcm.execution.records import ObjectRecord  # noqa: E402
from openkcm.execution.voice import Voice  # noqa: E402
from openkcm.kmip import custom_attribute, decode_attributes, encode_attributes  # noqa: E402
from openkcm.kmip.enums import NameType, ResultReason  # noqa: E402
from openkcm.kmip.payloads.lifecycle import DestroyRequest  # noqa: E402
from openkcm.kmip.payloads.retrieval import GetRequest, LocateRequest  # noqa: E402
from openkcm.kmip.structures import Name  # noqa: E402
from openkcm.kmip.ttlv import ItemType  # noqa: E402
from openkcm.projector import open_reader  # noqa: E402
from orbital_fixture import EU_NODE, Orbital, running_orbital  # noqa: E402
from press import Press  # noqa: E402

TENANT: Final = "acme"
SAMPLES: Final = 200
IN_FLIGHT: Final = 256
GIVE_UP_S: Final = 1200  # a million objects take some minutes to read
OWN: Final = frozenset({"Unique Identifier", "Name", "Object Group", "x-owner"})


def uid_of(number: int) -> str:
    """The identifier of the n-th object."""
    return str(uuid.UUID(int=number))


def named(text: str) -> Any:
    """The attribute Name."""
    return attribute("Name", Name(name_value=text, name_type=NameType.UNINTERPRETED_TEXT_STRING))


def own(number: int) -> tuple[Any, Any, Any]:
    """What tells the n-th object from others: its name, its group of ten, its owner."""
    owner = custom_attribute("x-owner", ItemType.TEXT_STRING, f"owner-{number}")
    return named(f"name-{number}"), attribute("Object Group", f"group-{number // 10}"), owner


class Writer:
    """Another node of the region, which has the system's key."""

    def __init__(self, orbital: Orbital, like: ObjectRecord, key: bytes) -> None:
        self.orbital, self.like, self.key = orbital, like, memoryview(bytearray(key))
        self.voice = Voice(EU_NODE, REGION, Signer(hashlib.sha256(EU_NODE.encode()).digest()))
        self.alike = [a for a in decode_attributes(like.attributes) if a.attribute_name not in OWN]

    def record(self, number: int) -> ObjectRecord:
        """The n-th object, wrapped."""
        uid = uid_of(number)
        attributes = encode_attributes((attribute("Unique Identifier", uid), *own(number), *self.alike))
        bare = msgspec.structs.replace(
            self.like, uid=uid, attributes=attributes, names=(f"name-{number}",), wrapped=None
        )
        wrapped = keyring.seal(os.urandom(32), self.key, context_of(REGION, TENANT, bare))
        return msgspec.structs.replace(bare, wrapped=wrapped)

    async def fill(self, first: int, last: int) -> None:
        """Write objects, so many at a time."""
        connection = await self.orbital.connect(EU_NODE)
        vault, numbers = Vault(connection, REGION), iter(range(first, last))

        async def write() -> None:
            for number in numbers:
                where = subjects.VaultSubject(REGION, TENANT, "object", uid_of(number))
                e = self.voice.record(
                    where, "ObjectRecord.1", msgspec.json.encode(self.record(number)), epoch=1, above=0
                )
                await vault.put(str(where), env.encode(e), id=e.id, expect=(str(where), 0), timeout_s=60)

        await asyncio.gather(*(write() for _ in range(IN_FLIGHT)))
        await connection.close()


def cpu_s(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def asked(client: Any, payload: Any) -> Any:
    """Ask, and again as long as the answer says so: the disk of a busy machine stands still for seconds."""
    while True:
        try:
            return await client.call(payload)
        except Failed as bad:
            if bad.reason != ResultReason.GENERAL_FAILURE:
                raise


async def timed(client: Any, requests: list[Any], pids: dict[str, int], want: int | None = None) -> dict[str, float]:
    """Median and 99th percentile, in microseconds, of requests made one after another; and the CPU time of each."""
    found, before = [], {name: cpu_s(pid) for name, pid in pids.items()}
    for payload in requests:
        began = time.monotonic_ns()
        answer = await asked(client, payload)
        found.append((time.monotonic_ns() - began) / 1e3)
        if want is not None and len(answer.unique_identifier) != want:
            raise SystemExit(f"{payload} found {len(answer.unique_identifier)} objects")
    found.sort()
    spent = {f"{n}_cpu_us": round((cpu_s(pid) - before[n]) / len(requests) * 1e6) for n, pid in pids.items()}
    return {"p50_us": round(found[len(found) // 2], 1), "p99_us": round(found[int(len(found) * 0.99)], 1), **spent}


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1)


def counted(node: RunningNode) -> int:
    """Objects in the node's catalogue."""
    try:
        reader = open_reader(node.folder / "node.sqlite")
    except Exception:  # the node is just making it
        return 0
    try:
        return int(reader.rows("SELECT count(*) FROM objects")[0][0])
    finally:
        reader.close()


async def caught_up(node: RunningNode, objects: int) -> None:
    """Wait until the catalogue has so many."""
    until = time.monotonic() + GIVE_UP_S
    while (has := counted(node)) < objects:
        if time.monotonic() > until:
            raise SystemExit(f"the catalogue has {has} of {objects} objects; {node.tail()}")
        await asyncio.sleep(0.25)


async def started(node: RunningNode, residence: Residence, uid: str, objects: int) -> dict[str, float]:
    """Start the node; return the seconds until it is ready, serves a Get, and has its whole catalogue."""
    began = time.monotonic()
    node.start()
    await node.wait_ready(timeout_s=600)
    ready = time.monotonic() - began
    client = await residence.client(node)
    while True:
        (item,) = await client.batch(GetRequest(unique_identifier=uid))
        if item.payload is not None:
            break
        if time.monotonic() - began > GIVE_UP_S:
            raise SystemExit(f"the node does not serve: {item.reason} {item.message}; {node.tail()}")
        await asyncio.sleep(0.05)
    served = time.monotonic() - began
    await client.close()
    await caught_up(node, objects)
    whole = time.monotonic() - began
    cpu = round(cpu_s(node.process.pid), 2) if node.process is not None else 0.0
    return {"ready_s": round(ready, 2), "serves_s": round(served, 2), "whole_s": round(whole, 2), "cpu_s": cpu}


def restarted(orbital: Orbital, *, always: bool) -> None:
    """Start the region's server anew, with each write synced or by the interval."""
    conf = next(p for p in orbital.state_dir.rglob("*.conf") if REGION in str(p) and "sync_interval" in p.read_text())
    text = conf.read_text()
    slow, fast = "sync_interval: always", 'sync_interval: "2m"'
    conf.write_text(text.replace(fast, slow) if always else text.replace(slow, fast))
    orbital.servers[REGION].stop()
    orbital.start(REGION)


async def leaf_ready(orbital: Orbital) -> float:
    """Return the seconds until the region's server has read its vault and answers."""
    began = time.monotonic()
    while True:
        try:
            connection = await orbital.connect(EU_NODE)
            try:
                await mirror_head(connection, "VAULT")
                return round(time.monotonic() - began, 2)
            finally:
                await connection.close()
        except BusError as away:
            if time.monotonic() - began > GIVE_UP_S:
                raise SystemExit(f"the region's server does not answer: {away}") from away
            await asyncio.sleep(0.1)


async def measured(
    node: RunningNode, residence: Residence, have: int, chance: random.Random, pids: dict[str, int]
) -> dict[str, Any]:
    """What clients see."""
    client = await residence.client(node)
    some = [[chance.randrange(have) for _ in range(SAMPLES)] for _ in range(4)]
    made: list[str] = []
    try:
        got = await timed(client, [GetRequest(unique_identifier=uid_of(n)) for n in some[0]], pids)
        by_name = await timed(client, [LocateRequest(attribute=(own(n)[0],)) for n in some[1]], pids, 1)
        by_group = await timed(client, [LocateRequest(attribute=(own(n)[1],)) for n in some[2]], pids, 10)
        by_own = await timed(client, [LocateRequest(attribute=(own(n)[2],)) for n in some[3]], pids, 1)
        creates = await timed(client, [create_request(name=f"new-{have}-{n}") for n in range(SAMPLES)], pids)
        for n in range(SAMPLES):
            made += (await asked(client, LocateRequest(attribute=(named(f"new-{have}-{n}"),)))).unique_identifier
        for uid in made:
            await asked(client, DestroyRequest(unique_identifier=uid))
    finally:
        await client.close()
    return {"get": got, "locate_name": by_name, "locate_group": by_group, "locate_own": by_own, "create": creates}


async def no_longer_fresh(node: RunningNode, residence: Residence, uid: str) -> None:
    """Get an object once: its record is stored anew then."""
    client = await residence.client(node)
    await client.call(GetRequest(unique_identifier=uid))
    await client.close()


async def writer_like(governor: Governor, node: RunningNode, uid: str) -> Writer:
    """Return who writes objects like this one of the residence, under its key."""
    async with Thief(governor, node) as thief:
        like = await thief.record(TENANT, "object", uid, ObjectRecord)
        key = (await thief.keys(TENANT, uid))[f"{TENANT}/l3"]
    return Writer(governor.orbital, like, key)


async def filled(governor: Governor, node: RunningNode, uid: str, objects: int, others: int) -> None:
    """Fill a residence with objects like this one, `others` being there already; stop the node; writes sync again."""
    restarted(governor.orbital, always=False)
    await (await writer_like(governor, node, uid)).fill(0, objects)
    await caught_up(node, objects + others)
    node.stop()
    restarted(governor.orbital, always=True)
    await leaf_ready(governor.orbital)


def scheduled(pids: list[int], policy: int, priority: int) -> None:
    """Have the threads of these processes, and of this one, scheduled so."""
    for pid in (os.getpid(), *pids):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))


async def run(folder: Path, sizes: list[int], *, slow_fill: bool, realtime: bool) -> list[dict[str, Any]]:
    """Grow and measure."""
    out: list[dict[str, Any]] = []
    press, chance = Press(), random.Random(1)  # noqa: S311 -- which objects are asked for
    with running_orbital(folder / "stack") as orbital, contextlib.ExitStack() as ends:
        node = RunningNode(orbital, press, folder / "node")
        ends.callback(node.stop)
        async with Governor(orbital, press) as governor:
            for e in opening(press):
                await governor.append(e)
            node.start()
            await node.wait_ready()
            await settled(governor)
            residence = await onboard(governor, node, TENANT)
            uid = await residence.new_key(node)
            await no_longer_fresh(node, residence, uid)
            writer, have, more = await writer_like(governor, node, uid), 0, 1
            for size in sizes:
                if not slow_fill:
                    restarted(orbital, always=False)
                began = time.monotonic()
                await writer.fill(have, size)
                filled = time.monotonic() - began
                await caught_up(node, size + more)
                followed = time.monotonic() - began
                node.stop()
                restarted(orbital, always=True)
                have = size
                figures: dict[str, Any] = {
                    "objects": size, "filled_s": round(filled, 1), "followed_s": round(followed, 1),
                    "leaf_ready_s": await leaf_ready(orbital),
                    "start": await started(node, residence, uid, have + more),
                }  # fmt: skip
                custodian = node.process.pid if node.process is not None else 0
                everybody = [*descendants(custodian), orbital.servers[REGION].process.pid]
                if realtime:
                    scheduled(everybody, os.SCHED_FIFO, 20)
                (worker,) = workers_of(custodian)
                figures |= await measured(node, residence, have, chance, {"custodian": custodian, "worker": worker})
                if realtime:
                    scheduled(everybody, os.SCHED_OTHER, 0)
                more += SAMPLES
                figures |= {
                    "custodian_mib": rss_mib(custodian), "worker_mib": rss_mib(worker),
                    "leaf_mib": rss_mib(orbital.servers[REGION].process.pid), "processes": len(descendants(custodian)),
                    "catalogue_mib": round((node.folder / "node.sqlite").stat().st_size / (1 << 20), 1),
                }  # fmt: skip
                node.stop()
                for file in node.folder.glob("node.sqlite*"):
                    file.unlink()
                figures["start_without_catalogue"] = await started(node, residence, uid, have + more)
                print(json.dumps(figures), file=sys.stderr, flush=True)
                out.append(figures)
    return out


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--slow-fill", action="store_true")
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--folder", type=Path, help="Where state lies while it runs; default: a temporary directory.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-vault-", dir=options.folder) as folder:
        found = asyncio.run(run(Path(folder), options.sizes, slow_fill=options.slow_fill, realtime=options.realtime))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "vault.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
