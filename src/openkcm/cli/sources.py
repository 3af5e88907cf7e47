"""Where an audit reads a ledger: the auditor's own mirror of a running stack, or an export. Judges nothing."""

from __future__ import annotations

import asyncio
import base64
import queue
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from openkcm.audit.exported import Export, ExportError
from openkcm.audit.trees import SignedTrees, Slice
from openkcm.bus.access import Access
from openkcm.bus.connection import connect
from openkcm.bus.errors import BusError
from openkcm.bus.ledger import Ledger
from openkcm.bus.messages import Stored
from openkcm.bus.reports import usage

__all__ = ["Source", "auditor_access", "mirrored", "of_export", "of_stack", "read_mirror", "read_usage",
           "trust_root"]  # fmt: skip

MIRROR_LATE_S: Final = 10.0
AHEAD: Final = 8192  # messages read while others are judged
BATCH: Final = 512


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger to audit.

    Attributes:
        state: Of a running stack; None for an export.
        registry: Governance's own tables, to compare with; None where there are none.
        whole: False for a tenant's slice, `tenant`'s.
    """

    trust_root: bytes
    whole: bool = True
    tenant: str | None = None
    state: Path | None = None
    registry: Path | None = None
    export: Export | None = None

    def trees(self, against: Path | None = None) -> SignedTrees | Slice | None:
        """Return what was signed of it: in the export itself, or in an earlier export of the same ledger.

        Raises:
            AuditError: The export is not what it says, or `against` is of another ledger or of a tenant's slice.
        """
        earlier = self.export if against is None else Export(against)
        if earlier is None:
            return None
        same = earlier.trust_root == self.trust_root and earlier.manifest.whole and self.whole
        if against is not None and not same:
            raise ExportError(f"{against} is no whole export of this ledger")
        return earlier.trees()

    @contextmanager
    def files_checked(self) -> Iterator[None]:
        """Compare an export's files with their hashes meanwhile: one that differs is named before all else.

        Raises:
            Tampered: One differs, is missing, or was added.
        """
        with ThreadPoolExecutor(1) as aside:
            files = aside.submit(self.export.check_files) if self.export is not None else None
            try:
                yield
            finally:
                if files is not None:
                    files.result()

    def messages(self, *, at_least: int = 0) -> Iterator[Any]:
        """Yield the ledger from its beginning, in stored order.

        Raises:
            BusError: The mirror does not answer, or stays behind `at_least`.
            AuditError: The export is not what it says.
        """
        if self.export is not None:
            return self.export.events()
        assert self.state is not None
        return mirrored(self.state, at_least=at_least)


def of_stack(state: Path) -> Source:
    """Return the ledger of the one-command stack.

    Raises:
        OSError, MsgspecError: There is no such stack.
    """
    cmk = msgspec.json.decode((state / "cmk" / "cmk.json").read_bytes())
    return Source(trust_root=trust_root(state), state=state, registry=Path(cmk["registry"]))


def of_export(folder: Path, root: str | None = None) -> Source:
    """Return an export's ledger. `root`: the pinned public key, base64; None believes the export's own.

    Raises:
        ExportError: It is none, or of another trust root.
    """
    export = Export(folder)
    if root is not None and base64.b64decode(root) != export.trust_root:
        raise ExportError(f"{folder} was made under another trust root than the pinned one")
    return Source(
        trust_root=export.trust_root, whole=export.manifest.whole, tenant=export.manifest.tenant, export=export
    )


def trust_root(state: Path) -> bytes:
    """Return the pinned public key, 32 bytes."""
    return base64.b64decode((state / "trust" / "root.pub").read_text())


def auditor_access(state: Path) -> Access:
    """Return how the auditor reaches its mirror: with its own key, in its own account, on the hub."""
    cmk = msgspec.json.decode((state / "cmk" / "cmk.json").read_bytes())
    pki = state / "pki"
    return Access(
        url=cmk["nats"]["url"],
        nkey=str(state / "nats" / "users" / "auditor.nk"),
        ca=str(pki / "ca.pem"),
        cert=str(pki / "auditor.pem"),
        key=str(pki / "auditor.key"),
        inbox="_INBOX.auditor",
    )


async def read_mirror(state: Path, *, at_least: int = 0) -> list[Stored]:
    """Return the whole ledger as the auditor's mirror holds it. For short ones: it is held in memory.

    Args:
        at_least: Wait (a few seconds at most) until the mirror has come to this sequence.

    Raises:
        BusError: No answer, or the mirror stays behind.
    """
    return [stored async for stored in _read(state, at_least)]


def mirrored(state: Path, *, at_least: int = 0) -> Iterator[Stored]:
    """Yield the auditor's mirror, read ahead in a thread of its own. `at_least` as above.

    Raises:
        BusError: No answer, or the mirror stays behind.
    """
    read: queue.Queue[list[Stored] | Exception | None] = queue.Queue(AHEAD // BATCH)
    given_up = threading.Event()

    async def fill() -> None:
        batch: list[Stored] = []
        async for stored in _read(state, at_least):
            batch.append(stored)
            if len(batch) >= BATCH:
                if given_up.is_set():
                    return
                read.put(batch)
                batch = []
        read.put(batch)

    def run() -> None:
        try:
            asyncio.run(fill())
            read.put(None)
        except Exception as bad:  # whatever it was, the reader must hear of it
            read.put(bad)

    thread = threading.Thread(target=run, name="mirror", daemon=True)
    thread.start()
    try:
        while (batch := read.get()) is not None:
            if isinstance(batch, Exception):
                raise batch
            yield from batch
    finally:
        given_up.set()
        while thread.is_alive():
            try:
                read.get(timeout=0.05)
            except queue.Empty:
                continue


async def _read(state: Path, at_least: int) -> AsyncIterator[Stored]:
    connection = await connect(auditor_access(state), name="auditor")
    try:
        ledger = Ledger(connection)
        deadline = time.monotonic() + MIRROR_LATE_S
        while (await ledger.info()).last < at_least:
            if time.monotonic() > deadline:
                raise BusError(f"the auditor's mirror has not come to sequence {at_least}")
            await asyncio.sleep(0.05)
        async for stored in ledger.read_all():
            yield stored
    finally:
        await connection.close()


async def read_usage(state: Path, tenant: str, regions: Iterable[str]) -> list[tuple[str, bytes]]:
    """Return what these regions hold of the use of a tenant's keys: asked of each, as its own auditor.

    Raises:
        BusError: A region does not answer: an export without it would look complete.
    """
    found: list[tuple[str, bytes]] = []
    nodes = [msgspec.json.decode(path.read_bytes()) for path in _node_files(state)]
    for region in regions:
        node = next((n for n in nodes if n["region"] == region), None)
        if node is None:
            raise BusError(f"this stack has no node in {region}")
        user = f"{region}-auditor"
        own = {"nkey": str(state / "nats" / "users" / f"{user}.nk"), "inbox": f"_INBOX.{user}"}
        connection = await connect(msgspec.convert({**node["nats"], **own}, Access), name=user)
        try:
            found += await usage(connection, region, tenant)
        finally:
            await connection.close()
    return found


def _node_files(state: Path) -> list[Path]:
    return sorted(state.glob("nodes/*/node.json"))
