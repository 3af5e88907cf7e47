"""The API's commands, made from the table of verbs. Never reads a database.

Exit status: 0 done, 2 usage, 3 refused, 4 not signed in, 5 not there, 6 conflict or stale, 7 unavailable, 8 not in sync
in time.
"""

from __future__ import annotations

import sys
import time
import webbrowser
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
import msgspec

from openkcm.cli import profiles
from openkcm.cli.verbs import PAGED, Field, Verb

__all__ = ["EXITS", "Session", "command_of", "common", "path_of", "show", "signed_in", "wait_for", "whose"]

_F = TypeVar("_F", bound=Callable[..., Any])
EXITS: Final = {401: 4, 403: 3, 404: 5, 409: 6, 412: 6, 422: 3, 413: 3, 415: 3, 429: 7, 500: 7, 503: 7, 0: 7}
NOT_IN_SYNC: Final = 8
WAIT_S: Final = 60.0
TYPES: Final[dict[str, Any]] = {
    "text": str, "number": int, "list": str, "file": click.File("r"), "pairs": str, "flag": bool,
}  # fmt: skip


def common(function: _F) -> _F:
    """Add what every command of the API takes."""
    formats = click.Choice(["table", "json"])
    function = click.option("-o", "output", type=formats, default="table", show_default=True)(function)
    return click.option(
        "--profile", default="default", show_default=True, envvar="OPENKCM_PROFILE", help="Which API, and who."
    )(function)


def whose(verb_or_path: str) -> Callable[[_F], _F]:
    """Add `--tenant` and `--region` where the path has them."""

    def add(function: _F) -> _F:
        for name in ("region", "tenant"):
            if f"{{{name}}}" in verb_or_path:
                function = click.option(f"--{name}", help=f"Default: the profile's {name}.")(function)
        return function

    return add


def command_of(verb: Verb) -> click.Command:
    """Return a line of the table as a command."""

    @common
    @whose(verb.path)
    def run(profile: str, output: str, **given: Any) -> None:
        with Session(profile) as (client, known):
            path = path_of(verb.path, given, known)
            given |= {f.name: _value(f, given[f.name]) for f in verb.fields}
            query = {f.query: given[f.name] for f in verb.fields if f.query is not None and given[f.name] is not None}
            sends = verb.method in {"POST", "PUT"} and verb.name != "reject"
            body = verb.body(given) if sends else None
            listed = verb.fields is PAGED
            answer = client.listed(path, query) if listed else client.ask(verb.method, path, body, query)
            if given.get("wait"):
                wait_for(client, answer)
            show(answer, output, verb.columns)

    command = click.command(verb.name, help=verb.says)(run)
    for field in reversed(verb.fields):
        command.params.append(_option(field))
    if verb.waits:
        command.params.append(click.Option(["--wait"], is_flag=True, help="Until every node has it."))
    command.params[:0] = [click.Argument([name]) for name in verb.arguments]
    return command


def _option(field: Field) -> click.Option:
    return click.Option(
        [field.option, field.name], help=field.says, required=field.required, type=TYPES[field.kind],
        multiple=field.kind in {"list", "pairs"}, is_flag=field.kind == "flag",
    )  # fmt: skip


def _value(field: Field, given: Any) -> Any:
    if field.kind == "file" and given is not None and not isinstance(given, str):
        return given.read()
    if field.kind == "pairs":
        return (
            dict(pair.split("=", 1) for pair in given if isinstance(pair, str)) if isinstance(given, tuple) else given
        )
    return given


class Session:
    """The API as a profile's person; turns a refusal into an exit status."""

    def __init__(self, name: str) -> None:
        known = profiles.load()
        if name not in known:
            raise click.UsageError(f"no profile {name}: openkcm login --url URL --issuer URL --profile {name}")
        self._name, self._profile = name, known[name]

    def __enter__(self) -> tuple[Any, profiles.Profile]:
        from openkcm.client import Client

        kept = self._profile
        service = kept.token.startswith("okcm-")
        self._client = Client(kept.url, kept.token, ca=kept.ca, renew=None if service else self._renew)
        return self._client, kept

    def _renew(self) -> str:
        self._profile.token = signed_in(self._profile)
        profiles.save(self._name, self._profile)
        return self._profile.token

    def __exit__(self, kind: object, problem: BaseException | None, _: object) -> None:
        from openkcm.client import Problem, SyncTimeout

        self._client.__exit__()
        if isinstance(problem, Problem):
            click.echo(f"{problem.code or problem.status}: {problem.detail}", err=True)
            sys.exit(EXITS.get(problem.status, 3))
        if isinstance(problem, SyncTimeout):
            click.echo(str(problem), err=True)
            sys.exit(NOT_IN_SYNC)


def signed_in(profile: profiles.Profile) -> str:
    """Return a fresh token for a profile's person."""
    from openkcm.client.login import sign_in

    def open_it(address: str) -> None:
        click.echo(f"Sign in with your browser: {address}", err=True)
        webbrowser.open(address)

    return sign_in(profile.issuer, profile.client_id, open_it, account=profile.account)


def path_of(template: str, given: dict[str, Any], known: profiles.Profile) -> str:
    """Return the path of a request; what is not named is the profile's."""
    path = template
    for name in ("tenant", "region"):
        if f"{{{name}}}" in path:
            value = given.get(name) or getattr(known, name)
            if value is None:
                raise click.UsageError(f"--{name} is needed, or one in the profile")
            path = path.replace(f"{{{name}}}", value)
    for name, value in given.items():
        if isinstance(value, str):
            path = path.replace(f"{{{name}}}", value)
    return path


def wait_for(client: Any, answer: dict[str, Any]) -> None:
    """Follow the tenant region until every node has it, with a bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from openkcm.client import SyncTimeout

    lane, counter = ("critical", answer.get("fence")) if answer.get("fence") else ("routine", answer.get("generation"))
    path = str(answer["sync"]).removeprefix("/cmk/v1")
    deadline = time.monotonic() + WAIT_S
    with Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} nodes"),
                  console=Console(stderr=True), transient=True) as bar:  # fmt: skip
        task = bar.add_task("waiting for the nodes", total=None)
        while True:
            now = client.get(path)[lane]
            bar.update(task, total=now["of"], completed=now["acked"], description=now["status"])
            if now["counter"] >= (counter or 0) and now["status"] in {"InSync", "Revoked", "RevokedByLease"}:
                return
            if now["status"] == "Failed" or time.monotonic() > deadline:
                raise SyncTimeout(f"not in sync: {now['status']}, waiting for {', '.join(now['waiting_for'])}")
            time.sleep(0.1)


def show(answer: Any, output: str, columns: tuple[str, ...] = ()) -> None:
    """Print an answer as a table, or as it is."""
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(dict(answer)), indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    from openkcm.cli.show import wide_console

    console: Console = wide_console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    if "value" in answer and columns:
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in answer["value"]:
            table.add_row(*(_cell(row.get(column)) for column in columns))
    else:
        table.show_header = False
        for name, value in answer.items():
            table.add_row(name, _cell(value))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "\n".join(
            ", ".join(f"{k}={v}" for k, v in one.items() if not isinstance(v, dict | list)) for one in value
        )
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return "" if value is None else str(value)
