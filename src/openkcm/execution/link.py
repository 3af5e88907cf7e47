"""The worker's end of the socketpair to its custodian: questions with one answer each, and news. Decides nothing.

The custodian's death ends the worker: a worker alone must not serve.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from openkcm.execution import control

__all__ = ["Link"]

_log: Final = logging.getLogger("openkcm.worker")
READ_BYTES: Final = 1 << 18
LOST: Final = 4  # exit status of a worker whose custodian is gone


class Link:
    """Asks and tells; hands news to `on_news`."""

    def __init__(self, end: socket.socket, on_news: Callable[[control.Message], None]) -> None:
        end.setblocking(False)
        self._end, self._on_news = end, on_news
        self._frames = control.Frames(control.FromCustodian)  # type: ignore[arg-type]  # msgspec takes a union
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Callable[[Any], None]] = {}
        self._unsent = bytearray()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end.fileno(), self._readable)

    def ask(self, question: Callable[[int], control.Message], then: Callable[[control.Message], None]) -> None:
        """Send a question made with its number; call `then` with the answer.

        A question that does not fit a frame is answered at once with Refused `invalid`.
        """
        n = next(self._numbers)
        try:
            framed = control.frame(question(n))
        except control.FrameError as bad:
            self._loop.call_soon(then, control.Refused(n, "invalid", str(bad)))
            return
        self._waiting[n] = then
        self._send(framed)

    def tell(self, message: control.Message) -> None:
        """Send something that has no answer."""
        self._send(control.frame(message))

    def _send(self, framed: bytes) -> None:
        if not self._unsent:
            try:
                framed = framed[self._end.send(framed) :]
            except BlockingIOError:
                pass
            except OSError:
                self._lost("the custodian does not listen any more")
        if framed:
            if not self._unsent:
                self._loop.add_writer(self._end.fileno(), self._writable)
            self._unsent += framed

    def _writable(self) -> None:
        try:
            del self._unsent[: self._end.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._lost("the custodian does not listen any more")
        if not self._unsent:
            self._loop.remove_writer(self._end.fileno())

    def _readable(self) -> None:
        try:
            data = self._end.recv(READ_BYTES)
            messages: list[Any] = self._frames.feed(data)
        except BlockingIOError:
            return
        except (OSError, control.FrameError) as bad:
            self._lost(f"the custodian's end: {bad}")
        if not data:
            self._lost("the custodian is gone")
        for message in messages:
            n = getattr(message, "n", 0)
            if n:
                then = self._waiting.pop(n, None)
                if then is not None:
                    then(message)
            else:
                self._on_news(message)

    @staticmethod
    def _lost(why: str) -> None:
        _log.error("%s; this worker ends", why)
        os._exit(LOST)
