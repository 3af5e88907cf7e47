"""Brings a running stack to a changed fleet: new regions and nodes, removed ones. Restarts nothing that stays.

`region` and `node` commands write the wanted fleet into the state directory and ask; the supervising process does it
(it alone starts and ends processes) and writes the outcome where the asking command waits for it.

The order: (1) what leaves is removed by decree, then ended; (2) hub and leaves read their configuration again, new
leaves start; (3) streams and consumers; (4) once the mirrors of new regions hold all that the
hub has for them, the trust root enrols, and the CMK reads its regions; (5) new nodes start; (6) nodes whose restart
was asked for are taken over by new processes.

Certificates are renewed before (2), by the servers' reload and the nodes' next processes; who is connected stays so and
reads the files anew for its next handshake. A new CA is trusted everywhere before anybody shows a certificate of it.
A step that fails leaves what was done before it; asked again, the rest is done.

Governance alone can be stopped and started as well: nobody but a restore may write while the ledger is made anew.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from openkcm.bus import declare
from openkcm.bus.connection import connect
from openkcm.bus.ledger import Ledger
from openkcm.cli import background, ceremony, mirrors, orbital, pki, programs
from openkcm.cli.flow import wait_until_flowing
from openkcm.cli.layout import Layout
from openkcm.cli.orbital import HUB
from openkcm.cli.supervisor import Supervisor
from openkcm.contract.fleet import RegionConfiguration

__all__ = [
    "NotReconciled", "Outcome", "ask", "bring_to", "enrol", "governance", "hold", "keep_outcome", "want", "with_trust",
]  # fmt: skip

WAIT_S: Final = 120.0
LOOK_S: Final = 0.1
OUTCOME: Final = "reconciled.json"
WANTED: Final = "wanted.json"
HELD: Final = "governance"
#: What can be asked for of the certificates, in the order in which it is done: word -> how, and what is said of it.
RENEWALS: Final[dict[str, tuple[Callable[[Path], None], str]]] = {
    "succeed": (pki.succeed, "a new CA is trusted beside the earlier one"),
    "renew": (pki.renew, "servers and processes have new certificates"),
    "retire": (pki.retire, "the earlier CA is trusted no more"),
}


class NotReconciled(Exception):
    """The running stack did not come to the wanted fleet; the message says at what it failed."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the last request. `number` counts them; `error` is None when all was done."""

    number: int
    done: tuple[str, ...] = ()
    error: str | None = None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for beside the fleet: RENEWALS to do, and nodes to be taken over by new processes."""

    renewals: Sequence[str] = ()
    restarts: Sequence[str] = ()


def ask(state: Path) -> Outcome | None:
    """Have the running stack come to its changed fleet; return the outcome, None when no stack runs there.

    Raises:
        NotReconciled: It failed, or did not finish within WAIT_S.
    """
    running = background.running(state)
    if running is None:
        return None
    before = _outcome(state).number
    os.kill(running, signal.SIGHUP)
    deadline = time.monotonic() + WAIT_S
    while (outcome := _outcome(state)).number == before:
        if time.monotonic() > deadline or background.running(state) != running:
            raise NotReconciled(f"the stack did not finish within {WAIT_S:.0f} s: see {state}/logs/up.log")
        time.sleep(LOOK_S)
    if outcome.error is not None:
        raise NotReconciled(outcome.error)
    return outcome


def keep_outcome(state: Path, *, done: list[str], error: str | None) -> None:
    """Write the outcome of a request for whoever asked."""
    outcome = Outcome(number=_outcome(state).number + 1, done=tuple(done), error=error)
    pki.write_private(state / "run" / OUTCOME, msgspec.json.encode(outcome))


def bring_to(wanted: Layout, present: Layout, supervisor: Supervisor) -> list[str]:
    """Bring the running stack from `present` to `wanted`; return what was done, a line each.

    Raises:
        ChildFailed, BusError, OSError, RuntimeError, ValueError: A step failed; what was done before it stays.
    """
    asked = _taken(wanted.state)
    old, new = dict(present.nodes), dict(wanted.nodes)
    old_regions, regions = {r.region: r for r in present.regions}, {r.region: r for r in wanted.regions}
    gone = [r for name, r in old_regions.items() if name not in regions]
    kept = [r for name, r in regions.items() if name in old_regions]
    leaving = [(node, region) for node, region in old.items() if node not in new]
    done = with_trust(present, lambda ledger: ceremony.remove_nodes(ledger, present.trust_root, leaving))
    for name in (*(node for node, _ in leaving), *(f"nats-{region.region}" for region in gone)):  # (1)
        supervisor.end(name)
        done.append(f"stopped {name}")
    done += asyncio.run(_drop_consumers(wanted, present, kept, gone))
    ports = wanted.server_ports
    there = [HUB, *(r.region for r in kept)]
    for word in asked.renewals:
        how, said = RENEWALS[word]
        how(wanted.state)
        wanted.write()
        _reload(supervisor, ports, there)
        done.append(said)
    wanted.write()  # (2)
    changed = [r.region for r in kept if r.nodes != old_regions[r.region].nodes]
    _reload(supervisor, ports, [HUB, *changed])
    servers = [p for p in programs.servers(wanted) if p.name not in supervisor.children]
    supervisor.bring_up(servers)
    grown: tuple[declare.Part, ...] = ("reports",)  # it sources from each region
    done += asyncio.run(orbital.apply_streams(wanted.state, wanted.regions, ports, update=grown))  # (3)
    done += enrol(wanted, [name for name in regions if name not in old_regions])  # (4)
    os.kill(supervisor.children["cmk"].pid, signal.SIGHUP)
    nodes = [programs.node(wanted, node) for node in new if node not in old]
    supervisor.bring_up(nodes)  # (5)
    asyncio.run(wait_until_flowing(wanted))
    for name in asked.restarts:  # (6)
        supervisor.replace(programs.successor(wanted, name))
        done.append(f"{name} was taken over by a new process")
    return done + [f"started {program.name}" for program in (*servers, *nodes)]


def hold(state: Path, word: Literal["stop", "start"]) -> None:
    """Have the running stack stop governance, or start it again, and nothing else.

    Raises:
        NotReconciled: It has not.
    """
    pki.write_private(state / "run" / HELD, word.encode())
    ask(state)


def governance(layout: Layout, supervisor: Supervisor) -> list[str]:
    """Do what `hold` asked for; nothing when it did not ask.

    Raises:
        ChildFailed: Governance did not start; it is tried again as any dead child is.
    """
    path = layout.state / "run" / HELD
    if not path.exists():
        return []
    word = path.read_text()
    path.unlink()
    if word == "stop":
        supervisor.end("cmk")
    elif "cmk" not in supervisor.children:
        supervisor.bring_up([programs.cmk(layout)])
    return [f"governance: {word}"]


def enrol(layout: Layout, regions: Sequence[str]) -> list[str]:
    """Open the ledger if nobody has, and enrol every node; before that, have the mirrors of new regions whole.

    Raises:
        BusError: A mirror is not whole, or the ledger does not take it.
        ValueError: A node has the name of a removed one.
    """
    done = asyncio.run(mirrors.make_whole(layout, regions)) if regions else []
    nodes = [(node, region, layout.node_signer(node).public_key) for node, region in layout.nodes]
    cmk = layout.governance_signer.public_key
    return done + with_trust(layout, lambda ledger: ceremony.open_ledger(ledger, layout.trust_root, cmk, nodes))


def want(state: Path, *, restarts: Sequence[str] = (), renewals: Sequence[str] = ()) -> None:
    """Have this of RENEWALS be done, then these nodes be taken over, in this order, at the next `ask`."""
    pki.write_private(state / "run" / WANTED, msgspec.json.encode(Wanted(restarts=restarts, renewals=renewals)))


def _reload(supervisor: Supervisor, ports: Mapping[str, orbital.ServerPorts], names: Sequence[str]) -> None:
    for name in names:
        orbital.reload(supervisor.children[f"nats-{name}"].pid, ports[name], times=2 if name == HUB else 1)


def _taken(state: Path) -> Wanted:
    """Return what was asked for, once."""
    path = state / "run" / WANTED
    found = msgspec.json.decode(path.read_bytes(), type=Wanted) if path.exists() else Wanted()
    path.unlink(missing_ok=True)
    return found


def with_trust(layout: Layout, then: Callable[[Ledger], Awaitable[list[str]]]) -> list[str]:
    """Do something with the trust root's connection to the hub.

    Raises:
        BusError: As `then` says, or the hub does not answer.
    """

    async def work() -> list[str]:
        connection = await connect(orbital.access(layout.state, "trust", layout.ports.hub), name="trust")
        try:
            return await then(Ledger(connection))
        finally:
            await connection.close()

    return asyncio.run(work())


async def _drop_consumers(
    wanted: Layout, present: Layout, kept: list[RegionConfiguration], gone: list[RegionConfiguration]
) -> list[str]:
    """Delete the consumers of what is no more: on the leaves that stay, and on the hub."""
    lists = [(f"{r.region}-admin", r.region, declare.declared("region", [present.region(r.region)]),
              declare.declared("region", [r])) for r in kept]  # fmt: skip
    if gone:
        fleet = declare.declared("ledger", wanted.regions)
        lists.append(("ledger-admin", HUB, declare.declared("ledger", [*wanted.regions, *gone]), fleet))
    done: list[str] = []
    for user, server, before, after in lists:
        names = {str(item) for item in after}
        stale = [item for item in before if str(item) not in names]
        if not stale:
            continue
        connection = await connect(orbital.access(wanted.state, user, wanted.server_ports[server]), name=user)
        try:
            done += [f"{server}: {item}" for item in await declare.drop_consumers(connection, stale)]
        finally:
            await connection.close()
    return done


def _outcome(state: Path) -> Outcome:
    path = state / "run" / OUTCOME
    return msgspec.json.decode(path.read_bytes(), type=Outcome) if path.exists() else Outcome(number=0)
