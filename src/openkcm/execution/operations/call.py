"""What an operation's handler works with: its caller, its object, the key for as long as it is needed. No socket.

A handler returns the response, or is (or returns) a generator that yields what must happen elsewhere (`Put`, `Spawn`,
`PAUSE`) and returns the response. Until its first Put it may be started anew at any time, so it must have changed
nothing by then; after it, a Put that fails is thrown into the generator, which takes back what it can.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from openkcm.contract.ids import TOKEN_PATTERN
from openkcm.execution import keyring, registers
from openkcm.execution.arena import STATE_MASK, Gate
from openkcm.execution.bench import Bench, Caller, Slot
from openkcm.execution.objects import Entry, context_of
from openkcm.execution.operations.outcome import KeysWanted, ObjectWanted, OperationFailed, archived, not_found, refusal
from openkcm.execution.records import MAX_RECORD_BYTES, ObjectRecord
from openkcm.kmip import KmipError, ProtocolVersion, Structure
from openkcm.kmip.enums import ResultReason, State

__all__ = ["ALL", "GONE", "KEYLESS", "PAUSE", "READS", "WRITES", "Call", "Handler", "Operation", "Put", "Spawn", "Step",
           "Work"]  # fmt: skip

_UID: Final = re.compile(TOKEN_PATTERN[:-1] + r"\Z")
ALL: Final = frozenset(State)
GONE: Final = frozenset({State.DESTROYED, State.DESTROYED_COMPROMISED})

#: Gate states under which an operation goes on.
WRITES: Final = frozenset({Gate.OPEN})
READS: Final = frozenset({Gate.OPEN, Gate.SUSPENDED, Gate.DECRYPT_ONLY})
KEYLESS: Final = READS | {Gate.COLD, Gate.EMPTY}  # facts about the server: no key is touched


class Put(msgspec.Struct, frozen=True):
    """Have the custodian store a record.

    Attributes:
        expect: 0 for a new object, else the object's sequence.
        named: A new object under an identifier that the client chose: nothing may be there.
    """

    record: ObjectRecord
    expect: int
    named: bool = False


class Spawn(msgspec.Struct, frozen=True):
    """Have a child make an RSA key pair; the generator is sent (public key, private key in the scratch page)."""

    bits: int


PAUSE: Final = None  # let other connections in, then go on
Step = Put | Spawn | None
Work = Generator[Step, Any, Structure]
Handler = Callable[["Call", Any], Structure | Work]


class Operation(msgspec.Struct, frozen=True):
    """One row of the table of operations.

    Attributes:
        request, response: Payload classes.
        usage: Bit of the usage mask that the object must have; 0 for none.
        states: States that the object may be in.
        gates: States of the residence's gate under which the operation is allowed.
        handler: Does it.
        steps: The handler is a generator.
        archived: It may be applied to an archived object.
        counted: Place in the count of a key's use (`control.Used`); below 0: not counted.
    """

    request: type[Structure]
    response: type[Structure]
    usage: int
    states: frozenset[State]
    gates: frozenset[Gate]
    handler: Handler
    steps: bool = False
    archived: bool = False
    counted: int = -1


class Call:
    """One message being answered, as its operations see it.

    Attributes:
        now_s: Wall clock in seconds, for dates that are part of KMIP; decides nothing about access.
        placeholder: The ID placeholder: the object that the last operation of this message made or found.
        slot, word: The gate that let the current item in, and what it read.
        extra: Gates of older key versions used by the current item, with what they read.
        operations: The table that is served.
        absent: Identifiers that the vault does not have either.
        asked_room: The item has waited for room in the log of hand-outs.
    """

    bench: Bench
    caller: Caller
    version: ProtocolVersion
    row: Operation
    now_s: int
    operations: Mapping[int, Operation]
    placeholder: str | None
    absent: frozenset[str]
    asked_room: bool
    slot: Slot | None
    word: int
    extra: tuple[tuple[int, int], ...]
    _asked_keys: int  # how often the current item has asked for keys

    def reserve(self, answer_bytes: int) -> None:
        """Refuse to go on when an answer this long would not fit the client's limit; nothing has happened yet."""

    def object(self, uid: str | None) -> Entry:
        """Return the object, or the placeholder's, when the current operation may be applied to it.

        Raises:
            OperationFailed: No such object (another tenant's or system's is none), archived, wrong state, wrong usage.
            ObjectWanted: The vault must be asked.
        """
        if uid is None:
            uid = self.placeholder
            if uid is None:
                raise not_found()
        entry = self.caller.system.entries.get(uid)
        if entry is None or self.bench.words[entry.epoch] != entry.seen:
            entry = self._load(uid)
        row = self.row
        state = entry.state
        if entry.dated:
            if entry.archived and not row.archived:
                raise archived()
            state = entry.state_at(self.now_s)
            if row.usage and not entry.allows_at(row.usage, self.now_s):
                raise OperationFailed(ResultReason.PERMISSION_DENIED, "outside the dates of the object's use")
        if state not in row.states:
            if state in GONE:
                raise OperationFailed(ResultReason.ITEM_NOT_FOUND, "the object was destroyed")
            name = State(state).name.lower().replace("_", "-")
            raise OperationFailed(ResultReason.PERMISSION_DENIED, f"not while the object is {name}")
        if row.usage and not entry.usage & row.usage:
            raise OperationFailed(ResultReason.PERMISSION_DENIED, "the object's usage mask does not allow it")
        return entry

    @staticmethod
    def may_name(uid: str) -> bool:
        """Whether an object can have this identifier."""
        return _UID.match(uid) is not None

    def peek(self, uid: str) -> Entry:
        """Return an object of the caller's system in whatever state it is, unless it is archived.

        Raises:
            OperationFailed, ObjectWanted: As `object`.
        """
        entry = self.caller.system.entries.get(uid)
        if entry is None or self.bench.words[entry.epoch] != entry.seen:
            entry = self._load(uid)
        if entry.archived:
            raise archived()
        return entry

    def _load(self, uid: str) -> Entry:
        if not _UID.match(uid):
            raise not_found()
        who = self.caller
        who.system.entries.pop(uid, None)
        try:
            entry = self.bench.objects.load(who.region, who.tenant, who.registration, uid)
        except (msgspec.MsgspecError, KmipError) as bad:
            raise OperationFailed(ResultReason.GENERAL_FAILURE, "the object's record cannot be read") from bad
        if entry is None:
            if uid in self.absent:
                raise not_found()
            raise ObjectWanted(uid)
        who.system.keep(entry)
        return entry

    def key_of(self, entry: Entry) -> memoryview:
        """Unwrap the object's key into the scratch page, or find it there; it stays until `Bench.leave` or a wait.

        Raises:
            OperationFailed: It has no key, or one of over 512 bytes, or one that a client wrapped; it does not unwrap;
                its wrapping key is withdrawn.
        """
        bench = self.bench
        into = bench.keys.get(entry.size)
        if into is None:
            into = bench.key_view(entry.size)
            if into is None:
                raise OperationFailed(ResultReason.INVALID_FIELD, "the object is no key that is used here")
        slot = self.slot
        if slot is None or slot.version != entry.version:
            slot = self._wrapping(entry)
        if bench.held is entry:
            return into
        bench.held, bench.gcm = entry, None  # before the key is there: whatever happens, it is wiped
        try:
            AESGCM(slot.key).decrypt_into(entry.nonce, entry.sealed, entry.aad, into)
        except InvalidTag as bad:
            bench.wipe()
            raise OperationFailed(ResultReason.GENERAL_FAILURE, "the object does not unwrap") from bad
        return into

    def gcm_of(self, entry: Entry) -> AESGCM:
        """Return AES-GCM under the object's key, which is unwrapped as by `key_of`; the cipher goes with the key.

        Raises:
            OperationFailed: As `key_of`.
        """
        bench, key = self.bench, self.key_of(entry)
        if bench.gcm is None:
            bench.gcm = AESGCM(key)
        return bench.gcm

    def material_of(self, entry: Entry) -> memoryview | bytes:
        """Return the object's material, in the scratch page beside the key in use; what does not fit there, as bytes.

        It may stand there as a client wrapped it: look at `Entry.foreign`.

        Raises:
            OperationFailed: It does not unwrap, or its wrapping key is withdrawn.
        """
        cipher = AESGCM(self._wrapping(entry).key)
        into = self.bench.room(entry.material_bytes)
        try:
            if into is None:
                return cipher.decrypt(entry.nonce, entry.sealed, entry.aad)
            cipher.decrypt_into(entry.nonce, entry.sealed, entry.aad, into)
        except InvalidTag as bad:
            raise OperationFailed(ResultReason.GENERAL_FAILURE, "the object does not unwrap") from bad
        finally:
            registers.clear()
        return into

    def _wrapping(self, entry: Entry) -> Slot:
        """Return the slot of the L3 that wraps the object; that of an older version is a gate of its own."""
        current, version = self.slot, entry.version
        if current is not None and current.version == version:
            return current
        ring = self.caller.system.ring
        slot = None if ring is None else ring.slots.get(version)
        if slot is None:
            if not self._asked_keys:
                raise KeysWanted(version)  # another node made it, and has wrapped this object under it already
            raise OperationFailed(ResultReason.GENERAL_FAILURE, f"the key version {version} that wraps it is not here")
        word = int(self.bench.words[slot.gate])
        if word >> 8 != slot.open_word >> 8:
            raise KeysWanted
        state = word & STATE_MASK
        if state == Gate.LOCKED:
            raise OperationFailed(ResultReason.PERMISSION_DENIED, "an emergency rotation withdrew its wrapping key")
        if state not in READS:
            raise refusal(state)
        self.extra += ((slot.gate, word),)
        return slot

    @staticmethod
    def check_size(record: ObjectRecord, material: memoryview | bytes | None = None) -> None:
        """Refuse a record that the vault could not hold, with `material` where it is not wrapped yet.

        Raises:
            OperationFailed: Attributes, material and what is kept beside them are too large together.
        """
        material = record.wrapped or b"" if material is None else material
        names = msgspec.json.encode(record.names)  # the record's only text that grows there
        if len(record.attributes) + len(record.block) + len(names) + len(material) > MAX_RECORD_BYTES - 1024:
            raise OperationFailed(ResultReason.INVALID_FIELD, f"an object has at most {MAX_RECORD_BYTES - 1024} bytes")

    def wrap(self, record: ObjectRecord, material: memoryview | bytes) -> ObjectRecord:
        """Return the record with `material` wrapped under the system's current L3. Compare the gate before storing it.

        Raises:
            OperationFailed: Too large, or the wrapping key is being wiped.
        """
        self.check_size(record, material)
        assert self.slot is not None
        record = msgspec.structs.replace(record, l3_version=self.slot.version)
        aad = context_of(self.caller.region, self.caller.tenant, record)
        try:
            wrapped = keyring.seal(material, self.slot.key, aad)  # type: ignore[arg-type]  # any buffer
        except keyring.KeyringError as bad:
            raise OperationFailed(ResultReason.GENERAL_FAILURE, "the wrapping key is not there") from bad
        return msgspec.structs.replace(record, wrapped=wrapped)

    @staticmethod
    def digest(material: memoryview | bytes) -> bytes:
        """Return the SHA-256 of key material, for the Digest attribute."""
        return hashlib.sha256(material).digest()
