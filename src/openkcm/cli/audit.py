"""`openkcm audit`: reads the auditor's mirror of a running stack and prints what the audit finds. Judges nothing."""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
from rich.table import Table

from openkcm.audit import account as accounts
from openkcm.audit import replay as replays
from openkcm.audit.authority import Authority, Finding
from openkcm.audit.verify import AuditError, BadEvent, Event, TrustedLedger
from openkcm.bus.connection import Access, Stored, connect
from openkcm.bus.errors import BusError
from openkcm.bus.ledger import Ledger
from openkcm.cli.show import wide_console

__all__ = ["Audited", "account", "audited", "read_mirror", "replay", "verify"]

INTACT: Final = 0
BROKEN: Final = 1
FINDINGS: Final = 2
MIRROR_LATE_S: Final = 10.0


class Audited(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger that was verified from its first event to its last."""

    events: tuple[Event, ...]
    findings: tuple[Finding, ...]
    epoch: int
    sequence: int


def trust_root(state: Path) -> bytes:
    """Return the pinned public key, 32 bytes."""
    return base64.b64decode((state / "trust" / "root.pub").read_text())


def audited(messages: list[Stored], root: bytes, *, whole: bool = True) -> Audited:
    """Verify messages in order and judge their authority.

    Raises:
        BadEvent: The first event that breaks the ledger.
    """
    trusted, authority = TrustedLedger(root, whole=whole), Authority()
    events = []
    for message in messages:
        event = trusted.add(message.sequence, message.subject, message.body, message.id)
        authority.judge(event)
        events.append(event)
    return Audited(
        events=tuple(events), findings=tuple(authority.findings), epoch=trusted.epoch, sequence=trusted.sequence
    )


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
    """Return the whole ledger as the auditor's mirror holds it.

    Args:
        at_least: Wait (a few seconds at most) until the mirror has come to this sequence.

    Raises:
        BusError: No answer, or the mirror stays behind.
    """
    connection = await connect(auditor_access(state), name="auditor")
    try:
        ledger = Ledger(connection)
        deadline = time.monotonic() + MIRROR_LATE_S
        while (await ledger.info()).last < at_least:
            if time.monotonic() > deadline:
                raise BusError(f"the auditor's mirror has not come to sequence {at_least}")
            await asyncio.sleep(0.05)
        return [stored async for stored in ledger.read_all()]
    finally:
        await connection.close()


def verify(state: Path, *, as_json: bool) -> int:
    """Print whether the ledger holds; return the exit status."""
    result = _audit(state, as_json=as_json)
    if isinstance(result, int):
        return result
    if as_json:
        _print({
            "intact": True, "events": len(result.events), "epoch": result.epoch, "sequence": result.sequence,
            "findings": result.findings,
        })  # fmt: skip
    else:
        console = wide_console()
        console.print(
            f"[green]intact[/]: {len(result.events)} events, epoch {result.epoch}, up to sequence {result.sequence}"
        )
        for f in result.findings:
            console.print(
                f"[yellow]without authority[/]: {f.tag} at epoch {f.epoch}, sequence {f.sequence}: {f.code}: {f.why}",
                soft_wrap=True,
            )
    return FINDINGS if result.findings else INTACT


def replay(state: Path, *, as_json: bool) -> int:
    """Print whether governance's tables are the ledger's; return the exit status."""
    try:
        cmk = msgspec.json.decode((state / "cmk" / "cmk.json").read_bytes())
        cursor, tables = replays.tables_of(Path(cmk["registry"]))
        messages = asyncio.run(read_mirror(state, at_least=cursor))
        upto = [message for message in messages if message.sequence <= cursor]
        differences = replays.compare(replays.folded(upto, trust_root(state)), tables)
    except (AuditError, BusError, OSError) as bad:
        print(f"not audited: {bad}", file=sys.stderr)
        return BROKEN
    rows = sum(len(t) for t in tables.values())
    if as_json:
        _print({"equal": not differences, "sequence": cursor, "rows": rows, "differences": differences})
    elif differences:
        for d in differences:
            print(f"{d.table} is not what the ledger says: missing {d.missing}, surplus {d.surplus}")
    else:
        print(f"equal row for row: {len(tables)} tables, {rows} rows, up to sequence {cursor}")
    return BROKEN if differences else INTACT


def account(state: Path, *, as_json: bool, tenant: str | None) -> int:
    """Print the account of orders; return the exit status."""
    result = _audit(state, as_json=as_json)
    if isinstance(result, int):
        return result
    orders = [
        order for order in accounts.account(result.events, result.findings) if tenant is None or order.tenant == tenant
    ]
    if as_json:
        _print({"orders": orders})
        return INTACT
    table = Table("sequence", "event", "tenant", "region", "by", "approved by", "outcome", "obeyed (ms after)")
    for o in orders:
        obeyed = ", ".join(f"{word.node} {word.after_ms}" for word in o.obeyed)
        by = ", ".join(person[:8] for person in o.approved_by)
        table.add_row(str(o.sequence), o.tag.partition(".")[0], o.tenant, o.region, o.by[:8], by, o.outcome, obeyed)
    wide_console().print(table)
    return INTACT


def _audit(state: Path, *, as_json: bool) -> Audited | int:
    try:
        return audited(asyncio.run(read_mirror(state)), trust_root(state))
    except BadEvent as bad:
        if as_json:
            _print({"intact": False, "epoch": bad.epoch, "sequence": bad.sequence, "code": bad.code, "why": bad.why})
        else:
            wide_console().print(f"[red]broken[/]: {bad}")
    except (BusError, OSError) as bad:
        print(f"not audited: {bad}", file=sys.stderr)
    return BROKEN


def _print(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
