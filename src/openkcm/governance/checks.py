"""A check of one tenant's events as this process holds them: seals, subjects, counters. Reads; asks nobody.

It runs at the provider and so proves little to a customer; `openkcm audit verify` checks the same elsewhere, and more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from openkcm.contract import envelope as env
from openkcm.contract.errors import ContractError

if TYPE_CHECKING:  # only what it is given
    from openkcm.governance.service import Cmk

__all__ = ["verified"]

BATCH: Final = 1000


def verified(cmk: Cmk, tenant: str) -> dict[str, Any]:
    """Return how many events hold, and the first that does not.

    (1) sealed for its own subject by a key of governance that was in force there; (2) in each epoch an aggregate's lane
    counts from 1 without a gap.
    """
    marks: dict[tuple[str, int], int] = {}
    after = events = 0
    while found := cmk.views.events(tenant, after, BATCH):
        for sequence, subject, body in found:
            after, why = sequence, None
            try:
                e = env.decode(body)
                env.verify(e, subject, cmk.projection.keys_at(sequence))  # (1)
                mark = marks.get((subject, e.epoch), 0)
                if e.counter != mark + 1:  # (2)
                    why = f"counter {e.counter} follows {mark}"
                marks[subject, e.epoch] = e.counter
            except ContractError as bad:
                why = str(bad)
            if why is not None:
                return {"events": events, "good": False, "first_bad": {"sequence": sequence, "why": why}}
            events += 1
    return {"events": events, "good": True, "first_bad": None}
