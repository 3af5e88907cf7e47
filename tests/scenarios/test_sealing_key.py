"""Governance's sealing key is rotated on a running stack, while orders and revocations come in and processes are killed.

Nothing that was acknowledged is missing, the ledger verifies with replay, and the old key is worth nothing afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator

import httpx
import msgspec

from openkcm.bus.connection import connect
from openkcm.bus.ledger import Ledger, Stored
from openkcm.cli import background, orbital, sources
from openkcm.cli.orbital import HUB
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract.seal import Signer
from openkcm.contract.subjects import residence_aggregate
from running_stack import Stack, stack, until

__all__ = ["stack"]

EU, US = "eu-frankfurt", "us-virginia"
ORDERS = (  # account, method, path, body
    ("acme/admin", "PATCH", f"/tenants/acme/regions/{EU}/configuration", lambda n: {"labels": {"n": str(n)}}),
    ("bolt/admin", "POST", "/tenants/bolt/revocations", lambda _: {"regions": [US], "reason": "test"}),
)


class Load:
    """Each order again and again, under one idempotency key until it is acknowledged; all of them are remembered."""

    def __init__(self, stack: Stack) -> None:
        self.acknowledged: Counter[str] = Counter()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._order, args=(stack, *order)) for order in ORDERS]

    def _order(self, stack: Stack, who: str, method: str, path: str, body) -> None:
        token = stack.endpoints.people[who].token
        with httpx.Client(base_url=stack.endpoints.cmk.url, trust_env=False, timeout=10) as client:
            for n in itertools.count():
                headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": f"{time.time_ns()}"}
                while not self._over.wait(0.02):
                    with contextlib.suppress(httpx.HTTPError):
                        answer = client.request(method, f"/cmk/v1{path}", json=body(n), headers=headers)
                        if answer.status_code == 202:
                            told = answer.json()
                            self.acknowledged.update(told.get("events") or [r["event"] for r in told["revocations"]])
                            break
                        assert answer.status_code in {409, 429, 503}, answer.text
                if self._over.is_set():
                    return

    def __enter__(self) -> Counter[str]:
        for thread in self._threads:
            thread.start()
        return self.acknowledged

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def rotating(stack: Stack) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-u", "-m", "openkcm.cli.main", "ledger", "rotate-key", "--state", str(stack.state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        yield process


def seed_of(stack: Stack) -> Signer:
    return Signer(background.saved_layout(stack.state).signing_seed.read_bytes())


def ledger_of(stack: Stack, at_least: int = 0) -> list[tuple[Stored, env.Envelope]]:
    stored = asyncio.run(sources.read_mirror(stack.state, at_least=at_least))
    return [(s, env.decode(s.body)) for s in stored]


def rotations(stack: Stack) -> list[d.SigningKeyRotated]:
    return [d.read(e.tag, e.data) for _, e in ledger_of(stack) if e.name == "SigningKeyRotated"]


def fleet(stack: Stack) -> dict:
    with stack.portal("provider/operator") as portal:
        return portal.get("/fleet")


def test_keys_are_rotated_under_load_and_through_kills_and_nothing_acknowledged_is_missing(stack):
    keys = [seed_of(stack).key_id]
    with Load(stack) as acknowledged:
        governance = stack.endpoints.cmk.pid
        stack.kill(governance, signal.SIGSTOP)
        with rotating(stack) as verb:  # it ends in the middle, and the same command goes on
            assert "announced" in verb.stdout.readline()
            time.sleep(1)
            assert verb.poll() is None, "it did not wait for a CMK that stands still"
            verb.kill()
        assert not [x for x in rotations(stack) if x.retires]
        stack.kill(governance, signal.SIGCONT)
        assert seed_of(stack).key_id == keys[0]
        for kill_at in ("announced", "the CMK seals with"):
            with rotating(stack) as verb:
                said = []
                for line in verb.stdout:
                    said.append(line)
                    if line.startswith(kill_at):
                        stack.kill(stack.endpoints.cmk.pid, signal.SIGKILL)
                assert verb.wait() == 0, said
                assert f"retired {keys[-1]}\n" in said
            keys.append(seed_of(stack).key_id)
            before = len(acknowledged)
            until(lambda before=before: len(acknowledged) > before + 20, 30, "orders go on")
    until(lambda: fleet(stack)["spooled_revocations"] == 0)
    ledger = ledger_of(stack, fleet(stack)["ledger"]["read_to"])
    ids = Counter(e.id for _, e in ledger)
    assert acknowledged
    assert not acknowledged.keys() - ids.keys()
    assert set(ids.values()) == {1}
    by_governance = [e.key for _, e in ledger if d.kind_of(e.tag).decree not in d.TRUST_ROOT_DECREES]
    assert [key for key, _ in itertools.groupby(by_governance)] == keys
    done = stack.openkcm("audit", "verify", "--replay", "--state", str(stack.state))
    assert done.returncode == 0, done.stdout + done.stderr
    at_ms = [e.at_ms for _, e in ledger if e.name == "SigningKeyRotated"][1:]  # behind the opening's: two a rotation
    took = [retired - announced for announced, retired in zip(at_ms[::2], at_ms[1::2], strict=True)]
    print(
        f"\n{len(acknowledged)} acknowledged, {len(ledger)} events, {dict(Counter(by_governance))}; rotations took {took} ms"
    )


def dropped(stack: Stack) -> float:
    with urllib.request.urlopen(stack.node(EU).metrics) as answer:
        lines = answer.read().decode().splitlines()
    name = 'openkcm_node_messages_dropped_total{reason="bad-seal"} '
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0.0)


def test_what_a_retired_key_seals_afterwards_no_node_obeys_and_no_audit_accepts(stack):
    old = seed_of(stack)
    assert stack.openkcm("ledger", "rotate-key", "--state", str(stack.state)).returncode == 0
    where = residence_aggregate(EU, "acme", "critical")
    e = env.seal_envelope(
        env.Envelope(
            id="11111111-2222-8333-8444-555555555555", tag="AccessRevoked.1", subject=str(where), counter=1, epoch=1,
            actor=env.Actor(issuer="i", subject="s"), correlation="11111111-2222-8333-8444-555555555555",
            priority=env.PRIORITY_CRITICAL, at_ms=1, time_source="test", key=old.key_id,
            data=msgspec.Raw(msgspec.json.encode(d.AccessRevoked(reason="test"))),
        ),
        old,
    )  # fmt: skip
    before = dropped(stack)
    sequence = asyncio.run(appended(stack, e))
    until(lambda: dropped(stack) > before, why="the node drops it")
    with stack.portal("acme/admin") as portal:
        assert portal.get(f"/tenants/acme/regions/{EU}")["state"] == "Active"
    done = stack.openkcm("audit", "verify", "--state", str(stack.state))
    assert done.returncode != 0
    assert f"sequence {sequence}: seal" in done.stdout + done.stderr
    assert "retired" in done.stdout + done.stderr


async def appended(stack: Stack, e: env.Envelope) -> int:
    layout = background.saved_layout(stack.state)
    connection = await connect(orbital.access(layout.state, "cmk", layout.server_ports[HUB]), name="thief")
    try:
        done = await Ledger(connection).append(e.subject, env.encode(e), id=e.id, tag=e.tag, expected_last=None)
    finally:
        await connection.close()
    return done.sequence
