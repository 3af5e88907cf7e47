"""The digests of what lies in the node's SQLite: what it would know after a restart, not what memory holds. Reads."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from openkcm.contract import digest as canon
from openkcm.contract.digest import Facts
from openkcm.contract.reports import ResidenceDigest
from openkcm.execution import rows
from openkcm.execution.residence_state import Mark, Residence
from openkcm.projector import Reader

__all__ = ["Kept", "Snapshot", "facts", "snapshot"]

_RESIDENCE: Final = msgspec.json.Decoder(Residence)
COLUMNS: Final = ("tenant", "generation", "fence", "verdict", "lease_s", "root", "body")
#: One statement, so one transaction: the cursors are those of these very rows.
QUERY: Final = (
    f"SELECT n.cursor_routine, n.cursor_critical, {', '.join(f'r.{name}' for name in COLUMNS)} "
    "FROM node n LEFT JOIN residence r"
)


class Snapshot(msgspec.Struct, frozen=True):
    """Cursors and residences of one moment."""

    cursor: tuple[int, int]
    residences: tuple[ResidenceDigest, ...]

    @property
    def digest(self) -> str:
        """The one digest over all of them."""
        return canon.region_digest({r.tenant: r.digest for r in self.residences})


def facts(r: Residence, epoch: int) -> Facts:
    """Return what this residence has of what both sides keep, in the ledger's epoch."""
    return Facts(
        tenant=r.tenant,
        generation=r.routine.get(epoch, Mark()).floor,
        fence=r.critical.get(epoch, Mark()).floor,
        configuration=(r.lease_s, r.hand_out, r.max_objects) if r.configured else None,
        approvers=None if r.approvers_hash is None else (r.approvers_version, r.approvers_hash),
        root=None if r.root is None else (r.root.provider, r.root.ref, r.root.credential),
        systems=tuple((known, r.systems[known], r.hand_outs.get(known)) for known in sorted(r.systems)),
        authorities=tuple((a, hashlib.sha256(r.authorities[a]).hexdigest()) for a in sorted(r.authorities)),
        workloads=tuple(
            (e, w.workload, w.system, w.registration, w.fingerprint, w.spiffe, w.authority)
            for e, w in sorted(r.workloads.items())
        ),
        suspended=r.suspended,
        removed=tuple(sorted(r.removed)),
        revocations=tuple(sorted((e, v.fence, v.event) for e, v in r.revocations.items())),
        lifted=tuple(sorted(r.lifted)),
        floors=tuple(sorted(r.floors.items())),
        destroyed=r.destroyed,
        whole=not (r.missing_critical or r.unreadable),
    )  # fmt: skip


class Kept:
    """A node's rows as they were read last: only what changed is digested again."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: dict[tuple[Any, ...], ResidenceDigest | None] = {}

    def read(self, epoch: int) -> Snapshot | None:
        """Return the digests as of now, in `epoch`; None on an empty database.

        Raises:
            ProjectorError: SQLite cannot read them.
        """
        found = self._reader.rows(QUERY)
        if not found:
            return None
        known = {(epoch, *row[2:]): None for row in found if row[2] is not None}
        self._known = {row: self._known[row] if row in self._known else _digest(epoch, row[1:]) for row in known}
        return snapshot((found[0][0], found[0][1]), self._known.values())


def snapshot(cursor: tuple[int, int], digests: Any) -> Snapshot:
    """Return these residences at these cursors, those left out of which nothing was ever decreed."""
    return Snapshot(cursor, tuple(sorted((d for d in digests if d is not None), key=lambda d: d.tenant)))


def _digest(epoch: int, row: tuple[Any, ...]) -> ResidenceDigest | None:
    """Return one row's digest: `canon.NOTHING` where it is no residence, or contradicts itself."""
    try:
        residence = _RESIDENCE.decode(row[-1])
        whole = tuple(rows.residence_row(residence)[1][name] for name in COLUMNS[:-1]) == row[:-1]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        whole = False
    if not whole:
        return ResidenceDigest(tenant=row[0], generation=0, fence=0, digest=canon.NOTHING)
    mine = facts(residence, epoch)
    if mine.is_blank:
        return None
    return ResidenceDigest(tenant=mine.tenant, generation=mine.generation, fence=mine.fence, digest=canon.digest(mine))
