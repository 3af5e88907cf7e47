"""A fleet of an earlier release becomes this one while it serves: `python -m upgrades.rolling REF [tables]`, from tests/.

1. The package of commit REF is built as a wheel and installed, by its own lock, in an environment of its own. Its
   one-command stack comes up with two nodes a region; then its supervisor goes, and what it started stays.
2. KMIP load on both nodes of a region, by our client and by PyKMIP's.
3. As docs/operations/upgrade.md has it: the servers' configuration and the streams, then the first node of each region.
4. Both releases side by side: decrees, keys of either read by the other, a revocation and its restore, acknowledged by both.
5. The second nodes, then the CMK. Nothing that a client asked for may have failed.
6. This release's own stack comes up on what is there: everything is read, verified and served.

With `tables` the earlier release is REF, and the later one REF with one migration more of a node's tables, installed as
well: each node is away while its next process starts, and clients may be refused their connection, but no operation
fails; the earlier release cannot take such a node back, and ends without disturbing it.

Prints one JSON document. Exit status 1: an operation failed, or something is not as it should be.
"""

from __future__ import annotations

import json
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kmip.core import enums

from faults.approve import lift
from openkcm.cli import background, load, orbital, programs, up
from openkcm.cli.layout import Layout
from openkcm.cli.supervisor import Program, end_leftover, start_time
from openkcm.contract.resources import ROOT
from other_tables import OTHER_TABLES
from running_stack import GCM, Stack, until

EU, US = "eu-frankfurt", "us-virginia"
RECONNECT = re.compile(r"^  reconnect: .*$", re.MULTILINE)  # a server takes another one only when it starts
NOBODY = "ConnectionRefused"  # nothing was asked
PLAIN, PAUSE_S, READY_S = b"sixteen byte msg", 0.02, 120
USES = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]


def installed(ref: str, folder: Path, *, tables: str = "", beside: Path | None = None) -> Path:
    """Build and install the package of a commit; return its interpreter.

    Args:
        tables: One migration more of a node's tables.
        beside: The interpreter of another release with the same lock, whose packages are used.
    """
    source, venv = folder / "source", folder / "venv"
    python = venv / "bin" / "python"
    pip = [str(python), "-m", "pip"]
    try:
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "-q", "--detach", str(source), ref], check=True)
        if tables:
            migrations = source / "projections" / "node"
            (migrations / f"{len(list(migrations.glob('*.sql'))) + 1:04}_other.sql").write_text(tables)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        if beside is None:
            needed = ["--require-hashes", "-r", str(source / "requirements.lock")]
            subprocess.run([*pip, "install", "-q", *needed], check=True)
        else:
            packages = Path("lib") / f"python3.{sys.version_info.minor}" / "site-packages"
            (venv / packages / "beside.pth").write_text(str(beside.parents[1] / packages))
            (venv / "bin" / "nats-server").symlink_to(beside.with_name("nats-server"))
        for command in (
            [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)],
            [
                *pip,
                "install",
                "-q",
                "--no-deps",
                "--no-index",
                "--ignore-installed",
                "--find-links",
                str(folder),
                "openkcm",
            ],
        ):
            subprocess.run(command, check=True)
    finally:
        subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(source)], check=False)
    told = subprocess.check_output([python, "-c", "import openkcm; print(openkcm.__file__)"], cwd=folder, text=True)
    assert told.startswith(str(venv)), "the release is the one that is installed"
    return python


class PyKmip(threading.Thread):
    """PyKMIP's client at work: looks whether its connection was ended before it sends, as `load` does."""

    def __init__(self, stack: Stack, number: int) -> None:
        super().__init__(daemon=True)
        self.stack, self.number, self.done, self.failed = stack, number, 0, []
        self.over = threading.Event()

    def run(self) -> None:
        uid, sealed, iv = sealed_at(self.stack, "acme/payments", EU, self.number)
        while not self.over.is_set():
            try:
                with self.stack.kmip("acme/payments", EU, self.number) as client:
                    while not (self.over.wait(PAUSE_S) or select.select([client.proxy.socket], [], [], 0)[0]):
                        assert client.decrypt(sealed, uid, GCM, iv) == PLAIN
                        self.done += 1
            except Exception as bad:
                self.failed.append(f"{time.strftime('%H:%M:%S')} node {self.number}: {bad!r}")
                self.over.wait(0.5)


class Fleet:
    """The processes that an earlier supervisor left behind, and their successors."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        supervisor = background.running(stack.state)
        assert supervisor is not None
        children = json.loads((stack.state / "run" / "up.json").read_text())["children"]
        self.pids: dict[str, int] = {name: pid for name, (pid, _) in children.items()}
        stack.kill(supervisor)
        until(lambda: background.running(stack.state) is None, 10)
        self.layout: Layout = background.saved_layout(stack.state)

    def orbital(self) -> None:
        """Have the servers read what this release permits, and the streams be as it declares."""
        leaves = [self.layout.state / "nats" / r.region / "leaf.conf" for r in self.layout.regions]
        kept = [RECONNECT.search(leaf.read_text()) for leaf in leaves]
        self.layout.write()
        for leaf, line in zip(leaves, kept, strict=True):
            assert line is not None
            leaf.write_text(RECONNECT.sub(line[0], leaf.read_text()))
        for name, ports in self.layout.server_ports.items():
            orbital.reload(self.pids[f"nats-{name}"], ports, times=2 if name == orbital.HUB else 1)
        assert up.apply_streams(self.stack.state, update=True) == 0

    def take_over(self, node: str) -> None:
        """Have this release's process take a node over."""
        before = self.pids[node], start_time(self.pids[node])
        self._start(programs.successor(self.layout, node))
        until(lambda: start_time(before[0]) != before[1], 30, f"the earlier {node} ends")

    def replace_cmk(self) -> None:
        """End the CMK and start this release's."""
        before = self.pids["cmk"], start_time(self.pids["cmk"])
        self.stack.kill(before[0], signal.SIGTERM)
        until(lambda: start_time(before[0]) != before[1], 30, "the earlier CMK ends")
        self._start(programs.cmk(self.layout))

    def _start(self, program: Program) -> None:
        process = program.start()
        self.pids[program.name] = process.pid
        until(lambda: program.ready(process.pid) or process.poll() is not None, READY_S, f"{program.name} is ready")
        assert process.poll() is None, program.log.read_text()[-3000:]

    def end(self) -> None:
        for pid in reversed(self.pids.values()):
            if (started := start_time(pid)) is not None:
                end_leftover(pid, started)


def settled(stack: Stack, tenant: str, region: str, lane: str, *status: str) -> dict[str, Any]:
    """Wait until both nodes of a region have acknowledged all of a lane; return what is shown."""

    def shown() -> dict[str, Any] | None:
        with stack.portal(f"{tenant}/admin") as portal:
            found = portal.get(f"/tenants/{tenant}/regions/{region}/sync")
        good = found[lane]["status"] in status and all(n[lane] >= found[lane]["counter"] for n in found["nodes"])
        return dict(found) if good and len(found["nodes"]) == 2 else None

    return until(shown, 60, f"{tenant} in {region}: {lane} {status}")


def reads(stack: Stack, workload: str, region: str, number: int, sealed: tuple[str, bytes, bytes]) -> bool:
    """Whether a node decrypts what another one encrypted."""
    uid, ciphertext, iv = sealed
    with stack.kmip(workload, region, number) as client:
        return client.decrypt(ciphertext, uid, GCM, iv) == PLAIN


def sealed_at(stack: Stack, workload: str, region: str, number: int) -> tuple[str, bytes, bytes]:
    """Make a key at a node and encrypt with it."""
    with stack.kmip(workload, region, number) as client:
        uid = client.create(enums.CryptographicAlgorithm.AES, 256, cryptographic_usage_mask=USES)
        client.activate(uid)
        return (uid, *client.encrypt(PLAIN, uid, GCM))


def side_by_side(stack: Stack) -> dict[str, Any]:
    """What the two releases owe each other in one region."""
    told: dict[str, Any] = {}
    for tenant, region, system in (("acme", EU, "payments"), ("bolt", US, "orders")):
        workload = f"{tenant}/{system}"
        with stack.portal(f"{tenant}/admin") as portal:
            portal.patch(f"/tenants/{tenant}/regions/{region}/configuration", {"labels": {"releases": "two"}})
        settled(stack, tenant, region, "routine", "InSync")
        for one, other in ((1, 2), (2, 1)):
            sealed = until(lambda n=one, w=workload, r=region: sealed_at(stack, w, r, n), 20)
            until(lambda n=other, w=workload, r=region, s=sealed: reads(stack, w, r, n, s), 20, "the other reads it")
            with stack.kmip(workload, region, other) as client:
                client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, sealed[0])
                client.destroy(sealed[0])
            until(lambda n=one, w=workload, r=region, u=sealed[0]: destroyed(stack, w, r, n, u), 20, "here as there")
    sealed = sealed_at(stack, "bolt/orders", US, 1)
    begun = time.monotonic()
    stack.revoke("bolt", US)
    settled(stack, "bolt", US, "critical", "Revoked")
    told["a revocation acknowledged by both (s)"] = round(time.monotonic() - begun, 2)
    for number in (1, 2):
        try:
            served = reads(stack, "bolt/orders", US, number, sealed)
        except Exception as refused:
            served = "access revoked" not in str(refused)
        assert not served, f"node {number} serves what is revoked"
    lift(stack, "bolt", US)
    for number in (1, 2):
        until(lambda n=number: reads(stack, "bolt/orders", US, n, sealed), 40, "two people lifted it")
    return told


def destroyed(stack: Stack, workload: str, region: str, number: int, uid: str) -> bool:
    """Whether a node knows that an object was destroyed."""
    with stack.kmip(workload, region, number) as client:
        (state,) = client.get_attributes(uid, ["State"])[1]
        return state.attribute_value.value is enums.State.DESTROYED


@contextmanager
def under_load(stack: Stack, told: dict[str, Any], *, tables: bool):
    """Our client and PyKMIP's on both nodes; what failed is told, with other tables but for who found nobody there."""
    who, tasks = stack.endpoints.workloads["acme/payments"], []
    for number in (1, 2):
        kmip = stack.node(EU, number).kmip
        uid = until(lambda k=kmip: load.make_key(k, who), 30)
        tasks.append(load.Task(kmip=kmip, workload=who, uid=uid, connections=2, rate=40, patience_s=60))
    pykmip = [PyKmip(stack, number) for number in (1, 2)]
    with ExitStack() as held:
        ours = [held.enter_context(load.Load(task)) for task in tasks]
        for client in pykmip:
            client.start()
        yield
        by_node = [one.end() for one in ours]
        records = [record for one in by_node for record in one]
        for client in pykmip:
            client.over.set()
        for client in pykmip:
            client.join(60)
    told["operations of our client"] = dict(Counter(r.outcome for r in records))
    told["longest (s)"] = round(max((r.answered_ns - r.sent_ns) / 1e9 for r in records), 2)
    told["operations of PyKMIP's client"] = sum(client.done for client in pykmip)
    bad = [r.detail for r in records if r.outcome != "served"] + [f for c in pykmip for f in c.failed]
    told["failed"] = [b for b in bad if not (tables and NOBODY in b)]
    away = [[r.sent_ns for r in one if NOBODY in r.detail] for one in by_node]
    told["nodes away (s)"] = [round((max(at) - min(at)) / 1e9, 1) for at in away if at]


def not_back(stack: Stack, fleet: Fleet, node: str) -> bool:
    """Whether the earlier release ends without disturbing a node whose tables it does not know."""
    configuration = str(fleet.layout.configuration(node))
    tried = stack.openkcm("node", "--config", configuration, "--take-over")
    newer = "use the newer one" in tried.stdout + tried.stderr
    return tried.returncode != 0 and newer and start_time(fleet.pids[node]) is not None


def played(stack: Stack, *, tables: bool = False) -> dict[str, Any]:
    """The upgrade."""
    told: dict[str, Any] = {}
    fleet = Fleet(stack)
    try:
        with under_load(stack, told, tables=tables):
            time.sleep(1)
            fleet.orbital()
            for region in (EU, US):
                fleet.take_over(f"{region}-1")
            if tables:
                told["no way back"] = not_back(stack, fleet, f"{EU}-1")
            told |= side_by_side(stack)
            for region in (EU, US):
                fleet.take_over(f"{region}-2")
            fleet.replace_cmk()
            with stack.portal("acme/admin") as portal:
                path = f"/tenants/acme/regions/{EU}/configuration"
                until(lambda: portal.patch(path, {"labels": {"release": "this"}}), 30)
            settled(stack, "acme", EU, "routine", "InSync")
            time.sleep(1)
    finally:
        fleet.end()
    return told


def main() -> None:
    """Play it."""
    ref = sys.argv[1] if len(sys.argv) > 1 else "HEAD~60"
    tables = sys.argv[2:] == ["tables"]
    with tempfile.TemporaryDirectory(prefix="openkcm-upgrade-") as name:
        folder = Path(name)
        stack, later = Stack(folder / "state", "--nodes-per-region", "2"), sys.executable
        earlier = installed(ref, folder / "earlier")
        if tables:
            later = str(installed(ref, folder / "later", tables=OTHER_TABLES, beside=earlier))
            programs.COMMAND = (later, *programs.COMMAND[1:])  # type: ignore[misc]
        stack.python = str(earlier)
        stack.up()
        try:
            told = {"from": ref} | played(stack, tables=tables)
            stack.python = later
            stack.up()
            until(lambda: sealed_at(stack, "acme/payments", EU, 2), 30, "this release serves what it found")
            replayed = stack.openkcm("audit", "replay", "--state", str(stack.state), "--json")
            told["read model equal"] = replayed.returncode == 0 and json.loads(replayed.stdout)["equal"]
            told["ledger verified"] = stack.openkcm("audit", "verify", "--state", str(stack.state)).returncode == 0
        finally:
            stack.down()
    print(json.dumps(told, indent=1))
    good = told["read model equal"] and told["ledger verified"] and told.get("no way back", True)
    raise SystemExit(1 if told["failed"] or not good else 0)


if __name__ == "__main__":
    main()
