"""Checkpoints: what a log, its nodes and its witnesses sign about a tree. Pure: parses and checks text, opens nothing.

A checkpoint is three lines (origin, size, root) and here one more (epoch and last sequence of the ledger), signed as a
note. Sources: c2sp.org/tlog-checkpoint, c2sp.org/signed-note, c2sp.org/tlog-cosignature (cosignature/v1).

    openkcm-5f0c.../eu-frankfurt/1         origin: whose ledger, which tree, which epoch of it
    42                                     leaves
    tu1k...=                               root, base64
    openkcm epoch 1 sequence 57            where the last leaf stands

    — openkcm-5f0c.../eu-frankfurt/1 KwAB...     base64(4 bytes key id, signature)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from openkcm.contract import seal
from openkcm.contract.errors import ContractError, SealError
from openkcm.contract.merkle import HASH_BYTES

__all__ = [
    "EPOCH_SHIFT", "Checkpoint", "CheckpointError", "Line", "Note", "Verifier", "cosign", "cosigned_at", "epoch_of",
    "ledger_name", "origin_of", "parse_note", "read_verifier", "sign", "verifier_key", "verify",
    "vouch", "vouches",
]  # fmt: skip

#: A ledger's epoch e >= 2 begins at sequence e << 40, so that no sequence is ever used twice.
EPOCH_SHIFT: Final = 40
ED25519: Final = 0x01
COSIGNATURE_V1: Final = 0x04
#: A scheme of our own, told apart by its text (signed-note's type 0xff): the log vouches for its seals, see `vouch`.
SEALS: Final = 0xFF
SEALS_DOMAIN: Final = "openkcm/seals/1"
MAX_NOTE_BYTES: Final = 32 << 10
MAX_SIGNATURES: Final = 64
_DASH: Final = "— "
_NAME: Final = re.compile(r"[^\s+]{1,300}\Z")
_DECIMAL: Final = re.compile(r"(0|[1-9][0-9]{0,18})\Z")
_PLACE: Final = re.compile(r"openkcm epoch (0|[1-9][0-9]{0,9}) sequence (0|[1-9][0-9]{0,18})\Z")


class CheckpointError(ContractError):
    """Not a checkpoint, not a signed note, or not signed by who was asked for."""


def epoch_of(sequence: int) -> int:
    """Return the epoch in which a sequence lies."""
    return sequence >> EPOCH_SHIFT or 1


def ledger_name(trust_root: bytes) -> str:
    """Return a ledger's name in its checkpoints: it is its trust root's."""
    return f"openkcm-{seal.key_id(trust_root)[:16]}"


def origin_of(ledger: str, tree: str, epoch: int) -> str:
    """Return the origin of one tree: a region's, or `global`, in one epoch of the ledger."""
    return f"{ledger}/{tree}/{epoch}"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A tree at one size. `sequence` is where its last leaf stands (0 while it is empty)."""

    origin: str
    size: int
    root: bytes
    epoch: int
    sequence: int

    @property
    def tree(self) -> str:
        """Which tree of the ledger: a region, or `global`."""
        return self.origin.split("/")[-2]

    def text(self) -> str:
        """Return the words that are signed."""
        root = base64.b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\nopenkcm epoch {self.epoch} sequence {self.sequence}\n"

    def __str__(self) -> str:
        return f"{self.origin} size {self.size} root {self.root.hex()[:16]} sequence {self.sequence}"


class Line(msgspec.Struct, frozen=True):
    """One signature line of a note: who, the first 4 bytes of its key's name, the signature as it stands."""

    name: str
    key: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {base64.b64encode(self.key + self.signature).decode()}"


class Note(msgspec.Struct, frozen=True):
    """A signed text."""

    text: str
    lines: tuple[Line, ...]

    def __str__(self) -> str:
        return self.text + "\n" + "".join(f"{line}\n" for line in self.lines)

    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint that it is.

        Raises:
            CheckpointError: It is another text.
        """
        lines = self.text.split("\n")
        if len(lines) != 5 or lines[4]:
            raise CheckpointError("a checkpoint of this ledger has four lines")
        origin, size, root, place = lines[:4]
        found = _PLACE.match(place)
        if not _NAME.match(origin) or origin.count("/") < 2 or not _DECIMAL.match(size) or found is None:
            raise CheckpointError(f"not a checkpoint of this ledger: {self.text[:200]!r}")
        raw = _unbase64(root)
        if len(raw) != HASH_BYTES:
            raise CheckpointError("a root has 32 bytes")
        return Checkpoint(origin=origin, size=int(size), root=raw, epoch=int(found[1]), sequence=int(found[2]))

    def with_lines(self, more: Iterable[Line]) -> Note:
        """Return the note with further signatures."""
        return Note(self.text, (*self.lines, *(line for line in more if line not in self.lines)))


class Verifier(msgspec.Struct, frozen=True):
    """A key one may trust: `kind` is ED25519 for a log's own, COSIGNATURE_V1 for a witness's, SEALS for `vouch`."""

    name: str
    kind: int
    public_key: bytes

    @property
    def key(self) -> bytes:
        """The 4 bytes that name it in a signature line."""
        scheme = SEALS_DOMAIN.encode() if self.kind == SEALS else b""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + scheme + self.public_key).digest()[:4]

    def __str__(self) -> str:
        """As people hand it on: `name+hex(key id)+base64(kind, key)` (signed-note's verifier key)."""
        raw = base64.b64encode(bytes([self.kind]) + self.public_key).decode()
        return f"{self.name}+{self.key.hex()}+{raw}"


def verifier_key(name: str, public_key: bytes, *, witness: bool = False) -> Verifier:
    """Return the verifier of a log's key, or of a witness's.

    Raises:
        CheckpointError: The name holds a space or a plus sign.
    """
    if not _NAME.match(name):
        raise CheckpointError(f"{name[:80]!r} cannot name a key: no spaces, no plus sign")
    return Verifier(name, COSIGNATURE_V1 if witness else ED25519, public_key)


def read_verifier(text: str) -> Verifier:
    """Return the verifier in its text form.

    Raises:
        CheckpointError: It is none.
    """
    name, _, rest = text.strip().partition("+")
    key, _, encoded = rest.partition("+")
    raw = _unbase64(encoded)
    if not _NAME.match(name) or len(raw) != 1 + seal.PUBLIC_KEY_BYTES or raw[0] not in (ED25519, COSIGNATURE_V1):
        raise CheckpointError("not the text of a verifier key: name+key id+key")
    found = Verifier(name, raw[0], raw[1:])
    if found.key.hex() != key:
        raise CheckpointError(f"the key id of {name[:80]} does not fit its key")
    return found


def sign(text: str, name: str, signer: seal.Signer) -> Line:
    """Return a log's signature over a note's text."""
    verifier = verifier_key(name, signer.public_key)
    return Line(name, verifier.key, signer.sign(text.encode()))


def vouch(text: str, name: str, signer: seal.Signer) -> Line:
    """Return a sealing key's word over a checkpoint: each leaf under it that names this key was sealed by this key.

    The same key over the same bytes, where they stand, once instead of one by one. A log gives it only while it has
    found no seal wrong that it was asked to take in (ADR 0033).
    """
    return Line(name, _vouching(name, signer.public_key).key, signer.sign(_vouched_bytes(text)))


def vouches(note: Note, public_key: bytes) -> bool:
    """Return whether this sealing key gave its word (`vouch`) over a checkpoint."""
    verifier = _vouching(note.checkpoint().origin, public_key)
    for line in note.lines:
        if (line.name, line.key) == (verifier.name, verifier.key):
            try:
                seal.verify(public_key, line.signature, _vouched_bytes(note.text))
            except SealError:
                return False
            return True
    return False


def cosign(text: str, name: str, signer: seal.Signer, at_s: int) -> Line:
    """Return a witness's signature: it saw this checkpoint at that POSIX time, and nothing that contradicts it."""
    verifier = verifier_key(name, signer.public_key, witness=True)
    return Line(name, verifier.key, at_s.to_bytes(8, "big") + signer.sign(_cosigned_bytes(text, at_s)))


def cosigned_at(line: Line) -> int:
    """Return the POSIX time (s) in a witness's line.

    Raises:
        CheckpointError: It is no witness's.
    """
    if len(line.signature) != 8 + seal.SEAL_BYTES:
        raise CheckpointError(f"{line.name} did not sign as a witness")
    return int.from_bytes(line.signature[:8], "big")


def verify(note: Note, verifier: Verifier) -> Line:
    """Return the line in which this key signed the note.

    Raises:
        CheckpointError: It did not.
    """
    for line in note.lines:
        if (line.name, line.key) != (verifier.name, verifier.key):
            continue
        try:
            if verifier.kind == COSIGNATURE_V1:
                seal.verify(verifier.public_key, line.signature[8:], _cosigned_bytes(note.text, cosigned_at(line)))
            else:
                seal.verify(verifier.public_key, line.signature, note.text.encode())
        except SealError as bad:
            raise CheckpointError(f"the signature of {verifier.name} does not hold") from bad
        return line
    raise CheckpointError(f"not signed by {verifier.name} with key {verifier.key.hex()}")


def parse_note(text: str) -> Note:
    """Return the note in `text`, no signature verified yet.

    Raises:
        CheckpointError: Not a signed note.
    """
    if len(text.encode()) > MAX_NOTE_BYTES or any(ord(c) < 32 and c != "\n" for c in text):
        raise CheckpointError("not a signed note: too long, or with control characters")
    body, found, signatures = text.rpartition("\n\n")
    if not found or not signatures.endswith("\n"):
        raise CheckpointError("not a signed note: no signatures")
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise CheckpointError(f"a note with more than {MAX_SIGNATURES} signatures")
    return Note(body + "\n", tuple(parse_line(line) for line in lines))


def parse_line(text: str) -> Line:
    """Return one signature line.

    Raises:
        CheckpointError: It is none.
    """
    name, _, encoded = text.removeprefix(_DASH).partition(" ")
    raw = _unbase64(encoded)
    if not text.startswith(_DASH) or not _NAME.match(name) or len(raw) < 5:
        raise CheckpointError(f"not a signature line: {text[:80]!r}")
    return Line(name, raw[:4], raw[4:])


def _vouching(name: str, public_key: bytes) -> Verifier:
    return Verifier(name, SEALS, public_key)


def _vouched_bytes(text: str) -> bytes:
    return seal.canonical(SEALS_DOMAIN, text)


def _cosigned_bytes(text: str, at_s: int) -> bytes:
    return f"cosignature/v1\ntime {at_s}\n{text}".encode()


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as bad:
        raise CheckpointError(f"not base64: {text[:80]!r}") from bad
