"""Random rounds on a real stack under load: something dies or stands still while the kill switch is pulled.

After each round everything is back, the revocation is obeyed and shown, and two people have lifted it. The history goes
to `OPENKCM_HISTORY` (default: the test's directory), and the checker decides. `just soak-faults` plays 200 rounds.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from kmip.core import enums
from kmip.pie.exceptions import KmipOperationFailure

from history_checker import check
from openkcm.bus.connection import connect
from openkcm.bus.reports import Reports
from openkcm.cli import orbital
from openkcm.cli.layout import Layout
from openkcm.contract import envelope as env
from openkcm.contract import reports
from openkcm.contract.seal import Signer
from running_stack import GCM, Stack, stack, until

__all__ = ["stack"]
EU, TENANT = "eu-frankfurt", "acme"
ROUNDS = int(os.environ.get("OPENKCM_FAULT_ROUNDS", "1"))
SEED = int(os.environ.get("OPENKCM_FAULT_SEED", "1"))
READ_S = 5.0


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Play:
    """The record, the load, and the faults."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.rng = stack, random.Random(SEED)
        self.lines: list[dict] = []
        self.ended = threading.Event()
        with stack.kmip("acme/payments", EU) as client:
            mask = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
            self.uid = client.create(enums.CryptographicAlgorithm.AES, 256, cryptographic_usage_mask=mask)
            client.activate(self.uid)
            self.ciphertext, self.iv = client.encrypt(b"sixteen byte msg", self.uid, GCM)

    def add(self, kind: str, t: float | None = None, **what) -> None:
        self.lines.append({"t": now() if t is None else t, "kind": kind, "tenant": TENANT, "region": EU, **what})

    def load(self) -> None:
        """Decrypt without end, over connections that last while they work."""
        while not self.ended.is_set():
            start = now()
            try:
                with self.stack.kmip("acme/payments", EU) as client:
                    while not self.ended.is_set():
                        start = now()
                        self.operation(client, start)
                        time.sleep(0.002)
            except Exception:  # whatever a dying server does to its client
                self.add("op", node=f"{EU}-1", start=start, end=now(), result="error")
                time.sleep(0.1)

    def operation(self, client, start: float) -> None:
        try:
            plain = client.decrypt(self.ciphertext, self.uid, GCM, self.iv)
            result = "served" if plain == b"sixteen byte msg" else "wrong"
        except KmipOperationFailure:
            result = "refused"
        self.add("op", node=f"{EU}-1", start=start, end=now(), result=result)
        assert result != "wrong"

    def fault(self) -> str:
        """Kill something, or stop it for a while."""
        e, node = self.stack.endpoints, self.stack.node(EU)
        who, pid = self.rng.choice(
            [
                ("custodian", node.custodian_pid),
                ("worker", self.rng.choice(node.worker_pids)),
                ("leaf", e.nats[EU].pid),
                ("hub", e.nats["hub"].pid),
                ("cmk", e.cmk.pid),
            ]
        )
        kill = self.rng.random() < 0.5
        self.add("fault", who=who, how="kill -9" if kill else "SIGSTOP")
        if kill:
            self.stack.kill(pid)
        else:
            self.stack.kill(pid, signal.SIGSTOP)
            threading.Timer(self.rng.uniform(0.2, 2.5), self._go_on, [pid]).start()
        return who

    def _go_on(self, pid: int) -> None:
        try:
            self.stack.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            self.add("fault", who=str(pid), how="gone while it stood still")

    def revoke(self) -> dict:
        answer = until(lambda: self.stack.revoke(TENANT, EU), 40, "the API takes the revocation")
        assert answer.status == 202
        ordered = answer["revocations"][0]
        self.add("answer", event=ordered["event"], recorded=ordered["recorded"])
        return ordered

    def critical(self) -> dict:
        with self.stack.portal(f"{TENANT}/admin") as portal:
            return portal.get(f"/tenants/{TENANT}/regions/{EU}/sync")["critical"]

    def lift(self) -> None:
        people = self.stack.endpoints.people

        def signature(person: str, message: bytes) -> str:
            seed = Path(people[person].approval_key or "").read_bytes()
            return base64.b64encode(Signer(seed).sign(message)).decode()

        one, two = f"{TENANT}/admin", f"{TENANT}/approver"
        with self.stack.portal(one) as asks, self.stack.portal(two) as signs:
            words = asks.post(f"/tenants/{TENANT}/approvals/prepare", {"command": "RestoreAccess", "region": EU})
            message, approval = base64.b64decode(words["signed_bytes"]), words["approval"]
            named = [v.split(":", 2)[2] for k, v in words["statement"]["arguments"] if k == "lift"]
            asks.post(f"/tenants/{TENANT}/approvals", {
                "approval": approval, "command": "RestoreAccess", "region": EU,
                "arguments": words["statement"]["arguments"], "signature": signature(one, message),
            })  # fmt: skip
            self.add("decree", tag="AccessRestored", event=approval, lane="routine", epoch=1, counter=0, lifts=named,
                     people=[one, two])  # fmt: skip
            signs.post(f"/tenants/{TENANT}/approvals/{approval}/grants", {"signature": signature(two, message)})

    def works(self) -> bool:
        with self.stack.kmip("acme/payments", EU) as client:
            return client.decrypt(self.ciphertext, self.uid, GCM, self.iv) == b"sixteen byte msg"

    def round(self) -> None:
        """One fault around one pull of the switch."""
        threading.Timer(self.rng.uniform(0.0, 0.3), self.fault).start()
        time.sleep(self.rng.uniform(0.0, 0.3))
        ordered = self.revoke()
        until(lambda: self.critical()["status"] == "Revoked", 60, "the portal says Revoked")
        shown = self.critical()
        if shown["status"] == "Revoked":
            self.add("portal", status="Revoked", events=[ordered["event"]], waiting=[], certain_by=None)
        with self.stack.portal(f"{TENANT}/admin") as portal:
            mine = portal.get(f"/tenants/{TENANT}/regions/{EU}")["revocations"]
        found = next(r for r in mine if r["event"] == ordered["event"])  # acknowledged by the API: it is in the ledger
        self.add("decree", tag="AccessRevoked", event=found["event"], lane="critical", epoch=found["epoch"],
                 counter=found["fence"])  # fmt: skip
        time.sleep(0.3)
        until(lambda: self.lift() is None, 40, "two people lift it")
        until(self.works, 60, "it is served again")

    def acks(self) -> None:
        """Add every SyncAck of the node's that the hub has."""
        base = self.stack.base

        async def read() -> None:
            layout = Layout(self.stack.state, port_base=base)
            connection = await connect(orbital.access(layout.state, "cmk", layout.ports.hub), name="checker")
            offset = now() - time.time()
            try:
                async with asyncio.timeout(READ_S):
                    async for stored in Reports(connection).follow(after=0):
                        self._ack(stored.body, offset)
            except TimeoutError:
                pass
            finally:
                await connection.close()

        asyncio.run(read())

    def _ack(self, body: bytes, offset: float) -> None:
        e = env.decode(body)
        if e.tag == "SyncAck.1":
            ack = reports.read(e.tag, e.data)
            if isinstance(ack, reports.SyncAck) and ack.tenant == TENANT:
                self.add("ack", t=e.at_ms / 1000 + offset + 0.001, node=e.actor.subject, lane=ack.lane,
                         epoch=ack.ledger_epoch, floor=ack.floor, above=list(ack.above))  # fmt: skip


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # PyKMIP's sockets to what is dead
@pytest.mark.timeout(36000)
def test_whatever_dies_or_stands_still_no_promise_is_broken(stack, tmp_path):
    play = until(lambda: Play(stack), 60, "a key")
    loads = [threading.Thread(target=play.load, daemon=True) for _ in range(2)]
    for load in loads:
        load.start()
    try:
        for _ in range(ROUNDS):
            play.round()
    finally:
        play.ended.set()
        for load in loads:
            load.join(30)
        until(lambda: play.acks() is None, 30)
        file = Path(os.environ.get("OPENKCM_HISTORY", str(tmp_path / "history.ndjson")))
        file.write_text("".join(json.dumps(line) + "\n" for line in play.lines))
    results = [line["result"] for line in play.lines if line["kind"] == "op"]
    assert results.count("served") > 10 * ROUNDS
    assert results.count("refused") > 0
    assert any(line["kind"] == "ack" and line["lane"] == "critical" for line in play.lines)
    assert check(play.lines, leases=False) == []
