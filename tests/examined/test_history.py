"""The checker of histories sees what it must: each rule, broken by hand in a clean history."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from history_checker import check

HOME = {"tenant": "acme", "region": "eu"}
REVOKED = {
    "kind": "decree",
    "tag": "AccessRevoked",
    "event": "r1",
    "lane": "critical",
    "epoch": 1,
    "counter": 1,
    **HOME,
}
CLEAN = [
    {"t": 0.0, "kind": "decree", "tag": "TenantConfigurationUpdated", "lane": "routine", "epoch": 1, "counter": 2,
     "lease_s": 30, "people": [], "event": "c", **HOME},
    {"t": 0.5, "kind": "nonce", "node": "n1", "nonce": "a"},
    {"t": 0.6, "kind": "beat", "region": "eu", "nonces": ["a"]},
    {"t": 1.0, "kind": "op", "node": "n1", "start": 0.9, "end": 1.0, "sent": 1.0, "result": "served", "enrolment": "e1", **HOME},
    {"t": 2.0, **REVOKED},
    {"t": 2.1, "kind": "ack", "node": "n1", "lane": "critical", "epoch": 1, "floor": 1, "above": [], **HOME},
    {"t": 2.5, "kind": "portal", "status": "Revoked", "events": ["r1"], "waiting": [], "certain_by": None, **HOME},
    {"t": 3.0, "kind": "op", "node": "n1", "start": 3.0, "end": 3.0, "sent": 3.0, "result": "refused", **HOME},
    {"t": 4.0, "kind": "decree", "tag": "AccessRestored", "event": "s1", "lane": "routine", "epoch": 1, "counter": 3,
     "lifts": ["r1"], "people": ["ann", "bob"], **HOME},
    {"t": 5.0, "kind": "op", "node": "n1", "start": 4.9, "end": 5.0, "sent": 5.0, "result": "served", "enrolment": "e1", **HOME},
    {"t": 6.0, "kind": "decree", "tag": "WorkloadRemoved", "event": "w", "lane": "critical", "epoch": 1, "counter": 2,
     "ids": ["e1"], **HOME},
    {"t": 6.1, "kind": "ack", "node": "n1", "lane": "critical", "epoch": 1, "floor": 2, "above": [], **HOME},
]  # fmt: skip


def served(at: float, node: str = "n1", **more) -> dict:
    return {
        "t": at, "kind": "op", "node": node, "start": at, "end": at, "sent": at, "result": "served", **HOME, **more
    }  # fmt: skip


BROKEN = {
    "S1: served after the ack": ("S1", [served(2.2)]),
    "S1: served for a removed workload after the ack": ("S1", [served(6.2, enrolment="e1")]),
    "S6: served past the lease": ("S6", [served(40.0)]),
    "S6: served by a beat that left the tenant out": (
        "S6",
        [
            {"t": 28.0, "kind": "nonce", "node": "n1", "nonce": "b"},
            {"t": 28.1, "kind": "beat", "region": "eu", "nonces": ["b"], "withheld": ["acme"]},
            served(40.0),
        ],
    ),
    "S6: served without a beat": ("S6", [served(1.0, node="n2")]),
    "S9: another node served after the portal said Revoked": ("S9", [served(2.6, node="n2")]),
    "S12: one person's restore does not lift": (
        "S12",
        [
            {"t": 2.7, "kind": "decree", "tag": "AccessRestored", "event": "s0", "lane": "routine", "epoch": 1,
             "counter": 3, "lifts": ["r1"], "people": ["ann"], **HOME},
            served(2.8),
        ],
    ),
    "Key: a wiped key was used": ("Key", [served(1.5, wrong_key=True)]),
    "Key: a key stayed": ("Key", [{"t": 2.2, "kind": "residue", "node": "n1", **HOME}]),
}  # fmt: skip


def test_a_clean_history_is_clean():
    assert check(CLEAN) == []


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_history_is_not(what):
    rule, lines = BROKEN[what]
    assert any(sentence.startswith(rule) for sentence in check([*CLEAN, *lines]))


def test_a_beat_that_leaves_another_tenant_out_counts():
    renewed = [
        {"t": 28.0, "kind": "nonce", "node": "n1", "nonce": "b"},
        {"t": 28.1, "kind": "beat", "region": "eu", "nonces": ["b"], "withheld": ["bolt"]},
        served(40.0),
    ]
    assert check([*CLEAN, *renewed]) == []


def test_a_portals_certain_by_is_a_promise():
    late = [
        {"t": 7.0, "kind": "decree", "tag": "AccessRevoked", "event": "r2", "lane": "critical", "epoch": 1, "counter": 3, **HOME},
        {"t": 7.0, "kind": "portal", "status": "Revoking", "events": ["r2"], "waiting": ["n2"], "certain_by": 8.0, **HOME},
        {"t": 7.1, "kind": "nonce", "node": "n2", "nonce": "b"},
        {"t": 7.1, "kind": "beat", "region": "eu", "nonces": ["b"]},
    ]  # fmt: skip
    assert check([*CLEAN, *late, served(7.9, node="n2")]) == []
    assert check([*CLEAN, *late, served(8.1, node="n2")])[0].startswith("S9")


def test_what_the_ledger_lost_by_accepted_loss_is_no_promise_of_the_portals_but_one_of_the_node():
    lost = {"t": 2.6, "kind": "loss", "events": ["r1"]}
    assert check([*CLEAN, lost, served(2.8, node="n2")]) == ["S6: n2 served acme at 2.8 without any beat"]
    assert check([*CLEAN, lost, served(2.8)])[0].startswith("S1")


def test_a_restored_ledger_does_not_shorten_the_lease_of_a_node_that_has_not_heard_of_it():
    def ordered(t: float, counter: int, lease_s: int, event: str) -> dict:
        return {"t": t, "kind": "decree", "tag": "TenantConfigurationUpdated", "lane": "routine", "epoch": 1, **HOME,
                "counter": counter, "lease_s": lease_s, "people": ["ann", "bob"], "event": event}  # fmt: skip

    history = [
        ordered(0.0, 1, 10, "c1"),
        ordered(1.0, 2, 60, "c2"),
        {"t": 1.1, "kind": "ack", "node": "n1", "lane": "routine", "epoch": 1, "floor": 2, "above": [], **HOME},
        {"t": 2.0, "kind": "nonce", "node": "n1", "nonce": "a"},
        {"t": 2.1, "kind": "beat", "region": "eu", "nonces": ["a"]},
        {"t": 3.0, "kind": "loss", "events": ["c2"]},
        ordered(3.0, 1, 10, "c1"),
    ]
    assert check([*history, served(50.0)]) == []
    assert check([*history, served(63.0)])[0].startswith("S6")


def test_as_a_command_it_names_the_files_and_fails_on_the_broken_one(tmp_path):
    for name, lines in (("clean", CLEAN), ("broken", [*CLEAN, served(2.2)])):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    checker = Path(__file__).parents[1] / "history_checker.py"
    command = [sys.executable, "-I", str(checker), str(tmp_path / "clean")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().endswith("clean")
    done = subprocess.run([*command, str(tmp_path / "broken")], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "S1: n1 served acme at 2.2" in done.stdout
