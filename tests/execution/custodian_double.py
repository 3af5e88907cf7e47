"""A custodian for tests of workers: real arena, real SQLite, the real crew and its sockets; only the vault is a dict."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from execution.kmip_client import KmipClient, client_context
from loopback import free_ports
from openkcm.cli.pki import authority
from openkcm.contract import resources
from openkcm.contract.fleet import Limits
from openkcm.execution import control, keyring
from openkcm.execution.arena import BOARD_COUNTS, BOARD_HISTOGRAM, Gate, RegionArena
from openkcm.execution.bench import COUNTS
from openkcm.execution.catalogue import _rows
from openkcm.execution.clock import boottime_ns
from openkcm.execution.configuration import KmipListener
from openkcm.execution.crew import Crew
from openkcm.execution.handoutlog import Entry
from openkcm.projector import open_reader, open_writer

REGION = "eu-frankfurt"
LONG_NS = 3600 * 10**9


class CustodianDouble:
    """Systems with keys, enrolled certificates, a vault, and workers."""

    def __init__(self, folder: Path, *, workers: int = 1, limits: Limits | None = None) -> None:
        self.folder, (self.port,) = folder, free_ports(1)
        self.pki = authority(folder)
        cert, key = self.pki.issue("node")
        self.arena = RegionArena(slots=64, workloads=64)
        self.arena.set_alive(boottime_ns() + LONG_NS)
        path = folder / "node.sqlite"
        self.database = open_writer(path, resources.ROOT / "projections" / "node")
        listener = KmipListener(
            host="127.0.0.1", port=self.port, cert=str(cert), key=str(key), client_ca=str(self.pki.ca)
        )
        self.crew = Crew(workers, self.arena, listener, limits or Limits(), str(path), require_secretmem=False)
        self.crew.handler = self._answer
        self.reader = open_reader(path)
        self.vault: dict[tuple[str, str], tuple[int, object]] = {}
        self.sequence = 0
        self.slots: dict[tuple[str, str], dict[int, int]] = {}
        self.words: dict[str, int] = {}
        self.people: dict[str, control.Identity] = {}
        self.states: dict[str, str] = {}
        self.hand_outs: dict[tuple[str, str], str] = {}
        self.asked: list[control.Message] = []
        self.before_put = None  # async callable: happens between a worker's Put and the vault
        self.hide_keys = self.slow_hand_outs = False  # slow: a log is taken when it is full, not before
        self._disk = ThreadPoolExecutor(1)

    async def __aenter__(self):
        ready = asyncio.Event()
        self.crew.on_change = lambda: ready.set() if self.crew.ready else None
        self.crew.start()
        self.crew.serve()
        await asyncio.wait_for(ready.wait(), 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.crew.stop()
        self.database.close()
        self.reader.close()
        self._disk.shutdown()

    # --- who and what -----------------------------------------------------------------------------------------------

    def system(self, tenant: str, registration: str, version: int = 1) -> int:
        """Give a system a (new) L3."""
        slot = self.arena.allocate()
        keyring.generate(self.arena.slot_view(slot))
        self.arena.set_lease(slot, boottime_ns() + LONG_NS)
        self.arena.set_gate(slot, Gate.OPEN)
        for old in self.slots.get((tenant, registration), {}).values():
            self.arena.set_gate(old, Gate.DECRYPT_ONLY)
        self.slots.setdefault((tenant, registration), {})[version] = slot
        self.crew.tell(self.keys(tenant, registration))
        return slot

    def enrol(self, tenant: str, registration: str, workload: str, **more) -> tuple[Path, Path]:
        """Enrol a certificate for a system; return its files."""
        cert, key = self.pki.issue_workload(tenant, workload)
        enrolment = f"{tenant}-{workload}"
        self.words[enrolment] = self.arena.allocate_workload()
        self.arena.set_workload(self.words[enrolment], Gate.OPEN)
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert.read_text())).hexdigest()
        self.hand_outs[tenant, registration] = more.pop("hand_out", "allowed")
        given = {"max_objects": 1000, **more}
        self.people[found] = control.Identity(
            n=0, tenant=tenant, region=REGION, registration=registration, system=registration, workload=workload,
            enrolment=enrolment, workload_word=self.words[enrolment], **given,
        )  # fmt: skip
        return cert, key

    def context(self, files, **more) -> ssl.SSLContext:
        return client_context(*(files or (None, None)), self.pki.ca, **more)

    async def client(self, files, **more) -> KmipClient:
        return await KmipClient.connect(self.port, self.context(files, **more))

    # --- the kill switch --------------------------------------------------------------------------------------------

    def close(self, tenant: str, state: Gate = Gate.REVOKED) -> None:
        """Steps (1) to (3)."""
        slots = [s for (t, _), of in self.slots.items() if t == tenant for s in of.values()]
        self.states[tenant] = "locked" if state is Gate.LOCKED else "revoked"
        self.arena.close_gates(slots, state)
        for slot in slots:
            self.arena.zeroize(slot)
            self.arena.raise_generation(slot)
        self.crew.drain()

    def counts(self, worker: int = 0) -> dict[str, int]:
        """What a worker has counted."""
        start = self.crew.board.start(worker)
        words = self.crew.board.words
        out = {name: words[start + BOARD_COUNTS + i] for i, name in enumerate(COUNTS)}
        out["operations"] = sum(words[start + BOARD_HISTOGRAM : start + BOARD_HISTOGRAM + 64])
        return out

    @property
    def handed(self) -> list[Entry]:
        """What was handed out and is in the workers' logs still."""
        return [entry for log in self.crew.hand_out_logs() for entry in log.read()[1]]

    # --- answers ----------------------------------------------------------------------------------------------------

    def keys(self, tenant: str, registration: str, n: int = 0) -> control.Keys:
        state = self.states.get(tenant, "active")
        of = {} if state in ("revoked", "locked") or self.hide_keys else self.slots.get((tenant, registration), {})
        slots = {v: (s, self.arena.generation(s)) for v, s in of.items()}
        policy = self.hand_outs.get((tenant, registration), "allowed")
        return control.Keys(n, tenant, registration, max(slots, default=0), slots, state, policy)

    async def _answer(self, q):
        self.asked.append(q)
        match q:
            case control.Identify():
                found = [self.people[x] for x in (q.fingerprint, *q.spiffe) if x in self.people]
                return msgspec.structs.replace(found[0], n=q.n) if found else control.Denied(q.n, "not enrolled")
            case control.KeysOf():
                return self.keys(q.tenant, q.registration, q.n)
            case control.Fetch():
                found = self.vault.get((q.tenant, q.uid))
                if found is None:
                    return control.Record(q.n, 0, None)
                await self.keep(q.tenant, *found)
                return control.Record(q.n, *found)
            case control.Put():
                return await self._put(q)
            case control.HandOutsWait(n):
                if not n and self.slow_hand_outs:
                    return None
                for log in self.crew.hand_out_logs():
                    log.release(log.read()[0])
                return control.Taken(n) if n else None

    async def _put(self, q):
        if self.before_put is not None:
            await self.before_put(q)
        current = self.vault.get((q.tenant, q.record.uid), (0, None))[0]
        newest = max(self.slots[q.tenant, q.record.registration])
        if current != q.expect or (not q.expect and q.record.l3_version != newest):
            return control.Refused(q.n, "conflict", "somebody was first")
        self.store(q.tenant, q.record)
        await self.keep(q.tenant, self.sequence, q.record)
        return control.Stored(q.n, self.sequence)

    def store(self, tenant, record) -> None:
        """Put a record into the vault only."""
        self.sequence += 1
        self.vault[tenant, record.uid] = (self.sequence, record)

    async def keep(self, tenant, sequence, record) -> None:
        """Bring a record into SQLite, then raise its epoch word."""
        rows = _rows(tenant, sequence, record, msgspec.json.encode(record))
        await asyncio.get_running_loop().run_in_executor(self._disk, self.database.apply, rows)
        self.arena.bump_epoch(tenant, record.uid)
