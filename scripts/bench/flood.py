"""A flood on the public API beside the kill switch and KMIP, on a one-command stack of its own; part of `bench portal`.

The flood is an open loop from a process of its own: so many requests a second are due, whatever the answers do, from 50
addresses of the loopback net; a request that finds no idle connection opens one. A quarter each: no credentials; forged
tokens; forged tokens at the revocations' door; the token of somebody who may read, from one address. Meanwhile the
switch is pulled, with a token that was seen before and with a new one for each pull, and a node encrypts and decrypts.
`--handshakes`: the portal speaks TLS, and the flood is of connections that begin a handshake and go away.

Where the machine's cores go says what is measured: governance (CMK, hub, identity provider) is bound to the first core,
nodes and their NATS servers to the others, and so is the flood, which takes what they leave: in production it comes
over the wire from machines of its own. On a machine that others use, run it under `chrt -f 20`: the stack is then
undisturbed, the flood is not. `--loose` binds nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx
import uvloop
from killswitch import Acks, boottime_ms, spread
from msgspec.structs import replace

from openkcm.bus.connection import connect
from openkcm.cli import endpoints, idp, orbital, pki
from openkcm.cli.layout import Layout
from openkcm.cli.load import Load, Task, make_key

ADDRESSES: Final = 50
MOST_OPEN: Final = 5000
PULL_EVERY_S: Final = 0.25
KMIP_RATE: Final = 200
PATH: Final = "/cmk/v1/tenants/acme"


class Connection(asyncio.Protocol):
    """One connection of the flood: idle when its answer is there."""

    def __init__(self, flood: Flood, first: bytes) -> None:
        self.flood, self.first = flood, first

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        self.transport = transport
        transport.write(self.first)

    def data_received(self, data: bytes) -> None:
        """Count the answer."""
        if data.startswith(b"HTTP/1.1 "):
            self.flood.answers[data[9:12].decode()] += 1
            if b"connection: close" not in data[:500].lower():
                self.flood.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another."""
        del exc
        self.flood.open -= 1


class Hello(asyncio.Protocol):
    """One connection of a flood of handshakes: the first flight of one, made beforehand; gone when it is answered."""

    def __init__(self, flood: Flood, first: bytes) -> None:
        self.flood, self.first, self.answer = flood, first, "reset"

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport = transport
        transport.write(self.first)

    def data_received(self, data: bytes) -> None:
        """The portal has signed."""
        del data
        self.answer = "signed"
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it."""
        del exc
        self.flood.answers[self.answer] += 1
        self.flood.open -= 1


def first_flight() -> bytes:
    """Return a client's hello."""
    out = ssl.MemoryBIO()
    side = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="portal")
    with contextlib.suppress(ssl.SSLWantReadError):
        side.do_handshake()
    return out.read()


class Flood:
    """The generator, in its own process."""

    def __init__(self, host: str, port: int, token: str, *, handshakes: bool) -> None:
        self.host, self.port, self.token = host, port, token
        self.hello = first_flight() if handshakes else b""
        self.answers: Counter[str] = Counter()
        self.idle: list[Connection] = []
        self.open = self.sent = self.held = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def request(self) -> bytes:
        """The next one."""
        kind = random.randrange(4)  # noqa: S311 -- a load, no secret
        forged = ".".join(base64.urlsafe_b64encode(os.urandom(n)).decode().rstrip("=") for n in (40, 150, 64))
        lines = {
            0: ("GET / HTTP/1.1", ""),
            1: (f"GET {PATH} HTTP/1.1", f"Authorization: Bearer {forged}\r\n"),
            2: (f"POST {PATH}/revocations HTTP/1.1", f"Authorization: Bearer {forged}\r\nContent-Length: 2\r\n"),
            3: (f"GET {PATH} HTTP/1.1", f"Authorization: Bearer {self.token}\r\n"),
        }[kind]
        return f"{lines[0]}\r\nHost: portal\r\n{lines[1]}\r\n{'{}' if kind == 2 else ''}".encode()

    def send(self) -> None:
        """One is due."""
        request = self.hello or self.request()
        while self.idle:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                connection.transport.write(request)
                self.sent += 1
                return
        if self.open >= MOST_OPEN:
            self.held += 1
            return
        self.open += 1
        self.sent += 1
        task = asyncio.ensure_future(self.connect(request))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def connect(self, request: bytes) -> None:
        """Open one more."""
        source = f"127.0.1.{1 + self.sent % ADDRESSES}"
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: (Hello if self.hello else Connection)(self, request),
                self.host,
                self.port,
                local_addr=(source, 0),
            )
        except OSError:
            self.open -= 1
            self.answers["no connection"] += 1

    async def run(self, rate: float, seconds: float) -> None:
        """Send what is due."""
        began, due = time.monotonic(), 0
        while (now := time.monotonic() - began) < seconds:
            wanted = int(now * rate)
            for _ in range(min(wanted - due, 500)):
                self.send()
            due = wanted
            await asyncio.sleep(0.002)
        took = time.monotonic() - began
        figures = {"due_s": round(due / took), "sent_s": round(self.sent / took), "not_sent": self.held}
        print(json.dumps({**figures, "answers": dict(self.answers)}), flush=True)


async def pulled(e: endpoints.Endpoints, acks: Acks, fresh: Any, seconds: float) -> dict[str, Any]:
    """Pull the switch of one tenant region at a steady pace; from the order to the answer, and to the closed gate."""
    found: dict[str, list[float]] = {
        "known: to the answer": [],
        "new token: to the answer": [],
        "to the closed gate": [],
    }
    refused: Counter[str] = Counter()
    verify: Any = e.cmk.ca or False
    region = "eu-frankfurt"
    node = e.node_of(region).name
    fences: list[tuple[float, int]] = []
    async with httpx.AsyncClient(base_url=e.cmk.url, verify=verify, timeout=20, trust_env=False) as client:
        known = fresh()
        begun, n = time.monotonic(), 0
        while time.monotonic() - begun < seconds:
            token = known if n % 2 == 0 else fresh()
            asked = boottime_ms()
            answer = await client.post(
                f"{PATH}/revocations",
                json={"regions": [region], "reason": "bench"},
                headers={"Authorization": f"Bearer {token}"},
            )
            took = boottime_ms() - asked
            if answer.status_code != 202:
                refused[f"{'known' if n % 2 == 0 else 'new'} {answer.status_code}"] += 1
            else:
                order = answer.json()["revocations"][0]
                if order["recorded"] != "ledger":
                    refused[f"recorded: {order['recorded']}"] += 1
                else:
                    fences.append((asked, order["fence"]))
                found["known: to the answer" if n % 2 == 0 else "new token: to the answer"].append(took)
            n += 1
            await asyncio.sleep(max(0.0, begun + n * PULL_EVERY_S - time.monotonic()))
    await asyncio.sleep(2)
    for asked, fence in fences:
        first = acks.first("acme", node, "critical", fence)
        assert first is not None, f"no ack of {fence}"
        found["to the closed gate"].append(first[1] - asked)
    return {**{f"{name} (ms)": spread(values) for name, values in found.items() if values}, "refused": dict(refused)}


def step_back() -> None:
    """Take what is left of the core: from a bench in the real-time class (`chrt -f`) as an ordinary process."""
    if os.sched_getscheduler(0) == os.SCHED_FIFO:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    else:
        os.nice(19)


def bind(e: endpoints.Endpoints) -> None:
    """Governance to the first core, execution to the others."""
    first, others = {0}, set(range(1, os.cpu_count() or 1)) or {0}
    governance = [e.cmk.pid, e.oidc.pid, e.nats["hub"].pid]
    execution = [server.pid for name, server in e.nats.items() if name != "hub"]
    execution += [pid for node in e.nodes for pid in (node.custodian_pid, *node.worker_pids)]
    for pids, cores in ((governance, first), (execution, others)):
        for pid in pids:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)
    os.sched_setaffinity(0, others)  # and whoever measures, with the flood it starts


def kmip(load: Load) -> dict[str, Any]:
    """Sum up what KMIP clients met."""
    records = load.end()
    times = sorted((r.answered_ns - r.sent_ns) / 1e6 for r in records)
    outcomes = Counter(r.outcome for r in records)
    return {"operations": len(records), "failed": len(records) - outcomes["served"], "outcomes": dict(outcomes),
            "p50_ms": round(times[len(times) // 2], 2), "p99_ms": round(times[int(len(times) * 0.99)], 2)}  # fmt: skip


def secured(state: Path, layout: Layout) -> endpoints.Endpoints:
    """Have a running stack's portal speak TLS: with another configuration, and started anew by its supervisor."""
    e, path, authority = endpoints.load(state), layout.configuration("cmk"), pki.authority(state)
    cert, key = authority.issue("portal")
    url = e.cmk.url.replace("http:", "https:")
    configured = {**json.loads(path.read_text()), "tls": {"cert": str(cert), "key": str(key)}, "origin": url}
    path.write_text(json.dumps(configured))
    os.kill(e.cmk.pid, signal.SIGTERM)
    with httpx.Client(base_url=url, verify=str(authority.ca), trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if client.get("/readyz").status_code == httpx.codes.OK:
                    break
            time.sleep(0.1)
    time.sleep(1)  # its new pid is written down
    return replace(endpoints.load(state), cmk=replace(endpoints.load(state).cmk, url=url, ca=str(authority.ca)))


async def measure(
    state: Path, port_base: int, *, rate: float, seconds: float, loose: bool, handshakes: bool
) -> dict[str, Any]:
    """Quiet first, then in the flood."""
    layout = Layout(state=state, port_base=port_base, nodes_per_region=1)
    e = secured(state, layout) if handshakes else endpoints.load(state)
    if not loose:
        bind(e)
    connection = await connect(orbital.access(state, "cmk", layout.ports.hub), name="bench")
    acks = Acks()
    following = asyncio.ensure_future(acks.follow(connection))

    def fresh() -> str:
        return idp.mint(layout.configuration("idp"), "acme/admin")

    node, workload = e.node_of("us-virginia"), e.workloads["bolt/orders"]
    uid = await asyncio.to_thread(make_key, node.kmip, workload)
    assert uid is not None
    found: dict[str, Any] = {"cores": os.cpu_count(), "bound": not loose, "kmip_rate": KMIP_RATE}
    await pulled(e, acks, fresh, 2)  # nothing is measured cold
    host, port = e.cmk.url.rpartition("/")[2].split(":")
    for name in ("quiet", "in the flood"):
        load = await asyncio.to_thread(Load, Task(kmip=node.kmip, workload=workload, uid=uid, rate=KMIP_RATE))
        child = None
        busy = cpu_s(e.cmk.pid)
        began = time.monotonic()
        if name != "quiet":
            command = [
                sys.executable,
                __file__,
                "--generate",
                str(rate),
                "--seconds",
                str(seconds + 1),
                "--at",
                f"{host}:{port}",
                *(["--handshakes"] if handshakes else []),
            ]
            child = await asyncio.create_subprocess_exec(
                *command, "--token", e.people["acme/auditor"].token, stdout=asyncio.subprocess.PIPE,
                preexec_fn=None if loose else step_back,
            )  # fmt: skip
            await asyncio.sleep(1)
        switch = await pulled(e, acks, fresh, seconds)
        share = (cpu_s(e.cmk.pid) - busy) / (time.monotonic() - began)
        found[name] = {"switch": switch, "kmip": await asyncio.to_thread(kmip, load), "cmk_core": round(share, 2)}
        if child is not None:
            out, _ = await child.communicate()
            found[name]["flood"] = json.loads(out.splitlines()[-1])
    following.cancel()
    await connection.close()
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(port_base: int, *, rate: float, seconds: float, loose: bool, handshakes: bool = False) -> dict[str, Any]:
    """Start a stack, measure, stop it."""
    with tempfile.TemporaryDirectory(prefix="openkcm-flood-") as folder:
        state = Path(folder) / "state"
        command = [sys.executable, "-m", "openkcm.cli.main", "up", "--state", str(state)]
        options = ["--port-base", str(port_base), "--workers", "1"]
        subprocess.run([*command, *options, "--detach"], check=True, stdout=subprocess.DEVNULL)
        try:
            return asyncio.run(
                measure(state, port_base, rate=rate, seconds=seconds, loose=loose, handshakes=handshakes)
            )
        finally:
            subprocess.run([*command, "--stop"], check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=4000)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--port-base", type=int, default=29000)
    parser.add_argument("--loose", action="store_true")
    parser.add_argument("--handshakes", action="store_true")
    parser.add_argument("--generate", type=float)
    parser.add_argument("--at")
    parser.add_argument("--token")
    given = parser.parse_args()
    if given.generate:
        flood = Flood(*given.at.split(":"), given.token, handshakes=given.handshakes)
        uvloop.run(flood.run(given.generate, given.seconds))
    else:
        asked = {"rate": given.rate, "seconds": given.seconds, "loose": given.loose, "handshakes": given.handshakes}
        print(json.dumps(run(given.port_base, **asked), indent=1))
