"""Answers workers: who is this certificate, where are that system's keys, read and store objects. Holds no key.

A worker may be under an attacker's control: whatever it asks for is checked here against ledger and gates anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from openkcm.bus.errors import BusError
from openkcm.execution import control
from openkcm.execution.arena import ArenaFull
from openkcm.execution.authorities import Trust
from openkcm.execution.catalogue import Catalogue, PutRefused
from openkcm.execution.custodian import Custodian
from openkcm.execution.gates import Gates
from openkcm.execution.handouts import HandOuts
from openkcm.execution.keychain import Keychain
from openkcm.execution.residence_state import Residence, Workload, verdict
from openkcm.execution.safe import Planted

__all__ = ["Desk"]

_log: Final = logging.getLogger("openkcm.desk")
UNSEAL_WAIT_S: Final = 2.0


class Desk:
    """One handler a question; the table is at the foot of the class."""

    def __init__(
        self,
        custodian: Custodian,
        gates: Gates,
        keychain: Keychain,
        catalogue: Catalogue,
        hand_outs: HandOuts,
        count: Callable[[control.Used], None],
        trust: Trust,
    ) -> None:
        self._custodian, self._gates, self._keychain = custodian, gates, keychain
        self._catalogue, self._hand_outs, self._count = catalogue, hand_outs, count
        self._trust = trust
        self._indexed: dict[str, Residence] | None = None
        self._index: dict[str, list[tuple[str, Workload]]] = {}

    async def answer(self, message: control.Message) -> control.Message | None:
        """Return the answer to a worker's question; None when it asks for none."""
        handler: Callable[[Desk, Any], Awaitable[control.Message | None]] = self._ANSWERS[type(message)]
        return await handler(self, message)

    async def _identify(self, q: control.Identify) -> control.Message:
        residences = self._custodian.state.residences
        found = [
            (tenant, workload)
            for tenant, workload in self._who(q.fingerprint, q.spiffe)
            if self._trust.vouches(q.anchor, _authority(residences[tenant], workload))
        ]
        if len(found) != 1:
            return control.Denied(q.n, "certificate is not enrolled" if not found else "certificate is ambiguous")
        tenant, workload = found[0]
        residence = self._custodian.state.residences[tenant]
        try:
            word = self._gates.word(workload.enrolment)
        except ArenaFull as full:
            _log.error("%s", full)
            return control.Denied(q.n, str(full))
        return control.Identity(
            n=q.n,
            tenant=tenant,
            region=self._custodian.state.region,
            registration=workload.registration,
            system=workload.system,
            workload=workload.workload,
            enrolment=workload.enrolment,
            workload_word=word,
            max_objects=residence.max_objects,
        )

    def _who(self, fingerprint: str, spiffe: tuple[str, ...]) -> list[tuple[str, Workload]]:
        residences = self._custodian.state.residences
        if residences is not self._indexed:  # frozen values: another dict is another state
            self._index = {}
            for tenant, residence in residences.items():
                for workload in residence.serving_workloads():
                    name = workload.fingerprint or workload.spiffe or ""
                    self._index.setdefault(name, []).append((tenant, workload))
            self._indexed = residences
        return [found for name in (fingerprint, *spiffe) for found in self._index.get(name, ())]

    async def _keys_of(self, q: control.KeysOf) -> control.Message:
        tenant = q.tenant
        slots = self._slots(tenant, q.registration)
        if self._custodian.serving(tenant) and (not slots or (q.version and q.version not in slots)):
            self._keychain.warmth.demand(tenant)
            self._custodian.settle(tenant)
            try:
                await asyncio.wait_for(self._custodian.settled(tenant), UNSEAL_WAIT_S)
            except TimeoutError:
                _log.warning("%s is still unsealing", tenant)
        return self.keys(tenant, q.registration, q.n)

    def keys(self, tenant: str, registration: str, n: int = 0) -> control.Keys:
        """Return where a registration's keys are now."""
        residence = self._custodian.state.residences.get(tenant)
        slots = self._slots(tenant, registration)
        return control.Keys(
            n=n,
            tenant=tenant,
            registration=registration,
            current=max(slots, default=0),
            slots=slots,
            state="unlinked" if residence is None else verdict(residence),
            hand_out="never" if residence is None else residence.hand_out_of(registration),
        )

    def _slots(self, tenant: str, registration: str) -> dict[int, tuple[int, int]]:
        arena = self._gates.arena
        return {
            version: (slot, arena.generation(slot))
            for (reg, version), slot in self._gates.slots(tenant).items()
            if reg == registration and self._keychain.is_open(tenant)
        }

    async def _fetch(self, q: control.Fetch) -> control.Message:
        try:
            found = await self._catalogue.fetch(q.tenant, q.uid)
        except (BusError, Planted) as bad:
            return control.Refused(q.n, "unavailable", str(bad))
        return control.Record(q.n, *(found or (0, None)))

    async def _put(self, q: control.Put) -> control.Message:
        residence = self._custodian.state.residences.get(q.tenant)
        if residence is None or q.record.registration not in residence.serving_systems():
            return control.Refused(q.n, "invalid", "no such system")
        if not self._custodian.serving(q.tenant):
            return control.Refused(q.n, "revoked", verdict(residence))
        expect = None if q.expect else self._keychain.place_of(q.tenant, q.record.registration, q.record.l3_version)
        if not q.expect and expect is None:
            return control.Refused(q.n, "conflict", "the key that should wrap it is not this one any more")
        if q.named:
            expect = None  # what must hold is that nothing lies under the chosen name: `own` is 0
        try:
            sequence = await self._catalogue.put(q.tenant, q.record, expect=expect, own=q.expect)
        except PutRefused as no:
            return control.Refused(q.n, no.code, str(no))
        except BusError as away:
            _log.warning("an object of %s is not stored: %s", q.tenant, away)
            return control.Refused(q.n, "unavailable", str(away))
        return control.Stored(q.n, sequence)

    async def _handed(self, q: control.HandOutsWait) -> control.Message | None:
        if not q.n:
            self._hand_outs.wake()
            return None
        await self._hand_outs.take()
        return control.Taken(q.n)

    async def _used(self, q: control.Used) -> None:
        residence = self._custodian.state.residences.get(q.tenant)
        if residence is not None and q.registration in residence.serving_systems():
            self._count(q)

    async def _in_use(self, q: control.InUse) -> None:
        self._keychain.warmth.use(self._custodian.state.residences.keys() & set(q.tenants))

    _ANSWERS: Final[dict[type[control.Message], Any]] = {
        control.Identify: _identify,
        control.KeysOf: _keys_of,
        control.Fetch: _fetch,
        control.Put: _put,
        control.HandOutsWait: _handed,
        control.Used: _used,
        control.InUse: _in_use,
    }


def _authority(residence: Residence, workload: Workload) -> bytes | None:
    return None if workload.authority is None else residence.authorities[workload.authority]
