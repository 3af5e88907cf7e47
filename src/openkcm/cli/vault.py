"""`openkcm vault verify | backup | restore`: inside the region, with a node's own configuration. Opens no key.

A backup is what the vault holds: sealed records, useless without the customer's L1 and the region's nodes. It stays in
the region. Without one, every node's own database is a second copy (`restore --own`). A restore writes only what is not
there, never what the ledger, as this node has it, has ended (nothing of a destroyed residence, no key version under an
emergency floor), no version that a rotation has left, and nothing older than what this node knows.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from openkcm.bus.connection import connect
from openkcm.bus.errors import BusError, Conflict
from openkcm.bus.messages import Stored
from openkcm.bus.vault import Vault
from openkcm.contract import subjects
from openkcm.contract.errors import ContractError
from openkcm.contract.seal import Signer
from openkcm.execution import configuration, rows, vaultcheck
from openkcm.execution.clock import BOOT_ID
from openkcm.execution.keyring import L2Record, L3Record, RingRecord
from openkcm.execution.known import Known
from openkcm.execution.records import ObjectRecord
from openkcm.execution.residence_state import State
from openkcm.execution.safe import Planted, Replayed, Safe
from openkcm.execution.voice import Voice
from openkcm.projector import ProjectorError, open_reader

__all__ = ["backup", "restore", "verify"]

FORMAT: Final = "openkcm-vault-backup/1"
T = TypeVar("T")


class _Region:
    """A vault as one node of its region reaches it, and what that node knows of the ledger."""

    def __init__(self, config: Path) -> None:
        self.node, _, trust_root = configuration.load(config)
        reader = open_reader(Path(self.node.database))
        fresh = State(node=self.node.node, region=self.node.region, boot_id=BOOT_ID, trust_root=trust_root)
        kept = reader.rows("SELECT cursor_routine, cursor_critical, body FROM node")
        bodies = [body for (body,) in reader.rows("SELECT body FROM residence")]
        self.state = rows.load(fresh, kept[0] if kept else None, bodies)
        self.known = Known(reader)
        voice = Voice(self.node.node, self.node.region, Signer(Path(self.node.seal_seed).read_bytes()))
        self._voice = voice

    async def do(self, work: Callable[[Vault, Safe], Awaitable[T]]) -> T:
        connection = await connect(self.node.nats, name=f"{self.node.node}-vault-tool")
        try:
            vault = Vault(connection, self.node.region)
            return await work(vault, Safe(vault, self._voice, self.node.region, self.known))
        finally:
            await connection.close()


def _run(config: Path, work: Callable[[_Region], Awaitable[int]]) -> int:
    try:
        return asyncio.run(work(_Region(config)))  # type: ignore[arg-type]  # each is a coroutine
    except (ContractError, BusError, ProjectorError, OSError, ValueError) as bad:
        print(f"openkcm vault: {bad}", file=sys.stderr)
        return 1


def verify(config: Path, *, as_json: bool) -> int:
    """Check the whole vault; return 0 when it is whole, 1 when something is lost or planted."""

    async def work(region: _Region) -> int:
        known, cursor, own = region.known.all(), region.known.cursor, region.known.digest

        async def walk(vault: Vault, safe: Safe) -> vaultcheck.Checked:
            return vaultcheck.check(*await vaultcheck.newest(vault.walk()), safe, region.state, known)

        found = await region.do(walk)
        if as_json:
            print(msgspec.json.encode(found).decode())
        else:
            print(f"{sum(found.records.values())} records {found.records}, {found.superseded} superseded, "
                  f"digest {found.digest}")  # fmt: skip
            print(f"this node has read up to {cursor}: {len(known)} records, digest {own}")
            for what in ("lost", "refused", "stray"):
                for one in getattr(found, what):
                    print(f"{what}: {one}")
        return 0 if found.whole else 1

    return _run(config, work)


def backup(config: Path, file: Path) -> int:
    """Write every record's newest revision into a new file (0600); refuse a vault that is not whole."""

    async def work(region: _Region) -> int:
        known = region.known.all()

        async def walk(vault: Vault, safe: Safe) -> tuple[dict[str, Stored], vaultcheck.Checked]:
            kept, older = await vaultcheck.newest(vault.walk())
            return kept, vaultcheck.check(kept, older, safe, region.state, known)

        kept, found = await region.do(walk)
        if not found.whole:
            raise ValueError(f"the vault is not whole (`openkcm vault verify`): {(found.lost + found.refused)[0]}")
        head = {"format": FORMAT, "region": region.node.region, "records": len(kept), "digest": found.digest}
        with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
            print(json.dumps(head), file=out)
            for stored in kept.values():
                line = {"subject": stored.subject, "body": base64.b64encode(stored.body).decode()}
                print(json.dumps(line), file=out)
            out.flush()
            os.fsync(out.fileno())
        print(f"{len(kept)} records, digest {found.digest}: {file}")
        return 0

    return _run(config, work)


def _read(file: Path, region: str) -> list[Stored]:
    head, *lines = [json.loads(line) for line in file.read_text().splitlines()]
    if head.get("format") != FORMAT or head.get("region") != region:
        raise ValueError(f"{file} is no backup of the vault of {region}")
    found = [Stored(0, x["subject"], base64.b64decode(x["body"]), "") for x in lines]
    if len(found) != head["records"] or vaultcheck.digest(found) != head["digest"]:
        raise ValueError(f"{file} is not what was written: its digest differs")
    return found


class Lost(msgspec.Struct, frozen=True):
    """A record that may have to be written back."""

    where: subjects.VaultSubject
    record: Any


def restore(config: Path, file: Path | None) -> int:
    """Write back what is missing, without what was ended; return 0, or 1 when a record was refused.

    Args:
        file: A backup; None: this node's own copy.
    """

    async def work(region: _Region) -> int:
        records = None if file is None else _read(file, region.node.region)
        copies = region.known.copies() if records is None else []

        async def write(vault: Vault, safe: Safe) -> dict[str, list[str]]:
            done: dict[str, list[str]] = {"written": [], "there": [], "ended": [], "refused": []}
            lost = []
            for stored in records or ():
                found = await _opened(vault, safe, region.state, stored)
                if isinstance(found, str):
                    done[found].append(stored.subject)
                else:
                    lost.append(found)
            for copy in copies:
                where = subjects.parse_vault(copy.subject)
                lost.append(Lost(where, msgspec.json.decode(copy.data, type=vaultcheck.CLASSES[where.kind])))
            for one in sorted(lost, key=_keys_first):
                done[await _put_back(vault, safe, region.state, one)].append(str(one.where))
            return done

        done = await region.do(write)
        print(", ".join(f"{len(subjects_)} {what}" for what, subjects_ in done.items()))
        for what in ("ended", "refused"):
            for subject in done[what]:
                print(f"{what}: {subject}")
        return 1 if done["refused"] else 0

    return _run(config, work)


def _keys_first(one: Lost) -> tuple[int, str]:
    """Fences before rings before keys before objects: whoever reads in the middle finds a closed door."""
    order = ("fence", "l2", "l3", "ring", "object")
    return order.index(one.where.kind), str(one.where)


async def _opened(vault: Vault, safe: Safe, state: State, stored: Stored) -> Lost | str:
    """Return a backup's record, or what becomes of it: what changed since the backup is there in a newer revision."""
    try:
        found = safe.open(stored, state)
        return Lost(found.subject, safe.read(found, vaultcheck.CLASSES[found.subject.kind]))
    except (Planted, KeyError) as bad:
        if isinstance(bad, Replayed) and await vault.get(stored.subject) is not None:
            return "there"
        print(f"refused: {bad}", file=sys.stderr)
        return "refused"


async def _put_back(vault: Vault, safe: Safe, state: State, one: Lost) -> str:
    kept = _without_ended(one.record, one.where.tenant, state)
    if kept is None or await _left_behind(safe, state, one):
        return "ended"
    place = str(one.where)
    if await vault.get(place) is not None:
        return "there"
    try:
        await safe.put(one.where, kept, expect=(place, 0), epoch=state.epoch)
    except Conflict:
        return "there"
    return "written"


async def _left_behind(safe: Safe, state: State, one: Lost) -> bool:
    """Whether a rotation has left this key version: the ring that is there does not name it."""
    if one.where.kind not in ("l2", "l3"):
        return False
    ring = await safe.get(safe.subject(one.where.tenant, "ring", one.where.tenant), RingRecord, state)
    if ring is None:
        return False
    return (one.where.kind, one.where.id) not in vaultcheck.named(ring[1])


def _without_ended(record: Any, tenant: str, state: State) -> Any:
    """Return the record without what the ledger ended, or None when nothing of it is left."""
    residence = state.residences.get(tenant)
    if residence is None:
        return record
    if residence.destroyed:
        return record if not isinstance(record, (RingRecord, L2Record, L3Record, ObjectRecord)) else None
    if isinstance(record, RingRecord):
        l2 = {v: i for v, i in record.l2.items() if v >= residence.floor("L2")}
        l3 = {r: {v: i for v, i in of.items() if v >= residence.floor("L3", r)} for r, of in record.l3.items()}
        return msgspec.structs.replace(record, l2=l2, l3={r: of for r, of in l3.items() if of})
    if isinstance(record, L2Record):
        return record if record.version >= residence.floor("L2") else None
    if isinstance(record, L3Record):
        under = record.version >= residence.floor("L3", record.registration)
        return record if under and record.l2_version >= residence.floor("L2") else None
    if isinstance(record, ObjectRecord) and record.wrapped is not None:
        return record if record.l3_version >= residence.floor("L3", record.registration) else None
    return record
