"""`openkcm node status | inspect | workers`: asks a running node over its own socket, and prints. Decides nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from openkcm.execution import admin

__all__ = ["inspect", "status", "workers"]

L2_COLUMNS: Final = ("version", "root", "root_version", "unsealed", "released_by", "record")
L3_COLUMNS: Final = ("system", "registration", "version", "under_l2", "gate", "retired", "released_by", "record")


def _asked(config: Path, question: admin.Ask) -> dict[str, Any]:
    try:
        database = msgspec.json.decode(config.read_bytes())["database"]
        return admin.ask(admin.socket_of(database), question)
    except (OSError, ValueError, KeyError) as bad:
        print(f"openkcm node: {config}: {bad}", file=sys.stderr)
        raise SystemExit(1) from bad


def status(config: Path, output: str) -> int:
    """Print the node's condition; return 0 when it serves, 2 when it does not."""
    seen = _asked(config, admin.Ask(verb="status"))
    if output == "json":
        print(json.dumps(seen, indent=2))
        return 0 if seen["serving"] else 2
    console, memory = Console(), seen["memory"]
    slots = memory["key_slots"]
    serving = "serving" if seen["serving"] else "NOT serving"
    workers, beat = len(seen["workers"]), seen["beat_age_s"]
    console.print(f"{seen['node']} in {seen['region']}: {serving}, {workers} workers, beat {beat} s ago")
    sealed, limit = ", sealed" if memory["sealed"] else "", memory["limit_bytes"] or "unlimited"
    used = slots["all"] - slots["free"]
    console.print(
        f"memory {memory['mode']}{sealed}; RLIMIT_MEMLOCK {limit}; key slots {used} of {slots['all']}, "
        f"{memory['evicted']} gave way",
        soft_wrap=True,
    )
    days = ", ".join(f"{name} {left}" for name, left in seen["certificate_days_left"].items())
    console.print(f"certificates, days left: {days}", soft_wrap=True)
    for alarm, count in seen["alarms"].items():
        console.print(f"alarm {alarm} ({count})")
    columns = ("tenant", "state", "root", "root_version", "root_says", "l2", "slots", "cold", "lease_left_s", "failure")
    console.print(_table(columns, seen["residences"]))
    return 0 if seen["serving"] else 2


def inspect(config: Path, tenant: str | None, output: str) -> int:
    """Print key versions, never material."""
    seen = _asked(config, admin.Ask(verb="inspect", tenant=tenant))
    if output == "json":
        print(json.dumps(seen, indent=2))
        return 0
    console = Console()
    for residence in seen["residences"]:
        console.print(f"[bold]{residence['tenant']}[/bold]")
        if residence.get("l2") is None:
            console.print("  no keys are loaded")
            continue
        console.print(_table(L2_COLUMNS, residence["l2"], "L2"))
        console.print(_table(L3_COLUMNS, residence["l3"], "L3"))
        if residence["floors"]:
            console.print(f"  emergency floors {residence['floors']}")
    return 0


def workers(config: Path, count: int) -> int:
    """Have the node run so many workers from now on, until its next start."""
    done = _asked(config, admin.Ask(verb="workers", count=count))
    print(f"{done['workers']} workers; those who are too many end with their last connection")
    return 0


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]], title: str | None = None) -> Table:
    table = Table(*(c.replace("_", " ") for c in columns), title=title, title_justify="left", box=None)
    for row in rows:
        table.add_row(*(_cell(row[c]) for c in columns))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
