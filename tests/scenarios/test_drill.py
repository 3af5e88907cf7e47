"""The rehearsal of the kill switch: it says what happened, leaves it in the ledger, and fails when a node does not obey."""

from __future__ import annotations

import base64
import json
import os
import signal

from openkcm.contract import envelope
from running_stack import Stack, stack

__all__ = ["stack"]


def drill(stack: Stack, *options: str):
    return stack.openkcm("drill", "--state", str(stack.state), *options)


def test_a_drill_revokes_restores_and_leaves_its_name_in_the_ledger(stack):
    done = drill(stack, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert {node["node"] for node in said["nodes"]} == {node.name for node in stack.endpoints.nodes}
    for node in said["nodes"]:
        assert node["served_before"] > 0
        assert node["refused"] > 0
        assert node["closed_ms"] < node["refused_ms"]
    with stack.portal("canary/admin") as admin:
        events = admin.get("/ledger", tenant="canary")["value"]
        read = [envelope.decode(base64.b64decode(e["body"])) for e in events]
        assert {said["drill"]} == {json.loads(bytes(e.data))["reason"] for e in read if e.tag == "AccessRevoked.1"}
        assert sum(e.tag.startswith("RevocationConfirmed.") for e in read) == 2
        assert sum(e.tag.startswith("AccessRestored.") for e in read) == 2
        assert {home["state"] for home in admin.get("/tenants/canary/regions")["value"]} == {"Active"}
    assert stack.openkcm("audit", "verify", "--state", str(stack.state)).returncode == 0


def test_a_drill_fails_when_a_node_does_not_obey_and_the_next_one_finds_the_canary_well_again(stack):
    hung = stack.node("us-virginia").custodian_pid
    os.kill(hung, signal.SIGSTOP)
    try:
        done = drill(stack)
        assert done.returncode == 1
        assert "us-virginia" in done.stdout
    finally:
        os.kill(hung, signal.SIGCONT)
    again = drill(stack)
    assert again.returncode == 0, again.stdout + again.stderr
