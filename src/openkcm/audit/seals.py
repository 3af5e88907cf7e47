"""Seals checked in bulk, on all cores: the one costly step of an audit. Decides nothing; opens nothing.

A key's name is the hash of the key, so whether a seal holds under the key it names does not depend on the ledger's
state. Whether that key was in force is asked later, event by event, by whoever reads in order.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing import get_context
from typing import Final, Protocol, TypeVar

from openkcm.contract import decrees, envelope, seal
from openkcm.contract.errors import ContractError

__all__ = ["checked"]

BATCH: Final = 4096
#: Below this number a pool costs more than it brings.
ALONE: Final = 2 * BATCH
AHEAD: Final = 2  # batches under way while one is judged


class Message(Protocol):
    """What is checked."""

    @property
    def sequence(self) -> int:
        """Its name in the answer."""

    @property
    def subject(self) -> str:
        """Where it was found."""

    @property
    def body(self) -> bytes:
        """One envelope."""


_M = TypeVar("_M", bound=Message)


def checked(
    messages: Iterable[_M],
    trust_root: bytes,
    *,
    workers: int | None = None,
    batch: int = BATCH,
    known: Container[int] = (),
) -> Iterator[tuple[list[_M], frozenset[int]]]:
    """Yield messages in batches, in order, each with the sequences whose seal holds.

    A sequence that is missing from the answer proves nothing: its key may not have been seen yet.

    Args:
        known: Sequences that somebody vouches for: they are in the answer, unchecked.
        workers: Processes; None takes the cores this process may run on. 1 checks here.
    """
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    keys = {seal.key_id(trust_root): trust_root}
    source = iter(messages)
    first = list(islice(source, ALONE))
    batches = _batches(chain(first, source), batch)
    if len(first) < ALONE or count == 1:
        for one in batches:
            _learn(one, keys)
            vouched, rest = _split(one, known)
            yield one, frozenset([*vouched, *_good(keys, rest)])
        return
    with ProcessPoolExecutor(count, mp_context=get_context("forkserver")) as pool:
        pending: deque[tuple[list[_M], list[int], list[Future[list[int]]]]] = deque()
        for one in batches:
            _learn(one, keys)
            vouched, rest = _split(one, known)
            size = max(1, -(-len(rest) // count))
            parts = [rest[i : i + size] for i in range(0, len(rest), size)]
            pending.append((one, vouched, [pool.submit(_good, dict(keys), part) for part in parts]))
            if len(pending) > AHEAD:
                yield _answer(*pending.popleft())
        while pending:
            yield _answer(*pending.popleft())


def _answer(messages: list[_M], vouched: list[int], sent: list[Future[list[int]]]) -> tuple[list[_M], frozenset[int]]:
    return messages, frozenset([*vouched, *(n for future in sent for n in future.result())])


def _split(messages: Sequence[Message], known: Container[int]) -> tuple[list[int], list[tuple[int, bytes]]]:
    vouched = [m.sequence for m in messages if m.sequence in known]
    return vouched, [(m.sequence, m.body) for m in messages if m.sequence not in known]


def _learn(messages: Sequence[Message], keys: dict[str, bytes]) -> None:
    """Note every key that some event introduces, whoever sealed it: a name fits one key only."""
    for message in messages:
        if b'"SigningKeyRotated.' not in message.body:
            continue
        try:
            e = envelope.decode(message.body)
            decree = decrees.read(e.tag, e.data)
        except ContractError:
            continue
        if isinstance(decree, decrees.SigningKeyRotated):
            keys[seal.key_id(decree.public_key)] = decree.public_key


def _good(keys: dict[str, bytes], bodies: Sequence[tuple[int, bytes]]) -> list[int]:
    found = []
    for sequence, body in bodies:
        try:
            e = envelope.decode(body)
            public_key = keys.get(e.key)
            if public_key is not None:
                seal.verify(public_key, e.seal, e.signed_bytes())
                found.append(sequence)
        except ContractError:
            continue
    return found


def _batches(messages: Iterable[_M], size: int) -> Iterator[list[_M]]:
    batch: list[_M] = []
    for message in messages:
        batch.append(message)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch
