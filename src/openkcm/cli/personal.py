"""The API's commands that do more than ask: sign in, sign, stream, ask back. And all commands put under `openkcm`."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from openkcm.cli import profiles
from openkcm.cli.remote import Session, command_of, common, path_of, show, signed_in, wait_for, whose
from openkcm.cli.verbs import GROUPS, VERBS

__all__ = ["SPECIAL_OPERATIONS", "add_to"]

RADIUS: Final = ("region", "state", "systems", "workloads", "nodes", "keys_handed_out", "lease_s")
PULLED: Final = ("region", "event", "fence", "recorded")


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
    with Session(profile) as (client, _):
        show(client.post("/tenants", msgspec.json.decode(file.read())), output)


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
    with Session(profile) as (client, known):
        path = path_of("/tenants/{tenant}/regions/{region}/configuration", given, known)
        body = {k: v for k, v in given.items() if k in {"lease_s", "hand_out", "max_objects"} and v is not None}
        if labels:
            body["labels"] = {k: v or None for k, _, v in (label.partition("=") for label in labels)}
        answer = client.patch(path, body)
        if wait:
            wait_for(client, answer)
        show(answer, output)


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
    with Session(profile) as (client, known):
        path = path_of("/tenants/{tenant}/revocations", given, known)
        tenant = path.split("/")[2]
        body = {"reason": reason, **({"regions": list(regions)} if regions else {})}
        if not dry_run and not yes:
            click.confirm(f"Cut access to {tenant} in {', '.join(regions) or 'every region'}?", abort=True)
        answer = client.post(path, body, **({"dryRun": "true"} if dry_run else {}))
        for one in answer.get("revocations", []) if wait else []:
            wait_for(client, one)
        shown = answer.get("regions") if dry_run else answer.get("revocations")
        columns = RADIUS if dry_run else PULLED
        show(answer if output == "json" else {"value": shown}, output, columns)


def _argument(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals:
        raise click.UsageError(f"--argument takes name=value, not {pair[:40]}")
    return name, Path(value[1:]).read_text(encoding="utf-8") if value.startswith("@") else value


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
@click.option("--argument", "arguments", multiple=True, help="name=value, or name=@FILE.")
@click.option("--key", type=click.Path(exists=True, dir_okay=False), help="Seed of your Ed25519 approval key.")
def propose(profile: str, output: str, command: str, region: str | None, arguments: tuple[str, ...], key: str | None,
            **given: Any) -> None:  # fmt: skip
    """Sign the words of COMMAND and ask another person for theirs."""
    with Session(profile) as (client, known):
        tenant = path_of("{tenant}", given, known)
        words = client.prepare(tenant, command, region, **dict(_argument(pair) for pair in arguments))
        show(msgspec.to_builtins(client.propose(tenant, command, region, words, _signer(known, key))), output)


@click.command("grant")
@common
@whose("{tenant}")
@click.argument("approval")
@click.option("--key", type=click.Path(exists=True, dir_okay=False), help="Seed of your Ed25519 approval key.")
@click.option("--wait", is_flag=True, help="Until every node has it.")
def grant(profile: str, output: str, approval: str, key: str | None, wait: bool, **given: Any) -> None:
    """Sign an open approval as another person."""
    with Session(profile) as (client, known):
        answer = msgspec.to_builtins(client.grant(path_of("{tenant}", given, known), approval, _signer(known, key)))
        if wait and "/regions/" in answer["sync"]:
            wait_for(client, answer)
        show(answer, output)


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
    with Session(profile) as (client, _):
        show(client.post("/me/approval-key", {"ed25519": public}), output)


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
    with Session(profile) as (client, known):
        for line in client.export(path_of("{tenant}", given, known)):
            click.echo(line)


@click.command("events")
@click.option("--profile", default="default", show_default=True, envvar="OPENKCM_PROFILE")
def events(profile: str) -> None:
    """Follow what happens, one JSON document a line, until Ctrl-C."""
    with Session(profile) as (client, _):
        for line in client.lines("/events"):
            if line.startswith(b"data: {") and b'"kind"' in line:
                click.echo(line[6:])


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: openkcm completion bash >> ~/.bashrc."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    root = click.get_current_context().find_root().command
    click.echo(found(root, {}, "openkcm", "_OPENKCM_COMPLETE").source())


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


def _group(main: click.Group, name: str, says: str) -> click.Group:
    there = main.commands.get(name)
    return there if isinstance(there, click.Group) else click.Group(name, help=says)


def add_to(main: click.Group) -> None:
    """Put the API's commands under `openkcm`; a group that is there already gets them beside its own."""
    groups = {name: _group(main, name, says) for name, says in GROUPS.items()}
    for verb in VERBS:
        groups[verb.group].add_command(command_of(verb))
    for group, command in SPECIAL:
        (groups[group] if group is not None else main).add_command(command)
    for one in groups.values():
        main.add_command(one)
