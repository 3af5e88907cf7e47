"""The one-command stack: starts everything in its order, writes `endpoints.json`, keeps it alive, stops it in order.

Order of the start, and the reverse one of the stop: (1) layout, (2) hub and leaves, (3) streams, (4) the ledger's
opening and the nodes' enrolment, (5) identity provider (and the local KMS), (6) CMK, (7) nodes, (8) on an empty ledger
the demo's tenants, through the API.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console

from openkcm.bus import declare
from openkcm.bus.errors import BusError
from openkcm.cli import background, orbital, pki, ports, programs, reconcile, show
from openkcm.cli import endpoints as ends
from openkcm.cli import ledger as keeper
from openkcm.cli.flow import wait_until_flowing
from openkcm.cli.layout import ACCOUNTS, TENANTS, Layout
from openkcm.cli.mender import Mender
from openkcm.cli.onboarding import onboard
from openkcm.cli.supervisor import Child, ChildFailed, Supervisor, start_time
from openkcm.client import Problem, SyncTimeout

__all__ = ["Options", "apply_streams", "diff_streams", "run"]

log = logging.getLogger("openkcm.up")
FAILED: Final = 1


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The command line. `port_base` None: as at the last start on this directory, else the default."""

    state: Path
    detach: bool = False
    stop: bool = False
    port_base: int | None = None
    aws: bool = False
    pkcs11: bool = False
    nodes_per_region: int = 1
    workers: int = 0
    strict: bool = False
    empty: bool = False
    demo: bool = False
    as_json: bool = False


def run(options: Options) -> int:
    """Do what the command line says; return the exit status."""
    if options.stop:
        return background.stop(options.state)
    if options.detach:
        return background.detach(options.state, _flags(options))
    console = Console(stderr=options.as_json)
    background.log_to(options.state)
    try:
        with background.held(options.state):
            return Stack(options, console).run()
    except (background.AlreadyRunning, ValueError) as bad:
        console.print(f"[red]{bad}[/]")
    return FAILED


def _flags(options: Options) -> list[str]:
    flags = ["--nodes-per-region", str(options.nodes_per_region), "--workers", str(options.workers)]
    flags += [f"--port-base={options.port_base}"] if options.port_base is not None else []
    return flags + [f"--{name}" for name in ("aws", "pkcs11", "strict", "empty") if getattr(options, name)]


class Stack:
    """One run of the stack."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options, self._console = options, console
        saved = background.saved(options.state)
        if options.aws and options.pkcs11:
            raise ValueError("--aws or --pkcs11, not both: a stack has one kind of root")
        if saved is not None and (options.aws > saved.aws or options.pkcs11 > saved.pkcs11):
            raise ValueError(
                "this ledger's roots are of another kind; --aws and --pkcs11 need a state directory of their own"
            )
        self._saved = background.Saved(
            port_base=options.port_base or (saved.port_base if saved else ports.DEFAULT_BASE),
            nodes_per_region=max(options.nodes_per_region, saved.nodes_per_region if saved else 1),
            aws=options.aws or bool(saved and saved.aws),
            pkcs11=options.pkcs11 or bool(saved and saved.pkcs11),
        )
        self.layout = self._layout()
        self._asked = False
        self._tokens: dict[str, str] = {}
        self._roots: dict[str, ends.Root] = {}
        self._complete = False
        self._mender = Mender(lambda: self.layout)
        self._supervisor = Supervisor(strict=options.strict, changed=self._changed)

    def _layout(self) -> Layout:
        """Return what the state directory and the command line ask for now."""
        last = self._saved
        return Layout(
            self._options.state, port_base=last.port_base, nodes_per_region=last.nodes_per_region,
            workers=self._options.workers, aws=last.aws, pkcs11=last.pkcs11,
        )  # fmt: skip

    def _ask(self) -> None:
        self._asked = True

    def run(self) -> int:
        """Start, announce, watch (or play the demo), stop. SIGHUP: come to the fleet that is asked for."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._supervisor.ask_to_stop())
        signal.signal(signal.SIGHUP, lambda *_: self._ask())
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
            background.end_leftovers(layout.state)
            if taken := layout.taken_ports():
                raise ValueError(f"ports in use: {', '.join(taken)}; choose others with --port-base N")
            layout.write()  # (1)
            pki.write_private(layout.state / "up.json", msgspec.json.encode(self._saved))
            status.update("starting the hub and the regions' NATS servers")
            self._supervisor.bring_up(programs.servers(layout))  # (2)
            status.update("comparing the hub's ledger with what others know of it")
            asyncio.run(keeper.check_not_lost(layout))
            status.update("comparing the streams with what is declared")
            done = asyncio.run(orbital.apply_streams(layout.state, layout.regions, layout.server_ports))  # (3)
            log.info("streams: %s", "; ".join(done) or "as declared")
            status.update("waiting until the mirrors hold all that the hub has")
            log.info(
                "ledger: %s", "; ".join(reconcile.enrol(layout, [r.region for r in layout.regions])) or "as it was"
            )  # (4)
            status.update("starting the identity provider" + (" and the local KMS" if layout.aws else ""))
            self._supervisor.bring_up(programs.before_governance(layout))  # (5)
            self._tokens, self._roots = programs.mint(layout), self._make_roots()
            status.update("starting the CMK")
            self._supervisor.bring_up([programs.cmk(layout)])  # (6)
            status.update("starting the crypto nodes")
            self._supervisor.bring_up([programs.node(layout, node) for node, _ in layout.nodes])  # (7)
            status.update("waiting until every mirror hears from its origin")
            asyncio.run(wait_until_flowing(layout))
            self._complete = True
            self._changed()
            self._mender.start()
            if not (self._options.empty or self._options.demo):
                for change in onboard(layout, self.endpoints()):  # (8)
                    status.update(f"{change.residence}: {change.what} in sync after {change.sync_ms:.0f} ms")
                    log.info("%s: %s in sync after %.0f ms", change.residence, change.what, change.sync_ms)
        self._changed()
        show.table(self._console, layout, self.endpoints())

    def _serve(self) -> int:
        if not self._options.demo:
            background.announce_ready()
            self._supervisor.watch(self._reconcile)
            return 0
        command = [*background.COMMAND, "demo", "--state", str(self.layout.state)]
        demo = subprocess.Popen([*command, "--json"] if self._options.as_json else command)
        while (status := demo.poll()) is None:
            self._supervisor.watch_once()
            if self._supervisor.stopping:
                demo.terminate()
                demo.wait()
                return FAILED
            time.sleep(0.05)
        return status

    def _reconcile(self) -> None:
        """Come to the fleet that the state directory asks for, when somebody asked."""
        if not self._asked:
            return
        self._asked = False
        done, error = [], None
        try:
            done = reconcile.governance(self.layout, self._supervisor)
            if not done:
                wanted = self._layout()
                with self._mender.at_work:
                    done = reconcile.bring_to(wanted, self.layout, self._supervisor)
                self.layout = wanted
            self._changed()
        except (ChildFailed, BusError, OSError, RuntimeError, ValueError) as bad:
            error = str(bad)
            log.error("the fleet was not changed as asked: %s", bad)  # noqa: TRY400 -- its own words say enough
        log.info("fleet: %s", "; ".join(done) or "unchanged")
        reconcile.keep_outcome(self.layout.state, done=done, error=error)

    def _changed(self) -> None:
        self._mender.runs([child.pid for child in self._supervisor.children.values()])
        try:
            self._write_down()
        except OSError as full:  # what runs goes on; a later change writes what is so by then
            log.error("what runs could not be written down: %s", full)  # noqa: TRY400 -- its own words say enough

    def _write_down(self) -> None:
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
        workloads = {
            f"{tenant}/{system}": layout.workload(tenant, system)
            for tenant, demo in TENANTS.items()
            for system in demo.systems
        }
        return ends.Endpoints(
            cmk=ends.Cmk(url=layout.portal_url, ca=None, pid=children["cmk"].pid if "cmk" in children else 0),
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
                if f"nats-{name}" in children
            },
            nodes=tuple(self._node(*node) for node in layout.nodes if node[0] in children),
            workloads=workloads,
            roots=self._roots,
            log_dir=str(layout.logs),
        )

    def _node(self, node: str, region: str) -> ends.Node:
        child: Child = self._supervisor.children[node]
        facts: dict[str, Any] = child.facts
        ports, place = self.layout.ports, self.layout.place(node)
        return ends.Node(
            name=node,
            region=region,
            custodian_pid=facts.get("custodian_pid", child.pid),
            worker_pids=tuple(facts.get("worker_pids", ())),
            kmip=ends.Kmip(**facts.get("kmip", {"host": orbital.HOST, "port": ports.kmip(place)})),
            sqlite=str(self.layout.node_dir(node) / "node.sqlite"),
            metrics=facts.get("metrics", f"http://{orbital.HOST}:{ports.metrics(place)}/metrics"),
        )

    def _make_roots(self) -> dict[str, ends.Root]:
        """Have the customers make their keys, once; a KMS that is away later says nothing about the stack."""
        from openkcm.cli.customer import customer_of

        if self._options.empty:
            return {}
        return {
            f"{tenant}/{region}": customer_of(self.layout, tenant, region).make()
            for tenant, demo in TENANTS.items()
            for region in demo.regions
        }


# --- streams --------------------------------------------------------------------------------------------------------


def apply_streams(state: Path, *, update: bool) -> int:
    """Create what is declared and missing on the running servers; return the exit status."""
    layout = background.saved_layout(state)
    try:
        parts = declare.PARTS if update else ()
        done = asyncio.run(orbital.apply_streams(layout.state, layout.regions, layout.server_ports, update=parts))
    except BusError as bad:
        print(f"not applied: {bad}", file=sys.stderr)
        return FAILED
    print("\n".join(done) or "all as declared")
    return 0


def diff_streams(state: Path) -> int:
    """Print every difference between live and declared; return the exit status."""
    layout = background.saved_layout(state)
    try:
        found = asyncio.run(orbital.diff_streams(layout.state, layout.regions, layout.server_ports))
    except BusError as bad:
        print(f"not compared: {bad}", file=sys.stderr)
        return FAILED
    print("\n".join(found) or "all as declared")
    return FAILED if found else 0
