"""Certificates of the bus end while KMIP load runs: `python -m faults.expired`, from tests/. Takes a minute.

1. A node's ends, then the region's server restarts: the node is alone. It serves until its lease is over, and no longer.
2. A new certificate in the old one's place: it is back, and serves, without a restart.
3. The CMK's ends, then the hub restarts: a revocation waits in the spool.
4. A new certificate: the revocation is obeyed, and two people lift it.

Prints one JSON document. Exit status 1: something of that was not so.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from kmip.pie.exceptions import KmipOperationFailure

from faults.approve import lift
from faults.recorder import Recorder
from openkcm.cli import pki
from own_ca import shorten
from running_stack import Stack, until

EU, TENANT, LEASE_S, BRIEF_S = "eu-frankfurt", "acme", 30, 3


def ends_in(stack: Stack) -> int:
    """Seconds until the node's certificate ends, as its figures have it."""
    shown = urllib.request.urlopen(stack.node(EU).metrics, timeout=5).read().decode()
    found = re.search(r'openkcm_node_certificate_seconds\{certificate="nats"\} (-?\d+)', shown)
    assert found is not None
    return int(found[1])


def refusal(record: Recorder) -> str:
    """Why an operation is refused; empty when it is served."""
    try:
        return "" if record.works() else "another plaintext"
    except KmipOperationFailure as no:
        return str(no)


def ended(stack: Stack, name: str, server: str) -> None:
    """Let a process's certificate end, then take its connection away."""
    directory = stack.state / "pki"
    shorten(directory / f"{name}.pem", directory / "ca.pem", BRIEF_S)
    time.sleep(BRIEF_S + 1)
    stack.kill(stack.endpoints.nats[server].pid)


def renewed(stack: Stack, name: str) -> float:
    """Put a new certificate in place; return when."""
    (stack.state / "pki" / f"{name}.pem").unlink()
    pki.authority(stack.state).issue(name)
    return time.monotonic()


def played(stack: Stack) -> dict[str, Any]:
    """The four steps."""
    told: dict[str, Any] = {}
    path = f"/tenants/{TENANT}/regions/{EU}"
    record = until(lambda: Recorder(stack, TENANT, EU), 60, "a key")
    with stack.portal(f"{TENANT}/admin") as portal:
        portal.patch(f"{path}/configuration", {"lease_s": LEASE_S})
        until(lambda: portal.get(f"{path}/sync")["routine"]["status"] == "InSync", 20)
    ended(stack, f"{EU}-1", EU)  # (1)
    alone, served = time.monotonic(), 0
    assert ends_in(stack) <= 0
    while not (why := refusal(record)):
        assert time.monotonic() - alone < LEASE_S + 5, "it serves past its lease"
        served += 1
        time.sleep(0.2)
    assert "the lease is over" in why
    told["served without governance (s)"] = round(time.monotonic() - alone, 1)
    told["operations meanwhile"] = served
    new = renewed(stack, f"{EU}-1")  # (2)
    until(record.works, 20, "it serves by the new certificate")
    told["served again after the new certificate (s)"] = round(time.monotonic() - new, 1)
    assert ends_in(stack) > 0
    ended(stack, "cmk", "hub")  # (3)
    until(lambda: stack.endpoints.nats["hub"].pid, 20)
    time.sleep(1)
    told["a revocation without a certificate"] = stack.revoke(TENANT, EU)["revocations"][0]["recorded"]
    assert told["a revocation without a certificate"] == "spool"
    new = renewed(stack, "cmk")  # (4)
    until(lambda: "access revoked" in refusal(record), 20, "the revocation is obeyed")
    told["obeyed after the new certificate (s)"] = round(time.monotonic() - new, 1)
    with stack.portal(f"{TENANT}/admin") as portal:
        until(lambda: portal.get(f"{path}/sync")["critical"]["status"] == "Revoked", 30)
    lift(stack, TENANT, EU)
    until(record.works, 30, "two people lifted it")
    return told


def main() -> None:
    """Play it."""
    with tempfile.TemporaryDirectory(prefix="openkcm-expired-") as folder:
        stack = Stack(Path(folder) / "state")
        stack.up()
        try:
            told = played(stack)
        finally:
            stack.down()
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
