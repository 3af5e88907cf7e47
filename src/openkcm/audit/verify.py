"""The auditor's trusted ledger: takes events in stored order and names the first that breaks it. Pure; opens nothing.

Needs the events' bytes and the trust root's public key, nothing else. What `TrustedLedger.add` holds true of every
event, in this order; a breach is a `BadEvent` that names (epoch, sequence) and the rule's code:

- (1) sequence: sequences rise; in a whole ledger none is missing, except where an epoch begins at `epoch << 40`.
- (2) envelope: the bytes are one envelope, and it is stored under its own id, which no other event has.
- (3) place: the subject is a decree's, the sealed one, and the aggregate and lane that the tag belongs to.
- (4) shape: the tag is known, its data fits, the priority is the lane's.
- (5) epoch: the ledger opens with `LedgerOpened`; epochs follow one another and events are of the open one.
- (6) seal: the trust root's over its own four kinds of decree; else a key the root introduced and has not retired.
- (7) counter: each aggregate and lane counts 1, 2, 3 ... in every epoch, without a gap.

After a breach nothing more is accepted: what follows it proves nothing. Whether an intact event was also *allowed* is
`authority`'s question.

AuditError
└── BadEvent    the ledger is not what its authors sealed, from this event on
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final

import msgspec

from openkcm.contract import decrees, envelope, seal, subjects
from openkcm.contract.envelope import PRIORITY_CRITICAL, PRIORITY_ROUTINE, Envelope
from openkcm.contract.errors import EnvelopeError, NameError_, SealError
from openkcm.contract.ids import GLOBAL, NOBODY
from openkcm.contract.subjects import DecreeSubject

__all__ = ["AuditError", "BadEvent", "Event", "TrustedLedger"]

EPOCH_SHIFT: Final = 40
_SEALED_FOR: Final = "{sealed for}"
PRIORITIES: Final = {"critical": PRIORITY_CRITICAL, "routine": PRIORITY_ROUTINE}
#: Aggregate -> the tokens its subject must have, given region and tenant (None: any).
PLACES: Final[dict[str, tuple[str | None, str | None]]] = {
    "ledger": (GLOBAL, NOBODY),
    "tenant": (GLOBAL, None),
    "approval": (GLOBAL, None),
    "residence": (None, None),
}


class AuditError(Exception):
    """Root of the tree."""


class BadEvent(AuditError):
    """The first event that breaks the ledger.

    Attributes:
        epoch, sequence: Where. `epoch` is the one open when it was met (0 before the first).
        code: Which rule of the module's list: sequence, envelope, place, shape, epoch, seal, counter.
    """

    def __init__(self, epoch: int, sequence: int, code: str, why: str) -> None:
        super().__init__(f"epoch {epoch}, sequence {sequence}: {code}: {why}")
        self.epoch = epoch
        self.sequence = sequence
        self.code = code
        self.why = why


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An event that holds: where it lies, what its author sealed, what it says."""

    sequence: int
    subject: DecreeSubject
    envelope: Envelope
    decree: decrees.Decree


class _Home(msgspec.Struct, frozen=True):
    """Where events of one tag live under one subject, and what is asked of them there."""

    place: DecreeSubject
    priority: str
    by_root: bool


class TrustedLedger:
    """The verified part of a ledger. Grows by `add`, only forwards.

    Args:
        trust_root: The offline root's public key, 32 bytes.
        whole: True for a ledger from its first event to its last; False for a tenant's slice, whose gaps between
            sequences are other people's events. A slice shows no missing aggregate, only a gap inside one.
        skips: Kinds of aggregates whose counters may leave numbers out. A slice has not all of the ledger's own (other
            tenants' denied attempts), an excerpt of single events has gaps anywhere.
    """

    def __init__(self, trust_root: bytes, *, whole: bool = True, skips: Container[str] | None = None) -> None:
        self._root = {seal.key_id(trust_root): trust_root}
        self._keys: dict[str, bytes] = {}
        self._retired: set[str] = set()
        self._whole = whole
        self._skips: Container[str] = skips if skips is not None else () if whole else ("ledger",)
        self._ids: set[str] = set()
        self._counters: dict[tuple[int, str], int] = {}
        self._homes: dict[tuple[str, bool, str], _Home | tuple[str, str]] = {}  # many events share one
        self._broken: BadEvent | None = None
        self.epoch = 0
        self.sequence = 0
        self.events = 0

    @property
    def keys(self) -> Mapping[str, bytes]:
        """Every key that governance ever had, by name; retired ones too: what they signed before still holds."""
        return self._keys

    def add(
        self, sequence: int, subject: str, body: bytes, message_id: str, *, checked: bool = False,
        opened: Envelope | None = None,
    ) -> Event:  # fmt: skip
        """Check the next event and return it.

        Args:
            sequence: The stream's, a cursor and no order.
            subject: Under which it is stored.
            message_id: Under which it is stored, the stream's de-duplication id.
            checked: Its seal was found good before, over these very bytes and the key they name.
            opened: The envelope in `body`, if it was decoded before.

        Raises:
            BadEvent: It breaks the ledger; so does every later call.
        """
        if self._broken is not None:
            raise self._broken
        try:
            return self._add(sequence, subject, body, message_id, checked, opened)
        except BadEvent as bad:
            self._broken = bad
            raise

    def _add(
        self, sequence: int, subject: str, body: bytes, message_id: str, checked: bool, opened: Envelope | None
    ) -> Event:
        if sequence != self.sequence + 1:  # (1)
            self._check_sequence(sequence)
        try:  # (2)
            sealed = opened or envelope.decode(body)
        except EnvelopeError as bad:
            raise self._bad(sequence, "envelope", str(bad)) from bad
        if sealed.id != message_id:
            raise self._bad(sequence, "envelope", f"event {sealed.id} is stored under the id {message_id[:80]!r}")
        if sealed.id in self._ids:
            raise self._bad(sequence, "envelope", f"event {sealed.id} is here a second time")
        home = self._homes.get((subject, sealed.subject == subject, sealed.tag))  # (3)
        if type(home) is not _Home:
            home = self._check_place(sequence, subject, sealed)
        try:  # (4)
            decree = decrees.read(sealed.tag, sealed.data)
        except EnvelopeError as bad:
            raise self._bad(sequence, "shape", str(bad)) from bad
        if sealed.priority != home.priority:
            raise self._bad(sequence, "shape", f"{sealed.tag} with priority {sealed.priority}")
        epoch = self.epoch  # (5)
        if home.by_root or epoch == 0 or sealed.epoch != epoch:
            epoch = self._check_epoch(sequence, sealed, decree)
        self._check_seal(sequence, subject, sealed, decree, home, checked)  # (6)
        counted = self._counters.get((epoch, subject), 0)  # (7)
        if sealed.counter != counted + 1 and not (home.place.kind in self._skips and sealed.counter > counted):
            raise self._bad(sequence, "counter", f"number {sealed.counter} of {subject} follows number {counted}")
        # Nothing is remembered of an event before all of it holds.
        self._counters[epoch, subject] = sealed.counter
        self._ids.add(sealed.id)
        self.epoch, self.sequence, self.events = epoch, sequence, self.events + 1
        if home.by_root and isinstance(decree, decrees.SigningKeyRotated):
            self._keys[decree.key] = decree.public_key
            self._retired.update(decree.retires)
        return Event(sequence=sequence, subject=home.place, envelope=sealed, decree=decree)

    def _bad(self, sequence: int, code: str, why: str) -> BadEvent:
        return BadEvent(self.epoch, sequence, code, why)

    def _check_sequence(self, sequence: int) -> None:
        if sequence <= self.sequence:
            raise self._bad(sequence, "sequence", f"not after {self.sequence}")
        begins = sequence & ((1 << EPOCH_SHIFT) - 1) == 0
        if self._whole and sequence != self.sequence + 1 and not begins:
            raise self._bad(sequence, "sequence", f"{sequence - self.sequence - 1} missing after {self.sequence}")

    def _check_place(self, sequence: int, subject: str, sealed: Envelope) -> _Home:
        asked = subject, sealed.subject == subject, sealed.tag
        found = self._homes.get(asked) or self._homes.setdefault(asked, home_of(*asked))
        if isinstance(found, tuple):
            code, why = found
            raise self._bad(sequence, code, why.replace(_SEALED_FOR, sealed.subject))
        return found

    def _check_epoch(self, sequence: int, sealed: Envelope, decree: decrees.Decree) -> int:
        if not isinstance(decree, decrees.LedgerOpened):
            if sealed.epoch != self.epoch or self.epoch == 0:
                raise self._bad(sequence, "epoch", f"an event of epoch {sealed.epoch} in epoch {self.epoch}")
            return self.epoch
        if not _follows(decree, self.epoch) or sealed.epoch != decree.epoch:
            raise self._bad(sequence, "epoch", f"epoch {decree.epoch} follows epoch {self.epoch}")
        if sequence < decree.first_sequence:
            raise self._bad(sequence, "epoch", f"the epoch begins at {decree.first_sequence}")
        return decree.epoch

    def _check_seal(
        self, sequence: int, subject: str, sealed: Envelope, decree: decrees.Decree, home: _Home, checked: bool
    ) -> None:
        try:
            envelope.verify(sealed, subject, self._root if home.by_root else self._keys, checked=checked)
        except SealError as bad:
            raise self._bad(sequence, "seal", str(bad)) from bad
        if sealed.key in self._retired:
            raise self._bad(sequence, "seal", f"sealed by key {sealed.key}, which was retired before")
        if isinstance(decree, (decrees.SigningKeyRotated, decrees.NodeEnrolled)):
            own = seal.key_id(decree.public_key)
            if own != decree.key:
                raise self._bad(sequence, "seal", f"names key {decree.key}, but the public key is {own}")


def closed(first: int, last: int) -> str:
    """Return the words by which an opening closes epochs `first` to `last`: of those behind `first` none is left."""
    return f"epoch {last} closed" if first == last else f"epochs {first} to {last} closed"


def _follows(opening: decrees.LedgerOpened, epoch: int) -> bool:
    if opening.epoch <= epoch + 1:
        return opening.epoch == epoch + 1
    return "".join(opening.closes[:1]).startswith(closed(epoch, opening.epoch - 1))


def home_of(subject: str, own: bool, tag: str) -> _Home | tuple[str, str]:
    """Return where an event with this tag lives, or (code, why) when it cannot live there. `own`: it is sealed so."""
    try:
        place = subjects.parse_decree(subject)
    except NameError_ as bad:
        return "place", str(bad)
    if not own:
        return "place", f"sealed for {_SEALED_FOR}, found under {subject}"
    kind = decrees.kind_of(tag)
    if kind is None:
        return "shape", f"unknown event {tag}: use a newer version to audit this ledger"
    if (kind.aggregate, kind.lane) != (place.kind, place.lane):
        return "place", f"{tag} belongs to {kind.aggregate}, {kind.lane}; found under {subject}"
    region, tenant = PLACES[place.kind]
    is_global = place.region == GLOBAL
    own_id = place.id == (place.tenant if place.kind in {"tenant", "residence"} else place.id)
    fits = not is_global if region is None else region == place.region
    if not fits or not own_id or (tenant is not None and tenant != place.tenant):
        return "place", f"no {place.kind} lives under {subject}"
    if tenant is None and place.tenant == NOBODY:
        return "place", f"a {place.kind} of no tenant under {subject}"
    return _Home(place, PRIORITIES[place.lane], kind.decree in decrees.TRUST_ROOT_DECREES)
