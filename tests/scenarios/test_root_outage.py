"""Two nodes of a region while their customers' KMS is away, throttles, hangs, lies, denies, or refuses their token.

The KMS is the Google double (real gRPC, real TLS), which counts: what was asked with a KEK is an unseal, what was asked
with a canary is a probe. `OPENKCM_OUTAGE_ROUNDS` rounds, each a fault drawn by the seed; `just soak-outage` plays 50.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import ssl
import time

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from msgspec.structs import replace

from execution.kmip_client import Failed, KmipClient, client_context
from execution.test_roots_gcp import GcpCustomer
from node_bench import Governor, RunningNode, onboarding
from openkcm.contract import reports
from openkcm.kmip.enums import ResultReason
from orbital_fixture import EU, running_orbital
from press import Press
from simulators.google import GoogleKms, Key

ROUNDS = int(os.environ.get("OPENKCM_OUTAGE_ROUNDS", "7"))
SEED = int(os.environ.get("OPENKCM_OUTAGE_SEED", "1"))
PROBE_S = 0.25
NODES = (f"{EU}-1", f"{EU}-2")
TENANTS = ("acme", "globex")
#: Fault -> what the probes say of it. The first five take no key away; the last two lock.
KEEPS = {"outage": "Unreachable", "throttling": "Throttled", "hang": "Unreachable", "token": "CredentialRejected",
         "damage": "Unreachable"}  # fmt: skip
LOCKS = {"denied": "AccessDenied", "wrong answer": "WrongContext"}


class Play:
    def __init__(self, google: GoogleKms, customer: GcpCustomer, governor: Governor, nodes: list[RunningNode]) -> None:
        self.google, self.customer, self.governor, self.nodes = google, customer, governor, nodes
        self.material = customer.key.material
        self.signer = google.signer

    def fault(self, name: str) -> None:
        if name == "outage":
            self.google.always = grpc.StatusCode.UNAVAILABLE
        elif name == "throttling":
            self.google.always = grpc.StatusCode.RESOURCE_EXHAUSTED
        elif name == "hang":
            self.google.delay_s = 10.0
        elif name == "token":
            self.google.signer = rsa.generate_private_key(65537, 2048)  # no assertion of the nodes' verifies now
            self.google.tokens.clear()
        elif name == "damage":
            self.google.spoil_every_answer = True
        elif name == "denied":
            self.customer.key.readers = set()
        else:
            self.customer.key.material = [Key().material[0] for _ in self.material]

    def heal(self) -> None:
        self.google.always, self.google.delay_s, self.google.spoil_every_answer = None, 0.0, False
        self.google.signer = self.signer
        self.customer.key.readers, self.customer.key.material = {"get", "use"}, self.material

    async def all_say(self, code: str, since: int) -> None:
        """Wait until every node has reported this answer of every residence's root."""

        def said() -> bool:
            seen = [r for r in self.governor.seen[since:] if isinstance(r, reports.RootStateObserved)]
            return sum(r.state == code for r in seen) >= len(NODES) * len(TENANTS)

        await self.governor.until(said, timeout_s=120)

    def states(self) -> list[str]:
        """What each node does with each residence, as its newest HealthCheck says."""
        return [mark.state for node in NODES for mark in self.governor.healths[node].residences]

    async def all_are(self, state: str, timeout_s: float = 120) -> None:
        wanted = [state] * len(NODES) * len(TENANTS)
        await self.governor.until(lambda: self.governor.healths.keys() >= set(NODES) and self.states() == wanted,
                                  timeout_s=timeout_s)  # fmt: skip

    async def client(self, node: RunningNode, tenant: str) -> KmipClient:
        certificate, key = node.authority.issue_workload(tenant, "app")
        return await KmipClient.connect(node.port, client_context(certificate, key, node.authority.ca))

    async def workloads(self) -> list[Workload]:
        """A client of each residence on each node, with something encrypted."""
        return [await Workload(await self.client(node, tenant)).begin() for node in self.nodes for tenant in TENANTS]


class Workload:
    def __init__(self, client: KmipClient) -> None:
        self.client = client

    async def begin(self) -> Workload:
        self.uid = await patiently(self.client.new_key)
        self.sealed = await self.client.encrypt(self.uid, b"attack at dawn")
        return self

    async def read(self) -> None:
        assert await self.client.decrypt(self.uid, self.sealed) == b"attack at dawn"


async def patiently(ask, timeout_s: float = 120):
    """Ask again while the keys are on their way: a node says that it may serve before it has unsealed."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            return await ask()
        except Failed as no:
            if no.reason != ResultReason.GENERAL_FAILURE or time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


@pytest.fixture
async def play(tmp_path):
    google = GoogleKms(tmp_path / "google")
    customer = GcpCustomer(google, tmp_path)
    policy = replace(customer.settings.policy, probe_s={"gcp": PROBE_S})
    with running_orbital(tmp_path / "stack", nodes_per_region=len(NODES)) as orbital:
        press = Press()
        nodes = [RunningNode(orbital, press, tmp_path / name, name=name, policy=policy) for name in NODES]
        async with Governor(orbital, press) as governor:
            for e in press.opening(*((name, EU) for name in NODES)):
                await governor.append(e)
            try:
                for node in nodes:
                    node.start()
                for node in nodes:
                    await node.wait_ready()
                await governor.until(
                    lambda: len(governor.healths) == len(NODES) and all(h.cursor[1] for h in governor.healths.values())
                )
                await asyncio.sleep(0.6)
                for tenant in TENANTS:
                    certificate, _ = nodes[0].authority.issue_workload(tenant, "app")
                    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()
                    for e in onboarding(press, tenant, customer.reference, lease_s=3600, fingerprint=fingerprint):
                        await governor.append(e)
                play = Play(google, customer, governor, nodes)
                await play.all_are("active")
                await play.all_say("ok", 0)
                yield play
            finally:
                for node in nodes:
                    node.stop()
    customer.close()
    google.stop()


@pytest.mark.timeout(max(180, 40 * ROUNDS))
async def test_faults_of_a_kms_take_no_key_away_and_a_denial_does(play: Play) -> None:
    workloads = await play.workloads()
    draw = random.Random(SEED)
    names = [*KEEPS, *LOCKS]
    draw.shuffle(names)
    total = 0
    for number in range(ROUNDS):
        name = names[number % len(names)]
        since, unseals, began = len(play.governor.seen), play.google.unseals, time.monotonic()
        play.fault(name)
        await play.all_say(KEEPS.get(name) or LOCKS[name], since)
        if name in KEEPS:
            until = time.monotonic() + draw.uniform(0.5, 1.5)
            while time.monotonic() < until:
                for workload in workloads:
                    await workload.read()
                    await workload.client.encrypt(workload.uid, b"more")
                    total += 2
                await asyncio.sleep(0.05)
            assert set(play.states()) == {"active"}
            assert play.google.unseals == unseals  # what is cached is asked for by nobody
        else:
            await play.all_are("locked")
            for workload in workloads:
                with pytest.raises(Failed) as no:
                    await workload.read()
                assert no.value.reason == ResultReason.PERMISSION_DENIED
        since = len(play.governor.seen)
        play.heal()
        await play.all_say("ok", since)
        await play.all_are("active")
        for workload in workloads:
            await patiently(workload.read)
        asked = play.google.unseals - unseals
        print(
            f"round {number + 1} of {ROUNDS}: {name}, {total} operations so far, {asked} unseals, "
            f"{time.monotonic() - began:.1f} s",
            flush=True,
        )
        assert asked <= (0 if name in KEEPS else len(TENANTS) * len(NODES)), name  # keys x nodes
    for workload in workloads:
        await workload.client.close()


@pytest.mark.timeout(180)
async def test_a_restart_during_an_outage_asks_with_restraint_and_serves_when_it_is_over(play: Play) -> None:
    workloads = await play.workloads()
    for node in play.nodes:
        node.kill()
    play.fault("outage")
    before, began = play.google.calls_to_decrypt, time.monotonic()
    for node in play.nodes:
        node.start()
    for node in play.nodes:
        await node.wait_ready()
    await asyncio.sleep(6)
    asked = play.google.calls_to_decrypt - before
    waited = time.monotonic() - began
    # Full jitter up to 0.5 s inside a deadline of 2 s, then more: some four a second for each residence of each node.
    assert 0 < asked < 10 * len(workloads) * waited, (asked, waited)
    play.heal()
    await play.all_are("active", timeout_s=120)

    for workload, place in zip(workloads, [(n, t) for n in play.nodes for t in TENANTS], strict=True):
        workload.client = await play.client(*place)
        await patiently(workload.read, timeout_s=120)
        await workload.client.close()
