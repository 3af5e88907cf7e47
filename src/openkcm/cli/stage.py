"""What the demo's steps share: the stack, the people, the KMIP client, figures. Decides nothing."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from openkcm.cli import pki
from openkcm.cli.endpoints import Endpoints, Node, Workload
from openkcm.cli.layout import Layout
from openkcm.cli.load import Load, Task
from openkcm.cli.onboarding import portal_of
from openkcm.client import Client
from openkcm.contract.seal import Signer

__all__ = ["Kmip", "NotSo", "Reply", "Stage"]

LOOK_S: Final = 0.02
WAIT_S: Final = 30.0


class NotSo(Exception):
    """Something that must hold does not."""


class Reply(dict[str, Any]):
    """An answer of the KMIP client: `ok`, or `refused` with `message`, or `lost`."""


class Kmip:
    """The independent KMIP client in its own process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "openkcm.cli.demo_kmip"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def ask(self, workload: Workload, node: Node, operation: str, **arguments: str) -> Reply:
        """Have it do one operation with one certificate at one node.

        Raises:
            NotSo: The client itself ended.
        """
        where = {
            "host": node.kmip.host, "port": node.kmip.port,
            "cert": workload.cert, "key": workload.key, "ca": workload.ca,
        }  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"as": where, "do": operation, "with": arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise NotSo("the KMIP client ended")
        return Reply(json.loads(line))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


class Stage:
    """One play.

    Attributes:
        run: A name of this play's own, so that plays on one ledger do not meet.
        kept: What a step leaves for a later one.
    """

    def __init__(self, layout: Layout, endpoints: Endpoints, *, run: str, backlog: int) -> None:
        self.layout, self.endpoints, self.run, self.backlog = layout, endpoints, run, backlog
        self.kmip = Kmip()
        self.kept: dict[str, Any] = {}
        self._portals: dict[str, Client] = {}
        self._figures: dict[str, Any] = {}
        self._facts: list[str] = []
        self._say: Callable[[str], None] = lambda _: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kmip.close()

    # --- people and machines ----------------------------------------------------------------------------------------

    def portal(self, account: str) -> Client:
        """Return the API as one of the demo's people."""
        if account not in self._portals:
            self._portals[account] = portal_of(self.endpoints, account)
        return self._portals[account]

    def signer(self, account: str) -> Signer:
        """Return a person's own key for approvals: it never leaves the person."""
        return Signer(self.layout.approval_key(account).read_bytes())

    def workload(self, name: str) -> Workload:
        """Return a workload's certificate."""
        return self.endpoints.workloads[name]

    def stranger(self) -> Workload:
        """Return a certificate of the right CA that nobody enrolled."""
        certificate, key = pki.authority(self.layout.state).issue_workload("nobody", "stranger")
        return Workload(cert=str(certificate), key=str(key), ca=str(self.layout.state / "pki" / "ca.pem"))

    def node(self, region: str) -> Node:
        """Return a node of a region."""
        return self.endpoints.node_of(region)

    def load(self, region: str, uid: str, *, rate: int = 200) -> Load:
        """Start constant load of acme's payments in a region."""
        return Load(Task(kmip=self.node(region).kmip, workload=self.workload("acme/payments"), uid=uid, rate=rate))

    def decrypts(self, region: str) -> Reply:
        """Have acme's payments decrypt what step 2 encrypted in that region."""
        old = self.kept["ciphertexts"][region]
        return self.kmip.ask(
            self.workload("acme/payments"), self.node(region), "decrypt", uid=old["uid"], data=old["data"], iv=old["iv"]
        )

    # --- figures and proofs -----------------------------------------------------------------------------------------

    def begin(self, say: Callable[[str], None]) -> None:
        """Start a step."""
        self._say, self._figures, self._facts = say, {}, []

    def finish(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return a step's figures and facts."""
        return self._figures, tuple(self._facts)

    def say(self, what: str) -> None:
        """Tell the watcher what is going on."""
        self._say(what)

    def fact(self, what: str) -> None:
        """Keep a fact that was checked."""
        self._facts.append(what)

    def figure(self, name: str, value: Any) -> None:
        """Keep a figure."""
        self._figures[name] = round(value, 2) if isinstance(value, float) else value

    def must(self, so: object, otherwise: str) -> None:
        """Go on when `so`.

        Raises:
            NotSo: It is not.
        """
        if not so:
            raise NotSo(otherwise)

    def ok(self, reply: Reply, what: str) -> Any:
        """Return what the KMIP server answered.

        Raises:
            NotSo: It refused, or did not answer.
        """
        self.must("ok" in reply, f"{what}: {dict(reply)}")
        return reply["ok"]

    def wait(self, until: Callable[[], Any], what: str, *, timeout_s: float = WAIT_S) -> Any:
        """Ask again and again until the answer says yes; return it.

        Raises:
            NotSo: Not within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            answer = until()
            if answer:
                return answer
            if time.monotonic() > deadline:
                raise NotSo(f"not within {timeout_s:.0f} s: {what}")
            time.sleep(LOOK_S)

    def own_name(self, what: str) -> str:
        """Return a name of this play's own."""
        return f"demo-{self.run}-{what}"

    @property
    def registry(self) -> Path:
        """Governance's tables, for the audit's double entry."""
        return self.layout.state / "cmk" / "registry.sqlite"


def b64(raw: bytes) -> str:
    """Return bytes as base64 text."""
    return base64.b64encode(raw).decode()
