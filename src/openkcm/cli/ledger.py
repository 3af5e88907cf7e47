"""`openkcm ledger backup | restore` of the one-command stack: reads every copy, makes the ledger anew, names the loss.

A restore, numbered as in the design ("Loss"):

1. nobody may write while the ledger is made: of a running stack governance is stopped, regions go on; of a stopped one
   the NATS servers alone are started;
2. every copy is read: what the hub still has, the regions' mirrors, the auditor's, governance's read model;
3. `audit.recovery` decides what the new ledger is made of, or that these copies do not make one;
4. the stream is made anew at `epoch << 40` and filled in the old order, before any mirror can read of it;
5. the trust root opens the epoch: it names what was recovered and the loss that is accepted with it, and retires anew
   every sealing key that governance has no more;
6. consumers and the other streams are declared again, and the mirrors follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from openkcm.audit.recovery import CannotRestore, Copy, Kept, Plan, plan
from openkcm.audit.verify import AuditError
from openkcm.bus import copies, declare
from openkcm.bus.connection import Connection, connect
from openkcm.bus.errors import BusError
from openkcm.bus.ledger import Ledger
from openkcm.cli import background, backup, ceremony, orbital, programs, reconcile
from openkcm.cli.layout import Layout
from openkcm.cli.orbital import HUB
from openkcm.cli.sources import mirrored
from openkcm.cli.supervisor import ChildFailed, Supervisor
from openkcm.contract import checkpoint as cp
from openkcm.contract import envelope as env
from openkcm.governance.sealing import next_of
from openkcm.projector import ProjectorError, open_reader

__all__ = ["check_not_lost", "make_backup", "restore"]

_T = TypeVar("_T")
FAILED: Final = 1
#: How far behind the backup's end the copies are compared with it: two histories differ at their ends.
COMPARED: Final = 500
NOT_DONE: Final = (
    AuditError, BusError, ChildFailed, ProjectorError, OSError, ValueError,
    background.AlreadyRunning, reconcile.NotReconciled,
)  # fmt: skip


class _NotWhole(AuditError):
    """It failed while the ledger was made."""


def make_backup(state: Path, path: Path) -> int:
    """Write the running stack's ledger into a file; return the exit status."""
    try:
        layout = background.saved_layout(state)
        last = asyncio.run(_last(layout))
        header = backup.Header(
            format=backup.FORMAT, ledger=cp.ledger_name(layout.trust_root.public_key),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        count = backup.write(path, header, mirrored(state, at_least=last))
    except NOT_DONE as bad:
        print(f"no backup: {bad}", file=sys.stderr)
        return FAILED
    print(f"{path}: {count} events of {header.ledger}")
    return 0


def restore(state: Path, path: Path, *, replace: bool, dry_run: bool, as_json: bool) -> int:
    """Make a stack's ledger anew from a backup and the tails that others hold; return the exit status.

    Of a running stack governance is stopped meanwhile; it stays so when the ledger was begun and is not whole.

    Args:
        replace: The hub's own ledger may be removed, once it was read as one of the copies.
        dry_run: Say what would be done.
    """
    try:
        layout = background.saved_layout(state)
        kept = backup.read(path, cp.ledger_name(layout.trust_root.public_key))
        runs = background.running(state) is not None
        with _nobody_writes(layout, runs=runs, dry_run=dry_run):  # (1)
            decided = asyncio.run(_decide(layout, kept, replace=replace))
            if not dry_run:
                asyncio.run(_make(layout, decided))
    except NOT_DONE as bad:
        print(f"not restored: {bad}", file=sys.stderr)
        return FAILED
    if as_json:
        told = {
            "epoch": decided.epoch, "first_sequence": decided.first_sequence, "events": len(decided.events),
            "backup_last": decided.backup_last, "recovered": decided.recovered, "lost": decided.lost,
            "done": not dry_run,
        }  # fmt: skip
        print(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
    else:
        print("\n".join(decided.words()))
        opened = f"epoch {decided.epoch} is open" + ("" if runs else "; start the stack: scripts/up")
        print("nothing was changed" if dry_run else opened)
    return 0


async def check_not_lost(layout: Layout) -> None:
    """Return when the hub's ledger is not shorter than what others hold of it.

    Raises:
        ValueError: It is: nothing may be opened in its place.
        BusError: A server does not answer.
    """
    hub = await _with(layout, "ledger-admin", HUB, lambda c: copies.extent(c, "LEDGER"))
    have = 0 if hub is None else hub.last
    others = {"governance": _read_to(layout)}
    for region in layout.regions:
        mirror = await _with(layout, f"{region.region}-admin", region.region, lambda c: copies.extent(c, "LEDGER"))
        others[region.region] = 0 if mirror is None else mirror.last
    ahead = {name: last for name, last in others.items() if last > have}
    if ahead:
        knew = ", ".join(f"{name} knows it up to {last}" for name, last in sorted(ahead.items()))
        raise ValueError(
            f"the hub's ledger ends at {have}, but {knew}: it lost its tail, or its disk. Nothing is started on it; "
            f"openkcm ledger restore BACKUP --state {layout.state}"
        )


# --- inside ---------------------------------------------------------------------------------------------------------


def _nobody_writes(layout: Layout, *, runs: bool, dry_run: bool) -> contextlib.AbstractContextManager[None]:
    if not runs:
        return _servers(layout)
    return contextlib.nullcontext() if dry_run else _without_governance(layout.state)


@contextlib.contextmanager
def _servers(layout: Layout) -> Iterator[None]:
    with background.held(layout.state):
        background.end_leftovers(layout.state)
        orbital.lay_out(layout.state, layout.regions, layout.server_ports)
        supervisor = Supervisor(strict=True, changed=lambda: None)
        try:
            supervisor.bring_up(programs.servers(layout))
            yield
        finally:
            supervisor.stop_all()


@contextlib.contextmanager
def _without_governance(state: Path) -> Iterator[None]:
    reconcile.hold(state, "stop")
    try:
        yield
    except _NotWhole:
        raise  # governance must not write into what was begun
    except BaseException:
        reconcile.hold(state, "start")
        raise
    reconcile.hold(state, "start")


async def _decide(layout: Layout, kept: list[Kept], *, replace: bool) -> Plan:
    hub = await _with(layout, "ledger-admin", HUB, lambda c: copies.extent(c, "LEDGER"))
    if hub is not None and hub.messages and not replace:
        raise CannotRestore(
            f"the hub has a ledger, up to {hub.last}: --replace reads it as one more copy and removes it"
        )
    first, last = kept[0].sequence, kept[-1].sequence
    after = max(first - 1, last - COMPARED)
    found, known = await _copies(layout, after), _known(layout, last)  # (2)
    return plan(kept, found, layout.trust_root.public_key, known=known, last_known=_read_to(layout))  # (3)


async def _make(layout: Layout, decided: Plan) -> None:
    try:
        await _fill(layout, decided)
    except BaseException as bad:
        raise _NotWhole(f"{bad}; the new ledger is not whole: repeat with --replace, governance stays stopped") from bad


async def _fill(layout: Layout, decided: Plan) -> None:
    body = next(d for d in declare.declared("ledger", layout.regions) if str(d) == "stream LEDGER").body

    async def make(connection: Connection) -> None:
        if await copies.extent(connection, "LEDGER") is not None:
            await copies.remove(connection, "LEDGER")
        await copies.create_at(connection, body, decided.first_sequence)

    await _with(layout, "ledger-admin", HUB, make)  # (4)
    tagged = [(event, env.decode(event.body).tag) for event in decided.events]
    await _with(layout, "cmk", HUB, lambda c: copies.refill(c, tagged, first_sequence=decided.first_sequence))
    await _with(  # (5)
        layout, "trust", HUB,
        lambda c: ceremony.open_epoch(
            Ledger(c), layout.trust_root, decided.epoch, decided.first_sequence, decided.words(), _keys(layout)
        ),
    )  # fmt: skip
    await orbital.apply_streams(layout.state, layout.regions, layout.server_ports)  # (6)


def _keys(layout: Layout) -> list[bytes]:
    """Return governance's sealing keys, the next one of an unfinished rotation last."""
    seeds = (layout.signing_seed, next_of(layout.signing_seed))
    return [layout.signer(seed).public_key for seed in seeds if seed.exists()]


async def _copies(layout: Layout, after: int) -> list[Copy]:
    found = [Copy(name="the hub", messages=await _held(layout, "ledger-admin", HUB, "LEDGER", after))]
    for region in layout.regions:
        for stream in ("LEDGER", "LEDGER-CRITICAL"):
            messages = await _held(layout, f"{region.region}-admin", region.region, stream, after)
            found.append(Copy(name=region.region, messages=messages))
    found.append(Copy(name="the auditor's mirror", messages=await _held(layout, "audit-admin", HUB, "LEDGER", after)))
    found.append(Copy(name="governance's read model", messages=_of_registry(layout, after)))
    return found


async def _held(layout: Layout, user: str, server: str, stream: str, after: int) -> list[Kept]:
    async def read(connection: Connection) -> list[Kept]:
        if await copies.extent(connection, stream) is None:
            return []
        stored = await copies.copy_of(connection, stream, after=after)
        return [Kept(s.sequence, s.subject, s.body, s.id) for s in stored]

    return await _with(layout, user, server, read)


def _of_registry(layout: Layout, after: int) -> list[Kept]:
    """What governance has read, with its very bytes; nothing where its read model is gone or of another epoch."""
    query = "SELECT sequence, subject, id, body FROM event WHERE sequence > ? ORDER BY sequence"
    return [Kept(n, subject, bytes(body), id_) for n, subject, id_, body in _rows(layout, query, (after,))]


def _known(layout: Layout, after: int) -> dict[int, str]:
    rows = _rows(layout, "SELECT sequence, tag, subject FROM event WHERE sequence > ?", (after,))
    return {sequence: f"{tag} on {subject}" for sequence, tag, subject in rows}


def _read_to(layout: Layout) -> int:
    return int((_rows(layout, "SELECT sequence FROM cursor", ()) or [(0,)])[0][0])


def _rows(layout: Layout, sql: str, parameters: tuple[int, ...]) -> list[tuple[Any, ...]]:
    path = layout.state / "cmk" / "registry.sqlite"
    if not path.exists():
        return []
    reader = open_reader(path)
    try:
        return reader.rows(sql, parameters)
    finally:
        reader.close()


async def _last(layout: Layout) -> int:
    hub = await _with(layout, "ledger-admin", HUB, lambda c: copies.extent(c, "LEDGER"))
    if hub is None:
        raise BusError("the hub has no ledger")
    return hub.last


async def _with(layout: Layout, user: str, server: str, work: Callable[[Connection], Awaitable[_T]]) -> _T:
    connection = await connect(orbital.access(layout.state, user, layout.server_ports[server]), name=user)
    try:
        return await work(connection)
    finally:
        await connection.close()
