"""One pass over a ledger: seals in bulk, every rule of `verify`, authority, and whoever else listens. Keeps no event.

A million events are more than fits: what an account, a receipt or an export needs of them it takes as they go by.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat

import msgspec

from openkcm.audit.authority import Authority, Finding
from openkcm.audit.seals import Vouched, checked
from openkcm.audit.verify import Event, TrustedLedger
from openkcm.contract.checkpoint import epoch_of
from openkcm.contract.merkle import ledger_leaf
from openkcm.contract.stored import Identified, Message

__all__ = ["Examined", "examine"]

Heard = Callable[[Event, bytes], None]
Seen = Callable[[Message, bytes], None]
Folded = Callable[[Sequence[Message], set[int], Sequence[bytes], Sequence[Event]], object]


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger that was verified from its first event to its last.

    Attributes:
        keys: All that governance ever had.
        vouched: Events whose seals were not checked one by one, since somebody vouches for them.
    """

    events: int
    epoch: int
    sequence: int
    findings: tuple[Finding, ...]
    keys: tuple[bytes, ...]
    vouched: int


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no cycles of garbage meanwhile: there are none, and looking costs a tenth."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@_uncollected()
def examine(
    messages: Iterable[Identified], trust_root: bytes, *, whole: bool = True, hear: Sequence[Heard] = (),
    see: Sequence[Seen] = (), fold: Folded | None = None, progress: Callable[[int], None] = lambda _: None,
    workers: int | None = None, vouched: Vouched | None = None,
) -> Examined:  # fmt: skip
    """Verify a ledger in order.

    Args:
        messages: In stored order.
        trust_root: The pinned public key, 32 bytes.
        whole: False for a tenant's slice.
        see: Called with each event as stored and its leaf's hash, before it is verified: what else must hold of it.
        hear: Called with each verified event and its bytes.
        fold: Called with each verified batch, the sequences whose seal holds, leaves if any, and events: a replay.
        progress: Told how many events are done.
        workers: Processes for seals; None takes all cores.
        vouched: Whether somebody vouches for an event's seal; `see` must hold its bytes to be those that are meant.

    Raises:
        BadEvent: The first event that breaks the ledger.
        AuditError: What `see` raises.
    """
    trusted, authority, spared = TrustedLedger(trust_root, whole=whole), Authority(), 0
    for batch in checked(messages, trust_root, workers=workers, vouched=vouched):
        stored = batch.messages
        leaves = [ledger_leaf(epoch_of(m.sequence), m.sequence, m.subject, m.body) for m in stored] if see else []
        events: list[Event] = []
        for message, opened, leaf in zip(stored, batch.opened, leaves or repeat(b""), strict=False):
            for look in see:
                look(message, leaf)
            event = trusted.add(
                message.sequence, message.subject, message.body, message.id,
                checked=message.sequence in batch.good, opened=opened,
            )  # fmt: skip
            authority.judge(event)
            events.append(event)
            for listener in hear:
                listener(event, message.body)
        if fold is not None:
            fold(stored, batch.good, leaves, events)
        spared += batch.spared
        progress(trusted.events)
    return Examined(
        events=trusted.events, epoch=trusted.epoch, sequence=trusted.sequence, findings=tuple(authority.findings),
        keys=tuple(trusted.keys.values()), vouched=spared,
    )  # fmt: skip
