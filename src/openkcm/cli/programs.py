"""Which processes the one-command stack consists of, and how each says that it is ready. Starts them, no more."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from openkcm.cli import orbital
from openkcm.cli.background import COMMAND
from openkcm.cli.layout import ACCOUNTS, Layout
from openkcm.cli.ports import HOST
from openkcm.cli.supervisor import Program

__all__ = ["before_governance", "cmk", "mint", "node", "servers", "successor"]


def servers(layout: Layout) -> list[Program]:
    """The hub and each region's NATS server."""
    return [_server(layout, name) for name in layout.server_ports]


def before_governance(layout: Layout) -> list[Program]:
    """The identity provider, and with `--aws` the customers' KMS."""
    return [_process(layout, "idp", "idp"), *([_ministack(layout)] if layout.aws else [])]


def cmk(layout: Layout) -> Program:
    """Governance."""
    return _process(layout, "cmk", "cmk")


def node(layout: Layout, name: str) -> Program:
    """A crypto node."""
    return _process(layout, "node", name)


def successor(layout: Layout, name: str) -> Program:
    """A crypto node that gets ready beside the one that runs, and then takes over."""
    return _process(layout, "node", name, "--take-over")


def mint(layout: Layout) -> dict[str, str]:
    """Return a fresh token for each demo account."""
    from openkcm.cli import idp

    return {name: idp.mint(layout.configuration("idp"), name) for name in ACCOUNTS}


def _process(layout: Layout, command: str, name: str, *more: str) -> Program:
    configuration, ready, log = layout.configuration(name), layout.ready_file(name), layout.log(name)

    def start() -> subprocess.Popen[bytes]:
        if not more:  # a successor's predecessor still serves
            ready.unlink(missing_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                [*COMMAND, command, "--config", str(configuration), "--ready", str(ready), *more],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops its children in order
            )

    return Program(name=name, start=start, ready=_said_in(ready), log=log)


def _said_in(ready: Path) -> Callable[[int], dict[str, Any] | None]:
    """Read what the process wrote; a file of an earlier process says nothing about this one."""

    def said(pid: int) -> dict[str, Any] | None:
        try:
            facts: dict[str, Any] = msgspec.json.decode(ready.read_bytes())
        except (OSError, msgspec.DecodeError):
            return None
        return facts if facts.get("pid") == pid else None

    return said


def _server(layout: Layout, name: str) -> Program:
    ports = layout.server_ports[name]
    healthy: set[int] = set()

    def ready(pid: int) -> dict[str, Any] | None:
        if pid not in healthy and not _answers(ports.monitor, "/healthz"):
            return None
        healthy.add(pid)  # asked until it is well; after that its end is what matters
        return {}

    return Program(
        name=f"nats-{name}",
        start=lambda: orbital.start(layout.state, name, ports).process,
        ready=ready,
        log=layout.state / "nats" / name / "server.log",
        store=layout.state / "nats" / name / "store",
    )


def _ministack(layout: Layout) -> Program:
    from openkcm.cli.ministack import NODE_USER, MiniStack

    directory = layout.state / "aws"

    def start() -> subprocess.Popen[bytes]:
        stack = MiniStack(directory, layout.ports.ministack)
        if not layout.aws_credentials.exists():
            stack.create_node_user(NODE_USER, layout.aws_credentials)
        return stack._server  # noqa: SLF001 -- the supervisor stops it

    return Program(
        name="aws",
        start=start,
        ready=lambda _: {} if _answers(layout.ports.ministack, "/_ministack/health") else None,
        log=directory / "server.log",
    )


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
