"""RSA key pairs are made in a child process: it takes long, it can be killed, its memory goes with it. Stores nothing.

The child is exec'd, holds no key and no credential of ours, and writes one message of at most PIPE_BUF bytes: length of
the public key, public key, private key, both as PKCS#1 DER. The private key is read from the pipe straight into the
scratch page. While the child works it is asked every LOOK_S whether an answer could still be given; a revocation, a
removed workload, an ended lease kills it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from openkcm.execution.bench import SOMETHING, Bench
from openkcm.execution.cells import SCRATCH_BYTES

__all__ = ["MOST_CHILDREN", "RSA_BITS", "Made", "spawn"]

RSA_BITS: Final = frozenset({2048, 3072, 4096})  # a longer private key would not fit the pipe's atomic write
MOST_CHILDREN: Final = 4  # per worker; each takes a core for up to some seconds
LOOK_S: Final = 0.05
LONGEST_S: Final = 60.0
Made = tuple[bytes, memoryview]

_log: Final = logging.getLogger("openkcm.worker")
_children: Final[set[_Child]] = set()


def spawn(bits: int, bench: Bench, alive: Callable[[], bool], then: Callable[[Made | None], None]) -> None:
    """Have a child make an RSA key pair; call `then` with (public key, private key in the scratch page), or None.

    Args:
        alive: Whether the pair is still wanted.
        then: Called once, later. What lies in the scratch page is wiped when it returns.
    """
    if len(_children) >= MOST_CHILDREN:
        asyncio.get_running_loop().call_soon(then, None)
        return
    _children.add(_Child(bits, bench, alive, then))


class _Child:
    def __init__(self, bits: int, bench: Bench, alive: Callable[[], bool], then: Callable[[Made | None], None]) -> None:
        self._bench, self._alive, self._then = bench, alive, then
        self._process = subprocess.Popen(
            [sys.executable, "-m", "openkcm.execution.keygen_child", str(bits), str(os.getpid()), bench.rng],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + LONGEST_S
        self._loop.add_reader(self._pipe, self._readable)
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        if self._alive() and self._loop.time() < self._until:
            self._timer = self._loop.call_later(LOOK_S, self._look)
        else:
            self._end(None)

    def _readable(self) -> None:
        room = self._bench.room(SCRATCH_BYTES - 512)
        made: Made | None = None
        if room is not None:
            head = os.read(self._pipe, 4)
            if len(head) == 4:
                public = os.read(self._pipe, int.from_bytes(head, "big"))
                made = public, room[: os.readv(self._pipe, [room])]
        self._end(made)

    def _end(self, made: Made | None) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._pipe)
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        _children.discard(self)
        try:
            self._then(made)
        finally:
            if self._bench.held is SOMETHING:  # nobody came for it
                self._bench.wipe()
