"""Watches the customers' roots: locks a residence when its root says no, opens it at the first good unwrap, follows a
root that was rotated. Asks by the prober's process only; decides by `desired`.

A denial counts when it comes twice: a policy on its way through a cloud answers both for some seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from typing import Any, Final

from openkcm.bus.errors import BusError
from openkcm.contract import reports
from openkcm.execution.custodian import Custodian
from openkcm.execution.desired import LOCKING
from openkcm.execution.inputs import RootObserved
from openkcm.execution.keychain import Keychain
from openkcm.execution.keyring import L2Record
from openkcm.execution.reporter import Reporter
from openkcm.execution.residence_state import verdict
from openkcm.execution.roots.base import TWICE, RootError
from openkcm.execution.safe import Planted
from openkcm.execution.unseal_probe import Observation, Prober

__all__ = ["RootWatch"]

_log: Final = logging.getLogger("openkcm.rootwatch")
SWEEP_S: Final = 0.5
RETRY_S: Final = 4.0
MAX_RETRY_S: Final = 60.0


class RootWatch:
    """One watch for all residences of the node."""

    def __init__(self, custodian: Custodian, keychain: Keychain, prober: Prober, reporter: Reporter) -> None:
        self._custodian, self._keychain, self._prober, self._reporter = custodian, keychain, prober, reporter
        self._denied: dict[str, str] = {}
        self._followed: dict[str, L2Record | None] = {}
        self._said: dict[str, tuple[str, str | None]] = {}
        self._rewrapping: set[str] = set()
        self._tries: dict[str, tuple[int, float]] = {}  # how often in a row, and when again
        self._silent: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep the prober's list as the keychain has it, for ever."""
        while True:
            for tenant in self._custodian.state.residences:
                self._follow(tenant)
                cold = tenant in self._keychain.warmth.cold
                if cold or not self._custodian.serving(tenant) or self._keychain.is_open(tenant):
                    self._tries.pop(tenant, None)
                else:
                    self._again(tenant)
            await asyncio.sleep(SWEEP_S)

    def _again(self, tenant: str) -> None:
        """A residence that should serve and does not (its root was away): try again, ever more rarely, spread out."""
        now = asyncio.get_running_loop().time()
        tries, due = self._tries.get(tenant, (0, 0.0))
        if now >= due:
            longest_s = min(RETRY_S * 2**tries, MAX_RETRY_S)
            self._tries[tenant] = tries + 1, now + random.uniform(longest_s / 2, longest_s)  # noqa: S311 -- jitter
            self._custodian.settle(tenant)

    def _follow(self, tenant: str) -> None:
        loaded = self._keychain.loaded.get(tenant)
        record = None if loaded is None or loaded.current is None else loaded.current[1]
        if self._followed.get(tenant) is record:
            return
        self._followed[tenant] = record
        found = self._keychain.probe_of(tenant)
        if found is None:
            return
        root, canary, context = found
        self._prober.watch(tenant, root, context, canary)

    def observe(self, seen: Observation) -> None:
        """Take one answer of the prober's."""
        tenant = seen.tenant
        if seen.code in TWICE and self._denied.get(tenant) != seen.code:
            self._denied[tenant] = seen.code
            return
        self._denied.pop(tenant, None)
        if seen.code != "ok":
            self._silent.add(tenant)
        elif tenant in self._silent:  # it answers again: whoever waits for it waits no longer
            self._silent.discard(tenant)
            self._tries.pop(tenant, None)
        self._spawn(self._report(tenant, seen))
        locked = self._custodian.state.residences[tenant].root_refusal
        if seen.code in LOCKING or (seen.code == "ok" and locked is not None):
            self._custodian.take(RootObserved(tenant, seen.code))
        if seen.code == "ok" and seen.root_version is not None and tenant not in self._rewrapping:
            self._spawn(self._rewrap(tenant, seen.root_version))

    async def _report(self, tenant: str, seen: Observation) -> None:
        news = (seen.code, seen.root_version)
        if self._said.get(tenant) == news:
            return
        self._said[tenant] = news
        report = reports.RootStateObserved(
            tenant=tenant,
            state=seen.code,  # type: ignore[arg-type]  # a key of the same table
            detail=seen.detail,
            root_version=seen.root_version,
        )
        try:
            await self._reporter.root_state(tenant, report)
        except BusError as away:
            self._said.pop(tenant, None)
            _log.warning("root state of %s not reported: %s", tenant, away)

    async def _rewrap(self, tenant: str, version: str) -> None:
        residence = self._custodian.state.residences[tenant]
        if self._keychain.root_version(tenant) in (None, version) or verdict(residence) not in ("active", "suspended"):
            return
        self._rewrapping.add(tenant)
        try:
            if await self._keychain.rewrap(tenant):
                done = reports.RotationComplete(
                    tenant=tenant, level="L1", version=self._keychain.version(tenant), root_version=version
                )
                await self._reporter.rotated(tenant, done)
                _log.info("L2 of %s is wrapped by %s", tenant, version)
        except (BusError, RootError, Planted) as bad:  # the next probe tries again
            _log.warning("rewrap of %s: %s", tenant, bad)
        finally:
            self._rewrapping.discard(tenant)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
