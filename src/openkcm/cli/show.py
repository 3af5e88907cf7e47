"""What `up` tells a person on the screen: where things are and what to try next. Prints; knows nothing else."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from openkcm.cli.endpoints import FILE, Endpoints
from openkcm.cli.layout import Layout

__all__ = ["table", "wide_console"]

FILE_WIDTH = 140  # columns where nobody watches: a file does not wrap


def wide_console() -> Console:
    """Return a console on standard output; into a file or a pipe it writes wide lines."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


def table(console: Console, layout: Layout, endpoints: Endpoints) -> None:
    """Print the running stack."""
    shown = Table(title="OpenKCM runs", title_justify="left", show_header=False, box=None, padding=(0, 2))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    shown.add_row("Portal", endpoints.cmk.url)
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
