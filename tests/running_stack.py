"""A whole one-command stack in a temporary directory, and the hands that tests have on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kmip.core import enums
from kmip.pie.exceptions import KmipOperationFailure

from kmip_client import PykmipClient, connected_as
from loopback import free_run
from openkcm.cli import endpoints
from openkcm.cli.onboarding import portal_of
from openkcm.client import Portal, Problem

GCM = {
    "cryptographic_algorithm": enums.CryptographicAlgorithm.AES,
    "block_cipher_mode": enums.BlockCipherMode.CBC,
    "padding_method": enums.PaddingMethod.PKCS5,
}


class Stack:
    """A running stack. `endpoints` is read anew each time: processes come and go."""

    def __init__(self, state: Path, *options: str) -> None:
        self.state, self.base, self.options = state, free_run(), options
        self.python = sys.executable

    def openkcm(self, *arguments: str, timeout_s: float = 180) -> subprocess.CompletedProcess:
        command = [self.python, "-m", "openkcm.cli.main", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)

    def up(self) -> None:
        done = self.openkcm("up", "--state", str(self.state), "--port-base", str(self.base), "--detach", *self.options)
        assert done.returncode == 0, done.stdout + done.stderr

    def down(self) -> None:
        self.openkcm("up", "--state", str(self.state), "--stop")

    @property
    def endpoints(self) -> endpoints.Endpoints:
        return endpoints.load(self.state)

    def portal(self, person: str) -> Portal:
        return portal_of(self.endpoints, person)

    def node(self, region: str, number: int = 1) -> endpoints.Node:
        return next(n for n in self.endpoints.nodes if n.name == f"{region}-{number}")

    def kmip(self, workload: str, region: str, number: int = 1) -> PykmipClient:
        """PyKMIP's client, connected as a workload."""
        at, who = self.node(region, number).kmip, self.endpoints.workloads[workload]
        return connected_as(at.host, at.port, who.cert, who.key, who.ca)

    def revoke(self, tenant: str = "acme", *regions: str):
        with self.portal(f"{tenant}/admin") as portal:
            return portal.post(f"/tenants/{tenant}/revocations", {"regions": list(regions), "reason": "test"})

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        assert pid > 0, "0 would be the test's own process group"
        os.kill(pid, number)


def until(what, timeout_s: float = 30.0, why: str = ""):
    """Poll until `what()` is true; exceptions of a service on its way back count as not yet."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            found = what()
        except (OSError, Problem, KmipOperationFailure, KeyError, StopIteration) as not_yet:
            found, last = None, not_yet
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {why} {last!r}")


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    running = Stack(tmp_path_factory.mktemp("stack") / "state")
    running.up()
    try:
        yield running
    finally:
        running.down()
