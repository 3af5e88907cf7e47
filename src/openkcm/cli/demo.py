"""`openkcm demo`: plays the main job's seven steps on a running stack, and stops at the first thing that is not so.

Progress goes to standard error, the result to standard output: a table, or with `--json` one document. The exit status
is 0 only when all seven steps held.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from openkcm.bus.errors import BusError
from openkcm.cli import endpoints as ends
from openkcm.cli.background import saved_layout
from openkcm.cli.demo_steps import STEPS
from openkcm.cli.show import wide_console
from openkcm.cli.stage import NotSo, Stage
from openkcm.client import Problem, SyncTimeout

__all__ = ["Played", "run"]

FAILED: Final = 1


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `why` is None when it held."""

    number: int
    title: str
    held: bool
    took_ms: float
    figures: dict[str, Any]
    facts: tuple[str, ...]
    why: str | None = None


def run(state: Path, *, as_json: bool, backlog: int) -> int:
    """Play all steps; return the exit status."""
    progress = Console(stderr=True)
    try:
        stage = Stage(saved_layout(state), ends.load(state), run=uuid.uuid4().hex[:8], backlog=backlog)
    except (OSError, ValueError) as bad:
        progress.print(f"[red]{bad}[/]", highlight=False)
        return FAILED
    played = []
    with stage:
        for number, (title, step) in enumerate(STEPS, 1):
            played.append(_play(progress, stage, number, title, step))
            if not played[-1].held:
                break
    held = len(played) == len(STEPS) and all(step.held for step in played)
    if as_json:
        document = {"held": held, "run": stage.run, "roots": stage.layout.roots, "steps": played}
        print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        _print(wide_console(), played, held=held)
    return 0 if held else FAILED


def _play(progress: Console, stage: Stage, number: int, title: str, step: Any) -> Played:
    start = time.monotonic()
    why = None
    with progress.status(f"{number} {title}") as status:

        def say(what: str) -> None:
            status.update(f"{number} {title}: {what}")
            if not progress.is_terminal:
                progress.print(f"{number} {what}", highlight=False, soft_wrap=True)

        stage.begin(say)
        try:
            step(stage)
        except NotSo as bad:
            why = str(bad)
        except (Problem, SyncTimeout, BusError, OSError) as bad:
            why = f"{type(bad).__name__}: {bad}"
        figures, facts = stage.finish()
    took_ms = (time.monotonic() - start) * 1e3
    progress.print(f"{'[green]held[/]' if why is None else '[red]not so[/]'} {number} {title} ({took_ms / 1e3:.1f} s)")
    if why is not None:
        progress.print(why, highlight=False, markup=False, soft_wrap=True)
    return Played(
        number=number, title=title, held=why is None, took_ms=round(took_ms, 1), figures=figures, facts=facts, why=why
    )


def _print(console: Console, played: list[Played], *, held: bool) -> None:
    table = Table(title="The main job", title_justify="left", show_lines=True)
    table.add_column("step", justify="right")
    table.add_column("what")
    table.add_column("figures and facts", overflow="fold")
    table.add_column("held")
    for step in played:
        lines = [*step.facts, *(f"{name}: {_figure(value)}" for name, value in step.figures.items())]
        if step.why is not None:
            lines.append(step.why)
        table.add_row(str(step.number), step.title, "\n".join(lines), "yes" if step.held else "NO")
    console.print(table)
    console.print("All seven steps held." if held else "NOT all steps held.")


def _figure(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
