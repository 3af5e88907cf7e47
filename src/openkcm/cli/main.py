"""The command `openkcm`: one line a command. Imports a plane only when its command runs, so that planes stay apart."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from openkcm.cli import auditors, operators, personal
from openkcm.cli.options import json_option, process_options, state_option

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="openkcm")
def main() -> None:
    """Sovereign key management: governance without keys, regional KMIP nodes, one ledger between them."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns at each TLS hang-up of a NATS connection


# --- the one-command stack --------------------------------------------------------------------------------------------


@main.command()
@state_option
@click.option("--detach", is_flag=True, help="Return when all is ready; the stack stays.")
@click.option("--stop", is_flag=True, help="Stop the stack that runs on this state directory.")
@click.option("--port-base", type=click.IntRange(1024, 65000), default=None, help="First of 80 ports; default 5690.")
@click.option("--aws", is_flag=True, help="Roots in a local AWS KMS instead of key files.")
@click.option("--pkcs11", is_flag=True, help="Roots in a local HSM (SoftHSM2) instead of key files.")
@click.option("--nodes-per-region", type=click.IntRange(1, 12), default=1, show_default=True)
@click.option("--workers", type=click.IntRange(0, 64), default=0, help="KMIP workers a node; 0: cores less one.")
@click.option("--strict", is_flag=True, help="A process that dies stops everything instead of being restarted.")
@click.option("--empty", is_flag=True, help="Do not onboard the demo tenants on an empty ledger.")
@click.option("--demo", is_flag=True, help="Play the demo, then stop; the exit status is the demo's.")
@json_option
def up(**options: Any) -> None:
    """Start hub, regions, nodes, CMK and identity provider, and keep them alive until Ctrl-C."""
    from openkcm.cli import up as stack

    sys.exit(stack.run(stack.Options(**options)))


@main.command()
@state_option
@json_option
@click.option("--backlog", type=click.IntRange(0, 100_000), default=10_000, show_default=True,
              help="Routine events queued when the kill switch is pulled.")  # fmt: skip
def demo(state: Path, as_json: bool, backlog: int) -> None:
    """Play the main job on a running stack: onboard, encrypt, rotate, revoke, restore, cut, audit."""
    from openkcm.cli import demo as play

    sys.exit(play.run(state, as_json=as_json, backlog=backlog))


@main.command()
@state_option
@json_option
def drill(state: Path, as_json: bool) -> None:
    """Rehearse the kill switch on the canary tenant, in every region, under load; the ledger keeps it."""
    from openkcm.cli import drill as rehearsal

    try:
        sys.exit(rehearsal.run(state, as_json=as_json))
    except (OSError, ValueError) as bad:
        raise click.ClickException(str(bad)) from bad


# --- processes --------------------------------------------------------------------------------------------------------


@main.command()
@process_options
def cmk(config: Path, ready: Path | None) -> None:
    """Run governance: API, portal, registry."""
    from openkcm.cli import cmk as process

    process.run(config, ready)


@main.command()
@process_options
def idp(config: Path, ready: Path | None) -> None:
    """Run the demo's identity provider. Never for production: it asks for no password."""
    from openkcm.cli import idp as process

    process.run(config, ready)


for command in (*operators.COMMANDS, *auditors.COMMANDS):
    main.add_command(command)
personal.add_to(main)


if __name__ == "__main__":
    main()
