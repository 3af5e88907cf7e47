"""The prober's inside: unwraps each residence's canary when its time has come. Holds no key, only canaries.

A residence is probed by its own canary, also where two share a root: a customer's policy may let one context in and
another not. Each provider has its own few threads, so that a KMS that hangs delays nobody at another one. A refusal
that counts only when it comes twice is asked again soon; a root that gives no answer is asked less often.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import select
import socket
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from openkcm.execution import roots
from openkcm.execution.roots.base import ACTIONS, TENANT, TWICE, Root, RootError
from openkcm.execution.unseal_process import MAX_MESSAGE_BYTES, Observed, Unwatch, Watch

__all__ = ["watch_roots"]

_ORDER: Final = msgspec.msgpack.Decoder(Watch | Unwatch)
JITTER: Final = 0.1  # nodes that started together do not probe together for ever
THREADS: Final = 16  # a provider
AGAIN_S: Final = 2.0
OPEN_ROOTS: Final = (
    256  # clients that keep their connections; with more roots, whoever was asked longest ago opens anew
)
LONGEST: Final = 8  # intervals between two probes of a root that gives no answer


class _Probe:
    """One residence's watch, and what became of it so far."""

    def __init__(self, order: Watch) -> None:
        self.order = order
        self.root: Root | None = None
        self.silent = 0  # answers in a row that say nothing of the key
        self.over = False

    def ask(self) -> Observed:
        """Probe once."""
        order = self.order
        try:
            root = self.root or roots.open_root(order.root, order.settings, order.context.get(TENANT))
            self.root = root
            seen = Observed(n=order.n, code="ok", root_version=root.probe(order.canary, order.context).version)
        except RootError as no:
            seen = Observed(n=order.n, code=no.code, detail=no.detail)
            if no.code in {"CredentialRejected", "Misconfigured"}:
                self.root = None  # a session that ran out, a file that came late: start from the settings again
        except ImportError as missing:
            seen = Observed(n=order.n, code="Misconfigured", detail=f"{order.root.provider!r}: {missing.msg}")
        except Exception as bug:  # an SDK's own: the watch goes on
            seen, self.root = Observed(n=order.n, code="Misconfigured", detail=type(bug).__name__), None
        self.silent = 0 if ACTIONS.get(seen.code) in {"serve", "lock"} else self.silent + 1  # type: ignore[call-overload]
        return seen

    def pause_s(self, code: str) -> float:
        """Seconds until the next one."""
        wait_s = self.order.interval_s
        if code in TWICE:
            wait_s = min(wait_s, AGAIN_S)
        elif self.silent > 2:
            wait_s *= min(2 ** (self.silent - 2), LONGEST)
        return wait_s * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 -- spreads load, guards nothing


class _Watch:
    """All probes of this process: a queue by time, read by one thread, worked off by a few a provider."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._probes: dict[int, _Probe] = {}
        self._due: list[tuple[float, int]] = []
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Probe] = OrderedDict()  # the one asked longest ago first
        self._workers: dict[str, ThreadPoolExecutor] = {}
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def order(self, order: Watch | Unwatch) -> None:
        """Begin or end a watch."""
        with self._lock:
            old = self._probes.pop(order.n, None)
            if old is not None:
                old.over = True
                self._open.pop(order.n, None)
            if isinstance(order, Watch):
                self._probes[order.n] = _Probe(order)
                heapq.heappush(self._due, (0.0, order.n))

    def start_due(self) -> float:
        """Start every probe whose time has come; return the seconds until the next one's."""
        with self._lock:
            while self._due and self._due[0][0] <= time.monotonic():
                probe = self._probes.get(heapq.heappop(self._due)[1])
                if probe is not None:
                    provider = probe.order.root.provider
                    pool = self._workers.setdefault(provider, ThreadPoolExecutor(THREADS, f"probe-{provider}"))
                    pool.submit(self._run, probe)
            return max(self._due[0][0] - time.monotonic(), 0.0) if self._due else 60.0

    def _run(self, probe: _Probe) -> None:
        if probe.over:
            return
        seen = probe.ask()
        with self._lock:
            self._open[probe.order.n] = probe
            self._open.move_to_end(probe.order.n)
            while len(self._open) > OPEN_ROOTS:
                self._open.popitem(last=False)[1].root = None  # one that asks just now ends with its own reference
            if probe.over:
                return
            heapq.heappush(self._due, (time.monotonic() + probe.pause_s(seen.code), probe.order.n))
            try:
                self._control.send(msgspec.msgpack.encode(seen))
            except OSError:
                os._exit(0)
        with contextlib.suppress(BlockingIOError):  # woken already, many times
            os.write(self._wake, b".")

    def wait(self, seconds: float) -> bool:
        """Wait for an order, at most so long; True when there is one."""
        control = self._control.fileno()
        ready, _, _ = select.select([control, self._woken], [], [], seconds)
        if self._woken in ready:
            os.read(self._woken, 4096)
        return control in ready


def watch_roots(control: socket.socket) -> None:
    """Take orders and probe, until the custodian closes its end."""
    watch = _Watch(control)
    while True:
        if watch.wait(watch.start_due()):
            raw = control.recv(MAX_MESSAGE_BYTES)
            if not raw:
                os._exit(0)  # threads may be inside an SDK
            watch.order(_ORDER.decode(raw))
