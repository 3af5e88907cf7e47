"""Says what `drift` finds: a question to the node, and again the decrees it holds otherwise. Decides nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from openkcm.bus.connection import Connection
from openkcm.bus.errors import BusError
from openkcm.bus.lanes import repeat
from openkcm.bus.messages import Stored
from openkcm.contract.reports import RECHECK_TAG, HealthCheck
from openkcm.contract.tasks import end_tasks
from openkcm.governance.beat import Beats
from openkcm.governance.drift import Drift, Told
from openkcm.governance.ledger_facts import LedgerFacts
from openkcm.governance.vaults import Vaults
from openkcm.governance.views import Views
from openkcm.governance.watch import Watch
from openkcm.projector.ledger import Projection

__all__ = ["Telling"]

log = logging.getLogger(__name__)
LANES: Final = ("routine", "critical")


class Telling:
    """One CMK's drift and what it says about it."""

    def __init__(
        self, connection: Connection, views: Views, watch: Watch, projection: Projection, beats: Callable[[], Beats]
    ) -> None:
        self._connection, self._views, self._watch, self._beats = connection, views, watch, beats
        self.facts = LedgerFacts(views.reader, lambda: projection.epoch, projection.cursor)
        self.drift = Drift(
            self.facts, epoch=lambda: projection.epoch, read_to=lambda: self.facts.read_to, behind=self._behind
        )
        self.vaults = Vaults()
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, check: HealthCheck) -> None:
        """Compare a node's HealthCheck; what must be said is on its way when this returns."""
        self.vaults.heard(check)
        told = self.drift.heard(check)
        if told is not None:
            task = asyncio.create_task(self._say(told))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Say no more."""
        await end_tasks(self._tasks)

    async def _say(self, told: Told) -> None:
        question = told.question
        if ignorant := self._watch.ignorant(question.region, RECHECK_TAG):
            log.warning("%s is not asked: %s cannot read it", question.node, ", ".join(ignorant))
            return
        try:
            await self._beats().ask(question)
            for tenant, generation, _ in told.again:
                where, epoch = (tenant, question.region), question.ledger_epoch
                again = self._views.above(*where, "critical", epoch, 0)
                again += self._views.above(*where, "routine", epoch, generation)
                for sequence, id_, subject, tag, body in again:
                    await repeat(self._connection, Stored(sequence, subject, body, id_), tag=tag)
        except BusError as away:
            log.info("%s is not told again: %s", question.node, away)

    def _behind(self, region: str, cursor: tuple[int, int]) -> bool:
        return any(self._views.lag(region, lane, at, 1) for lane, at in zip(LANES, cursor, strict=True))
