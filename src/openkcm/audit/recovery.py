"""What a lost ledger is made of again: a backup, and the sealed tails that others hold. Pure; decides, writes nothing.

`plan` takes the copies and says what the new ledger will hold and what is lost. Nothing is trusted but seals:

1. the backup is a whole ledger, verified from its first event on;
2. copies that hold the same sequence hold the same bytes: else these are two histories, and a person must choose;
3. what others hold behind the backup's end is verified as the ledger's continuation: seals, places, counters;
4. a routine event behind one that nobody holds is left out and named: what it stood upon is not known. A critical
   event so placed stops everything: nothing that revokes may be dropped without a person's word;
5. what nobody holds is named, as exactly as the marks of governance allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from openkcm.audit.verify import AuditError, BadEvent, TrustedLedger, closed
from openkcm.contract import envelope as env
from openkcm.contract.checkpoint import EPOCH_SHIFT, epoch_of
from openkcm.contract.errors import ContractError
from openkcm.contract.stored import Identified
from openkcm.contract.subjects import parse_decree

__all__ = ["CannotRestore", "Copy", "Kept", "Lost", "Plan", "plan"]

WORDS_KEPT: Final = 40


class CannotRestore(AuditError):
    """The copies do not make one ledger; nothing was changed."""


class Kept(msgspec.Struct, frozen=True):
    """One stored event, as any copy holds it."""

    sequence: int
    subject: str
    body: bytes
    id: str


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """What one place holds. `name`: as people know it (`eu-frankfurt`, `governance's read model`)."""

    name: str
    messages: Sequence[Identified]


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """One event that will not be in the new ledger, as far as it is known."""

    sequence: int
    what: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The new ledger. `recovered`: copy -> events behind the backup that come from it; `opened`: the epoch all
    of them end in.
    """

    epoch: int
    opened: int
    events: tuple[Kept, ...]
    backup_last: int
    recovered: dict[str, int]
    lost: tuple[Lost, ...]

    @property
    def first_sequence(self) -> int:
        """Where the new ledger begins: no sequence is ever used twice, not even towards a region that is dark."""
        return self.epoch << EPOCH_SHIFT

    def words(self) -> tuple[str, ...]:
        """Return what the trust root signs with the opening: what it is made of, and the loss that is accepted."""
        said = [f"{closed(self.opened, self.epoch - 1)}; backup up to sequence {self.backup_last}"]
        said += [f"recovered {count} events behind it from {name}" for name, count in sorted(self.recovered.items())]
        said += [f"lost {one.sequence}: {one.what}" for one in self.lost[:WORDS_KEPT]]
        if len(self.lost) > WORDS_KEPT:
            said.append(f"and {len(self.lost) - WORDS_KEPT} more lost, up to sequence {self.lost[-1].sequence}")
        return (*said, *(() if self.lost else ("nothing known is lost",)))


def plan(
    backup: Sequence[Identified], copies: Iterable[Copy], trust_root: bytes, *, known: Mapping[int, str] | None = None,
    last_known: int = 0,
) -> Plan:  # fmt: skip
    """Return what the new ledger is made of.

    Args:
        backup: A whole ledger, or its beginning.
        known: What is known of events that may be lost: sequence -> words (tag and subject).
        last_known: The highest sequence that anybody saw.

    Raises:
        CannotRestore: As rules (1) to (4) say.
    """
    if not backup:
        raise CannotRestore("an empty backup")
    trusted = TrustedLedger(trust_root)
    try:  # (1)
        for message in backup:
            trusted.add(message.sequence, message.subject, message.body, message.id)
    except BadEvent as bad:
        raise CannotRestore(f"the backup is not whole: {bad}") from bad
    first, last = backup[0].sequence, backup[-1].sequence
    tail, recovered = _tail({m.sequence: m for m in backup}, copies, first, last)  # (2)
    events, dropped, opened = _continued(backup, tail, trust_root)  # (3) (4)
    words = known or {}
    held = sorted({last, *(m.sequence for m in tail)})
    highest = max([last_known, held[-1], *words])
    lost = [Lost(sequence=n, what=words.get(n, "an event that no copy holds")) for n in _missing(held, highest)]
    lost += dropped  # (5)
    kept = {m.sequence for m in events}
    return Plan(
        epoch=max(epoch_of(highest), trusted.epoch) + 1,
        opened=opened,
        events=tuple(Kept(m.sequence, m.subject, m.body, m.id) for m in events),
        backup_last=last,
        recovered={name: len(have & kept) for name, have in recovered.items() if have & kept},
        lost=tuple(sorted(lost, key=lambda one: one.sequence)),
    )


def _missing(held: Sequence[int], highest: int) -> Iterator[int]:
    """Yield the sequences of the newest epoch that nobody holds; what older ones lost is accepted already."""
    newest = epoch_of(highest)
    for before, after in pairwise([*held, highest + 1]):
        begin = before + 1 if epoch_of(before) == newest else newest << EPOCH_SHIFT
        yield from range(begin, after)


def _tail(
    base: Mapping[int, Identified], copies: Iterable[Copy], first: int, last: int
) -> tuple[list[Identified], dict[str, set[int]]]:
    """Return what is behind the backup, and who holds which of it first."""
    found: dict[int, tuple[str, Identified]] = {n: ("the backup", m) for n, m in base.items()}
    recovered: dict[str, set[int]] = {}
    for copy in copies:
        for message in copy.messages:
            if message.sequence < first:
                continue  # of an epoch before: the backup has it under another sequence
            name, known = found.setdefault(message.sequence, (copy.name, message))
            if (known.subject, known.body) != (message.subject, message.body):
                raise CannotRestore(
                    f"two histories: {name} and {copy.name} hold different events at sequence {message.sequence} "
                    f"({known.subject} and {message.subject}); remove the one that is false"
                )
            if message.sequence > last and name == copy.name:
                recovered.setdefault(name, set()).add(message.sequence)
    return [found[n][1] for n in sorted(found) if n > last], recovered


def _continued(
    backup: Sequence[Identified], tail: Sequence[Identified], trust_root: bytes
) -> tuple[list[Identified], list[Lost], int]:
    counters: dict[tuple[str, int], int] = {}
    for message in backup:
        e = env.decode(message.body)
        counters[message.subject, e.epoch] = e.counter
    events, dropped = list(backup), []
    ids = {m.id: m for m in backup}
    for message in tail:
        twin = ids.setdefault(message.id, message)
        if twin is not message and (twin.subject, twin.body) == (message.subject, message.body):
            continue  # an earlier restore put it there again under a new sequence
        try:
            e = env.decode(message.body)
            lane = parse_decree(message.subject).lane
        except ContractError as bad:
            raise CannotRestore(f"sequence {message.sequence} is no event: {bad}") from bad
        before = counters.get((message.subject, e.epoch), 0)
        if e.counter != before + 1:
            what = f"{e.tag} on {message.subject}, number {e.counter}; nobody holds {before + 1} to {e.counter - 1}"
            if lane == "critical":
                raise CannotRestore(f"sequence {message.sequence} is critical and would be left out: {what}")
            dropped.append(Lost(sequence=message.sequence, what=what))
            continue
        counters[message.subject, e.epoch] = e.counter
        events.append(message)
    trusted = TrustedLedger(trust_root, whole=False, skips=())
    try:
        for message in events:
            trusted.add(message.sequence, message.subject, message.body, message.id)
    except BadEvent as bad:
        raise CannotRestore(f"a copy holds what nobody sealed: {bad}") from bad
    return events, dropped, trusted.epoch
