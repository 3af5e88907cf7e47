"""One client's connection from accept to close: TLS handshake, who it is, deadlines. Reads no message, answers none.

Nothing is read before the custodian has said whose the certificate is; `session` reads and answers from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import socket
import ssl
import struct
import time
from typing import Any, Final, Protocol

from openkcm.contract.fleet import Limits
from openkcm.execution import control
from openkcm.execution.anchor import anchor_of
from openkcm.execution.bench import Bench, Caller
from openkcm.kmip import Limits as MessageLimits

__all__ = ["Connection", "Floor"]

ENDS_SOON_S: Final = 7 * 86_400  # as long before as the alert on our own certificates
LINGER_S: Final = 2  # for the last answer to arrive before the socket goes
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: unsent bytes are discarded, not delivered


class Floor(Protocol):
    """Where connections live (`worker.Worker`). `tick` counts seconds; `buffer` is read into by one of them at a time;
    `unfinished` is how many bytes all of them keep of messages that are not whole.
    """

    bench: Bench
    limits: Limits
    loop: asyncio.AbstractEventLoop
    tick: int
    buffer: bytearray
    window: memoryview
    unfinished: int
    leaving: bool

    def knocked(self, connection: Connection) -> None:
        """The connection's handshake can go on: call its `shake_hands`, one connection's in each round of the loop."""

    def shaken(self, connection: Connection) -> None:
        """The connection's handshake is over, well."""

    def arrived(self, connection: Connection, enrolment: str) -> None:
        """The connection's client is known now."""

    def left(self, connection: Connection) -> None:
        """The connection is over."""


class Connection:
    """One accepted connection.

    Attributes:
        enrolment: The client's, once it is known.
        seen: When something came in last, in the floor's ticks.
    """

    __slots__ = ("_bench", "_caller", "_ends", "_fd", "_floor", "_limits", "_socket", "_until", "_waiting", "closed",
                 "enrolment", "seen")  # fmt: skip

    def __init__(self, floor: Floor, connection: ssl.SSLSocket) -> None:
        self._floor, self._bench, self._socket = floor, floor.bench, connection
        self._fd = connection.fileno()
        limits = floor.limits
        self._limits = MessageLimits(
            max_message_bytes=limits.message_bytes_before_identity, max_batch_items=limits.batch_items
        )
        self._caller: Caller | None = None
        self._waiting = self.closed = False  # waiting: an exchange, for the custodian
        self.enrolment = ""
        self.seen = floor.tick
        self._until: float = floor.tick + limits.handshake_s
        self._ends = math.inf  # of the client's certificate, by the clock that TLS judges by
        floor.loop.add_reader(self._fd, self._knock)

    def _readable(self) -> None:
        """Something came in from a client that is known, or known to be none (`session.Session`)."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Drop what is kept of messages and answers (`session.Session`)."""
        raise NotImplementedError

    def _knock(self) -> None:
        """A handshake can go on. A step of it lasts as long as twenty messages: those who are known come between."""
        self._floor.loop.remove_reader(self._fd)
        self._floor.loop.remove_writer(self._fd)
        self._floor.knocked(self)

    def shake_hands(self) -> None:
        """Go on with the handshake."""
        self._bench.let_go()
        loop = self._floor.loop
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            loop.add_reader(self._fd, self._knock)
            return
        except ssl.SSLWantWriteError:
            loop.add_writer(self._fd, self._knock)
            return
        except (OSError, ValueError):
            self._bench.count("handshakes_failed")
            self.close()
            return
        self._floor.shaken(self)  # and nothing is read before we know who it is
        # We send nothing until asked (no tickets), so the kernel would acknowledge the last flight 40 ms later; until
        # then a client without TCP_NODELAY keeps its first request back (RFC 896; RFC 1122, section 4.2.3.2).
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        certificate = self._socket.getpeercert(binary_form=True)
        if certificate is None:
            self.close()
            return
        fingerprint = hashlib.sha256(certificate).hexdigest()
        said: Any = self._socket.getpeercert() or {}
        self._ends = ssl.cert_time_to_seconds(said["notAfter"])
        if self._ends - time.time() < ENDS_SOON_S:
            self._bench.count("certificates_ending")
        names = said.get("subjectAltName", ())
        spiffe = tuple(value for kind, value in names if kind == "URI" and value.startswith("spiffe://"))
        anchor = anchor_of(self._socket)
        self._bench.link.ask(lambda n: control.Identify(n, fingerprint, anchor, spiffe), self._identified)

    def _identified(self, answer: control.Message) -> None:
        if self.closed:
            return
        if isinstance(answer, control.Identity):
            system = self._bench.system(answer.tenant, answer.registration)
            self._caller = Caller(answer, system, self._bench.arena)
            self.enrolment = answer.enrolment
            self._limits = MessageLimits(
                max_message_bytes=self._floor.limits.message_bytes, max_batch_items=self._floor.limits.batch_items
            )
            self._floor.arrived(self, answer.enrolment)
            self._until = 0
        else:  # a stranger is told so at its first message, for which it has as long as for its handshake
            self._bench.count("denied")
            self._until = self._floor.tick + self._floor.limits.handshake_s
        self.seen = self._floor.tick
        self._floor.loop.add_reader(self._fd, self._readable)

    @property
    def tenant(self) -> str | None:
        """Whose connection it is, once that is known."""
        return None if self._caller is None else self._caller.tenant

    def expire(self, tick: int) -> None:
        """Close the connection when a deadline of it is over, or its certificate's time. Called every second."""
        expired_s = time.time() - self._ends  # TLS looks at the handshake only, and a connection may last
        if expired_s > LINGER_S:
            self.close()
        elif expired_s > 0:
            self.part_when_idle()
        if self._until:
            if tick > self._until:
                self.close()
        elif tick - self.seen > self._floor.limits.idle_s and not self._waiting:
            self.close()

    def close(self, *, reset: bool = False) -> None:
        """End the connection. `reset`: what the kernel has not sent yet is discarded."""
        if self.closed:
            return
        self.closed = True
        loop = self._floor.loop
        loop.remove_reader(self._fd)
        loop.remove_writer(self._fd)
        self._forget()
        if reset:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._socket.close()
        self._floor.left(self)

    def part_when_idle(self) -> None:
        """End the connection, if nothing is under way in it."""
        self.close()

    def _part(self) -> None:
        """After a last answer: say that no more comes, and wait a little for the client to have read it."""
        loop = self._floor.loop
        loop.remove_writer(self._fd)
        loop.remove_reader(self._fd)
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._until = self._floor.tick + LINGER_S
        loop.add_reader(self._fd, self._discard)

    def _discard(self) -> None:
        try:
            if self._socket.recv_into(self._floor.buffer):  # not by TLS any more: `shutdown` ended that
                return
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            pass
        self.close()
