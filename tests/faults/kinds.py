"""The faults that are played on a running stack, as one table. Each is begun, and ended by whoever began it."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from faults.apart import Apart
from faults.disk import Disk
from openkcm.cli import endpoints
from running_stack import Stack, until

FLAP_S = 0.25
BACK_S = 30.0


class Ground(NamedTuple):
    """What faults are played on. `link` is None and `disks` are none where the machine does not permit them."""

    stack: Stack
    region: str
    rng: random.Random
    link: Apart | None
    disks: Mapping[str, Disk]


End = Callable[[], None]


def _pids(e: endpoints.Endpoints, region: str, rng: random.Random | None = None) -> dict[str, int]:
    node = next(n for n in e.nodes if n.name == f"{region}-1")
    worker = (rng.choice(node.worker_pids) if rng else node.worker_pids[0]) if node.worker_pids else 0
    return {"custodian": node.custodian_pid, "worker": worker, "leaf": e.nats[region].pid, "hub": e.nats["hub"].pid,
            "cmk": e.cmk.pid}  # fmt: skip


def _pid(g: Ground, who: str) -> int:
    """Whom a fault hits: not before it is there, should an earlier fault have had it replaced."""
    return until(lambda: _pids(g.stack.endpoints, g.region, g.rng)[who], BACK_S, f"{who} is there")


def _kill(who: str) -> Callable[[Ground], End]:
    def begin(g: Ground) -> End:
        pid = _pid(g, who)
        g.stack.kill(pid)
        return lambda: until(lambda: _back(g, who, pid), BACK_S, f"{who} is back") and None

    return begin


def _back(g: Ground, who: str, pid: int) -> bool:
    e = g.stack.endpoints
    if who == "worker":
        return pid not in next(n for n in e.nodes if n.name == f"{g.region}-1").worker_pids
    return _pids(e, g.region)[who] not in (pid, 0)


def _stop(who: str) -> Callable[[Ground], End]:
    def begin(g: Ground) -> End:
        pid = _pid(g, who)
        g.stack.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            try:
                g.stack.kill(pid, signal.SIGCONT)
            except ProcessLookupError:  # whoever stood still too long was replaced
                return

        return go_on

    return begin


def _link(how: str) -> Callable[[Ground], End]:
    def begin(g: Ground) -> End:
        assert g.link is not None
        g.link.cut(how)
        return g.link.heal

    return begin


def _flapping(g: Ground) -> End:
    assert g.link is not None
    link, ended = g.link, threading.Event()

    def flap() -> None:
        while not ended.wait(FLAP_S):
            link.cut("cut")
            ended.wait(FLAP_S)
            link.heal()

    flapping = threading.Thread(target=flap, daemon=True)
    flapping.start()

    def end() -> None:
        ended.set()
        flapping.join(10)
        link.heal()

    return end


def _far(g: Ground) -> End:
    assert g.link is not None
    g.link.delay(on=True)
    g.link.cut("lossy")
    return g.link.heal


def _mirrors(change: Callable[[bytearray, random.Random], bytes | bytearray]) -> Callable[[Ground], End]:
    """The region's server is gone; both of its mirrors come back with the last block of each changed."""

    def begin(g: Ground) -> End:
        server = g.stack.endpoints.nats[g.region]
        with held_back(g.stack, g.region):
            for stream in ("LEDGER", "LEDGER-CRITICAL"):
                blocks = sorted(Path(server.store).rglob(f"streams/{stream}/msgs/*.blk"), key=lambda b: int(b.stem))
                assert blocks, f"no block of {stream} below {server.store}"
                blocks[-1].write_bytes(change(bytearray(blocks[-1].read_bytes()), g.rng))
        return lambda: until(lambda: _back(g, "leaf", server.pid), BACK_S, "the leaf is back") and None

    return begin


@contextlib.contextmanager
def held_back(stack: Stack, server: str) -> Iterator[None]:
    """Kill a NATS server, and keep it from starting until the block ends."""
    home = stack.state / "nats" / server
    file = home / ("nats.conf" if server == "hub" else "leaf.conf")
    away = file.with_suffix(".away")
    file.rename(away)
    try:
        stack.kill(stack.endpoints.nats[server].pid)
        yield
    finally:
        away.rename(file)


def _truncated(block: bytearray, rng: random.Random) -> bytearray:
    return block[: rng.randrange(len(block) + 1)]


def _corrupted(block: bytearray, rng: random.Random) -> bytearray:
    for _ in range(8 if block else 0):
        block[rng.randrange(len(block))] ^= 1 << rng.randrange(8)
    return block


def _full(whose: str) -> Callable[[Ground], End]:
    def begin(g: Ground) -> End:
        g.disks[whose].fill()
        return g.disks[whose].heal

    return begin


def _slow(g: Ground) -> End:
    g.disks["node"].slow()
    return g.disks["node"].heal


WHO = ("custodian", "worker", "leaf", "hub", "cmk")
PROCESSES: dict[str, Callable[[Ground], End]] = {
    **{f"kill -9 {who}": _kill(who) for who in WHO},
    **{f"SIGSTOP {who}": _stop(who) for who in WHO},
}
LINK: dict[str, Callable[[Ground], End]] = {
    "region cut off": _link("cut"),
    "region hears nothing": _link("cut towards the region"),
    "region is not heard": _link("cut towards the hub"),
    "link flaps": _flapping,
    "200 ms and loss": _far,
}
STORE: dict[str, Callable[[Ground], End]] = {
    "leaf's mirrors truncated": _mirrors(_truncated),
    "leaf's mirrors corrupted": _mirrors(_corrupted),
}
DISK: dict[str, Callable[[Ground], End]] = {
    "node's disk full": _full("node"),
    "leaf's disk full": _full("leaf"),
    "hub's disk full": _full("hub"),
    "node's disk slow": _slow,
}


def table(g: Ground) -> dict[str, Callable[[Ground], End]]:
    """The faults that this ground permits."""
    return PROCESSES | STORE | (LINK if g.link else {}) | (DISK if g.disks else {})
