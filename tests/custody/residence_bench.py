"""A running node with residences that a test can use as a workload, and as a thief who holds the customer's root."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from execution.kmip_client import Failed, KmipClient, client_context
from node_bench import Governor, RunningNode, new_key_file, opening
from openkcm.bus.vault import Vault
from openkcm.contract import decrees as d
from openkcm.contract import envelope as env
from openkcm.contract import statements
from openkcm.execution import keyring
from openkcm.execution.keyring import L2Record, L3Record, RingRecord
from openkcm.execution.objects import context_of
from openkcm.execution.records import ObjectRecord
from openkcm.execution.roots.file import FileRoot
from orbital_fixture import running_orbital
from press import Press, sign

REGION = "eu-frankfurt"
__all__ = [
    "REGION",
    "Residence",
    "Thief",
    "descendants",
    "destruction",
    "onboard",
    "serving_node",
    "settled",
    "workers_of",
]


class Residence:
    """One onboarded tenant: its certificate, and connections of its workload."""

    def __init__(self, tenant: str, context: ssl.SSLContext) -> None:
        self.tenant, self.context = tenant, context
        self.registration = f"reg-{tenant}-payments"

    async def client(self, node: RunningNode) -> KmipClient:
        return await KmipClient.connect(node.port, self.context)

    async def new_key(self, node: RunningNode, **how) -> str:
        client = await self.client(node)
        try:
            return await client.new_key(**how)
        finally:
            await client.close()


async def onboard(governor: Governor, node: RunningNode, tenant: str, *, lease_s: int = 3600) -> Residence:
    """Bring a tenant aboard with a root and a certificate of its own; returns when the node serves it."""
    press = governor.press
    key_file = node.folder / f"{tenant}.keys"
    if not key_file.exists():
        new_key_file(key_file)
    cert, key = node.authority.issue_workload(tenant, "app")
    der = ssl.PEM_cert_to_DER_cert(cert.read_text())
    enrolled = d.WorkloadEnrolled(
        workload="app", system="payments", registration=f"reg-{tenant}-payments", enrolment=f"enr-{tenant}-app",
        fingerprint=hashlib.sha256(der).hexdigest(),
    )  # fmt: skip
    root = d.RootReference(provider="file", ref=str(key_file))
    mine = {"RootKeyLinked.1": d.RootKeyLinked(root=root), "WorkloadEnrolled.2": enrolled}
    for e in press.onboarded(tenant, lease_s=lease_s):
        replaced = mine.get(e.tag)
        await governor.append(e if replaced is None else press.residence(tenant, replaced, counter=e.counter))
    await governor.until(lambda: governor.acked(tenant, "routine", 5, "active"))
    return Residence(tenant, client_context(cert, key, node.authority.ca))


@contextlib.asynccontextmanager
async def serving_node(folder: Path, **options: Any) -> AsyncIterator[tuple[Governor, RunningNode]]:
    """A stack with one node that hears governance; `options` are `RunningNode`'s."""
    press = Press()
    with running_orbital(folder / "stack") as orbital:
        node = RunningNode(orbital, press, folder / "node", **options)
        async with Governor(orbital, press) as governor:
            for e in opening(press):
                await governor.append(e)
            node.start()
            try:
                await node.wait_ready()
                await settled(governor)
                yield governor, node
            finally:
                node.stop()


def destruction(press: Press, tenant: str) -> env.Envelope:
    """The decree, signed by two of the tenant's people."""
    words = statements.destroy_statement(tenant, press.region, "approval-0001", 1)
    decree = d.ContextDestroyed(approval="approval-0001", approvers_version=1, signatures=sign(words, press.people))
    return press.residence(tenant, decree)


async def settled(governor: Governor) -> None:
    """Wait until a node that was just born hears governance."""
    await governor.until(lambda: governor.health and governor.health.cursor[1] >= 1)
    await asyncio.sleep(0.6)


class Pace:
    """Lets operations of `working` go on, or has them stand still between two of them."""

    def __init__(self) -> None:
        self.going, self.under_way = asyncio.Event(), 0
        self.going.set()

    @contextlib.asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """Nothing is under way inside."""
        self.going.clear()
        try:
            while self.under_way:  # noqa: ASYNC110 -- a look every few ms
                await asyncio.sleep(0.005)
            yield
        finally:
            self.going.set()


async def working(residence: Residence, node: RunningNode, uid: str, counts: list[int], pace: Pace) -> None:
    """Encrypt and decrypt until refused or cancelled; `counts` = [good, bad]."""
    client = await residence.client(node)
    try:
        while True:
            await pace.going.wait()
            pace.under_way += 1
            try:
                done = await client.encrypt(uid, b"payload " * 8)
                if await client.decrypt(uid, done) != b"payload " * 8:
                    raise AssertionError("a wrong plaintext")
            finally:
                pace.under_way -= 1
            counts[0] += 1
    except (Failed, asyncio.IncompleteReadError, ConnectionError):
        counts[1] += 1
    finally:
        with contextlib.suppress(Exception):
            await client.close()


class Thief:
    """Reads the vault and has the customer's key file: what a key is, the test learns from here and nowhere else."""

    def __init__(self, governor: Governor, node: RunningNode) -> None:
        self._governor, self._node = governor, node

    async def __aenter__(self):
        self._connection = await self._governor.orbital.connect(f"{REGION}-1")
        self._vault = Vault(self._connection, REGION)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def record(self, tenant: str, kind: str, id_: str, of: type):
        stored = await self._vault.get(f"kcm.vault.{REGION}.{tenant}.{kind}.{id_}")
        return msgspec.json.decode(env.decode(stored.body).data, type=of)

    async def keys(self, tenant: str, uid: str, key_file: Path | None = None) -> dict[str, bytes]:
        """KEK, L2, L3, L4 on the way to one object."""
        ring = await self.record(tenant, "ring", tenant, RingRecord)
        found = await self.record(tenant, "object", uid, ObjectRecord)
        l3 = await self.record(tenant, "l3", ring.l3[found.registration][found.l3_version], L3Record)
        l2 = await self.record(tenant, "l2", ring.l2[l3.l2_version], L2Record)
        context = keyring.l2_context(tenant, REGION, l2.version, l2.id, l2.root, ring.approvers_hash)
        root = FileRoot(key_file or Path(l2.root.ref))
        kek = root.unwrap(l2.wrapped.ciphertext, l2.wrapped.root_version, context.encryption_context())
        out = {"kek": kek, "l2": _opened(l2.sealed, kek, context.aad())}
        aad = keyring.l3_context(tenant, REGION, found.registration, l3.version, l3.id).aad()
        out["l3"] = _opened(l3.sealed, out["l2"], aad)
        out["l4"] = _opened(found.wrapped, out["l3"], context_of(REGION, tenant, found))
        return {f"{tenant}/{name}": value for name, value in out.items()}


def _opened(sealed: bytes, key: bytes, aad: bytes) -> bytes:
    into = bytearray(len(sealed) - keyring.NONCE_BYTES - keyring.TAG_BYTES)
    keyring.unseal(sealed, memoryview(bytearray(key)), aad, memoryview(into))
    return bytes(into)


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    out = [pid]
    for one in out:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                out += [int(p) for p in (task / "children").read_text().split()]
    return out


def workers_of(pid: int) -> list[int]:
    """The KMIP workers of a custodian."""
    return [p for p in descendants(pid) if b"execution.worker" in Path(f"/proc/{p}/cmdline").read_bytes()]
