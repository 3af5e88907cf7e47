"""A KMIP worker: `python -m openkcm.execution.worker CONFIGURATION`, exec'd by the custodian. Holds no credential.

No NATS, no KMS, no vault, no L2: its memory comes as descriptors, and it asks the custodian over a socketpair for what
it cannot do itself. It dies with the custodian. At start, in this order: tie to the parent; harden; map the region
arena read-only and seal the mapping; map scratch page and board; say Hello; open the listener only when told to serve.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from openkcm.contract import logs
from openkcm.contract.fleet import Limits
from openkcm.execution import cage, control, secretmem
from openkcm.execution.arena import Board, Scratch, WorkerArena
from openkcm.execution.bench import Bench
from openkcm.execution.board import BOARD_PULSE
from openkcm.execution.connection import Connection
from openkcm.execution.handoutlog import HandOutLog
from openkcm.execution.link import Link
from openkcm.execution.objects import Objects
from openkcm.execution.session import READ_BYTES, Session
from openkcm.projector import open_reader

__all__ = ["Configuration", "Listener", "Worker", "main"]

_log: Final = logging.getLogger("openkcm.worker")
LEAVE_IDLE_S: Final = 1  # without a word: such a session is ended by a worker that leaves
IN_USE_S: Final = 5  # the custodian is told who is in use
FLUSH_S: Final = 60  # counts of key use are handed over
BACKLOG: Final = 1024
ACCEPTS: Final = 16  # connections taken at one go, before sessions get their turn again
TLS_1_2_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # forward secrecy and AEAD only; TLS 1.3 has nothing else
NOT_BOUND: Final = 5  # exit status: started without LD_BIND_NOW=1
NICER: Final = 5  # than the custodian: on a busy machine whoever closes the gates comes before whoever serves


class Listener(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where KMIP is served. cert, key, client_ca: PEM files."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]
    cert: str
    key: str
    client_ca: str


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the custodian starts a worker with: descriptors it inherits, and where things are."""

    index: int
    arena_fd: int
    arena_size: int
    arena_mode: secretmem.Mode
    scratch_fd: int
    scratch_mode: secretmem.Mode
    board_fd: int
    board_workers: int
    control_fd: int
    handed_fd: int
    parent_pid: int
    database: str
    listener: Listener
    limits: Limits


class Worker:
    """One worker's event loop: accepts, keeps the time, ends sessions that were cut."""

    def __init__(self, given: Configuration) -> None:
        """Map the memory.

        Raises:
            SecretMemoryError, ArenaMismatch: It cannot be mapped as it must be.
        """
        self.limits, self._listener = given.limits, given.listener
        self._arena = WorkerArena(given.arena_fd, given.arena_size, given.arena_mode)
        self._scratch = Scratch.attach(given.scratch_fd, given.scratch_mode)
        self._board = Board(given.board_workers, fd=given.board_fd)
        self._board_start = self._board.start(given.index)
        self._handed = HandOutLog(given.handed_fd)
        os.close(given.handed_fd)
        self._path = given.database
        self._database = open_reader(Path(given.database))
        self._control = socket.socket(fileno=given.control_fd)
        self._control.set_inheritable(False)
        self._tls = tls_context(given.listener)
        self.buffer = bytearray(READ_BYTES)
        self.window = memoryview(self.buffer)
        self.tick = 0
        self.unfinished = 0
        self._sessions: set[Connection] = set()
        self._shaking: dict[Connection, None] = {}  # the oldest first
        self._knocking: dict[Connection, None] = {}  # what came first, first
        self._at_the_door = False  # somebody looks in each round who knocks
        self._enrolments: dict[str, set[Connection]] = {}
        self._accepting: socket.socket | None = None
        self._retiring = self._serving = self.leaving = False
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until told to stop."""
        self.loop = asyncio.get_running_loop()
        self.loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        link = Link(self._control, self._news)
        objects = Objects(self._database, self._arena)
        self.bench = Bench(
            self._arena, self._board.words, self._board_start, self._scratch.view, objects, link, self._handed
        )
        self.bench.soon = self.loop.call_soon
        self.bench.rng_seed_bytes, self.bench.rng = self.limits.rng_seed_bytes, self.limits.rng
        files = [Path(f"{self._path}{end}") for end in ("", "-wal", "-shm")]
        caged = cage.enter(files, self._listener.port)  # from here on nothing new can be reached
        if not caged:
            _log.warning("this kernel has no Landlock: a worker that is taken over reads what its user may read")
        link.tell(control.Hello(os.getpid(), self._arena.sealed and self._scratch.sealed))
        gc.collect()
        gc.freeze()  # what is loaded now stays; collections look at sessions only
        ticking = asyncio.ensure_future(self._keep_time())
        await self._stop.wait()
        ticking.cancel()
        self._close_listener()
        for session in list(self._sessions):
            session.close()
        self.bench.hand_over_uses()
        self._database.close()

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.tick += 1
            self._board.words[self._board_start + BOARD_PULSE] += 1
            if self.tick % FLUSH_S == 0:
                self.bench.hand_over_uses()
            if self.tick % IN_USE_S == 0:
                self._tell_who_is_in_use()
            if self._accepting is not None and self._serving:  # again, should descriptors have run out
                self.loop.add_reader(self._accepting.fileno(), self._accept)
            for session in list(self._sessions):
                session.expire(self.tick)
                if self.leaving and self.tick - session.seen > LEAVE_IDLE_S:
                    session.part_when_idle()

    def _tell_who_is_in_use(self) -> None:
        since = self.tick - IN_USE_S
        tenants = {s.tenant for s in self._sessions if s.tenant is not None and s.seen >= since}
        if tenants:
            self.bench.link.tell(control.InUse(tuple(tenants)))

    # --- the custodian's news ---------------------------------------------------------------------------------------

    def _news(self, message: control.Message) -> None:
        match message:
            case control.Keys():
                self.bench.take_keys(message)
            case control.Cut(enrolment):
                for session in list(self._enrolments.get(enrolment, ())):
                    session.close(reset=True)
            case control.Trust(certificate):
                self._tls.load_verify_locations(cadata=certificate)  # for the handshakes from here on
            case control.Listen():
                if self._open_listener():
                    self.bench.link.tell(control.Listening())
            case control.Serve():
                self._handed.look_again()
                if self._open_listener() and self._accepting is not None:
                    self.loop.add_reader(self._accepting.fileno(), self._accept)
                    self._serving = True
                    self.bench.link.tell(control.Serving())
            case control.Retire():
                self._retire()
            case control.Leave():
                self.leaving = True
                self._retire()
            case control.Stop():
                self._stop.set()
            case _:
                _log.error("unexpected news: %s", type(message).__name__)

    # --- connections ------------------------------------------------------------------------------------------------

    def _open_listener(self) -> bool:
        """Bind and listen, once; return whether there is a listener."""
        if self._accepting is not None:
            return True
        family = socket.AF_INET6 if ":" in self._listener.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # the kernel spreads connections over workers
        try:
            listening.bind((self._listener.host, self._listener.port))
            listening.listen(BACKLOG)
        except OSError as taken:  # a worker that nobody can reach is none: the custodian sees it go, and says not ready
            _log.error("cannot listen on %s:%d: %s", self._listener.host, self._listener.port, taken)
            listening.close()
            self._stop.set()
            return False
        listening.setblocking(False)
        self._accepting = listening
        return True

    def _close_listener(self) -> None:
        if self._accepting is not None:
            self.loop.remove_reader(self._accepting.fileno())
            self._accepting.close()
            self._accepting = None

    def _retire(self) -> None:
        """Take who has knocked already, then no more; end when the last session does."""
        while self._accepting is not None and self._accept():
            pass
        self._close_listener()
        self._retiring = True
        if not self._sessions:
            self._stop.set()

    def _accept(self) -> bool:
        """Take connections that wait; return whether there may be more."""
        assert self._accepting is not None
        for _ in range(ACCEPTS):
            try:
                raw, _ = self._accepting.accept()
            except BlockingIOError:
                return False
            except OSError as bad:  # out of descriptors: those who are here go on, others wait for the next second
                _log.warning("a connection could not be accepted: %s", bad)
                self.loop.remove_reader(self._accepting.fileno())
                return False
            if len(self._sessions) >= self.limits.connections_per_worker:
                self.bench.count("overflows")
                raw.close()
                continue
            try:
                raw.setblocking(False)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = self._tls.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
            except (OSError, ValueError):
                raw.close()
                continue
            self.bench.count("connections")
            if len(self._shaking) >= self.limits.handshakes_per_worker:  # a real client needs milliseconds
                self.bench.count("overflows")
                next(iter(self._shaking)).close()
            session = Session(self, connection)
            self._sessions.add(session)
            self._shaking[session] = None
        return True

    def knocked(self, connection: Connection) -> None:
        """One handshake goes on in each round of the loop."""
        self._knocking[connection] = None
        if not self._at_the_door:
            self._at_the_door = True
            self.loop.call_soon(self._open_the_door)

    def _open_the_door(self) -> None:
        first = next(iter(self._knocking), None)
        if first is None:
            self._at_the_door = False
            return
        del self._knocking[first]
        self.loop.call_soon(self._open_the_door)
        first.shake_hands()

    def shaken(self, connection: Connection) -> None:
        """A handshake is over: the connection is no candidate for eviction any more."""
        self._shaking.pop(connection, None)

    def arrived(self, connection: Connection, enrolment: str) -> None:
        """Remember whose connection it is, so that it can be cut."""
        self._enrolments.setdefault(enrolment, set()).add(connection)

    def left(self, connection: Connection) -> None:
        """Forget a connection."""
        self._sessions.discard(connection)
        self._shaking.pop(connection, None)
        self._knocking.pop(connection, None)
        if self._retiring and not self._sessions:
            self._stop.set()
        mine = self._enrolments.get(connection.enrolment)
        if mine is not None:
            mine.discard(connection)
            if not mine:
                del self._enrolments[connection.enrolment]


def tls_context(listener: Listener) -> ssl.SSLContext:
    """Return the server's TLS: 1.3, and 1.2 with ECDHE and AEAD; client certificates required; nothing is resumed.

    Raises:
        OSError: A file is missing or no PEM of the right kind.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS_1_2_CIPHERS)
    context.num_tickets = 0  # each connection proves who it is
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(listener.cert, listener.key)
    context.load_verify_locations(listener.client_ca)
    return context


def main(arguments: list[str]) -> None:
    """Run one worker until the custodian tells it to stop, or dies.

    Args:
        arguments: One: the Configuration as JSON.
    """
    given = msgspec.json.decode(arguments[0], type=Configuration)
    secretmem.die_with_parent(given.parent_pid)
    secretmem.harden_process()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a descriptor a connection
    logs.start(f"worker {given.index}")
    if os.environ.get("LD_BIND_NOW") != "1":
        _log.error("started without LD_BIND_NOW=1")
        sys.exit(NOT_BOUND)
    os.nice(NICER)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the custodian stops us in order
    import uvloop

    async def serve() -> None:
        await Worker(given).run()

    uvloop.run(serve())


if __name__ == "__main__":
    main(sys.argv[1:])
