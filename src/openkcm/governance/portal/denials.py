"""What was tried and refused, written into the ledger: a few a minute, however many there were. Refuses nothing."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Final

import msgspec

from openkcm.contract.envelope import Actor
from openkcm.contract.subjects import ledger_aggregate
from openkcm.contract.tasks import end_tasks
from openkcm.governance.errors import GovernanceError
from openkcm.governance.ledger_events import LedgerEvents
from openkcm.governance.service import Cmk

__all__ = ["Denials"]

log = logging.getLogger(__name__)
EVERY_S: Final = 60.0
A_MINUTE: Final = 30
#: Of one reason, so that a flood of one kind leaves room for another: a forged token does not hide a forged signature.
OF_ONE_REASON: Final = 10
NOBODY: Final = Actor(issuer="cmk", subject="nobody")


class Denials:
    """The refusals of one CMK."""

    def __init__(self, cmk: Cmk) -> None:
        self._cmk = cmk
        self._written: dict[tuple[str, str, str | None, str], float] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop writing."""
        await end_tasks(self._writing)

    def note(
        self, actor: Actor | None, action: str, no: GovernanceError, *, tenant: str | None, region: str | None
    ) -> None:
        """Write a refusal down, once a minute for one person, action, tenant and reason; not for what is not there."""
        if tenant is not None and not self._cmk.views.is_tenant(tenant):
            return
        now = time.monotonic()
        self._written = {k: at for k, at in self._written.items() if now - at < EVERY_S}
        who = actor or NOBODY
        attempt = (who.subject, action, tenant, no.code)
        alike = sum(1 for _, _, _, code in self._written if code == no.code)
        if attempt in self._written or len(self._written) >= A_MINUTE or alike >= OF_ONE_REASON:
            return
        self._written[attempt] = now
        known = region if tenant is not None and region in self._cmk.regions else None
        task = asyncio.create_task(self._write(who, action, no.code, tenant, known))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, who: Actor, action: str, reason: str, tenant: str | None, region: str | None) -> None:
        order = self._cmk.own_order("_", "DenyAccess", secrets.token_hex(16))
        order = msgspec.structs.replace(order, actor=who)
        try:
            await self._cmk.registry.execute(
                ledger_aggregate(), LedgerEvents, order,
                lambda x: x.deny(who.subject, action, reason, tenant=tenant, region=region),
            )  # fmt: skip
        except GovernanceError as bad:
            log.warning("a denial is not in the ledger: %s", bad)
