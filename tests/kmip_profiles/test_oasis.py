"""The OASIS KMIP 1.4 profile vectors, replayed against a whole node over TLS, each group with a system of its own.

The node is as `up` starts it: hub, leaf, vault, custodian and worker; only governance is played by the test.

The vectors are OASIS Open's and not part of this repository: OPENKCM_OASIS names the directory that holds
`oasis_replay.py` and `oasis-1.4/`; without it, `../shared/kmip` beside the checkout is tried.

The runner compares literally. Where a vector spells out what is random, or what one server of several allowed kinds
answers, no server can agree with all of it: `VARIES` names each such vector with the only differences it may have, and
why. Everything else agrees to the byte, and a vector that begins to agree must leave the table.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import ssl
import sys
from pathlib import Path

import pytest

from custody.residence_bench import onboard, serving_node
from node_bench import Governor, RunningNode
from openkcm.contract import decrees as d
from openkcm.execution.operations import OPERATIONS
from openkcm.execution.operations.profiles import PROFILES, USED
from openkcm.kmip.enums import Operation
from openkcm.kmip.names import member_name

TENANT = "oasis"
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
OFFERED = "Query lists what the server does, and not LACKS"
#: Operations that the Query vectors list and this server has not; ADR 0016 says why, one by one.
LACKS = {"POLL", "CANCEL", "CERTIFY", "RE_CERTIFY", "NOTIFY", "PUT", "CREATE_SPLIT_KEY", "JOIN_SPLIT_KEY"}
ERRATUM = "the vector's last response says 1.3 in answer to 1.4"
_DATA = r"(encrypt|decrypt|rngretrieve)/responsepayload/data: expected b"
VARIES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("CS-BC-M-1", "CS-BC-M-2", "CS-BC-M-3"), (_DATA, RANDOM_KEY)),
    **dict.fromkeys(("CS-BC-M-13", "CS-RNG-M-1"), (_DATA, RANDOM_OUTPUT)),
    **{f"CS-AC-M-OAEP-{n}": (_DATA, RANDOM_OUTPUT) for n in (1, 3, 5, 7, 9)},
    **dict.fromkeys(
        ("MSGENC-HTTPS-M-1", "MSGENC-JSON-M-1", "MSGENC-XML-M-1", "SUITEB_128-M-1", "SUITEB_192-M-1"),
        (r"query/responsepayload/operation: expected 26, got 38$", OFFERED),
    ),
    "OMOS-O-1": (r"protocol version$", ERRATUM),
}

#: A server of one kind cannot give these answers: a region's limits make it of another. RNGSeed has four allowed answers,
#: and four vectors with one request; groups whose vectors name ANSI X9.31 as what made the keys run where it does.
SETTINGS: dict[str, dict[str, object]] = {
    "CS-RNG-O-2": {"rng_seed_bytes": 16}, "CS-RNG-O-3": {"rng_seed_bytes": 0}, "CS-RNG-O-4": {"rng_seed_bytes": -1},
    **{group: {"rng": "ansi-x9.31"} for group in ("AKLC", "SKFF", "SKLC", "TL")},
}  # fmt: skip
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


class Served:
    """A node of a region, and one tenant whose systems have nothing yet."""

    def __init__(self, node: RunningNode, governor: Governor) -> None:
        self.node, self.governor, self.generation, self.settings = node, governor, 5, {}

    async def under(self, settings: dict[str, object]) -> None:
        """Have the node serve under these limits."""
        if settings != self.settings:
            self.node.stop()
            self.node.limit(**settings)
            self.node.start()
            await self.node.wait_ready()
            self.settings = settings

    async def replay(self, group: str, files: list[Path]) -> list[dict]:
        """Run vectors in their order, as a system that is new; return the runner's verdicts."""
        name = f"{group.lower().replace('_', '-')}-{self.generation}"
        cert, key = self.node.authority.issue_workload(TENANT, name)
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert.read_text())).hexdigest()
        registration, press = f"reg-{name}", self.governor.press
        for decree in (
            d.SystemRegistered(system=name, registration=registration),
            d.WorkloadEnrolled(
                workload=name, system=name, registration=registration, enrolment=f"enr-{name}", fingerprint=fingerprint
            ),
        ):
            await self.governor.append(press.residence(TENANT, decree))
            self.generation += 1
        await self.governor.until(lambda: self.governor.acked(TENANT, "routine", self.generation, "active"))
        out = self.node.folder / "results.json"
        command = [RUNNER, "127.0.0.1", self.node.port, cert, key, self.node.authority.ca, *files, "-v", "--json", out]
        runner = await asyncio.create_subprocess_exec(
            sys.executable, *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await runner.communicate()
        assert runner.returncode == 0, said.decode()
        return json.loads(await asyncio.to_thread(out.read_text))


async def replay_all(folder: Path, found: dict[str, list[Path]]) -> list[dict]:
    """Every vector once, those that need a server of another kind behind the others."""
    runs: dict[str, dict[str, list[Path]]] = {}
    for group, files in found.items():
        for file in files:
            of = json.dumps(SETTINGS.get(group) or SETTINGS.get(file.stem.removesuffix("-14"), {}))
            runs.setdefault(of, {}).setdefault(group, []).append(file)
    results = []
    async with serving_node(folder) as (governor, node):
        await onboard(governor, node, TENANT)
        served = Served(node, governor)
        for of in sorted(runs, key=len):  # no settings first
            await served.under(json.loads(of))
            for group, files in runs[of].items():
                results += await served.replay(group, files)
    return results


async def test_every_vector_passes_but_for_what_must_vary(tmp_path):
    found = groups()
    assert {group: len(files) for group, files in found.items()} == GROUPS
    wrong, literally = [], 0
    results = await replay_all(tmp_path, found)
    assert len(results) == sum(GROUPS.values())
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
    assert literally == sum(GROUPS.values()) - len(VARIES) == 59
    assert set(PROFILES) == set(GROUPS) - UNCLAIMED  # Query claims what was just shown, and nothing else


LISTED = re.compile(r'<Operation type="Enumeration" value="(\w+)"/>(?!\s*<Result)')


def test_query_lists_all_that_the_vectors_list_but_for_what_is_lacking():
    """The runner names the first difference alone; this holds the rest of the list."""
    by_name = {member_name(Operation, code): code for code in Operation}
    listing = [name for name, (_, why) in VARIES.items() if why == OFFERED]
    assert len(listing) == 5
    for name in listing:
        (path,) = HERE.glob(f"oasis-1.4/*/{name}-14.xml")
        (_, answer) = path.read_text().rsplit("<ResponseMessage>", 1)
        listed = {by_name[name] for name in LISTED.findall(answer)}
        assert {code.name for code in listed - OPERATIONS.keys()} == LACKS, name


REQUESTED = re.compile(r'<Operation type="Enumeration" value="(\w+)"/>\s*(?:<UniqueB[^>]*>\s*)?<RequestPayload')


def test_the_manual_lists_what_the_vectors_send():
    sent: dict[str, set[str]] = {}
    for group, files in groups().items():
        name = "MSGENC" if group.startswith("MSGENC") else group
        for path in files:
            sent.setdefault(name, set()).update(REQUESTED.findall(path.read_text()))
    written = {g: {member_name(Operation, Operation[name]) for name in names.split()} for g, names in USED.items()}
    assert written == {group: names for group, names in sent.items() if not group.startswith("SUITEB")}
