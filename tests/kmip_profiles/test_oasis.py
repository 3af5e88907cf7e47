"""The OASIS KMIP 1.4 profile vectors, replayed against a real worker over TLS, each group with a system of its own.

The vectors are OASIS Open's and not part of this repository: OPENKCM_OASIS names the directory that holds
`oasis_replay.py` and `oasis-1.4/`; without it, `../shared/kmip` beside the checkout is tried.

The runner compares literally. Where a vector spells out what is random, or what one server of several allowed kinds
answers, no server can agree with all of it: `VARIES` names each such vector with the only differences it may have, and
why. Everything else agrees to the byte, and a vector that begins to agree must leave the table.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
from pathlib import Path

import pytest

from execution.custodian_double import CustodianDouble
from openkcm.contract.fleet import Limits
from openkcm.execution.operations.profiles import PROFILES, USED
from openkcm.kmip.enums import Operation
from openkcm.kmip.names import member_name

CHECKOUT = Path(__file__).resolve().parents[2]
HERE = Path(os.environ.get("OPENKCM_OASIS") or CHECKOUT.parent / "shared" / "kmip")
RUNNER = HERE / "oasis_replay.py"
#: Group -> number of vectors.
GROUPS = {
    "AKLC": 4, "AX": 2, "CS-AC": 18, "CS-BC": 17, "CS-RNG": 5, "MSGENC-HTTPS": 1, "MSGENC-JSON": 1, "MSGENC-XML": 1,
    "OMOS": 2, "SASED": 3, "SKFF": 12, "SKLC": 4, "SUITEB_128": 1, "SUITEB_192": 1, "TL": 3,
}  # fmt: skip

# Permitted test case variations of the profiles (section 4.1), as we read them, and what else no server can do.
RANDOM_KEY = "output under a key that the server made at random"
RANDOM_OUTPUT = "the output itself is random: an IV of the server's choice, OAEP's seed, random bytes"
GENERATOR = "the random number generator is the server's own; the vector's (ANSI X9.31) is disallowed since 2016"
OPERATIONS = "Query lists what the server does: Certify, split keys, Archive, Poll and Put are not there"
ERRATUM = "the vector's last response says 1.3 in answer to 1.4"
_DATA = r"(encrypt|decrypt|rngretrieve)/responsepayload/data: expected b"
VARIES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("CS-BC-M-1", "CS-BC-M-2", "CS-BC-M-3"), (_DATA, RANDOM_KEY)),
    **dict.fromkeys(("CS-BC-M-13", "CS-RNG-M-1"), (_DATA, RANDOM_OUTPUT)),
    **{f"CS-AC-M-OAEP-{n}": (_DATA, RANDOM_OUTPUT) for n in (1, 3, 5, 7, 9)},
    **dict.fromkeys(
        ("AKLC-M-1", "AKLC-M-2", "AKLC-M-3", "AKLC-O-1", "SKFF-M-10", "SKFF-M-11", "SKFF-M-12", "SKLC-O-1", "TL-M-3"),
        (r"getattributes/responsepayload/attribute/attributevalue/rngalgorithm: expected 5, got [13]$", GENERATOR),
    ),
    **dict.fromkeys(
        ("MSGENC-HTTPS-M-1", "MSGENC-JSON-M-1", "MSGENC-XML-M-1", "SUITEB_128-M-1", "SUITEB_192-M-1"),
        (r"query/responsepayload/operation: expected 26, got 38$", OPERATIONS),
    ),
    "OMOS-O-1": (r"protocol version$", ERRATUM),
}

#: RNGSeed has four allowed answers, and four vectors with one request: `limits.rng_seed_bytes` chooses. 512 for all else.
SEEDING = {"CS-RNG-O-2": 16, "CS-RNG-O-3": 0, "CS-RNG-O-4": -1}
#: Groups without a profile to claim: it has no name in KMIP 1.4; it asks for TLS suites that are not offered.
UNCLAIMED = {"AX", "SUITEB_128", "SUITEB_192"}

pytestmark = pytest.mark.skipif(
    not RUNNER.is_file(), reason=f"no OASIS vectors: set OPENKCM_OASIS ({HERE} has no oasis_replay.py)"
)


def group_of(name: str) -> str:
    """SKLC-M-1-14.xml and SKLC-O-1-14.xml are one group."""
    return re.split(r"-[MO]-", name)[0]


def groups() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(HERE.glob("oasis-1.4/*/*.xml"), key=lambda p: p.name):
        found.setdefault(group_of(path.name), []).append(path)
    return found


async def replay(custodian: CustodianDouble, group: str, files: list[Path], out: Path) -> list[dict]:
    """Run one group's vectors in their order, as a system that has nothing yet; return the runner's verdicts."""
    registration = group.lower().replace("_", "-")
    custodian.system("oasis", registration)
    cert, key = custodian.enrol("oasis", registration, registration)
    command = [RUNNER, "127.0.0.1", custodian.port, cert, key, custodian.pki.ca, *files, "-v", "--json", out]
    runner = await asyncio.create_subprocess_exec(
        sys.executable, *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await runner.communicate()
    assert runner.returncode == 0, said.decode()
    return json.loads(await asyncio.to_thread(out.read_text))


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


async def replay_all(tmp_path: Path, limits: Limits, files: dict[str, list[Path]]) -> list[dict]:
    results = []
    async with CustodianDouble(tmp_path, free_port(), limits=limits) as custodian:
        for group, paths in files.items():
            results += await replay(custodian, group, paths, tmp_path / "results.json")
    return results


async def test_every_vector_passes_but_for_what_must_vary(tmp_path):
    found = groups()
    assert {group: len(files) for group, files in found.items()} == GROUPS
    wrong, literally = [], 0
    usual = {group: [f for f in files if f.stem.removesuffix("-14") not in SEEDING] for group, files in found.items()}
    results = await replay_all(tmp_path / "usual", Limits(), usual)
    for name, seed in SEEDING.items():
        files = {"CS-RNG": [f for f in found["CS-RNG"] if f.name.startswith(name + "-")]}
        results += await replay_all(tmp_path / name, Limits(rng_seed_bytes=seed), files)
    for result in results:
        name = result["file"].removesuffix("-14.xml")
        literally += result["l"] == 3
        if name not in VARIES:
            wrong += [(name, why) for why in result["why"]]
        elif result["l"] == 3:
            wrong.append((name, "passes literally: take it out of VARIES"))
        else:
            may = re.compile(r"step \d+: " + VARIES[name][0])
            wrong += [(name, why) for why in result["why"] if not may.match(why)]
    assert not wrong
    assert literally == sum(GROUPS.values()) - len(VARIES) == 50
    assert set(PROFILES) == set(GROUPS) - UNCLAIMED  # Query claims what was just shown, and nothing else


REQUESTED = re.compile(r'<Operation type="Enumeration" value="(\w+)"/>\s*(?:<UniqueB[^>]*>\s*)?<RequestPayload')


def test_the_manual_lists_what_the_vectors_send():
    sent: dict[str, set[str]] = {}
    for group, files in groups().items():
        name = "MSGENC" if group.startswith("MSGENC") else group
        for path in files:
            sent.setdefault(name, set()).update(REQUESTED.findall(path.read_text()))
    written = {g: {member_name(Operation, Operation[name]) for name in names.split()} for g, names in USED.items()}
    assert written == {group: names for group, names in sent.items() if not group.startswith("SUITEB")}
