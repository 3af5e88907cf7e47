"""Virtual time for asyncio, and seals that cost nothing: what a deterministic run is made of. Knows nothing of OpenKCM
but the two functions of `contract.seal` that it replaces.

Time moves only when nothing is left to do at the present instant, and then straight to the next timer. Everything runs
in one thread in the order in which it was scheduled, so one seed is one run.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import hashlib
import random
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from openkcm.contract import seal
from openkcm.contract.errors import SealError


class Deadlock(Exception):
    """Nothing is scheduled any more, and the run is not over."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose clock is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._selector = self

    def time(self) -> float:
        return self.now

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Deadlock
        self.now += max(timeout, 0.0)
        return []

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Do it after the executor's own delay (`executor.delay()`), at once without one."""
        future = self.create_future()

        def do() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as bad:
                future.set_exception(bad)

        self.call_later(executor.delay() if executor is not None else 0.0, do)
        return future


_PRIVATE: dict[bytes, bytes] = {}


def _begin(self: seal.Signer, seed: bytes) -> None:
    self._private = seed  # type: ignore[assignment]
    self.public_key = hashlib.blake2b(seed, person=b"public").digest()[:32]
    self.key_id = seal.key_id(self.public_key)
    _PRIVATE[self.public_key] = seed


def _sign(self: seal.Signer, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=self._private, digest_size=64).digest()  # type: ignore[arg-type]


def _verify(public_key: bytes, given: bytes, message: bytes) -> None:
    private = _PRIVATE.get(public_key)
    if private is None or hashlib.blake2b(message, key=private, digest_size=64).digest() != given:
        raise SealError(f"not sealed by key {seal.key_id(public_key)}")


_canonical = functools.lru_cache(1 << 12)(seal.canonical)  # what one seals, many verify


@contextlib.contextmanager
def cheap_seals() -> Iterator[None]:
    """Seals that only the holder of the seed can make, as Ed25519's, at a hundredth of the price. Inside a test only."""
    with (
        mock.patch.object(seal.Signer, "__init__", _begin),
        mock.patch.object(seal.Signer, "sign", _sign),
        mock.patch.object(seal, "verify", _verify),
        mock.patch.object(seal, "canonical", _canonical),
    ):
        yield


@contextlib.contextmanager
def seeded(rng: random.Random, wall_ns: Callable[[], int]) -> Iterator[None]:
    """Ids, nonces and the wall clock from the seed."""

    def token_hex(size: int = 16) -> str:
        return rng.randbytes(size).hex()

    def uuid4() -> uuid.UUID:
        return uuid.UUID(bytes=rng.randbytes(16), version=4)

    with (
        mock.patch.object(secrets, "token_hex", token_hex),
        mock.patch.object(uuid, "uuid4", uuid4),
        mock.patch.object(time, "time_ns", wall_ns),
    ):
        yield


def run(main: Callable[[], Any]) -> Any:
    """Run a coroutine function to its end in virtual time. What is left over is cancelled and awaited.

    Everything happens in a fresh context.
    """
    loop = VirtualLoop()

    def inside() -> Any:
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(main())
        finally:
            left = [t for t in asyncio.all_tasks(loop) if not t.done()]
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            asyncio.set_event_loop(None)
            loop.close()

    return contextvars.copy_context().run(inside)
