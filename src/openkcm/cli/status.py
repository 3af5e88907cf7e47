"""`openkcm orbital status`: the fleet as governance sees it, once or live. Asks the API; changes nothing."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from openkcm.cli import endpoints
from openkcm.cli.show import wide_console
from openkcm.client import Portal, Problem

__all__ = ["run"]

LOOK_S: Final = 1.0
SILENT_MS: Final = 10_000
EXPIRES_S: Final = 7 * 86_400
FAILED: Final = 1
UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"))
COLUMNS: Final = (
    "Node",
    "Seen",
    "Workers",
    "Memory",
    "Lag routine",
    "Lag critical",
    "Shortest lease",
    "Tenants",
    "Differs",
    "Alarms",
)


def run(state: Path, *, watch: bool, as_json: bool) -> int:
    """Show the fleet; return 0 when every enrolled node is heard, has no critical lag and names no alarm.

    Raises:
        FileNotFoundError, ValueError: No stack on this state directory.
    """
    running = endpoints.load(state)
    console = wide_console()
    with Portal(running.cmk.url, running.people["provider/operator"].token, ca=running.cmk.ca) as portal:
        try:
            fleet = portal.get("/fleet")
            if as_json:
                print(msgspec.json.encode(dict(fleet)).decode())
            elif watch:
                _follow(console, portal, fleet)
            else:
                console.print(shown(fleet, time.time_ns() // 1_000_000))
        except Problem as away:
            console.print(f"[red]the CMK does not say:[/] {away}")
            return FAILED
        except KeyboardInterrupt:
            return 0
    return 0 if not worries(fleet, time.time_ns() // 1_000_000) else FAILED


def _follow(console: Console, portal: Portal, fleet: dict[str, Any]) -> None:
    with Live(shown(fleet, time.time_ns() // 1_000_000), console=console, refresh_per_second=4) as live:
        while True:
            time.sleep(LOOK_S)
            live.update(shown(portal.get("/fleet"), time.time_ns() // 1_000_000))


def worries(fleet: dict[str, Any], now_ms: int) -> list[str]:
    """Return what is not as it should be, a line each."""
    found = (
        [f"{fleet['spooled_revocations']} revocations are not in the ledger"] if fleet["spooled_revocations"] else []
    )
    for region in fleet["value"]:
        for node in region["nodes"]:
            name, seen = node["node"], node["last_seen_ms"]
            if seen is None or now_ms - seen > SILENT_MS:
                found.append(f"{name} is silent")
                continue
            if node["lag"] and node["lag"]["critical"]:
                found.append(f"{name} has not committed {node['lag']['critical']} critical events")
            if node["differs"]:
                found.append(f"{name} holds something else than the ledger of {', '.join(node['differs'])}")
            found += [
                f"{name}: certificate {certificate} {'expires within the week' if left > 0 else 'has expired'}"
                for certificate, left in node["expires"].items() if left < EXPIRES_S
            ]  # fmt: skip
            found += [f"{name}: {alarm}" for alarm in node["alarms"]]
    return found


def shown(fleet: dict[str, Any], now_ms: int) -> Table:
    """Return the fleet as a table: a line a node, under its region."""
    ledger = fleet["ledger"]
    title = f"Ledger read to {ledger['read_to']}, epoch {ledger['epoch']}"
    title += f"; {fleet['spooled_revocations']} revocations spooled" if fleet["spooled_revocations"] else ""
    table = Table(title=title, title_justify="left", caption="; ".join(worries(fleet, now_ms)) or "all is well",
                  caption_justify="left")  # fmt: skip
    for column in COLUMNS:
        table.add_column(column, no_wrap=column != "Alarms")
    for region in fleet["value"]:
        table.add_section()
        table.add_row(f"[bold]{region['region']}[/] ({', '.join(region['residency'])})")
        for node in region["nodes"]:
            table.add_row(*_cells(node, now_ms))
    return table


def _cells(node: dict[str, Any], now_ms: int) -> list[str]:
    seen = node["last_seen_ms"]
    if seen is None:
        return [f"  {node['node']}", "[red]never[/]"]
    ago = max(0, now_ms - seen)
    lag = node["lag"] or {}
    homes = node["residences"]
    states = Counter(home["state"] for home in homes)
    left = min((home["lease_left_s"] for home in homes), default=None)
    return [
        f"  {node['node']}",
        f"[{'red' if ago > SILENT_MS else 'green'}]{ago / 1000:.1f} s[/]",
        str(node["workers"]),
        node["memory"] + ("" if node["sealed_mappings"] else " [yellow](not sealed)[/]"),
        str(lag.get("routine", "")),
        f"[{'red' if lag.get('critical') else 'green'}]{lag.get('critical', '')}[/]",
        "" if left is None else _duration(left),
        ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
        f"[red]{len(node['differs'])}[/]" if node["differs"] else "",
        ", ".join(node["alarms"]),
    ]


def _duration(seconds: int) -> str:
    for size, unit in UNITS:
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
