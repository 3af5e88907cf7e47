"""The ledger's own aggregate: epochs, keys, nodes, and what was denied. Pure. Only AccessDenied is governance's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from openkcm.contract import decrees as d
from openkcm.contract.subjects import DecreeSubject
from openkcm.governance.aggregate import Decreed, LedgerAggregate

__all__ = ["LedgerEvents", "LedgerFacts"]


class LedgerFacts(msgspec.Struct, frozen=True):
    """What the decrees say."""

    epoch: int = 0


def _opened(facts: LedgerFacts, x: d.LedgerOpened, _: Decreed) -> LedgerFacts:
    return replace(facts, epoch=max(facts.epoch, x.epoch))


class LedgerEvents(LedgerAggregate):
    """`global._`, `ledger`, `main`."""

    if TYPE_CHECKING:  # at run time `eventsourcing` would make a field of it, and an __init__
        facts: LedgerFacts
    RULES = {d.LedgerOpened: _opened}

    @staticmethod
    def nothing(where: DecreeSubject) -> LedgerFacts:  # noqa: ARG004 -- there is but one
        """Return a ledger that was not opened."""
        return LedgerFacts()

    def deny(self, person: str, action: str, reason: str, *, tenant: str | None, region: str | None) -> None:
        """Write down that somebody asked for what is not theirs, and whose it was."""
        self.decree(d.AccessDenied(person=person, action=action, reason=reason, tenant=tenant, region=region))
