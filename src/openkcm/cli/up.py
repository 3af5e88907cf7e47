"""The one-command stack: starts everything in its order, writes `endpoints.json`, keeps it alive, stops it in order.

Order of the start, and the reverse one of the stop: (1) layout, (2) hub and leaves, (3) streams, (4) the ledger's
opening and the nodes' enrolment, (5) identity provider (and the local KMS), (6) CMK, (7) nodes, (8) on an empty ledger
the demo's tenants, through the API.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console

from openkcm.bus.connection import connect
from openkcm.bus.errors import BusError
from openkcm.bus.ledger import Ledger
from openkcm.cli import endpoints as ends
from openkcm.cli import orbital, pki, programs, show
from openkcm.cli.layout import ACCOUNTS, DEFAULT_PORT_BASE, TENANTS, Layout
from openkcm.cli.onboarding import onboard
from openkcm.cli.portal import Problem, SyncTimeout
from openkcm.cli.supervisor import Child, ChildFailed, Supervisor, end_leftover, start_time

__all__ = ["Options", "apply_streams", "diff_streams", "run", "saved_layout"]

log = logging.getLogger("openkcm.up")
STOP_S: Final = 60.0
FAILED: Final = 1
READY_FD: Final = "OPENKCM_READY_FD"  # set by --detach for its child


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The command line. `port_base` None: as at the last start on this directory, else the default."""

    state: Path
    detach: bool = False
    stop: bool = False
    port_base: int | None = None
    aws: bool = False
    nodes_per_region: int = 1
    workers: int = 0
    strict: bool = False
    empty: bool = False
    demo: bool = False
    as_json: bool = False


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """What a second start on the same directory goes on with: residences are linked to these roots."""

    port_base: int
    aws: bool
    nodes_per_region: int


class AlreadyRunning(Exception):
    """Another stack holds the directory."""


def run(options: Options) -> int:
    """Do what the command line says; return the exit status."""
    if options.stop:
        return stop(options.state)
    if options.detach:
        return detach(options)
    console = Console(stderr=options.as_json)
    _log_to(options.state)
    try:
        with _held(options.state):
            return Stack(options, console).run()
    except (AlreadyRunning, ValueError) as bad:
        console.print(f"[red]{bad}[/]")
    return FAILED


class Stack:
    """One run of the stack."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options, self._console = options, console
        saved = _saved(options.state)
        if saved is not None and options.aws and not saved.aws:
            raise ValueError("this ledger's roots are key files; --aws needs a state directory of its own")
        self.layout = Layout(
            options.state,
            port_base=options.port_base or (saved.port_base if saved else DEFAULT_PORT_BASE),
            nodes_per_region=max(options.nodes_per_region, saved.nodes_per_region if saved else 1),
            workers=options.workers,
            aws=options.aws or bool(saved and saved.aws),
        )
        self._tokens: dict[str, str] = {}
        self._complete = False
        self._supervisor = Supervisor(strict=options.strict, changed=self._changed)

    def run(self) -> int:
        """Start, announce, watch (or play the demo), stop."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._supervisor.ask_to_stop())
        status = FAILED
        try:
            self._start()
            status = self._serve()
        except (ChildFailed, Problem, SyncTimeout, BusError, OSError, ValueError) as bad:
            if not self._supervisor.stopping:
                log.error("%s", bad)  # noqa: TRY400 -- its own words say enough
                self._console.print(f"[red]stopped:[/] {bad}", markup=True, highlight=False)
            else:
                status = 0
        finally:
            self._supervisor.stop_all()
            (self.layout.state / "run" / "up.json").unlink(missing_ok=True)
            log.info("stopped")
        return status

    def _start(self) -> None:
        layout, say = self.layout, self._console.status
        with say("laying out certificates, keys, configurations") as status:
            _end_leftovers(layout.state)
            layout.write()  # (1)
            saved = Saved(port_base=layout.ports.portal, aws=layout.aws, nodes_per_region=len(layout.regions[0].nodes))
            pki.write_private(layout.state / "up.json", msgspec.json.encode(saved))
            status.update("starting the hub and the regions' NATS servers")
            self._supervisor.bring_up(programs.servers(layout))  # (2)
            status.update("comparing the streams with what is declared")
            done = asyncio.run(orbital.apply_streams(layout.state, layout.regions, layout.server_ports))  # (3)
            log.info("streams: %s", "; ".join(done) or "as declared")
            asyncio.run(self._open_ledger())  # (4)
            status.update("starting the identity provider" + (" and the local KMS" if layout.aws else ""))
            self._supervisor.bring_up(programs.before_governance(layout))  # (5)
            self._tokens = programs.mint(layout)
            status.update("starting the CMK")
            self._supervisor.bring_up([programs.cmk(layout)])  # (6)
            status.update("starting the crypto nodes")
            self._supervisor.bring_up([programs.node(layout, node) for node, _ in layout.nodes])  # (7)
            self._complete = True
            self._changed()
            if not (self._options.empty or self._options.demo):
                for change in onboard(layout, self.endpoints()):  # (8)
                    status.update(f"{change.residence}: {change.what} in sync after {change.sync_ms:.0f} ms")
                    log.info("%s: %s in sync after %.0f ms", change.residence, change.what, change.sync_ms)
        self._changed()
        show.table(self._console, layout, self.endpoints())

    async def _open_ledger(self) -> None:
        from openkcm.cli import ceremony

        layout = self.layout
        connection = await connect(orbital.access(layout.state, "trust", layout.ports.hub), name="trust")
        try:
            nodes = [(node, region, layout.node_signer(node).public_key) for node, region in layout.nodes]
            await ceremony.open_ledger(
                Ledger(connection), layout.trust_root, layout.governance_signer.public_key, nodes
            )
        finally:
            await connection.close()

    def _serve(self) -> int:
        if not self._options.demo:
            _announce_ready()
            self._supervisor.watch()
            return 0
        command = [*programs.COMMAND, "demo", "--state", str(self.layout.state)]
        demo = subprocess.Popen([*command, "--json"] if self._options.as_json else command)
        while (status := demo.poll()) is None:
            self._supervisor.watch_once()
            if self._supervisor.stopping:
                demo.terminate()
                demo.wait()
                return FAILED
            time.sleep(0.05)
        return status

    def _changed(self) -> None:
        children = self._supervisor.children
        pids = {name: [c.pid, start_time(c.pid)] for name, c in children.items() if c.pid}
        pki.write_private(
            self.layout.state / "run" / "up.json", msgspec.json.encode({"pid": os.getpid(), "children": pids})
        )
        if self._complete:
            ends.save(self.layout.state, self.endpoints())

    def endpoints(self) -> ends.Endpoints:
        """Return the stack as it is now."""
        layout, children = self.layout, self._supervisor.children
        ca = str(layout.state / "pki" / "ca.pem")
        workloads = {}
        for tenant, demo in TENANTS.items():
            for system in demo.systems:
                own = layout.state / "pki" / "workloads" / f"{tenant}-{system}.pem"
                workloads[f"{tenant}/{system}"] = ends.Workload(cert=str(own), key=str(own.with_suffix(".key")), ca=ca)
        return ends.Endpoints(
            cmk=ends.Cmk(url=layout.portal_url, ca=None, pid=children["cmk"].pid),
            oidc=ends.Oidc(issuer=layout.issuer, pid=children["idp"].pid),
            people={
                name: ends.Person(
                    roles=account.roles,
                    token=self._tokens[name],
                    approval_key=str(layout.approval_key(name)) if account.approves else None,
                )
                for name, account in ACCOUNTS.items()
            },
            nats={
                name: ends.Nats(
                    url=f"tls://{orbital.HOST}:{ports.client}",
                    pid=children[f"nats-{name}"].pid,
                    store=str(layout.state / "nats" / name / "store"),
                )
                for name, ports in layout.server_ports.items()
            },
            nodes=tuple(self._node(index, *node) for index, node in enumerate(layout.nodes)),
            workloads=workloads,
            roots=self._roots(),
            log_dir=str(layout.logs),
        )

    def _node(self, index: int, node: str, region: str) -> ends.Node:
        child: Child = self._supervisor.children[node]
        facts: dict[str, Any] = child.facts
        ports = self.layout.ports
        return ends.Node(
            name=node,
            region=region,
            custodian_pid=facts.get("custodian_pid", child.pid),
            worker_pids=tuple(facts.get("worker_pids", ())),
            kmip=ends.Kmip(**facts.get("kmip", {"host": orbital.HOST, "port": ports.kmip(index)})),
            sqlite=str(self.layout.node_dir(node) / "node.sqlite"),
            metrics=facts.get("metrics", f"http://{orbital.HOST}:{ports.metrics(index)}/metrics"),
        )

    def _roots(self) -> dict[str, ends.Root]:
        from openkcm.cli.customer import customer_of

        if self._options.empty and not self.layout.aws and not any((self.layout.state / "roots").iterdir()):
            return {}
        return {
            f"{tenant}/{region}": customer_of(self.layout, tenant, region).make()
            for tenant, demo in TENANTS.items()
            for region in demo.regions
        }


# --- the running stack of a directory -------------------------------------------------------------------------------


def saved_layout(state: Path) -> Layout:
    """Return the layout of the last start on a directory.

    Raises:
        FileNotFoundError: No stack was ever started there.
    """
    saved = _saved(state)
    if saved is None:
        raise FileNotFoundError(f"{state}: no stack was started with this directory")
    return Layout(state, port_base=saved.port_base, aws=saved.aws, nodes_per_region=saved.nodes_per_region)


def _saved(state: Path) -> Saved | None:
    path = state / "up.json"
    return msgspec.json.decode(path.read_bytes(), type=Saved) if path.exists() else None


def stop(state: Path) -> int:
    """Stop the stack that runs on `state`, and wait until it has stopped."""
    running = _running(state)
    if running is None:
        print(f"no stack runs on {state}")
        return 0
    os.kill(running, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while start_time(running) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    if start_time(running) is not None:
        print(f"the stack on {state} (pid {running}) did not stop within {STOP_S:.0f} s", file=sys.stderr)
        return FAILED
    print(f"stopped the stack on {state}")
    return 0


def detach(options: Options) -> int:
    """Start the stack in a session of its own; return when it is ready or has failed."""
    read_end, write_end = os.pipe()
    flags = ["--state", str(options.state), "--nodes-per-region", str(options.nodes_per_region)]
    flags += ["--workers", str(options.workers)]
    flags += [f"--port-base={options.port_base}"] if options.port_base is not None else []
    flags += [f"--{name}" for name in ("aws", "strict", "empty") if getattr(options, name)]
    options.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    (options.state / "logs").mkdir(exist_ok=True, mode=0o700)
    output = options.state / "logs" / "console.log"
    with output.open("wb") as console:
        child = subprocess.Popen(
            [*programs.COMMAND, "up", *flags],
            env={**os.environ, READY_FD: str(write_end)},
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            pass_fds=(write_end,),
            start_new_session=True,
        )
    os.close(write_end)
    with os.fdopen(read_end, "rb") as ready:
        told = ready.read()  # ends when the child says so, or dies
    if told:
        print(output.read_text(), end="")
        print(f"running in the background, pid {child.pid}; stop it with: scripts/up --stop --state {options.state}")
        return 0
    child.wait()
    print(output.read_text(), end="", file=sys.stderr)
    return FAILED


def _announce_ready() -> None:
    inherited = os.environ.pop(READY_FD, None)
    if inherited is not None:
        os.write(int(inherited), b"ready")
        os.close(int(inherited))


def _running(state: Path) -> int | None:
    """The pid of the stack that holds the directory, None when none does."""
    lock = state / "run" / "up.lock"
    if not lock.exists():
        return None
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return int(lock.read_text() or 0) or None
    return None


@contextlib.contextmanager
def _held(state: Path) -> Iterator[None]:
    """Hold the directory: one stack at a time. The kernel lets go with the process, however it ends."""
    (state / "run").mkdir(parents=True, exist_ok=True, mode=0o700)
    with (state / "run" / "up.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as bad:
            raise AlreadyRunning(f"a stack runs on {state} already: scripts/up --stop --state {state}") from bad
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _end_leftovers(state: Path) -> None:
    """End the children of a supervisor that was itself killed; the lock says that it is gone."""
    path = state / "run" / "up.json"
    if not path.exists():
        return
    for name, (pid, started) in msgspec.json.decode(path.read_bytes()).get("children", {}).items():
        if started is not None and end_leftover(pid, started):
            log.warning("ended %s (pid %d), left over from a stack that was killed", name, pid)


def _log_to(state: Path) -> None:
    logs = state / "logs"
    logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = logging.FileHandler(logs / "up.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(logging.WARNING)
    screen.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler, screen])


# --- streams --------------------------------------------------------------------------------------------------------


def apply_streams(state: Path, *, update: bool) -> int:
    """Create what is declared and missing on the running servers; return the exit status."""
    layout = saved_layout(state)
    try:
        done = asyncio.run(orbital.apply_streams(layout.state, layout.regions, layout.server_ports, update=update))
    except BusError as bad:
        print(f"not applied: {bad}", file=sys.stderr)
        return FAILED
    print("\n".join(done) or "all as declared")
    return 0


def diff_streams(state: Path) -> int:
    """Print every difference between live and declared; return the exit status."""
    layout = saved_layout(state)
    try:
        found = asyncio.run(orbital.diff_streams(layout.state, layout.regions, layout.server_ports))
    except BusError as bad:
        print(f"not compared: {bad}", file=sys.stderr)
        return FAILED
    print("\n".join(found) or "all as declared")
    return FAILED if found else 0
