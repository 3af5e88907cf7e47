"""An event on the bus as bytes, and back. Pure: verifies seals with the keys it is given.

Every sealed message (decree, report, beat, vault record) is one JSON document; `data` is kept byte for byte, and the
seal covers every other field too, the subject and the counter included. Receivers compare sealed fields only: a
stream's sequence is a cursor, never an order.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Final, Literal, Protocol

import msgspec
from msgspec import Meta

from openkcm.contract import seal
from openkcm.contract.errors import EnvelopeError, SealError
from openkcm.contract.ids import KeyId, PersonId, pattern_of

__all__ = [
    "PRIORITY_CRITICAL",
    "PRIORITY_ROUTINE",
    "Actor",
    "Envelope",
    "KeyBook",
    "decode",
    "encode",
    "seal_envelope",
    "verify",
]

SEAL_DOMAIN: Final = "openkcm/envelope/1"
MAX_ENVELOPE_BYTES: Final = (
    1 << 20
)  # the vault's largest record; decrees and reports are held to 64 KiB by their streams
PRIORITY_CRITICAL: Final = "PRIORITY_CRITICAL"
PRIORITY_ROUTINE: Final = "PRIORITY_ROUTINE"

Priority = Literal["PRIORITY_CRITICAL", "PRIORITY_ROUTINE"]
Counter = Annotated[int, Meta(ge=0, lt=1 << 62)]


class Actor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who caused the event: an issuer and an opaque subject. Names live in an erasable directory, never here."""

    issuer: Annotated[str, Meta(min_length=1, max_length=256)]
    subject: str  # a PersonId


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One sealed message.

    Attributes:
        id: UUID; for a decree derived from the command, so that a retry is the same event.
        tag: Class and version, `AccessRevoked.1`.
        subject: Where it belongs; bytes found under another subject are not this event.
        counter: Position in its aggregate's lane (decrees), in its author's own count (reports, records). From 1.
        epoch: The ledger's epoch.
        at_ms, time_source: A record for people; never used in a decision.
        key: Whose seal.
        data: The event's own JSON, byte for byte.
        seal: Ed25519 over `signed_bytes`, 64 bytes.

    Names whose grammar is a pattern are plain here; `decode` checks them (a pattern in a field costs 0.5 us each).
    """

    id: str
    tag: str
    subject: Annotated[str, Meta(min_length=5, max_length=400)]
    counter: Counter
    epoch: Counter
    actor: Actor
    correlation: str
    causation: str | None = None
    priority: Priority = "PRIORITY_ROUTINE"
    at_ms: Counter
    time_source: Annotated[str, Meta(max_length=32)]
    key: str
    data: msgspec.Raw
    seal: Annotated[bytes, Meta(max_length=64)] = b""

    def signed_bytes(self) -> bytes:
        """Return the bytes under the seal."""
        return seal.canonical(
            SEAL_DOMAIN,
            self.subject,
            self.id,
            self.tag,
            self.counter,
            self.epoch,
            self.actor.issuer,
            self.actor.subject,
            self.correlation,
            self.causation,
            self.priority,
            self.at_ms,
            self.time_source,
            self.key,
            bytes(self.data),
        )

    @property
    def name(self) -> str:
        """The tag without its version."""
        return self.tag.partition(".")[0]


class KeyBook(Protocol):
    """Where a receiver looks a sealing key up."""

    def get(self, key: str, /) -> bytes | None:
        """Return the public key (32 bytes) of that name, or None."""


#: An EventId's digits as zeros; what has no place in one as something else. A pattern takes three times as long.
_DIGITS: Final = bytes(0x30 if chr(n) in "0123456789abcdef" else n if chr(n) in "- " else 0x21 for n in range(256))
_UUID: Final = b"00000000-0000-0000-0000-000000000000"
_TWO, _THREE = b" ".join([_UUID] * 2), b" ".join([_UUID] * 3)
_PERSON: Final = re.compile(pattern_of(PersonId))
_KEY: Final = re.compile(pattern_of(KeyId))
_TAG: Final = re.compile(r"[A-Z][A-Za-z0-9]{1,60}\.[1-9][0-9]{0,3}")
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Envelope)


def seal_envelope(unsealed: Envelope, signer: seal.Signer) -> Envelope:
    """Return the envelope with the signer's key and seal."""
    named = msgspec.structs.replace(unsealed, key=signer.key_id, seal=b"")
    return msgspec.structs.replace(named, seal=signer.sign(named.signed_bytes()))


def encode(envelope: Envelope) -> bytes:
    """Return the envelope's bytes as they are stored."""
    return _ENCODER.encode(envelope)


def decode(raw: bytes) -> Envelope:
    """Return the envelope in `raw`, its seal not yet verified.

    Raises:
        EnvelopeError: Not one well-formed envelope.
    """
    if len(raw) > MAX_ENVELOPE_BYTES:
        raise EnvelopeError(f"an envelope of {len(raw)} bytes; the most is {MAX_ENVELOPE_BYTES}")
    try:
        e = _DECODER.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise EnvelopeError(f"not an envelope: {bad}") from bad
    fresh, shape = (f"{e.id} {e.correlation}", _TWO) if e.causation is None else (
        f"{e.id} {e.correlation} {e.causation}", _THREE
    )  # fmt: skip
    if fresh.encode().translate(_DIGITS) != shape:
        raise EnvelopeError("not an envelope: an id that is no UUID")
    if not _well_named(e.tag, e.actor.subject, e.key):
        raise EnvelopeError("not an envelope: a tag, a person or a key that is not named as such")
    return e


@lru_cache(maxsize=4096)  # they come again and again
def _well_named(tag: str, person: str, key: str) -> bool:
    return bool(_TAG.fullmatch(tag) and _PERSON.fullmatch(person) and _KEY.fullmatch(key))


def verify(envelope: Envelope, subject: str, keys: KeyBook, *, checked: bool = False) -> None:
    """Check that the envelope is its author's and belongs under `subject`.

    (1) the subject it was found under is the sealed one; (2) the author's key is known; (3) the seal holds.

    Args:
        checked: (3) was found good before, over these very bytes and the key they name: an auditor does that in bulk.

    Raises:
        SealError: Any of the three does not hold.
    """
    if envelope.subject != subject:  # (1)
        raise SealError(f"sealed for {envelope.subject!r}, found under {subject[:200]!r}")
    public_key = keys.get(envelope.key)  # (2)
    if public_key is None:
        raise SealError(f"sealed by an unknown key {envelope.key}")
    if not checked:
        seal.verify(public_key, envelope.seal, envelope.signed_bytes())  # (3)
