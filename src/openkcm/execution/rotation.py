"""Moves objects from older key versions to the newest, until no node needs the older ones. Keeps no key over an await.

An L3 version goes in four steps, each of which a crash may follow; whoever comes next goes on from what is stored:

1. its record is rewritten as retired (`keyrecords`), so that no object comes into being under it on any node;
2. every object under it is wrapped anew under the newest version, by compare-and-set: a read finds the old record with
   the old key or the new with the new, and never fails for it;
3. a node whose own catalogue has read past (1) and holds no object under it says so in the ring, and drops its slot;
4. when all nodes of the region have said so, the record is destroyed.

Under an emergency floor the old version has no slot any more: its objects refuse until (2) has reached them.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from openkcm.bus.errors import BusError, Conflict
from openkcm.contract import reports
from openkcm.execution import keyring, secretmem
from openkcm.execution.catalogue import PutRefused
from openkcm.execution.custodian import Custodian
from openkcm.execution.gates import Gates
from openkcm.execution.keychain import Keychain
from openkcm.execution.keyrecords import Loaded, Overtaken
from openkcm.execution.keyring import KeyringError
from openkcm.execution.objects import Rows, context_of
from openkcm.execution.records import ObjectRecord
from openkcm.execution.roots.base import RootError
from openkcm.execution.safe import Planted

__all__ = ["Objects", "Rotation"]

_log: Final = logging.getLogger("openkcm.rotation")
SWEEP_S: Final = 0.5
PAGE_ROWS: Final = 256
AT_ONCE: Final = 8  # rewrapped objects on their way to the vault
PATIENCE: Final = 4  # passes that leave another node's share of the work to that node
_DECODER: Final = msgspec.json.Decoder(ObjectRecord)
_CHILDREN: Final = """
    SELECT rowid, sequence, record FROM objects
    WHERE tenant = :tenant AND registration = :registration AND rowid > :after ORDER BY rowid LIMIT :page"""


class Objects(Protocol):
    """What is asked of the catalogue."""

    cursor: int

    async def put(self, tenant: str, record: ObjectRecord, /, *, expect: tuple[str, int] | None, own: int) -> int:
        """Store a record by compare-and-set."""


class Rotation:
    """One node's part in every rotation of the region."""

    def __init__(
        self,
        region: str,
        custodian: Custodian,
        gates: Gates,
        keychain: Keychain,
        objects: Objects,
        database: Rows,
        report: Callable[[str, reports.Report], Awaitable[None]],
    ) -> None:
        self._region, self._custodian, self._gates, self._keychain = region, custodian, gates, keychain
        self._objects, self._database, self._report = objects, database, report
        self._passes: dict[tuple[str, str, int], int] = {}

    async def run(self) -> None:
        """Look after all residences, for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for tenant in list(self._custodian.state.residences):
                if self._custodian.serving(tenant) and self._keychain.is_open(tenant):
                    try:
                        await self._advance(tenant)
                    except (BusError, Overtaken, Planted, KeyringError, RootError) as later:  # the next pass goes on
                        _log.info("rotation of %s goes on later: %s", tenant, later or type(later).__name__)

    async def _advance(self, tenant: str) -> None:
        loaded = self._keychain.loaded[tenant]
        assert loaded.ring is not None
        if len(loaded.ring[1].l2) > 1:  # its last step is the provisioning's: once more, if somebody fell asleep in it
            self._custodian.settle(tenant)
        for registration, versions in list(loaded.l3.items()):
            for version in sorted(versions)[:-1]:
                await self._retire(tenant, loaded, registration, version)

    async def _retire(self, tenant: str, loaded: Loaded, registration: str, version: int) -> None:
        """Take one older version of an L3 as far as it goes now."""
        assert loaded.ring is not None
        name, own = f"L3/{registration}/{version}", self._custodian.state.node
        sequence, record = loaded.l3[registration][version]
        if own not in loaded.ring[1].released.get(name, ()):
            if not record.retired or self._objects.cursor < sequence:
                return
            left = await self._rewrap_all(tenant, loaded, registration, version)
            if left:
                await self._say(tenant, loaded, registration, version, left)
                return
        elif not self._keychain.records.released_by_all(loaded.ring[1], name):
            return
        async with self._keychain.turn(tenant):
            if self._keychain.loaded.get(tenant) is not loaded:
                return
            try:
                gone = await self._keychain.records.release(loaded, name)
            except Conflict:  # another node was first: what it wrote comes by the vault's feed
                return
        self._passes.pop((tenant, registration, version), None)
        await self._say(tenant, loaded, registration, version, 0, destroyed=gone)
        self._custodian.settle(tenant)  # drops the slot

    async def _say(
        self, tenant: str, loaded: Loaded, registration: str, version: int, left: int, *, destroyed: bool = False
    ) -> None:
        assert loaded.ring is not None
        released = loaded.ring[1].released.get(f"L3/{registration}/{version}", ())
        await self._report(
            tenant,
            reports.RotationProgressed(
                tenant=tenant, level="L3", registration=registration, version=version, children=left,
                released=released, destroyed=destroyed,
            ),
        )  # fmt: skip

    # --- objects ----------------------------------------------------------------------------------------------------

    def _children(self, tenant: str, registration: str, version: int) -> Iterator[list[tuple[int, ObjectRecord]]]:
        """Yield the objects under a version, a page of the catalogue at a time."""
        given: dict[str, Any] = {"tenant": tenant, "registration": registration, "after": -1, "page": PAGE_ROWS}
        while found := self._database.rows(_CHILDREN, given):
            decoded = ((sequence, _DECODER.decode(raw)) for _, sequence, raw in found)
            yield [(sequence, record) for sequence, record in decoded if record.l3_version == version]
            given["after"] = found[-1][0]

    async def _rewrap_all(self, tenant: str, loaded: Loaded, registration: str, version: int) -> int:
        """Make one pass over the catalogue; return how many objects it found under the version.

        Nodes share the work by the objects' names; what a node leaves lying another one takes after some passes.
        """
        state = self._custodian.state
        nodes = sorted(node for node, region in state.nodes.items() if region == self._region)
        mine = nodes.index(state.node) if state.node in nodes else 0
        key = tenant, registration, version
        patient = self._passes[key] = self._passes.get(key, 0) + 1
        found = 0
        for page in self._children(tenant, registration, version):
            found += len(page)
            work = [
                (sequence, record)
                for sequence, record in page
                if patient > PATIENCE or zlib.crc32(record.uid.encode()) % max(1, len(nodes)) == mine
            ]
            for i in range(0, len(work), AT_ONCE):
                await asyncio.gather(*(self._rewrap(tenant, loaded, *one) for one in work[i : i + AT_ONCE]))
            await asyncio.sleep(0)
        return found

    async def _rewrap(self, tenant: str, loaded: Loaded, sequence: int, record: ObjectRecord) -> None:
        renewed = self._under_newest(tenant, loaded, record)
        try:
            await self._objects.put(tenant, renewed, expect=None, own=sequence)
        except PutRefused:  # somebody changed it meanwhile: the next pass sees what it is now
            return

    def _under_newest(self, tenant: str, loaded: Loaded, record: ObjectRecord) -> ObjectRecord:
        """Return the object wrapped under its system's newest L3. Without an await: no key outlives this call."""
        if self._gates.ticket(tenant) != loaded.ticket:
            raise Overtaken
        versions = loaded.l3[record.registration]
        newest = max(versions)
        assert record.wrapped is not None
        size = len(record.wrapped) - keyring.NONCE_BYTES - keyring.TAG_BYTES
        renewed = replace(record, l3_version=newest)
        records, cells = self._keychain.records, self._gates.cells
        with records.lend(2) as (old, new), secretmem.room(size) as material:
            for cell, version in ((old, record.l3_version), (new, newest)):
                l3 = versions[version][1]
                context = records.l3_context(tenant, record.registration, version, l3.id)
                keyring.unseal_l3(l3, records.l2_view(tenant, l3.l2_version), context, cells.view(cell))
            keyring.unseal(record.wrapped, cells.view(old), context_of(self._region, tenant, record), material)
            wrapped = keyring.seal(material, cells.view(new), context_of(self._region, tenant, renewed))
        return replace(renewed, wrapped=wrapped)
