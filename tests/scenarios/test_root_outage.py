"""A whole node while its customer's KMS is away, throttles, hangs, answers wrongly, denies, or refuses the node's token.

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
from node_bench import Governor, RunningNode, onboarding, opening
from openkcm.contract import reports
from openkcm.kmip.enums import ResultReason
from orbital_fixture import running_orbital
from press import Press
from simulators.google import GoogleKms, Key

ROUNDS = int(os.environ.get("OPENKCM_OUTAGE_ROUNDS", "7"))
SEED = int(os.environ.get("OPENKCM_OUTAGE_SEED", "1"))
PROBE_S = 0.25
#: Fault -> what the probes say of it. The first five take no key away; the last two lock.
KEEPS = {"outage": "Unreachable", "throttling": "Throttled", "hang": "Unreachable", "token": "CredentialRejected",
         "damage": "Unreachable"}  # fmt: skip
LOCKS = {"denied": "AccessDenied", "wrong answer": "WrongContext"}


class Play:
    def __init__(self, google: GoogleKms, customer: GcpCustomer, governor: Governor, node: RunningNode) -> None:
        self.google, self.customer, self.governor, self.node = google, customer, governor, node
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
            self.google.signer = rsa.generate_private_key(65537, 2048)  # no assertion of the node's verifies now
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

    def said(self, since: int) -> set[str]:
        return {r.state for r in self.governor.seen[since:] if isinstance(r, reports.RootStateObserved)}

    def state(self) -> str:
        health = self.governor.health
        return health.residences[0].state if health and health.residences else "none"

    async def client(self) -> KmipClient:
        authority = self.node.authority
        certificate, key = authority.issue_workload("acme", "app")
        return await KmipClient.connect(self.node.port, client_context(certificate, key, authority.ca))


@pytest.fixture
async def play(tmp_path):
    google = GoogleKms(tmp_path / "google")
    customer = GcpCustomer(google, tmp_path)
    policy = replace(customer.settings.policy, probe_s={"gcp": PROBE_S})
    with running_orbital(tmp_path / "stack") as orbital:
        press = Press()
        node = RunningNode(orbital, press, tmp_path / "node", policy=policy)
        certificate, _ = node.authority.issue_workload("acme", "app")
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()
        async with Governor(orbital, press) as governor:
            for e in opening(press):
                await governor.append(e)
            node.start()
            await node.wait_ready(60)
            await governor.until(lambda: governor.health and governor.health.cursor[1] >= 1)
            await asyncio.sleep(0.6)
            for e in onboarding(press, "acme", customer.reference, lease_s=3600, fingerprint=fingerprint):
                await governor.append(e)
            await governor.until(lambda: governor.acked("acme", "routine", 5, "active"), timeout_s=60)
            yield Play(google, customer, governor, node)
            node.stop()
    customer.close()
    google.stop()


@pytest.mark.timeout(max(180, 40 * ROUNDS))
async def test_faults_of_a_kms_take_no_key_away_and_a_denial_does(play: Play) -> None:
    client = await play.client()
    uid = await client.new_key()
    sealed = await client.encrypt(uid, b"attack at dawn")
    draw = random.Random(SEED)
    names = [*KEEPS, *LOCKS]
    draw.shuffle(names)
    for number in range(ROUNDS):
        name = names[number % len(names)]
        since, unseals = len(play.governor.seen), play.google.unseals
        play.fault(name)
        expected = KEEPS.get(name) or LOCKS[name]
        print(f"round {number + 1} of {ROUNDS}: {name}")
        await play.governor.until(lambda s=since, e=expected: e in play.said(s), timeout_s=60)
        if name in KEEPS:
            until = time.monotonic() + draw.uniform(0.5, 1.5)
            while time.monotonic() < until:
                assert await client.decrypt(uid, sealed) == b"attack at dawn"
                await client.encrypt(uid, b"more")
                await asyncio.sleep(0.05)
            assert play.state() == "active"
            assert play.google.unseals == unseals  # what is cached is asked for by nobody
        else:
            await play.governor.until(lambda: play.governor.acked("acme", "routine", 5, "locked"), timeout_s=60)
            with pytest.raises(Failed) as no:
                await client.decrypt(uid, sealed)
            assert no.value.reason == ResultReason.PERMISSION_DENIED
        since = len(play.governor.seen)
        play.heal()
        await play.governor.until(lambda s=since: "ok" in play.said(s), timeout_s=60)
        await play.governor.until(lambda: play.governor.acked("acme", "routine", 5, "active"), timeout_s=60)
        assert await client.decrypt(uid, sealed) == b"attack at dawn"
        assert play.google.unseals - unseals <= (0 if name in KEEPS else 1), name  # one key, one node: one call
    await client.close()


@pytest.mark.timeout(180)
async def test_a_restart_during_an_outage_asks_with_restraint_and_serves_when_it_is_over(play: Play) -> None:
    client = await play.client()
    uid = await client.new_key()
    sealed = await client.encrypt(uid, b"attack at dawn")
    await client.close()
    play.node.kill()
    play.fault("outage")
    before = play.google.calls_to_decrypt
    play.node.start()
    await play.node.wait_ready(60)
    await asyncio.sleep(6)
    asked = play.google.calls_to_decrypt - before
    assert 0 < asked < 120, asked  # full jitter up to 0.5 s inside a deadline of 2 s, then seconds, then more
    play.heal()
    await play.governor.until(lambda: play.state() == "active", timeout_s=90)

    async def decrypted() -> bytes | None:
        client = await play.client()
        try:
            return await client.decrypt(uid, sealed)
        except Failed:
            return None
        finally:
            await client.close()

    until = time.monotonic() + 90
    while await decrypted() != b"attack at dawn":
        assert time.monotonic() < until
        await asyncio.sleep(0.5)
