"""The API's commands: made from the table of verbs, and the few that sign, stream or ask back. Never reads a database.

Exit status: 0 done, 2 usage, 3 refused, 4 not signed in, 5 not there, 6 conflict or stale, 7 unavailable, 8 not in sync
in time.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from openkcm.cli import profiles
from openkcm.cli.verbs import GROUPS, VERBS, Field, Verb

__all__ = ["EXITS", "add_to"]

_F = TypeVar("_F", bound=Callable[..., Any])
EXITS: Final = {401: 4, 403: 3, 404: 5, 409: 6, 412: 6, 422: 3, 413: 3, 415: 3, 429: 7, 500: 7, 503: 7, 0: 7}
NOT_IN_SYNC: Final = 8
WAIT_S: Final = 60.0
RADIUS: Final = ("region", "state", "systems", "workloads", "nodes", "keys_handed_out", "lease_s")
PULLED: Final = ("region", "event", "fence", "recorded")
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


def add_to(main: click.Group) -> None:
    """Put the API's commands under `openkcm`."""
    groups = {name: click.Group(name, help=says) for name, says in GROUPS.items()}
    for verb in VERBS:
        groups[verb.group].add_command(_command(verb))
    for group, command in SPECIAL:
        (groups[group] if group is not None else main).add_command(command)
    for one in groups.values():
        main.add_command(one)


def _command(verb: Verb) -> click.Command:
    @common
    @whose(verb.path)
    def run(profile: str, output: str, **given: Any) -> None:
        with _session(profile) as (client, known):
            path = _path(verb.path, given, known)
            given |= {f.name: _value(f, given[f.name]) for f in verb.fields}
            query = {f.query: given[f.name] for f in verb.fields if f.query is not None and given[f.name] is not None}
            sends = verb.method in {"POST", "PUT"} and verb.name != "reject"
            body = verb.body(given) if sends else None
            answer = client.ask(verb.method, path, body, query)
            if given.get("wait"):
                _wait(client, answer)
            _show(answer, output, verb.columns)

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


class _session:  # noqa: N801 -- a block, not a thing
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

    def show(address: str) -> None:
        click.echo(f"Sign in with your browser: {address}", err=True)
        webbrowser.open(address)

    return sign_in(profile.issuer, profile.client_id, show, account=profile.account)


def _path(template: str, given: dict[str, Any], known: profiles.Profile) -> str:
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


def _wait(client: Any, answer: dict[str, Any]) -> None:
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


def _show(answer: Any, output: str, columns: tuple[str, ...] = ()) -> None:
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


# --- the few that do more than ask -----------------------------------------------------------------------------------


@click.command()
@click.option("--url", help="Of the API, like https://keys.example.")
@click.option("--issuer", help="Of the identity provider.")
@click.option("--client-id", default="openkcm-portal", show_default=True)
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="PEM file that vouches for the API.")
@click.option("--account", help="A demo account of the one-command stack; nobody is asked.")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="Take all of it from a running stack.")
@click.option("--service-token", help="A service's token instead of a person.")
@click.option("--approval-key", type=click.Path(exists=True, dir_okay=False), help="Seed of an Ed25519 approval key.")
@click.option("--tenant", help="Default tenant.")
@click.option("--region", help="Default region.")
@click.option("--profile", default="default", show_default=True, envvar="OPENKCM_PROFILE")
def login(url: str | None, issuer: str | None, client_id: str, ca: str | None, account: str | None, state: Path | None,
          service_token: str | None, approval_key: str | None, tenant: str | None, region: str | None,
          profile: str) -> None:  # fmt: skip
    """Sign in, and keep it as a profile."""
    if state is not None:
        from openkcm.cli import endpoints

        running = endpoints.load(state)
        url, issuer, ca = url or running.cmk.url, issuer or running.oidc.issuer, ca or running.cmk.ca
        if account in running.people:
            approval_key = approval_key or running.people[account].approval_key
    if url is None or (issuer is None and service_token is None):
        raise click.UsageError("--url and --issuer are needed, or --state of a running stack")
    kept = profiles.Profile(
        url=url, issuer=issuer or "", client_id=client_id, ca=ca, account=account, approval_key=approval_key,
        tenant=tenant, region=region, token=service_token or "",
    )  # fmt: skip
    if not kept.token:
        kept.token = signed_in(kept)
    profiles.save(profile, kept)
    click.echo(f"signed in; profile {profile}")


@click.command("register")
@common
@click.argument("file", type=click.File("r"))
def register(profile: str, output: str, file: Any) -> None:
    """Register the tenant that FILE (JSON: id, regions, people) describes."""
    with _session(profile) as (client, _):
        _show(client.post("/tenants", msgspec.json.decode(file.read())), output)


@click.command("configure")
@common
@whose("{tenant}{region}")
@click.option("--lease-s", type=int, help="Seconds; a longer one takes the approval LengthenLease.")
@click.option("--hand-out", type=click.Choice(["allowed", "wrapped-only", "never"]))
@click.option("--max-objects", type=int)
@click.option("--label", "labels", multiple=True, help="name=value; an empty value removes it.")
@click.option("--wait", is_flag=True, help="Until every node has it.")
def configure(profile: str, output: str, wait: bool, labels: tuple[str, ...], **given: Any) -> None:
    """Change the configuration of a tenant region."""
    with _session(profile) as (client, known):
        path = _path("/tenants/{tenant}/regions/{region}/configuration", given, known)
        body = {k: v for k, v in given.items() if k in {"lease_s", "hand_out", "max_objects"} and v is not None}
        if labels:
            body["labels"] = {k: v or None for k, _, v in (label.partition("=") for label in labels)}
        answer = client.patch(path, body)
        if wait:
            _wait(client, answer)
        _show(answer, output)


@click.command("cut")
@common
@whose("{tenant}")
@click.option("--region", "regions", multiple=True, help="Which; default: all.")
@click.option("--reason", default="ordered", show_default=True)
@click.option("--dry-run", is_flag=True, help="Show what it would cut, and cut nothing.")
@click.option("--yes", is_flag=True, help="Do not ask back.")
@click.option("--wait", is_flag=True, help="Until every node is dark.")
def cut(profile: str, output: str, regions: tuple[str, ...], reason: str, dry_run: bool, yes: bool, wait: bool,
        **given: Any) -> None:  # fmt: skip
    """Pull the kill switch."""
    with _session(profile) as (client, known):
        path = _path("/tenants/{tenant}/revocations", given, known)
        tenant = path.split("/")[2]
        body = {"reason": reason, **({"regions": list(regions)} if regions else {})}
        if not dry_run and not yes:
            click.confirm(f"Cut access to {tenant} in {', '.join(regions) or 'every region'}?", abort=True)
        answer = client.post(path, body, **({"dryRun": "true"} if dry_run else {}))
        for one in answer.get("revocations", []) if wait else []:
            _wait(client, one)
        shown = answer.get("regions") if dry_run else answer.get("revocations")
        columns = RADIUS if dry_run else PULLED
        _show(answer if output == "json" else {"value": shown}, output, columns)


def _signer(known: profiles.Profile, key: str | None) -> Any:
    from openkcm.contract.seal import Signer

    path = key or known.approval_key
    if path is None:
        raise click.UsageError("--key is needed: the file with your approval key's seed; passkeys sign on the pages")
    return Signer(Path(path).read_bytes())


@click.command("propose")
@common
@whose("{tenant}")
@click.argument("command")
@click.option("--region", help="Where; left out for what is about the whole tenant.")
@click.option("--argument", "arguments", multiple=True, help="name=value.")
@click.option("--key", type=click.Path(exists=True, dir_okay=False), help="Seed of your Ed25519 approval key.")
def propose(profile: str, output: str, command: str, region: str | None, arguments: tuple[str, ...], key: str | None,
            **given: Any) -> None:  # fmt: skip
    """Sign the words of COMMAND and ask another person for theirs."""
    with _session(profile) as (client, known):
        tenant = _path("{tenant}", given, known)
        words = client.prepare(tenant, command, region, **dict(pair.split("=", 1) for pair in arguments))
        _show(msgspec.to_builtins(client.propose(tenant, command, region, words, _signer(known, key))), output)


@click.command("grant")
@common
@whose("{tenant}")
@click.argument("approval")
@click.option("--key", type=click.Path(exists=True, dir_okay=False), help="Seed of your Ed25519 approval key.")
@click.option("--wait", is_flag=True, help="Until every node has it.")
def grant(profile: str, output: str, approval: str, key: str | None, wait: bool, **given: Any) -> None:
    """Sign an open approval as another person."""
    with _session(profile) as (client, known):
        answer = msgspec.to_builtins(client.grant(_path("{tenant}", given, known), approval, _signer(known, key)))
        if wait and "/regions/" in answer["sync"]:
            _wait(client, answer)
        _show(answer, output)


@click.command("offer-key")
@common
@click.option("--key", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Made when it is missing.")
def offer_key(profile: str, output: str, key: Path) -> None:
    """Offer your own Ed25519 approval key."""
    import base64

    from openkcm.cli import pki
    from openkcm.contract.seal import Signer

    if not key.exists():
        pki.write_private(key, secrets.token_bytes(32))
    public = base64.b64encode(Signer(key.read_bytes()).public_key).decode()
    with _session(profile) as (client, _):
        _show(client.post("/me/approval-key", {"ed25519": public}), output)


@click.command("service-token")
def service_token() -> None:
    """Make a service's token here; the portal never sees it before it is used. Two people grant it kill-switch."""
    token = "okcm-" + secrets.token_hex(32)
    click.echo(f"token    {token}\nperson   service-{hashlib.sha256(token.encode()).hexdigest()}")
    click.echo(
        "grant it: openkcm approval propose GrantRole --argument person=PERSON --argument roles=kill-switch", err=True
    )


@click.command("export")
@click.option("--profile", default="default", show_default=True, envvar="OPENKCM_PROFILE")
@whose("{tenant}")
def export(profile: str, **given: Any) -> None:
    """Write a tenant's sealed events with the trust events that verify them: NDJSON on standard output."""
    with _session(profile) as (client, known):
        for line in client.export(_path("{tenant}", given, known)):
            click.echo(line)


@click.command("events")
@click.option("--profile", default="default", show_default=True, envvar="OPENKCM_PROFILE")
def events(profile: str) -> None:
    """Follow what happens, one JSON document a line, until Ctrl-C."""
    with _session(profile) as (client, _):
        for line in client.lines("/events"):
            if line.startswith(b"data: {") and b'"kind"' in line:
                click.echo(line[6:])


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: openkcm completion bash >> ~/.bashrc."""
    from click.shell_completion import get_completion_class

    from openkcm.cli.main import main

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(main, {}, "openkcm", "_OPENKCM_COMPLETE").source())


#: Commands beyond the table, with the operation each is (None: none of the API's).
SPECIAL: Final[tuple[tuple[str | None, click.Command], ...]] = (
    (None, login), (None, completion), ("tenant", register), ("tenant-region", configure), ("access", cut),
    ("approval", propose), ("approval", grant), ("account", offer_key), ("account", service_token),
    ("ledger", export), ("portal", events),
)  # fmt: skip
SPECIAL_OPERATIONS: Final = {
    "registerTenant": register, "configure": configure, "revoke": cut, "proposeApproval": propose,
    "grantApproval": grant, "offerApprovalKey": offer_key, "exportLedger": export, "streamEvents": events,
}  # fmt: skip
