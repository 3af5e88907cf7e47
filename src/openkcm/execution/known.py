"""What this node knows of the region's vault: each record's newest revision, their common digest, and a second copy.

Pure but for reading its own rows: it judges records that `safe` has verified, and says which rows follow.

1. A record that is older than the one known is a replay, however genuine: refused and named. So is another one of the
   same revision.
2. What is known is a copy on this node's own disk: key records here, objects in `objects`. From it
   `openkcm vault restore --own` brings back what the vault has lost.
3. The digest is the sum of all records' digests: it changes with each record and does not depend on their order. Nodes
   that have read up to the same sequence have the same one.
4. Nothing that is read or committed in one piece grows with a residence: one of a million objects is forgotten while
   all others are served (`Batch.end`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec

from openkcm.execution.keyring import RingRecord
from openkcm.execution.residence_state import Rows

__all__ = ["Copy", "Kept", "Known", "digest_of", "summed"]

KEPT_AT_THE_END: Final = frozenset({"ring", "fence"})  # tombstones of a destroyed residence
VERSIONS: Final = ("l2", "l3")  # what a ring names, or names no more
PAGE: Final = 1000  # records that are forgotten in one transaction: about 10 ms of the disk
MODULUS: Final = 1 << 256


_OLDER: Final = (
    "SELECT subject, digest FROM vault_known WHERE tenant = ? AND kind = ? AND sequence < ? AND subject > ?"
    " ORDER BY subject LIMIT ?"
)


class Kept(Protocol):
    """Where the rows are."""

    def rows(self, sql: str, parameters: Any = ..., /) -> list[tuple[Any, ...]]:
        """Return a query's rows."""


class Copy(msgspec.Struct, frozen=True):
    """A record as this node keeps it."""

    subject: str
    data: bytes


def digest_of(subject: str, data: bytes) -> bytes:
    """Return SHA-256 over a record's place and what it says; its sequence and seal do not count: they change."""
    return hashlib.sha256(subject.encode() + b"\0" + hashlib.sha256(data).digest()).digest()


def summed(digests: Iterator[bytes]) -> str:
    """Return the common digest (hex) of records in whatever order."""
    return f"{sum(int.from_bytes(one, 'big') for one in digests) % MODULUS:064x}"


class Known:
    """The newest revision of each record that this node has read from the vault's feed.

    Attributes:
        cursor: Sequence of the vault up to which that is.
        digest: Of all of them, hex.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        found = kept.rows("SELECT sequence, digest FROM vault_cursor")
        self.cursor, self.digest = found[0] if found else (0, "")

    def last(self, subject: str) -> tuple[int, bytes] | None:
        """Return (revision, digest) of a record's newest known revision."""
        found = self._kept.rows("SELECT revision, digest FROM vault_known WHERE subject = ?", (subject,))
        return found[0] if found else None

    def all(self) -> dict[str, str]:
        """Return subject -> kind of everything known."""
        return dict(self._kept.rows("SELECT subject, kind FROM vault_known"))

    def copies(self) -> list[Copy]:
        """Return this node's own copy of the vault."""
        keys = self._kept.rows("SELECT subject, data FROM vault_known WHERE data IS NOT NULL")
        objects = self._kept.rows(
            "SELECT k.subject, o.record FROM vault_known k JOIN objects o ON o.tenant = k.tenant"
            " AND o.uid = substr(k.subject, instr(k.subject, '.object.') + 8) WHERE k.kind = 'object'"
        )
        return [Copy(subject, bytes(data)) for subject, data in (*keys, *objects)]

    def batch(self) -> Batch:
        """Begin to take in what the feed brought."""
        return Batch(self._kept, self, int(self.digest or "0", 16))


class Batch:
    """Records on their way into what is known: commit `rows`, then call `done`."""

    def __init__(self, kept: Kept, known: Known, total: int) -> None:
        self._kept, self._known, self._total = kept, known, total
        self._fresh: dict[str, tuple[int, bytes] | None] = {}
        self._before: dict[str, tuple[int, bytes] | None] = {}
        self.rows: Rows = []

    def last(self, subject: str) -> tuple[int, bytes] | None:
        """Return (revision, digest) of a record, this batch included."""
        if subject in self._fresh:
            return self._fresh[subject]
        if subject not in self._before:  # asked for once to judge the record, and once to take it in
            self._before[subject] = self._known.last(subject)
        return self._before[subject]

    def take(self, subject: str, tenant: str, kind: str, sequence: int, revision: int, data: bytes) -> None:
        """Take in a record that was judged."""
        before, digest = self.last(subject), digest_of(subject, data)
        self._fresh[subject] = revision, digest
        self._total += int.from_bytes(digest, "big") - (0 if before is None else int.from_bytes(before[1], "big"))
        self.rows.append(("vault_known", {
            "subject": subject, "tenant": tenant, "kind": kind, "sequence": sequence, "revision": revision,
            "digest": digest, "data": None if kind == "object" else data,
        }))  # fmt: skip

    def follow(self, ring: RingRecord, sequence: int) -> None:
        """Forget versions that a ring names no more."""
        named = {*ring.l2.values(), *(i for of in ring.l3.values() for i in of.values())}
        older = {
            subject
            for kind in VERSIONS
            for subject, _ in self._kept.rows(_OLDER, (ring.tenant, kind, sequence, "", -1))
        }
        for subject in older.union(s for s, kind in self._seen(ring.tenant, sequence) if kind in VERSIONS):
            if subject.rpartition(".")[2] not in named:
                self._forget(subject)

    def end(self, tenant: str, sequence: int) -> Iterator[Rows]:
        """Forget all of a destroyed residence but its tombstones: commit each page before taking the next one.

        With each page goes the digest that is left, at the cursor as it stands: after a crash the rest is forgotten
        when the tombstone comes again. `Known` speaks of neither until `done`.
        """
        for subject, kind in self._seen(tenant, sequence):
            if kind not in KEPT_AT_THE_END:
                self._forget(subject)
        committed = int(self._known.digest or "0", 16)
        for kind in (*VERSIONS, "object"):
            after = ""
            while found := self._kept.rows(_OLDER, (tenant, kind, sequence, after, PAGE)):
                after = found[-1][0]
                gone = [(subject, digest) for subject, digest in found if subject not in self._fresh]
                total = sum(int.from_bytes(digest, "big") for _, digest in gone)
                committed, self._total = committed - total, self._total - total
                left = {"sequence": self._known.cursor, "digest": f"{committed % MODULUS:064x}"}
                yield [*(("vault_gone", {"subject": subject}) for subject, _ in gone), ("vault_cursor", left)]

    def _seen(self, tenant: str, sequence: int) -> list[tuple[str, str]]:
        """Return (subject, kind) of a residence's records that this batch itself has brought before a sequence."""
        rows = [row for name, row in self.rows if name == "vault_known" and row["tenant"] == tenant]
        return [(str(row["subject"]), str(row["kind"])) for row in rows if int(row["sequence"] or 0) < sequence]

    def _forget(self, subject: str) -> None:
        before = self.last(subject)
        if before is not None:
            self._fresh[subject] = None
            self._total -= int.from_bytes(before[1], "big")
            self.rows.append(("vault_gone", {"subject": subject}))

    def finish(self, cursor: int) -> Rows:
        """Return all rows to commit, the cursor's with them."""
        self._digest, self._cursor = f"{self._total % MODULUS:064x}", cursor
        return [*self.rows, ("vault_cursor", {"sequence": cursor, "digest": self._digest})]

    def done(self) -> None:
        """The rows are on the disk."""
        self._known.cursor, self._known.digest = self._cursor, self._digest
