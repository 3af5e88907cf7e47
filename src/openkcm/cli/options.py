"""Options that many commands take. Declarations only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

__all__ = ["CONFIG", "NODE_CONFIG", "OUTPUT", "json_option", "process_options", "state_option"]

_F = TypeVar("_F", bound=Callable[..., Any])
DEFAULT_STATE: Final = Path(".openkcm")


def state_option(function: _F) -> _F:
    """Add `--state DIR`."""
    return click.option(
        "--state", type=click.Path(file_okay=False, path_type=Path), default=DEFAULT_STATE, show_default=True,
        help="Directory of the one-command stack.",
    )(function)  # fmt: skip


def process_options(function: _F) -> _F:
    """Add `--config FILE` and `--ready FILE`."""
    function = click.option(
        "--ready", type=click.Path(dir_okay=False, path_type=Path), help="Written when the process serves."
    )(function)
    return click.option(
        "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True, help="Its JSON file."
    )(function)


def json_option(function: _F) -> _F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")(function)


CONFIG = click.Path(exists=True, dir_okay=False, path_type=Path)
OUTPUT = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
NODE_CONFIG = click.option("--config", type=CONFIG, required=True, help="The node's JSON file.")
