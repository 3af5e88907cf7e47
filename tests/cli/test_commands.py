"""The command line as a whole: every command is reachable, none hides another."""

from __future__ import annotations

import click
import pytest

from openkcm.cli import auditors, operators
from openkcm.cli.main import main

REACHABLE = {
    "ledger": {"backup", "restore", "read", "checkpoints", "export", "verify"},
    "node": {"status", "inspect", "workers", "egress", "enrol", "remove"},
    "region": {"add", "drain", "remove"},
    "vault": {"verify", "backup", "restore"},
    "audit": {"verify", "replay", "as-of", "account", "export", "receipt", "match"},
    "witness": {"key", "run"},
    "root": {"check", "import"},
    "orbital": {"status"},
    "streams": {"apply", "diff"},
}


@pytest.mark.parametrize("group", REACHABLE)
def test_a_groups_commands_are_all_there(group):
    found = main.commands[group]
    assert isinstance(found, click.Group)
    assert found.commands.keys() >= REACHABLE[group]


def test_no_command_took_the_place_of_another():
    for command in (*operators.COMMANDS, *auditors.COMMANDS):
        assert main.commands[command.name] is command
