"""Whether a region's vault holds together: every record genuine, every key that something needs there. Opens no key.

Used by `openkcm vault` and, for the key records, by each node once a minute: a lost record is an alarm before it is an
outage, since nodes that have the key in memory serve on until they start anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

import msgspec

from openkcm.bus.messages import Stored
from openkcm.contract import envelope as env
from openkcm.contract.errors import ContractError
from openkcm.contract.subjects import parse_vault
from openkcm.execution.keyring import FenceRecord, L2Record, L3Record, RingRecord
from openkcm.execution.known import digest_of, summed
from openkcm.execution.records import ObjectRecord
from openkcm.execution.residence_state import State
from openkcm.execution.safe import Found, Planted, Safe

__all__ = ["CLASSES", "Checked", "check", "digest", "lost_keys", "named", "newest", "tidy"]

CLASSES: Final[dict[str, type[msgspec.Struct]]] = {
    "ring": RingRecord, "l2": L2Record, "l3": L3Record, "fence": FenceRecord, "object": ObjectRecord,
}  # fmt: skip


class Checked(msgspec.Struct, kw_only=True):
    """What was found.

    Attributes:
        records: Genuine ones by kind.
        refused: Records that no node of the region sealed for their place, or that do not fit.
        lost: Records that something names and that are not there.
        stray: Records that nothing names: of a creation that crashed, or of what was destroyed.
        superseded: Older revisions that are not erased yet.
        digest: Over all newest revisions; two vaults with the same one hold the same, and a node that has read it all.
    """

    records: dict[str, int] = {}
    refused: list[str] = []
    lost: list[str] = []
    stray: list[str] = []
    superseded: int = 0
    digest: str = ""

    @property
    def whole(self) -> bool:
        """Nothing is lost and nothing planted; strays and leftovers harm nobody."""
        return not self.refused and not self.lost


async def newest(revisions: AsyncIterator[Stored]) -> tuple[dict[str, Stored], int]:
    """Return the newest revision of each record, and how many older ones there were."""
    kept: dict[str, Stored] = {}
    older = 0
    async for stored in revisions:
        older += stored.subject in kept
        kept[stored.subject] = stored
    return kept, older


def digest(records: Iterable[Stored]) -> str:
    """Return the digest (hex) over what the records say, as `known` has it."""
    return summed(digest_of(stored.subject, _said(stored)) for stored in records)


def _said(stored: Stored) -> bytes:
    try:
        return bytes(env.decode(stored.body).data)
    except ContractError:
        return stored.body


def check(kept: dict[str, Stored], older: int, safe: Safe, state: State, known: Mapping[str, str]) -> Checked:
    """Check all newest revisions of a vault against each other, and against what a node knows.

    Args:
        known: subject -> kind of what a node had read before the vault was walked through.
    """
    out = Checked(records={}, refused=[], lost=[], stray=[], superseded=older, digest=digest(kept.values()))
    genuine: dict[str, dict[str, Any]] = {}
    for stored in kept.values():
        try:
            found = safe.open(stored, state)
            record = safe.read(found, CLASSES[found.subject.kind])
        except (Planted, KeyError) as bad:
            out.refused.append(str(bad) if isinstance(bad, Planted) else f"{stored.subject}: an unknown kind")
            continue
        out.records[found.subject.kind] = out.records.get(found.subject.kind, 0) + 1
        genuine.setdefault(found.subject.tenant, {})[_place(found)] = record
    for subject, kind in sorted(known.items()):
        if subject not in kept and kind not in ("l2", "l3"):  # those may go; whether one is missed, the ring says
            where = parse_vault(subject)
            residence = state.residences.get(where.tenant)
            if kind != "object" or residence is None or not residence.destroyed:
                out.lost.append(f"{where.tenant}: {kind}/{where.id}")
    for tenant, records in sorted(genuine.items()):
        _whole(tenant, records, out)
    for tenant, residence in state.residences.items():
        if (
            residence.root is not None
            and residence.serving_systems()
            and f"ring/{tenant}" not in genuine.get(tenant, {})
            and f"{tenant}: ring/{tenant}" not in out.lost
        ):
            out.lost.append(f"{tenant}: ring")
    return out


def _place(found: Found) -> str:
    return f"{found.subject.kind}/{found.subject.id}"


def _whole(tenant: str, records: dict[str, Any], out: Checked) -> None:
    ring = records.get(f"ring/{tenant}")
    places = set() if ring is None else {f"{kind}/{id_}" for kind, id_ in named(ring)}
    out.lost += [f"{tenant}: {place}" for place in sorted(places - records.keys())]
    out.stray += [f"{tenant}: {p}" for p in sorted(records) if p.partition("/")[0] in ("l2", "l3") and p not in places]
    for place, record in sorted(records.items()):
        if isinstance(record, ObjectRecord) and record.wrapped is not None:
            versions = {} if ring is None else ring.l3.get(record.registration, {})
            if record.l3_version not in versions:
                out.lost.append(f"{tenant}: L3 {record.registration} version {record.l3_version}, which wraps {place}")


def named(ring: RingRecord) -> list[tuple[str, str]]:
    """Return (kind, id) of every key record that a ring names."""
    return [*(("l2", i) for i in ring.l2.values()), *(("l3", i) for v in ring.l3.values() for i in v.values())]


async def tidy(safe: Safe, ring: RingRecord) -> None:
    """Erase what a crash left of superseded revisions of a residence's key records.

    Raises:
        BusError: The vault does not answer.
    """
    for kind, id_ in (("ring", ring.tenant), *named(ring)):
        await safe.tidy(safe.subject(ring.tenant, kind, id_))


async def lost_keys(safe: Safe, state: State, tidied: set[str]) -> list[str]:
    """Return the key records that are named and not there, residence by residence.

    Args:
        tidied: Residences whose superseded revisions were looked for: a node may have died between a record's new
            revision and the erasing of the old one. The others are added to it.

    Raises:
        BusError: The vault does not answer.
    """
    out: list[str] = []
    for tenant, residence in state.residences.items():
        if residence.root is None or residence.destroyed or not residence.serving_systems():
            continue
        try:
            found = await safe.get(safe.subject(tenant, "ring", tenant), RingRecord, state)
            if found is None:
                out.append(f"{tenant}: ring")
                continue
            for kind, id_ in named(found[1]):
                if await safe.get(safe.subject(tenant, kind, id_), CLASSES[kind], state) is None:
                    out.append(f"{tenant}: {kind}/{id_}")
            if tenant not in tidied:
                await tidy(safe, found[1])
                tidied.add(tenant)
        except Planted as bad:
            out.append(f"{tenant}: {bad}")
    return out
