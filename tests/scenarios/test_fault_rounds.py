"""Random rounds on a real stack under load: something dies, stands still, is cut off, slow or full around the kill switch.

After each round everything is back, the revocation is obeyed and shown, and two people have lifted it. In every
`LONG_EVERY`th round the region is away for longer than its lease. The history goes to `OPENKCM_HISTORY` (default: the
test's directory), and the checker decides. `just soak-faults` plays 200 rounds; the cut-off and disk faults take root.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from faults import apart, disk
from faults.approve import lift
from faults.kinds import LINK, Ground, table
from faults.recorder import Recorder, now
from faults.seeded import violations
from history_checker import check
from openkcm.cli.layout import Layout
from running_stack import Stack, until

EU, TENANT = "eu-frankfurt", "acme"
ROUNDS = int(os.environ.get("OPENKCM_FAULT_ROUNDS", "20"))
SEED = int(os.environ.get("OPENKCM_FAULT_SEED", "1"))
ONLY = os.environ.get("OPENKCM_FAULTS", "")  # part of a fault's name: no other is played
LEASE_S = 30
LONG_EVERY, LONG_S = 40, LEASE_S + 4.0
SETTLED = ("Revoked", "RevokedByLease")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory):
    """A stack with eu-frankfurt in a network namespace of its own; the hub, that region's server and its node each
    have a small disk of their own."""
    folder = tmp_path_factory.mktemp("rounds")
    with contextlib.ExitStack() as held:
        stack = Stack(folder / "state")
        link = None
        if not apart.possible():
            link = held.enter_context(apart.apart(folder / "programs", Layout(stack.state, port_base=stack.base), EU))
            stack.python = str(link.python)
        places = {"node": f"nodes/{EU}-1", "leaf": f"nats/{EU}/store", "hub": "nats/hub/store"}
        disks = {
            whose: held.enter_context(disk.disk(folder / whose, 256, at=stack.state / at))
            for whose, at in places.items()
            if not disk.possible()
        }
        stack.up()
        held.callback(stack.down)
        yield Ground(stack, EU, random.Random(SEED), link, disks)


class Play:
    """The rounds, and who orders and lifts in them."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.stack, self.rng = ground, ground.stack, ground.rng
        self.record = until(lambda: Recorder(ground.stack, TENANT, EU), 60, "a key")
        self.faults = {name: begin for name, begin in table(ground).items() if ONLY in name}
        self.converged_s: list[tuple[float, str]] = []  # by the nodes' own word
        self.shown_s: list[tuple[float, str]] = []  # to people, and with each node's sealed acknowledgement

    def shorten_the_lease(self) -> None:
        with self.stack.portal(f"{TENANT}/admin") as portal:
            portal.patch(f"/tenants/{TENANT}/regions/{EU}/configuration", {"lease_s": LEASE_S})
        until(lambda: self.sync()["routine"]["status"] == "InSync", 20, "the shorter lease is in force")

    def revoke(self) -> dict:
        answer = until(lambda: self.stack.revoke(TENANT, EU), 60, "the API takes the revocation")
        assert answer.status == 202
        ordered = answer["revocations"][0]
        self.record.add("answer", event=ordered["event"], recorded=ordered["recorded"])
        self.record.open_event = ordered["event"]
        return ordered

    def sync(self) -> dict:
        with self.stack.portal(f"{TENANT}/admin") as portal:
            return portal.get(f"/tenants/{TENANT}/regions/{EU}/sync")

    def obeyed(self) -> bool:
        shown = self.sync()
        behind = [n for n in shown["nodes"] if n["critical"] < shown["critical"]["counter"]]
        return not behind and shown["critical"]["status"] in SETTLED and shown["routine"]["status"] == "InSync"

    def closed(self) -> bool:
        return all(node["state"] == "revoked" for node in self.sync()["nodes"])

    def round(self, number: int) -> None:
        """One fault around one pull of the switch."""
        long = number % LONG_EVERY == LONG_EVERY - 1
        name = self.rng.choice(sorted(LINK if long and self.ground.link else self.faults))
        if long and not self.ground.link:
            name = "SIGSTOP hub"
        lasts_s, fault_at_s, order_at_s = self.rng.uniform(0.3, 2.0), self.rng.uniform(0, 0.2), self.rng.uniform(0, 0.5)
        ended = threading.Event()

        def fault() -> None:
            time.sleep(fault_at_s)
            self.record.add("fault", what=name, number=number)
            end = self.faults[name](self.ground)
            time.sleep(LONG_S if long else lasts_s)
            end()
            self.record.add("healed", what=name, number=number)
            ended.set()

        playing = threading.Thread(target=fault, daemon=True)
        playing.start()
        time.sleep(order_at_s)
        self.revoke()
        assert ended.wait(90), f"{name} did not end"
        healed = time.monotonic()
        until(self.closed, 60, f"every node says that it is revoked, after: {name}")
        self.converged_s.append((round(time.monotonic() - healed, 2), name))
        until(self.obeyed, 60, f"every node has acknowledged it and people see it, after: {name}")
        self.shown_s.append((round(time.monotonic() - healed, 2), name))
        self.record.add("converged", after_s=self.converged_s[-1][0], what=name, number=number)
        self.record.open_event = None
        until(lambda: lift(self.stack, TENANT, EU) is None, 40, f"two people lift it, after: {name}")
        until(self.record.works, 60, f"it is served again, after: {name}")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # PyKMIP's sockets to what is dead
@pytest.mark.timeout(36000)
def test_whatever_dies_or_stands_still_no_promise_is_broken(ground: Ground, tmp_path: Path) -> None:
    play = Play(ground)
    play.shorten_the_lease()
    begun = now()
    with play.record.recording():
        for number in range(ROUNDS):
            play.round(number)
    lines = play.record.lines
    file = Path(os.environ.get("OPENKCM_HISTORY", str(tmp_path / "history.ndjson")))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{ROUNDS} rounds in {now() - begun:.0f} s, {len(lines):,} lines in {file}")
    print("faults:", dict(Counter(x["what"] for x in lines if x["kind"] == "fault")))
    late = sorted((c for c in play.converged_s if c[0] > 5), reverse=True)
    print(f"nodes converged within 5 s of healing: {ROUNDS - len(late)} of {ROUNDS}; later: {late[:20]}")
    shown = sorted(play.shown_s, reverse=True)
    print(f"shown so: median {statistics.median(s for s, _ in shown)} s after healing; latest: {shown[:20]}")
    results = Counter(line["result"] for line in lines if line["kind"] == "op")
    print("operations:", dict(results))
    assert results["served"] > 10 * ROUNDS
    assert results["refused"] > 0
    assert not results["wrong"]
    assert check(lines) == []
    for rule, broken in violations(lines).items():  # the checker sees in this very history what it must
        assert any(sentence.startswith(rule) for sentence in check(broken)), rule
