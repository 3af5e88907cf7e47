"""Records what happens on a running stack, as `docs/history.md` has it: load, lives and beats, what people are shown.

What the ledger and the reports hold is read at the end, all of it. Its author's own time is put on this machine's
CLOCK_BOOTTIME; a beat's and a decree's is when it was sealed, never later than whoever acts on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

from kmip.core import enums
from kmip.pie.exceptions import KmipOperationFailure

from openkcm.bus import beat
from openkcm.bus.connection import connect
from openkcm.bus.errors import BusError
from openkcm.bus.ledger import Ledger
from openkcm.bus.messages import Stored
from openkcm.bus.reports import Reports
from openkcm.cli import orbital
from openkcm.cli.layout import Layout
from openkcm.client import Problem
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import reports, subjects
from openkcm.contract.errors import ContractError
from running_stack import GCM, Stack, until

LOOK_S, READ_S, PAUSE_S = 0.15, 8.0, 0.005
PLAIN = b"sixteen byte msg"


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Recorder:
    """The record of one tenant region, whose load goes to its first node."""

    def __init__(self, stack: Stack, tenant: str, region: str) -> None:
        self.stack, self.tenant, self.region = stack, tenant, region
        self.layout = Layout(stack.state, port_base=stack.base)
        self.lines: list[dict[str, Any]] = []
        self.open_event: str | None = None
        self._ended = threading.Event()
        self._offset = now() - time.time()
        with stack.kmip(f"{tenant}/payments", region) as client:
            mask = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
            self.uid = client.create(enums.CryptographicAlgorithm.AES, 256, cryptographic_usage_mask=mask)
            client.activate(self.uid)
            self.ciphertext, self.iv = client.encrypt(PLAIN, self.uid, GCM)

    def add(self, kind: str, t: float | None = None, **what: Any) -> None:
        self.lines.append(
            {"t": now() if t is None else t, "kind": kind, "tenant": self.tenant, "region": self.region, **what}
        )

    @contextlib.contextmanager
    def recording(self, loads: int = 2):
        """Load, listen and look until the block ends; then read ledger and reports."""
        threads = [threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)]
        threads[0].start()
        until(lambda: any(line["kind"] == "beat" for line in self.lines), 30, "a beat is heard")
        threads += [threading.Thread(target=one, daemon=True) for one in [self._load] * loads + [self._look]]
        for thread in threads[1:]:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join(30)
        asyncio.run(self._read())

    # --- load -------------------------------------------------------------------------------------------------------

    def works(self) -> bool:
        with self.stack.kmip(f"{self.tenant}/payments", self.region) as client:
            return client.decrypt(self.ciphertext, self.uid, GCM, self.iv) == PLAIN

    def _load(self) -> None:
        """Decrypt without end, over connections that last while they work."""
        node = f"{self.region}-1"
        while not self._ended.is_set():
            start = now()
            try:
                with self.stack.kmip(f"{self.tenant}/payments", self.region) as client:
                    while not self._ended.is_set():
                        start = now()
                        try:
                            plain = client.decrypt(self.ciphertext, self.uid, GCM, self.iv)
                            result = "served" if plain == PLAIN else "wrong"
                        except KmipOperationFailure:
                            result = "refused"
                        self.add("op", node=node, start=start, end=now(), result=result)
                        time.sleep(PAUSE_S)
            except Exception:  # whatever a dying server does to its client
                self.add("op", node=node, start=start, end=now(), result="error")
                time.sleep(0.1)

    # --- what people are shown --------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Ask for the state again and again. What is shown holds from when it is here; only whole looks count."""
        path = f"/tenants/{self.tenant}/regions/{self.region}/sync"
        while not self._ended.is_set():
            try:
                with self.stack.portal(f"{self.tenant}/admin") as portal:
                    while not self._ended.wait(LOOK_S):
                        event = self.open_event
                        shown = portal.get(path)["critical"]
                        if event is not None and event == self.open_event:
                            by = shown["certain_by"]
                            self.add("portal", status=shown["status"], events=[event], waiting=shown["waiting_for"],
                                     certain_by=None if by is None else by / 1000 + self._offset)  # fmt: skip
            except (OSError, Problem, KeyError):
                self._ended.wait(LOOK_S)

    # --- lives and beats --------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Lives as governance hears them, beats as a node does."""
        hub = await self._connected("cmk", "hub")
        leaf = await self._connected(f"{self.region}-1", self.region)
        await beat.subscribe_health(hub, self._lives)
        await beat.subscribe_beats(leaf, self.region, self._beats)
        await asyncio.to_thread(self._ended.wait)
        for connection in (hub, leaf):
            await connection.close()

    async def _connected(self, user: str, server: str):
        ports = self.layout.ports.hub if server == "hub" else self.layout.server_ports[server]
        return await connect(orbital.access(self.layout.state, user, ports), name=f"recorder-{user}")

    async def _lives(self, stored: Stored) -> None:
        e = env.decode(stored.body)
        check = reports.read(e.tag, e.data)
        if isinstance(check, reports.HealthCheck) and check.region == self.region:
            self.add("nonce", t=check.sent_boottime_ns / 1e9, node=check.node, nonce=check.nonce)

    async def _beats(self, stored: Stored) -> None:
        e = env.decode(stored.body)
        beat = reports.read_beat(e.tag, e.data)
        withheld = list(getattr(beat, "withheld", ()))
        self.add("beat", t=e.at_ms / 1000 + self._offset - 0.002, nonces=list(beat.nonces), withheld=withheld)

    # --- afterwards -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        connection = await self._connected("cmk", "hub")
        async for stored in Ledger(connection).read_all():
            self._decree(stored)
        self.add("complete")
        with contextlib.suppress(TimeoutError, BusError):
            async with asyncio.timeout(READ_S):
                async for stored in Reports(connection).follow(after=0):
                    self._ack(stored.body)
        await connection.close()

    def _decree(self, stored: Stored) -> None:
        try:
            where, e = subjects.parse_decree(stored.subject), env.decode(stored.body)
            decree = d.read(e.tag, e.data)
        except ContractError:
            return
        if (where.tenant, where.region) != (self.tenant, self.region):
            return
        more: dict[str, Any] = {}
        if isinstance(decree, d.AccessRestored):
            more = {"lifts": [x.event for x in decree.lifts], "people": [s.person for s in decree.signatures]}
        elif isinstance(decree, d.TenantConfigurationUpdated):
            more = {"lease_s": decree.lease_s, "people": [s.person for s in decree.signatures]}
        elif isinstance(decree, d.WorkloadRemoved):
            more = {"ids": list(decree.enrolments)}
        self.add("decree", t=e.at_ms / 1000 + self._offset - 0.002, tag=type(decree).__name__, event=e.id,
                 lane=where.lane, epoch=e.epoch, counter=e.counter, **more)  # fmt: skip

    def _ack(self, body: bytes) -> None:
        e = env.decode(body)
        ack = reports.read(e.tag, e.data)
        if isinstance(ack, reports.SyncAck) and (ack.tenant, e.subject.split(".")[2]) == (self.tenant, self.region):
            self.add("ack", t=e.at_ms / 1000 + self._offset + 0.002, node=e.actor.subject, lane=ack.lane,
                     epoch=ack.ledger_epoch, floor=ack.floor, above=list(ack.above))  # fmt: skip
