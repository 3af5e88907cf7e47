"""A worker's view of the object catalogue: decoded records, as fresh as the arena's epoch words say. Writes nothing.

A record read from SQLite is kept until the epoch word of its bucket moves: the custodian raises it whenever a record of
the bucket changes, after SQLite has the new one. The word is read before the row, so a change in between is seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec

from openkcm.contract.seal import canonical
from openkcm.execution.arena import WorkerArena
from openkcm.execution.keyring import NONCE_BYTES, TAG_BYTES, l4_context
from openkcm.execution.records import ObjectRecord
from openkcm.execution.terms import SHIFTS, may_shift
from openkcm.kmip import decode_attributes
from openkcm.kmip.enums import CryptographicUsageMask, ObjectType, State

__all__ = ["BLOCK_HEADS", "Entry", "Objects", "Rows", "context_of"]

MAX_ENTRIES: Final = 8192  # per system; a record is about 1 KiB
PAGE_ROWS: Final = 64  # about 1 ms of decoding, then others are served
_Use = CryptographicUsageMask
PROTECTS: Final = int(_Use.ENCRYPT | _Use.SIGN | _Use.MAC_GENERATE | _Use.WRAP_KEY)
PROCESSES: Final = int(_Use.DECRYPT | _Use.VERIFY | _Use.MAC_VERIFY | _Use.UNWRAP_KEY)
#: Length of `ObjectRecord.block` by object type, when the material came unwrapped (`operations.material`).
BLOCK_HEADS: Final[dict[int, int]] = {
    ObjectType.CERTIFICATE: 4,
    ObjectType.SPLIT_KEY: 20,
    ObjectType.SECRET_DATA: 4,
    ObjectType.OPAQUE_OBJECT: 4,
    ObjectType.PGP_KEY: 4,
}
_DECODER: Final = msgspec.json.Decoder(ObjectRecord)


class Rows(Protocol):
    """A read-only SQLite (`projector.Reader`)."""

    def rows(self, sql: str, parameters: Any = ..., /) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""


def context_of(region: str, tenant: str, record: ObjectRecord) -> bytes:
    """Return the canonical bytes that a wrapped object is bound to: whose it is and what limits its use."""
    limits = canonical(
        "openkcm/object/1", record.object_type, record.algorithm, record.length_bits, record.usage_mask,
        record.key_format, record.block,
    )  # fmt: skip
    digest = hashlib.sha256(limits).hexdigest()
    return l4_context(tenant, region, record.registration, record.l3_version, record.uid, digest).aad()


class Entry:
    """One object, decoded, with everything of it that the hot path needs.

    Attributes:
        sequence: Of the record in the vault; what an update names as its expectation.
        attributes: All, as stored; State may have moved on with a date since (`state_at`).
        epoch, seen: Index of the bucket's epoch word, and its value before the record was read.
        nonce, sealed, aad: What unwrapping takes.
        material_bytes: Length of the material.
        foreign: A client wrapped the material before it came here; nothing is known of what is in it.
        size: Of the key, in bytes; 0 for what is none that can be used here.
        archived: It is out of use until it is recovered.
        dated: A date may have moved its state on, or it is archived: what the hot path need not look at otherwise.
        limited: The object has Usage Limits.
        version: Of the L3 that wraps it.
        parameters, plan: The cryptographic parameters seen last, and what they come to.
    """

    __slots__ = ("_values", "aad", "archived", "attributes", "dated", "epoch", "foreign", "limited", "material_bytes",
                 "nonce", "object_type", "parameters", "plan", "record", "sealed", "seen", "sequence", "size", "state",
                 "uid", "usage", "version")  # fmt: skip

    def __init__(self, sequence: int, record: ObjectRecord, aad: bytes, epoch: int, seen: int) -> None:
        self.sequence, self.record, self.aad, self.epoch, self.seen = sequence, record, aad, epoch, seen
        self.uid, self.state, self.usage = record.uid, record.state, record.usage_mask
        self.version = record.l3_version
        wrapped = record.wrapped or b""
        self.nonce, self.sealed = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
        self.material_bytes = max(0, len(wrapped) - NONCE_BYTES - TAG_BYTES)
        self.foreign = len(record.block) > BLOCK_HEADS.get(record.object_type, 0)
        self.size = 0 if self.foreign else self.material_bytes
        self.parameters: Any = self
        self.plan: Any = None
        self.object_type = ObjectType(record.object_type)
        self.attributes = decode_attributes(record.attributes)
        self._values = {a.attribute_name: a.attribute_value for a in reversed(self.attributes)}
        self.limited = "Usage Limits" in self._values
        self.archived = "Archive Date" in self._values
        self.dated = self.archived or may_shift(self.state, self._values.keys())

    def value(self, name: str) -> Any:
        """Return the value of an attribute's first instance, or None."""
        return self._values.get(name)

    def state_at(self, now_s: int) -> int:
        """Return the state, with the dates that have come since it was stored (KMIP 1.4 section 3.22)."""
        state = self.state
        if not self.dated:
            return state
        start, stop = self.value("Activation Date"), self.value("Deactivation Date")
        if state == State.PRE_ACTIVE and start is not None and start <= now_s:
            state = State.ACTIVE
        if state == State.ACTIVE and stop is not None and stop <= now_s:
            state = State.DEACTIVATED
        return state

    def allows_at(self, usage: int, now_s: int) -> bool:
        """Whether Process Start Date and Protect Stop Date allow this use now (sections 3.25 and 3.26)."""
        if not self.dated:
            return True
        start, stop = self.value("Process Start Date"), self.value("Protect Stop Date")
        if usage & PROTECTS and stop is not None and stop <= now_s:
            return False
        return not (usage & PROCESSES and start is not None and start > now_s)


class Objects:
    """One worker's reading side."""

    def __init__(self, database: Rows, arena: WorkerArena) -> None:
        self._database, self._arena = database, arena

    def load(self, region: str, tenant: str, registration: str, uid: str) -> Entry | None:
        """Return an object of this system from SQLite; None where this node has none, or it is another's.

        Raises:
            msgspec.MsgspecError, KmipError: The row is not one of ours: fails this object alone.
        """
        epoch = self._arena.epoch_index(tenant, uid)
        seen = self._arena.words[epoch]  # before the row
        found = self._database.rows(
            "SELECT sequence, record FROM objects WHERE tenant = ? AND registration = ? AND uid = ?",
            (tenant, registration, uid),
        )
        if not found:
            return None
        sequence, raw = found[0]
        record = _DECODER.decode(raw)
        return Entry(sequence, record, context_of(region, tenant, record), epoch, seen)

    def exists(self, tenant: str, uid: str) -> bool:
        """Whether this node has the object, whosever system it is."""
        sql = "SELECT 1 FROM objects WHERE tenant = ? AND uid = ?"
        return bool(self._database.rows(sql, (tenant, uid)))

    def pages(
        self, tenant: str, registration: str, *, object_type: int | None, uid: str | None, term: bytes | None,
        state: int | None,
    ) -> Iterator[list[ObjectRecord]]:  # fmt: skip
        """Yield a system's records, a page at a time, narrowed by what SQLite has indexed (`execution.terms`).

        By state come those that have it and those that may have it by now: the caller looks at their dates.
        """
        given = {"tenant": tenant, "registration": registration, "object_type": object_type, "uid": uid, "term": term}
        where = "o.tenant = :tenant AND o.registration = :registration"
        where += "" if object_type is None else " AND o.object_type = :object_type"
        where += "" if uid is None else " AND o.uid = :uid"
        if term is not None:  # CROSS JOIN: from the term to its objects, whatever SQLite thinks of their number
            where += " AND t.term = :term AND t.tenant = :tenant AND o.uid = t.uid"
            yield from self._pages("object_terms t CROSS JOIN objects o", where, "t.uid", given, "")
        elif state is not None and uid is None:
            where += " AND o.found_as = :found_as"
            for found_as in (state, SHIFTS):
                yield from self._pages("objects o", where, "o.rowid", {**given, "found_as": found_as}, -1)
        else:
            yield from self._pages("objects o", where, "o.rowid", given, -1)

    def _pages(
        self, source: str, where: str, key: str, given: dict[str, Any], after: int | str
    ) -> Iterator[list[ObjectRecord]]:
        sql = f"SELECT {key}, o.record FROM {source} WHERE {where} AND {key} > :after ORDER BY {key} LIMIT :page"
        while True:
            found = self._database.rows(sql, {**given, "after": after, "page": PAGE_ROWS})
            yield [_DECODER.decode(raw) for _, raw in found]
            if len(found) < PAGE_ROWS:
                return
            after = found[-1][0]
