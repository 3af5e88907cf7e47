"""What custodian and workers say to each other, over a socketpair. Pure: frames and values; opens no socket.

A worker asks for what it cannot do itself (who is this certificate, where is that key, store this record): it holds no
credential. Frames: 4 bytes big-endian length, then msgpack. `n` pairs an answer with its question; 0 is news.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from openkcm.execution.records import ObjectRecord

__all__ = [
    "DECRYPTED",
    "ENCRYPTED",
    "NOT_COUNTED",
    "Cut",
    "Denied",
    "Fetch",
    "FrameError",
    "Frames",
    "FromCustodian",
    "FromWorker",
    "HandOutsWait",
    "Hello",
    "Identify",
    "Identity",
    "InUse",
    "Keys",
    "KeysOf",
    "Put",
    "Record",
    "Refused",
    "Retire",
    "Serve",
    "Serving",
    "Stop",
    "Stored",
    "Trust",
    "Used",
    "frame",
]

MAX_FRAME_BYTES: Final = 2 << 20  # an object record of 1 MiB with room for its envelope
N = Annotated[int, Meta(ge=0)]


class FrameError(Exception):
    """The other side does not speak this protocol: end the connection."""


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages."""


# --- worker to custodian --------------------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """The worker has mapped its memory and can be told to serve."""

    pid: int
    sealed: bool


class Serving(Message, frozen=True):
    """The listener is open. A worker that cannot open it says why in its log and ends."""


class Identify(Message, frozen=True):
    """Who holds this client certificate (SHA-256 of its DER, its SPIFFE ids)? `anchor`: SHA-256 of its chain's root."""

    n: N
    fingerprint: str
    anchor: str
    spiffe: tuple[str, ...] = ()


class KeysOf(Message, frozen=True):
    """Where are this registration's keys? Answered once they are unsealed, or cannot be, at most 2 s later."""

    n: N
    tenant: str
    registration: str
    version: N = 0  # one that must be among them, where an object says that it is under it


class Fetch(Message, frozen=True):
    """Read an object through to the vault."""

    n: N
    tenant: str
    uid: str


class Put(Message, frozen=True):
    """Store a record. `expect`: 0 for a new object, else the object's own sequence.

    `named`: new, under an identifier that the client chose; refused when anything is there.
    """

    n: N
    tenant: str
    record: ObjectRecord
    expect: int
    named: bool = False


class HandOutsWait(Message, frozen=True):
    """The worker's log of hand-outs is half full: read it now. With `n` it is full: answer (Taken) once it is read."""

    n: N = 0


ENCRYPTED, DECRYPTED, NOT_COUNTED = 0, 1, -1  # places in a count of uses


class Used(Message, frozen=True):
    """How often a workload had what was encrypted and decrypted, by object, since it was last said. No answer."""

    tenant: str
    registration: str
    workload: str
    counts: dict[str, tuple[int, int]]


class InUse(Message, frozen=True):
    """Residences whose workloads sent something within the last seconds. No answer."""

    tenants: tuple[str, ...]


# --- custodian to worker --------------------------------------------------------------------------------------------


class Identity(Message, frozen=True):
    """Answer to Identify. `workload_word`: index of its gate word in the arena."""

    n: N
    tenant: str
    region: str
    registration: str
    system: str
    workload: str
    enrolment: str
    workload_word: int
    max_objects: int


class Denied(Message, frozen=True):
    """Answer to Identify: nobody we know."""

    n: N
    reason: str


class Keys(Message, frozen=True):
    """Where a registration's keys are: version -> (slot, generation). `current` is 0 while there are none.

    `state` is the verdict on the residence, for the reason of a refusal; `hand_out` the system's policy for Get.
    """

    n: N
    tenant: str
    registration: str
    current: int
    slots: dict[int, tuple[int, int]]
    state: str
    hand_out: str = "never"


class Record(Message, frozen=True):
    """Answer to Fetch: the record and its sequence, or (0, None)."""

    n: N
    sequence: int
    record: ObjectRecord | None


class Stored(Message, frozen=True):
    """Answer to Put: durable in the vault and in this node's catalogue."""

    n: N
    sequence: int


class Refused(Message, frozen=True):
    """Answer to Fetch or Put. `code`: conflict, unavailable, revoked, full, invalid."""

    n: N
    code: str
    message: str


class Taken(Message, frozen=True):
    """Answer to HandOutsWait: what the log held is durable, or cannot be stored now."""

    n: N


class Cut(Message, frozen=True):
    """End this enrolment's sessions."""

    enrolment: str


class Trust(Message, frozen=True):
    """Chains of client certificates may end in this CA (DER) of a tenant's own, too. Whose, the custodian knows."""

    certificate: bytes


class Listen(Message, frozen=True):
    """Open the listener and accept nobody yet: whoever knocks waits."""


class Listening(Message, frozen=True):
    """Whoever knocks waits here."""


class Serve(Message, frozen=True):
    """Open the listener, and accept."""


class Retire(Message, frozen=True):
    """Accept nobody any more; end with the last session."""


class Leave(Message, frozen=True):
    """Accept nobody any more, end each session after its next answer and the idle ones soon; then exit."""


class Stop(Message, frozen=True):
    """Close the listener and the sessions, then exit."""


FromWorker = Hello | Listening | Serving | Identify | KeysOf | Fetch | Put | HandOutsWait | Used | InUse
FromCustodian = (
    Identity | Denied | Keys | Record | Stored | Taken | Refused | Cut | Trust | Listen | Serve | Retire | Leave | Stop
)
_ENCODER: Final = msgspec.msgpack.Encoder()


def frame(message: Message) -> bytes:
    """Return the message as it goes over the socket.

    Raises:
        FrameError: It is larger than a frame may be.
    """
    body = _ENCODER.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a message of {len(body)} bytes; the most is {MAX_FRAME_BYTES}")
    return len(body).to_bytes(4, "big") + body


class Frames:
    """Bytes in, messages out, of one direction (`FromWorker` or `FromCustodian`)."""

    def __init__(self, direction: type) -> None:
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(direction)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are now whole.

        Raises:
            FrameError: Not this protocol, or a frame over the limit.
        """
        self._buffer += data
        out: list[Message] = []
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if size > MAX_FRAME_BYTES:
                raise FrameError(f"a frame of {size} bytes; the most is {MAX_FRAME_BYTES}")
            if len(self._buffer) < 4 + size:
                break
            body = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            try:
                out.append(self._decoder.decode(body))
            except msgspec.MsgspecError as bad:
                raise FrameError(str(bad)) from bad
        return out
