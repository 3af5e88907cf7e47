"""Whether nodes hold what the ledger says: their digests against ours, and what follows where they differ. No I/O.

1. Only the same is compared: the ledger's epoch, the version of the digest, and a node that has committed all that this
   CMK has read of its region. A node that is behind is no drift; one that stands still below what we have read is.
2. The one digest first. It differs: the node is asked for each residence's.
3. A residence differs if its digest does at the same counters, or if the node stands still at others.
4. The node is told again: it reads its mirrors anew, and the residence's critical decrees, with what it lacks of the
   routine ones, come on lane0. Once for each thing that it said; if it goes on saying it, every 10 s.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from openkcm.contract import digest as canon
from openkcm.contract.reports import HealthCheck, Recheck, ResidenceDigest

__all__ = ["Differs", "Drift", "Says", "Told"]

log = logging.getLogger(__name__)
STILL_S: Final = 4.0  # below the ledger at one and the same place for so long: it stands still
BUSY: Final = 5  # HealthChecks at none of which it was where we are: residences are compared one by one
AGAIN_S: Final = 10.0
TENANTS: Final = 256  # in one question


class Says(Protocol):
    """What the ledger says, as far as this CMK has read it."""

    def digests(self, region: str) -> dict[str, ResidenceDigest]:
        """Return each residence's digest by tenant."""


class Differs(msgspec.Struct, frozen=True):
    """A residence that a node holds otherwise than the ledger says."""

    tenant: str
    node: ResidenceDigest | None
    ledger: ResidenceDigest | None
    since_s: float
    told_s: float


class Told(msgspec.Struct, frozen=True):
    """What must be sent now: the question, and the residences whose decrees come again, with the node's counters."""

    question: Recheck
    again: tuple[tuple[str, int, int], ...] = ()


class _Seen(msgspec.Struct):
    """What we know of one node."""

    cursor: tuple[int, int] = (0, 0)
    since_s: float = 0.0
    busy: int = 0
    pages: dict[str, ResidenceDigest] = {}
    differs: dict[str, Differs] = {}


class Drift:
    """One CMK's comparison of all nodes with its read model."""

    def __init__(
        self, says: Says, *, epoch: Callable[[], int], read_to: Callable[[], int],
        behind: Callable[[str, tuple[int, int]], bool], monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Tie it to the read model.

        Args:
            read_to: The sequence up to which the ledger is read.
            behind: Whether the ledger, as read, has something for a region above these (routine, critical) cursors.
        """
        self._says, self._epoch, self._read_to, self._behind = says, epoch, read_to, behind
        self._monotonic = monotonic
        self._seen: dict[str, _Seen] = {}
        self.found = self.healed = 0

    def differs(self, node: str) -> list[Differs]:
        """Return the residences that a node holds otherwise, by name."""
        seen = self._seen.get(node)
        return [] if seen is None else [seen.differs[tenant] for tenant in sorted(seen.differs)]

    def heard(self, check: HealthCheck) -> Told | None:
        """Compare; return what must be said to the node."""
        seen = self._seen.setdefault(check.node, _Seen())
        ours = self._says.digests(check.region)
        mine = canon.region_digest({tenant: r.digest for tenant, r in ours.items()})
        ahead = max(check.cursor) > self._read_to()
        if check.ledger_epoch != self._epoch() or not canon.comparable(check.digest, mine) or ahead:  # (1)
            return None
        if check.digest == mine:
            self._agreed(check.node, seen, seen.differs)
            seen.busy, seen.cursor, seen.since_s = 0, check.cursor, self._monotonic()
            return None
        if check.told is not None:
            return self._compared(check, seen, ours)
        behind = self._behind(check.region, check.cursor)
        if seen.cursor != check.cursor or not behind:
            seen.since_s = self._monotonic()
        seen.busy += 1
        seen.cursor = check.cursor
        if behind and not self._stands_still(seen) and seen.busy < BUSY:  # (2)
            return None
        seen.busy = 0
        return Told(Recheck(region=check.region, ledger_epoch=check.ledger_epoch, node=check.node))

    def _compared(self, check: HealthCheck, seen: _Seen, ours: dict[str, ResidenceDigest]) -> Told | None:
        told = check.told
        assert told is not None
        if told.first == 0:
            seen.pages = {}
        seen.pages |= {r.tenant: r for r in told.residences}
        whole = len(seen.pages) == told.of
        names = ours.keys() | seen.pages.keys() if whole else {r.tenant for r in told.residences}
        now, differ = self._monotonic(), {}
        on_its_way = self._behind(check.region, check.cursor) and not self._stands_still(seen)
        for tenant in names:
            theirs, own = seen.pages.get(tenant), ours.get(tenant)
            if theirs is not None and own is not None and theirs.digest == own.digest:
                continue
            if on_its_way and _counters(theirs) != _counters(own):  # (3)
                continue
            known = seen.differs.get(tenant)
            if known is None:
                self.found += 1
                log.warning("%s holds another %s than the ledger: %s, not %s", check.node, tenant, theirs, own)
            since = now if known is None else known.since_s
            told_s = known.told_s if known is not None and (known.node, known.ledger) == (theirs, own) else -AGAIN_S
            differ[tenant] = Differs(tenant, theirs, own, since, told_s)
        self._agreed(check.node, seen, names - differ.keys())
        due = sorted(t for t, d in differ.items() if now - d.told_s >= AGAIN_S)[:TENANTS]  # (4)
        seen.differs |= differ
        if not due:
            return None
        for tenant in due:
            seen.differs[tenant] = msgspec.structs.replace(seen.differs[tenant], told_s=now)
        question = Recheck(region=check.region, ledger_epoch=check.ledger_epoch, node=check.node, tenants=tuple(due))
        return Told(question, tuple((tenant, *_counters(differ[tenant].node)) for tenant in due))

    def _stands_still(self, seen: _Seen) -> bool:
        return self._monotonic() - seen.since_s >= STILL_S

    def _agreed(self, node: str, seen: _Seen, tenants: Any) -> None:
        for tenant in [t for t in seen.differs if t in tenants]:
            del seen.differs[tenant]
            self.healed += 1
            log.warning("%s holds again what the ledger says of %s", node, tenant)


def _counters(r: ResidenceDigest | None) -> tuple[int, int]:
    return (0, 0) if r is None else (r.generation, r.fence)
