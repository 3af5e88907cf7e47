"""Load on a KMIP server or an echo, over mutual TLS, from one process on one core. Says how busy it was itself.

Reads one JSON document (`Task`) from standard input, writes one (`Result`) to standard output. The same request is sent
over and over, an answer of another length than expected counts as wrong.

closed     each connection sends when its answer is there: saturates the server
open       requests are due at random (Poisson) times whatever the server does, and latency counts from when a request
           was *due*: a stall is felt by all who would have come meanwhile (no coordinated omission)
handshake  a new connection, full mutual handshake, one request, one answer, again

Between answers the process spins: a wake-up would be part of the latency, and the interrupt that causes it is paid by
the server's core (7 us of 50 on a virtual machine). Its busy share leaves the spinning out. A server that waits for
others on the load's core (Create) is measured with `spins` off; nor does the load spin while nothing comes at all (a
log that is full, a disk that stands still). The load comes in bursts of 0.4 s with pauses of 0.1 s,
that count for nothing: what the kernel keeps back from real-time processes for the rest (5 %) is taken there.
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

BUFFER_BYTES: Final = 1 << 16
STALL_S: Final = 10.0  # a server that answers nothing for so long has failed the run
BURST_S: Final = 0.4
PAUSE_S: Final = 0.1
NAP_S: Final = 0.005  # the most a load that does not spin sleeps for an answer, when it has nothing to send either
PATIENCE_S: Final = 0.02  # without any answer, after which a load that spins naps: the server waits for somebody here
clock = time.monotonic_ns


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do. cert, key, ca: PEM files; pid: the server's process, whose CPU time is read."""

    mode: Literal["closed", "open", "handshake"]
    host: str
    port: int
    cert: str
    key: str
    ca: str
    request: bytes
    answer_bytes: int
    connections: int
    pid: int
    items: int = 1  # operations in one request
    rate: float = 0.0  # messages a second, open loop only
    seconds: float = 2.0
    warm_s: float = 0.3
    spins: bool = True


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. Times in microseconds, shares of one core; `tls`: version and suite."""

    operations_s: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    samples: int
    wrong: int
    server_cpu_us: float  # per operation
    server_share: float
    server_waits: float  # share of the time in which it was ready and another process had its core
    load_share: float
    tls: str


def cpu_ns(pid: int) -> tuple[int, int]:
    """CPU time of all threads of a process, and how long they were ready and did not get it."""
    found = [p.read_text().split() for p in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(ran) for ran, *_ in found), sum(int(waited) for _, waited, _ in found)


def context_of(task: Task) -> ssl.SSLContext:
    """The client's side of mutual TLS."""
    context = ssl.create_default_context(cafile=task.ca)
    context.check_hostname = False
    context.load_cert_chain(task.cert, task.key)
    return context


class Connection:
    """One TLS connection; `read` and `write` are its OpenSSL object's: Python is fast enough with these.

    The first request is answered before anything spins: the server may have to ask on the load's core who we are.
    """

    __slots__ = ("due", "fd", "have", "read", "socket", "write")

    def __init__(self, task: Task, context: ssl.SSLContext) -> None:
        raw = socket.create_connection((task.host, task.port), timeout=STALL_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(raw)
        self.socket.sendall(task.request)
        left = task.answer_bytes
        while left > 0:
            left -= len(self.socket.recv(left)) or left
        self.socket.setblocking(False)
        inner: Any = self.socket._sslobj  # noqa: SLF001 -- a measuring tool, and half the cost
        self.read, self.write, self.fd = inner.read, inner.write, self.socket.fileno()
        self.have = 0
        self.due: deque[int] = deque()


class Run:
    """Counts of one run: of its bursts, once the warm-up is over."""

    def __init__(self, task: Task) -> None:
        self.task, self.wrong = task, 0
        self.latencies: list[int] = []
        self.warm = True
        self.idle = self.took = self.server = self.waited = self.own = 0

    def bursts(self) -> Iterator[int]:
        """Yield when each burst ends; what happens until the next is asked for is counted, but for the first's."""
        yield clock() + int(self.task.warm_s * 1e9)
        self.latencies.clear()
        self.warm, self.wrong, self.idle = False, 0, 0
        while self.took < self.task.seconds * 1e9:
            time.sleep(PAUSE_S)
            began, own, server = clock(), time.process_time_ns(), cpu_ns(self.task.pid)
            yield began + int(BURST_S * 1e9)
            self.took += clock() - began
            now = cpu_ns(self.task.pid)
            self.server, self.waited = self.server + now[0] - server[0], self.waited + now[1] - server[1]
            self.own += time.process_time_ns() - own

    def result(self, tls: str, *, spun: bool) -> Result:
        """Sum up."""
        found = sorted(self.latencies)
        if not found:
            raise SystemExit("no answer at all")
        operations = len(found) * self.task.items

        def at(share: float) -> float:
            return found[min(len(found) - 1, int(len(found) * share))] / 1e3

        return Result(
            operations_s=operations / self.took * 1e9,
            p50_us=at(0.5),
            p99_us=at(0.99),
            p999_us=at(0.999),
            max_us=found[-1] / 1e3,
            samples=len(found),
            wrong=self.wrong,
            server_cpu_us=self.server / operations / 1e3,
            server_share=self.server / self.took,
            server_waits=self.waited / self.took,
            load_share=(self.took - self.idle if spun else self.own) / self.took,
            tls=tls,
        )


def take(connection: Connection, buffer: bytearray, answer_bytes: int, run: Run) -> bool:
    """Read once; return whether an answer is complete."""
    try:
        n = connection.read(BUFFER_BYTES, buffer)
    except ssl.SSLWantReadError:
        return False
    if not n:
        raise SystemExit("the server hung up")
    if n == answer_bytes:
        return True
    if not connection.have and n >= 8 and int.from_bytes(buffer[4:8], "big") + 8 == n:
        run.wrong += 1  # whole, but not the answer that was expected: a refusal
        return True
    connection.have += n
    if connection.have < answer_bytes:
        return False
    connection.have = 0
    return True


def closed(task: Task) -> Result:
    """As fast as the server answers."""
    context, buffer, request, size = context_of(task), bytearray(BUFFER_BYTES), task.request, task.answer_bytes
    connections = {c.fd: c for c in (Connection(task, context) for _ in range(task.connections))}
    sent = dict.fromkeys(connections, 0)
    poller, run = select.epoll(), Run(task)
    for fd in connections:
        poller.register(fd, select.EPOLLIN)
    poll, patience_ns = poller.poll, PATIENCE_S * 1e9 if task.spins else 0
    for end in run.bursts():
        for fd, connection in connections.items():
            sent[fd] = clock()
            connection.write(request)
        out, last = len(connections), clock()
        while out:
            now = clock()
            ready = poll(0 if now - last < patience_ns else NAP_S)
            if not ready:
                run.idle += clock() - now
                if now - last > STALL_S * 1e9:
                    raise SystemExit("the server answers nothing")
                continue
            for fd, _ in ready:
                connection = connections[fd]
                if take(connection, buffer, size, run):
                    last = clock()
                    run.latencies.append(last - sent[fd])
                    if now >= end:
                        out -= 1
                        continue
                    sent[fd] = last
                    connection.write(request)
    return run.result(tls_of(connection), spun=task.spins)


def open_loop(task: Task) -> Result:
    """At the times that chance names, whatever the server does."""
    context, buffer, request, size = context_of(task), bytearray(BUFFER_BYTES), task.request, task.answer_bytes
    order = [Connection(task, context) for _ in range(task.connections)]
    connections = {c.fd: c for c in order}
    poller = select.epoll()
    for fd in connections:
        poller.register(fd, select.EPOLLIN)
    chance = random.Random(1)  # noqa: S311 -- arrival times
    gaps = [int(chance.expovariate(task.rate) * 1e9) for _ in range(1 << 16)]
    run, sent, poll = Run(task), 0, poller.poll
    for end in run.bursts():
        due = last = clock()
        out = 0
        while due < end or out:
            now = clock()
            while due <= now and due < end:
                connection = order[sent % len(order)]
                connection.due.append(due)
                connection.write(request)
                due += gaps[sent & 0xFFFF]
                sent += 1
                out += 1
            ready = poll(0)
            if not ready:
                idle = clock()
                run.idle += idle - now if due > now else 0
                if idle - last > STALL_S * 1e9:
                    raise SystemExit("the server answers nothing")
            for fd, _ in ready:
                connection = connections[fd]
                if take(connection, buffer, size, run):
                    last = clock()
                    run.latencies.append(last - connection.due.popleft())
                    out -= 1
    return run.result(tls_of(connection), spun=True)


class Newcomer:
    """One connection from connect to its answer."""

    def __init__(self, task: Task, context: ssl.SSLContext) -> None:
        raw = socket.create_connection((task.host, task.port), timeout=STALL_S)
        raw.setblocking(False)
        self.began = clock()
        self.task, self.have, self.asked = task, 0, False
        self.socket = context.wrap_socket(raw, do_handshake_on_connect=False)
        self.step()

    def step(self) -> bool:
        """Go on; return whether it is over."""
        try:
            if not self.asked:
                self.socket.do_handshake()
                self.asked = True
                self.socket.send(self.task.request)
            self.have += len(self.socket.recv(BUFFER_BYTES))
        except ssl.SSLWantReadError:
            return False
        return self.have >= self.task.answer_bytes


def handshakes(task: Task) -> Result:
    """New connections, `connections` of them at a time."""
    context, poller = context_of(task), select.epoll()
    run, guests = Run(task), {}
    tls = ""

    def come() -> None:
        guest = Newcomer(task, context)
        guests[guest.socket.fileno()] = guest
        poller.register(guest.socket.fileno(), select.EPOLLIN)

    for end in run.bursts():
        for _ in range(task.connections):
            come()
        while guests:
            ready = poller.poll(STALL_S)
            if not ready:
                raise SystemExit("the server answers nothing")
            for fd, _ in ready:
                guest = guests[fd]
                if guest.step():
                    run.latencies.append(clock() - guest.began)
                    tls = tls or tls_of(guest)
                    poller.unregister(fd)
                    del guests[fd]
                    guest.socket.close()
                    if clock() < end:
                        come()
    return run.result(tls, spun=False)


def tls_of(connection: Connection | Newcomer) -> str:
    """Version and suite."""
    return f"{connection.socket.version()} {(connection.socket.cipher() or ('none',))[0]}"


MODES: Final = {"closed": closed, "open": open_loop, "handshake": handshakes}

if __name__ == "__main__":
    import gc

    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    gc.disable()
    sys.stdout.buffer.write(msgspec.json.encode(MODES[given.mode](given)))
