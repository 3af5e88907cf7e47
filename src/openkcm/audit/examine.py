"""One pass over a ledger: seals in bulk, every rule of `verify`, authority, and whoever else listens. Keeps no event.

A million events are more than fits: what an account, a receipt or an export needs of them it takes as they go by.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Protocol

import msgspec

from openkcm.audit.authority import Authority, Finding
from openkcm.audit.seals import checked
from openkcm.audit.verify import Event, TrustedLedger

__all__ = ["Examined", "Message", "examine"]

Heard = Callable[[Event, bytes], None]
Seen = Callable[["Message"], None]
Folded = Callable[[Sequence["Message"], frozenset[int]], object]


class Message(Protocol):
    """What a ledger hands out, live or from an export."""

    @property
    def sequence(self) -> int:
        """The stream's sequence."""

    @property
    def subject(self) -> str:
        """Where it was found."""

    @property
    def body(self) -> bytes:
        """One envelope."""

    @property
    def id(self) -> str:
        """Under which it is stored."""


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger that was verified from its first event to its last. `keys`: all that governance ever had."""

    events: int
    epoch: int
    sequence: int
    findings: tuple[Finding, ...]
    keys: tuple[bytes, ...]


def examine(
    messages: Iterable[Message], trust_root: bytes, *, whole: bool = True, hear: Sequence[Heard] = (),
    see: Sequence[Seen] = (), fold: Folded | None = None, progress: Callable[[int], None] = lambda _: None,
    workers: int | None = None, known: Container[int] = (),
) -> Examined:  # fmt: skip
    """Verify a ledger in order.

    Args:
        messages: In stored order.
        trust_root: The pinned public key, 32 bytes.
        whole: False for a tenant's slice.
        see: Called with each event as stored, before it is verified: what else must hold of it.
        hear: Called with each verified event and its bytes.
        fold: Called with each batch, verified or not, and the sequences whose seal holds: a replay.
        progress: Told how many events are done.
        workers: Processes for seals; None takes all cores.
        known: Sequences whose seals the caller checked before; `see` must hold their bytes to be the same.

    Raises:
        BadEvent: The first event that breaks the ledger.
        AuditError: What `see` raises.
    """
    trusted, authority = TrustedLedger(trust_root, whole=whole), Authority()
    for batch, good in checked(messages, trust_root, workers=workers, known=known):
        if fold is not None:
            fold(batch, good)
        for message in batch:
            for look in see:
                look(message)
            event = trusted.add(
                message.sequence, message.subject, message.body, message.id, checked=message.sequence in good
            )
            authority.judge(event)
            for listener in hear:
                listener(event, message.body)
        progress(trusted.events)
    return Examined(
        events=trusted.events, epoch=trusted.epoch, sequence=trusted.sequence, findings=tuple(authority.findings),
        keys=tuple(trusted.keys.values()),
    )  # fmt: skip
