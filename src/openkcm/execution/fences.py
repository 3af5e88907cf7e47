"""The fence record: what every unseal reads beside L2, so that a node with a lost disk or an old backup does not serve.

Nodes of a region write one record together: each merges what it obeyed into it, by compare-and-set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from openkcm.bus.errors import Conflict
from openkcm.execution.keyring import FenceRecord
from openkcm.execution.residence_state import State
from openkcm.execution.roots.base import RootError
from openkcm.execution.safe import Safe

__all__ = ["Fences"]

MAX_RACES: Final = 5


class Fences:
    """All residences' fence records."""

    def __init__(self, safe: Safe, state: Callable[[], State]) -> None:
        self._safe, self._state = safe, state

    async def write(self, tenant: str) -> None:
        """Have the residence's revocations in the vault, merged with what other nodes wrote.

        Raises:
            Conflict: Too many others write it at once; try again.
            BusError, Planted: The vault does not answer, or holds a record that is not ours: no ack then.
        """
        where = self._safe.subject(tenant, "fence", tenant)
        for _ in range(MAX_RACES):
            residence = self._state().residences[tenant]
            own = {epoch: (r.fence, r.event) for epoch, r in residence.revocations.items()}
            found = await self._safe.get(where, FenceRecord, self._state())
            sequence, stored = found or (0, FenceRecord(tenant=tenant))
            epochs = own.keys() | stored.revocations.keys()
            merged = {e: max(x[e] for x in (own, stored.revocations) if e in x) for e in epochs}
            wanted = FenceRecord(tenant=tenant, revocations=merged, destroyed=stored.destroyed or residence.destroyed)
            if found is not None and wanted == stored:
                return
            try:
                expect = (str(where), sequence)
                await self._safe.put(where, wanted, expect=expect, epoch=self._state().epoch, replaces=sequence)
            except Conflict:
                continue
            return
        raise Conflict(f"the fence record of {tenant} is contended")

    async def check(self, tenant: str) -> None:
        """Return when nothing in the record forbids an unseal.

        Raises:
            RootError: `VaultRecordLost`: there was one. `Fenced`: it names a revocation that we do not know as lifted,
                or the end of the residence.
        """
        where = self._safe.subject(tenant, "fence", tenant)
        found = await self._safe.get(where, FenceRecord, self._state())
        if found is None:
            if self._safe.knows(where):
                raise RootError("VaultRecordLost", f"the fence record of {tenant} is not in the vault")
            return
        lifted = self._state().residences[tenant].lifted
        if found[1].destroyed or any(event not in lifted for _, event in found[1].revocations.values()):
            raise RootError("Fenced", "the vault's fence record names a revocation that is not lifted here")
