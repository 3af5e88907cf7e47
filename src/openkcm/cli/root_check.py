"""`openkcm root check`: runs `execution.rootcheck` as a node would, and prints it for people or as JSON."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from openkcm.contract.decrees import RootReference
from openkcm.contract.errors import ContractError
from openkcm.execution import configuration, rootcheck, unseal_process

__all__ = ["run"]

ACTIONS_IN_WORDS = {
    "lock": "locks the residence and wipes its keys, until a probe is good",
    "retry": "tries again inside its deadline, then keeps its keys until the lease ends",
    "keep": "keeps serving until the lease ends, with an alarm",
    "alarm": "raises an alarm",
}


def run(config: Path, root: RootReference, tenant: str, *, as_json: bool) -> int:
    """Print what was found; return 0 when all is well.

    Raises:
        click.ClickException: The node's configuration does not fit.
    """
    try:
        _, region, _ = configuration.load(config)
    except ContractError as bad:
        raise click.ClickException(str(bad)) from bad
    unseal_process.clean_environment()  # no proxy, endpoint or credential that a node would not see
    steps = rootcheck.check(root, region, tenant)
    good = all(step.code == "ok" for step in steps)
    if as_json:
        click.echo(msgspec.json.encode({"ok": good, "steps": steps}))
        return 0 if good else 1
    table = Table(title=f"{root.provider} {root.ref}", title_justify="left", show_header=False)
    for step in steps:
        table.add_row(step.name, step.code, step.detail)
    console = Console(highlight=False)
    console.print(table)
    if good:
        console.print("The node can use this root.")
    else:
        last = steps[-1]
        console.print(f"[bold]{last.who} must act:[/] {last.fix}", soft_wrap=True)
        console.print(f"Meanwhile a node {ACTIONS_IN_WORDS[last.action]}.", soft_wrap=True)
    return 0 if good else 1
