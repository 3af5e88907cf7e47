"""What `up` tells a person on the screen: where things are and what to try next. Prints; knows nothing else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table

from openkcm.cli.endpoints import FILE, Endpoints
from openkcm.cli.layout import Layout

__all__ = ["progress", "table", "wide_console"]

QUIET_S = 5.0  # where nobody watches, a line every so often
FILE_WIDTH = 140  # columns where nobody watches: a file does not wrap


def wide_console() -> Console:
    """Return a console on standard output; into a file or a pipe it writes wide lines."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


@contextlib.contextmanager
def progress(verb: str) -> Iterator[Callable[[int], None]]:
    """Yield what takes the number done: shown on standard error, and only where the work takes more than a moment."""
    begun = said = time.monotonic()
    terminal = sys.stderr.isatty()

    def seen(done: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said > (0.2 if terminal else QUIET_S):
            said = now
            rate = done / max(now - begun, 0.001)
            end = "\r" if terminal else "\n"
            print(f"{verb} {done:,} events, {rate:,.0f}/s", end=end, file=sys.stderr, flush=True)

    yield seen
    if terminal and said != begun:
        print(file=sys.stderr)


def table(console: Console, layout: Layout, endpoints: Endpoints) -> None:
    """Print the running stack."""
    shown = Table(title="OpenKCM runs", title_justify="left", show_header=False, box=None, padding=(0, 2))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    shown.add_row("Portal", layout.pages_url)
    shown.add_row("API", endpoints.cmk.url)
    shown.add_row("Identity provider", endpoints.oidc.issuer)
    for node in endpoints.nodes:
        shown.add_row(f"KMIP {node.name}", f"{node.kmip.host}:{node.kmip.port} (TLS, client certificate)")
    shown.add_row("Client certificates", str(layout.state / "pki" / "workloads"))
    shown.add_row("CA certificate", str(layout.state / "pki" / "ca.pem"))
    shown.add_row("All of it, for tools", str(layout.state / FILE))
    shown.add_row("Logs", endpoints.log_dir)
    console.print(shown)
    console.print(
        "\nTry next:\n"
        f"  .venv/bin/openkcm demo --state {layout.state}           play the main job on this stack\n"
        f"  .venv/bin/openkcm audit verify --state {layout.state}   check the ledger\n"
        "  Open the portal and sign in as acme/admin. Ctrl-C stops everything in order.",
        highlight=False,
        soft_wrap=True,
    )
