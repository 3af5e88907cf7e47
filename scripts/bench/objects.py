"""`just bench objects`: Get, Locate by name and Create, with a thousand to a million objects in one residence.

A real worker over TLS on a real catalogue (SQLite), told by the tests' custodian; its vault is a dictionary, since what
the vault's server costs does not depend on who asks. The objects are truly wrapped and named; they come into the
catalogue in bulk, a tenth of it at a time, then each operation is done on objects chosen at random. Figures: the median
and the 99th percentile of one client, one after another; the worker's memory; the catalogue's size. Writes
`docs/bench/objects.json`.
"""

from __future__ import annotations

import argparse
import asyncio
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

from execution.custodian_double import REGION, CustodianDouble  # noqa: E402
from execution.kmip_client import KmipClient, attribute, create_request  # noqa: E402
from openkcm.contract.fleet import Limits  # noqa: E402
from openkcm.execution import keyring  # noqa: E402
from openkcm.execution.catalogue import _rows  # noqa: E402
from openkcm.execution.objects import context_of  # noqa: E402
from openkcm.execution.records import ObjectRecord  # noqa: E402
from openkcm.kmip import decode_attributes, encode_attributes  # noqa: E402
from openkcm.kmip.enums import NameType  # noqa: E402
from openkcm.kmip.payloads.retrieval import GetRequest, LocateRequest  # noqa: E402
from openkcm.kmip.structures import Name  # noqa: E402

TENANT, SYSTEM = "acme", "pay"
IN_ONE = 5000
SAMPLES = 300


def named(text: str) -> Any:
    """The attribute Name."""
    return attribute("Name", Name(name_value=text, name_type=NameType.UNINTERPRETED_TEXT_STRING))


def copies(like: ObjectRecord, key: memoryview, first: int, count: int) -> list[Any]:
    """Rows of new objects like this one, each with its own identifier, name and wrapped key."""
    rows: list[Any] = []
    attributes = [
        a for a in decode_attributes(like.attributes) if a.attribute_name not in {"Unique Identifier", "Name"}
    ]
    for number in range(first, first + count):
        uid = str(uuid.UUID(int=number))
        own = (attribute("Unique Identifier", uid), named(f"name-{number}"), *attributes)
        bare = msgspec.structs.replace(
            like, uid=uid, attributes=encode_attributes(own), names=(f"name-{number}",), wrapped=None
        )
        wrapped = keyring.seal(os.urandom(32), key, context_of(REGION, TENANT, bare))
        record = msgspec.structs.replace(bare, wrapped=wrapped)
        rows += _rows(TENANT, 1, record, msgspec.json.encode(record))
    return rows


async def timed(client: KmipClient, requests: list[Any]) -> dict[str, float]:
    """Median and 99th percentile, in microseconds, of requests made one after another."""
    found = []
    for payload in requests:
        began = time.monotonic_ns()
        answer = await client.call(payload)
        found.append((time.monotonic_ns() - began) / 1e3)
        if isinstance(payload, LocateRequest) and len(answer.unique_identifier) != 1:
            raise SystemExit(f"a name found {len(answer.unique_identifier)} objects")
    found.sort()
    return {"p50_us": round(found[len(found) // 2], 1), "p99_us": round(found[int(len(found) * 0.99)], 1)}


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1)


async def run(folder: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """Grow and measure."""
    out: list[dict[str, Any]] = []
    async with CustodianDouble(folder, limits=Limits()) as custodian:
        slot = custodian.system(TENANT, SYSTEM)
        client = await custodian.client(custodian.enrol(TENANT, SYSTEM, "p", max_objects=1 << 30))
        uid = await client.new_key()
        await client.call(
            GetRequest(unique_identifier=uid)
        )  # the first Get of an object is stored: it is fresh no more
        like = custodian.vault[TENANT, uid][1]
        key = custodian.arena._key(slot)  # noqa: SLF001 -- the custodian's own
        have, chance = 0, random.Random(1)  # noqa: S311 -- which objects are asked for
        for size in sizes:
            began = time.monotonic()
            while have < size:
                some = min(IN_ONE, size - have)
                custodian.database.apply(copies(like, key, have, some))
                have += some
            filled = time.monotonic() - began
            numbers = iter([chance.randrange(have) for _ in range(3 * SAMPLES)])
            gets = [GetRequest(unique_identifier=str(uuid.UUID(int=next(numbers)))) for _ in range(SAMPLES)]
            locates = [LocateRequest(attribute=(named(f"name-{next(numbers)}"),)) for _ in range(SAMPLES)]
            creates = [create_request(name=f"new-{size}-{n}") for n in range(SAMPLES)]
            figures = {
                "objects": size,
                "get": await timed(client, gets),
                "locate": await timed(client, locates),
                "create": await timed(client, creates),
                "worker_mib": rss_mib(custodian.crew.pids[0]),
                "catalogue_mib": round((folder / "node.sqlite").stat().st_size / (1 << 20), 1),
                "filled_s": round(filled, 1),
            }
            print(json.dumps(figures), file=sys.stderr)
            out.append(figures)
        await client.close()
    return out


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-objects-") as folder:
        found = asyncio.run(run(Path(folder), options.sizes))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "objects.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
