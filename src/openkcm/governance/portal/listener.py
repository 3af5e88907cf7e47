"""Takes connections in and has them shake hands: who may, how many at once, how long. Knows no HTTP and no person.

(1) a connection is counted before a handshake costs anything: whose address has spent its budget is reset; (2) so many
handshakes are under way, and so many of one address that we do not know; a new one puts the oldest out; (3) one that
takes too long is over; (4) after refusals or many at once, and while a revocation is under way, nothing is taken in for
a moment, and the kernel's queue bounds what waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from openkcm.governance.configuration import Tls
from openkcm.governance.portal.admission import Admission

__all__ = ["Listener", "bound", "renewed"]

_log: Final = logging.getLogger(__name__)
#: Connections the kernel holds for us: where it has no room it drops them, and the client comes again after a second.
BACKLOG: Final = 1024
AT_A_GO: Final = 32
REFUSED_AT_A_GO: Final = 128
HANDSHAKE_S: Final = 5.0
HANDSHAKES: Final = 256
HANDSHAKES_OF_ADDRESS: Final = 16
#: After refusals; without one the loop's next turn takes more in. So a flood of resets costs some hundredths of a core.
REST_S: Final = 0.01
#: No descriptors left, for instance.
FAILED_S: Final = 1.0
_RESET: Final = struct.pack("ii", 1, 0)


def bound(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on each address of a host.

    Raises:
        OSError: One cannot.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    made: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            made.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
            made[-1].setblocking(False)
    except OSError as bad:
        for one in made:
            one.close()
        raise OSError(f"the portal cannot listen on {host}:{port}: {bad}") from bad
    return made


def renewed(tls: Tls, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return a context whose handshakes show the files of `tls` as they are now; while those do not fit, as they were.

    Args:
        make: Reads them.
    """
    first = current = make()
    seen = _changed(tls)

    def shown(connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal current, seen
        try:
            if (now := _changed(tls)) != seen:
                current, seen = make(), now
        except OSError as bad:  # SSLError is one; half of a renewal is on the disk
            _log.warning("%s cannot be read, the earlier certificate is shown: %s", tls.cert, bad)
        connection.context = current

    first.sni_callback = shown  # called at each handshake, whether a name was asked for or not
    return first


def _changed(tls: Tls) -> tuple[int, int]:
    return Path(tls.cert).stat().st_mtime_ns, Path(tls.key).stat().st_mtime_ns


class Listener:
    """The listening sockets of one portal, as uvicorn holds a server.

    Args:
        protocol: Makes the protocol of a connection whose handshake is over.
        tls: None: no handshake (loopback, or behind a proxy).
    """

    def __init__(
        self, sockets: list[socket.socket], admission: Admission, protocol: Callable[[], Any],
        tls: ssl.SSLContext | None,
    ) -> None:  # fmt: skip
        self.sockets = sockets
        self._admission, self._protocol, self._tls = admission, protocol, tls
        self._loop = asyncio.get_running_loop()
        self._shaking: dict[asyncio.Task[None], str] = {}
        self._resting: set[asyncio.TimerHandle] = set()
        for one in sockets:
            self._loop.add_reader(one, self._arrived, one)

    def close(self) -> None:
        """Take nobody in any more; handshakes under way are over."""
        for one in self.sockets:
            self._loop.remove_reader(one)
            one.close()
        for timer in self._resting:
            timer.cancel()
        for task in self._shaking:
            task.cancel()

    async def wait_closed(self) -> None:
        """Return when nothing of it goes on."""
        await asyncio.gather(*self._shaking, return_exceptions=True)

    def _arrived(self, listening: socket.socket) -> None:
        if self._admission.slots.held:  # (4)
            self._rest(listening, REST_S)
            return
        taken = refused = 0
        while taken < AT_A_GO and refused < REFUSED_AT_A_GO:
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError:
                self._rest(listening, FAILED_S)
                return
            connection.setblocking(False)
            if self._room_for(address[0]):
                taken += 1
                task = self._loop.create_task(self._take_in(connection))
                self._shaking[task] = address[0]
                task.add_done_callback(self._shaking.pop)
            else:
                refused += 1
                self._admission.refused["connections"] += 1
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                connection.close()
        if refused or taken == AT_A_GO:  # (4)
            self._rest(listening, REST_S)

    def _room_for(self, address: str) -> bool:
        if not self._admission.may_connect(address):  # (1)
            return False
        if not self._admission.knows(address):  # (2)
            mine = [task for task, other in self._shaking.items() if other == address]
            if len(mine) >= HANDSHAKES_OF_ADDRESS:
                mine[0].cancel()
        if len(self._shaking) >= HANDSHAKES:
            strange = (task for task, other in self._shaking.items() if not self._admission.knows(other))
            next(strange, next(iter(self._shaking))).cancel()
        return True

    async def _take_in(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        given: dict[str, Any] = {}
        if self._tls is not None:
            given = {"ssl": self._tls, "ssl_handshake_timeout": HANDSHAKE_S}  # (3)
        with contextlib.suppress(OSError):  # ssl.SSLError and TimeoutError among them
            await self._loop.connect_accepted_socket(self._protocol, connection, **given)

    def _rest(self, listening: socket.socket, seconds: float) -> None:
        def go_on() -> None:
            self._resting.discard(timer)
            self._loop.add_reader(listening, self._arrived, listening)

        self._loop.remove_reader(listening)
        timer = self._loop.call_later(seconds, go_on)
        self._resting.add(timer)
