"""Seals checked in bulk, on all cores: the one costly step of an audit. Decides nothing; opens nothing.

A key's name is the hash of the key, so whether a seal holds under the key it names does not depend on the ledger's
state. Whether that key was in force is asked later, event by event, by whoever reads in order.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import Any, Final, Generic, TypeVar

from openkcm.contract import decrees, envelope, seal
from openkcm.contract.envelope import Envelope
from openkcm.contract.errors import ContractError
from openkcm.contract.stored import Message

__all__ = ["Checked", "checked"]

#: As many as stay in a core's own cache from their decoding to the last look at them: a third of an audit's time.
BATCH: Final = 256
#: From so many seals on, a pool brings more than it costs.
ALONE: Final = 8192
AHEAD: Final = 8  # batches under way while one is judged
_M = TypeVar("_M", bound=Message)
_Seal = tuple[int, bytes | None, bytes, bytes]  # sequence, key, seal, what is under it
#: Whether somebody vouches for an event's seal: its sequence, its subject, the key it names.
Vouched = Callable[[int, str, str], bool]


class Checked(Generic[_M]):
    """A batch of messages in order.

    Attributes:
        opened: Each one's envelope, None where the bytes are none.
        good: Sequences whose seal holds, by itself or because somebody vouches for it. One that is missing proves
            nothing: its key may not have been seen yet.
        spared: How many seals were not looked at, since somebody vouches for them.
    """

    __slots__ = ("good", "messages", "opened", "spared")

    def __init__(self, messages: list[_M]) -> None:
        self.messages = messages
        self.opened = [getattr(message, "opened", None) or _opened(message.body) for message in messages]
        self.good: set[int] = set()
        self.spared = 0


def checked(
    messages: Iterable[_M], trust_root: bytes, *, workers: int | None = None, batch: int = BATCH,
    vouched: Vouched | None = None,
) -> Iterator[Checked[_M]]:  # fmt: skip
    """Yield messages in batches, in order, each with the sequences whose seal holds.

    Args:
        workers: Processes; None takes the cores this process may run on. 1 checks here.
        vouched: Whether a seal need not be looked at.
    """
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    keys = {seal.key_id(trust_root): trust_root}
    pool: ProcessPoolExecutor | None = None
    pending: deque[tuple[Checked[_M], list[Future[list[int]]]]] = deque()
    alone = ALONE if count > 1 else -1  # seals that are still checked here; -1: all
    try:
        for one in _batches(messages, batch):
            _learn(one, keys)
            seals = _split(one, keys, vouched)
            if alone < 0 or len(seals) <= alone:
                alone -= len(seals) if alone > 0 else 0
                one.good.update(_good(seals))
                pending.append((one, []))
            else:
                alone = 0
                pool = pool or ProcessPoolExecutor(count, mp_context=get_context("forkserver"))
                size = -(-len(seals) // count)
                parts = [seals[i : i + size] for i in range(0, len(seals), size)]
                pending.append((one, [pool.submit(_good, part) for part in parts]))
            while len(pending) > (AHEAD if pool is not None else 0):
                yield _answered(*pending.popleft())
        while pending:
            yield _answered(*pending.popleft())
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _answered(one: Checked[_M], sent: list[Future[list[int]]]) -> Checked[_M]:
    for future in sent:
        one.good.update(future.result())
    return one


def _opened(body: bytes) -> Envelope | None:
    try:
        return envelope.decode(body)
    except ContractError:
        return None


def _split(one: Checked[Any], keys: dict[str, bytes], vouched: Vouched | None) -> list[_Seal]:
    """Take in who is vouched for; return the seals that are to be checked."""
    pairs = [(message, e) for message, e in zip(one.messages, one.opened, strict=True) if e is not None]
    if vouched is not None:
        one.good.update([m.sequence for m, e in pairs if vouched(m.sequence, m.subject, e.key)])
        one.spared = len(one.good)
    return [
        (m.sequence, keys.get(e.key), e.seal, e.signed_bytes()) for m, e in pairs if m.sequence not in one.good
    ]  # fmt: skip


def _learn(one: Checked[Any], keys: dict[str, bytes]) -> None:
    """Note every key that some event introduces, whoever sealed it: a name fits one key only."""
    for e in one.opened:
        if e is None or not e.tag.startswith("SigningKeyRotated."):
            continue
        try:
            decree = decrees.read(e.tag, e.data)
        except ContractError:
            continue
        if isinstance(decree, decrees.SigningKeyRotated):
            keys[seal.key_id(decree.public_key)] = decree.public_key


def _good(seals: Sequence[_Seal]) -> list[int]:
    found = []
    for sequence, public_key, sealed, signed in seals:
        try:
            if public_key is not None:
                seal.verify(public_key, sealed, signed)
                found.append(sequence)
        except ContractError:
            continue
    return found


def _batches(messages: Iterable[_M], size: int) -> Iterator[Checked[_M]]:
    source = iter(messages)
    while batch := list(islice(source, size)):
        yield Checked(batch)
