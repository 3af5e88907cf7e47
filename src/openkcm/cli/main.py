"""The command `openkcm`: one line a command. Imports a plane only when its command runs, so that planes stay apart."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from openkcm.cli import personal

__all__ = ["main"]

_F = TypeVar("_F", bound=Callable[..., Any])
DEFAULT_STATE = Path(".openkcm")


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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="openkcm")
def main() -> None:
    """Sovereign key management: governance without keys, regional KMIP nodes, one ledger between them."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns at each TLS hang-up of a NATS connection


# --- the one-command stack ------------------------------------------------------------------------------------------


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


# --- processes ------------------------------------------------------------------------------------------------------


@main.command()
@process_options
def cmk(config: Path, ready: Path | None) -> None:
    """Run governance: API, portal, registry."""
    from openkcm.cli import cmk as process

    process.run(config, ready)


CONFIG = click.Path(exists=True, dir_okay=False, path_type=Path)


@main.group(invoke_without_command=True)
@click.option("--config", type=CONFIG, help="Its JSON file.")
@click.option("--ready", type=click.Path(dir_okay=False, path_type=Path), help="Written when the process serves.")
@click.pass_context
def node(context: click.Context, config: Path | None, ready: Path | None) -> None:
    """Run a crypto node (custodian and KMIP workers), or see to one."""
    if context.invoked_subcommand is not None:
        return
    if config is None:
        raise click.UsageError("a node needs --config")
    from openkcm.execution import node as process

    process.run(config, ready)


OUTPUT = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
NODE_CONFIG = click.option("--config", type=CONFIG, required=True, help="The node's JSON file.")


@node.command("status")
@NODE_CONFIG
@OUTPUT
def node_status(config: Path, output: str) -> None:
    """What a running node does: residences, roots, key slots, memory, leases. Exit status 2 when it does not serve."""
    from openkcm.cli import nodeview

    sys.exit(nodeview.status(config, output))


@node.command("inspect")
@NODE_CONFIG
@OUTPUT
@click.option("--tenant", help="Only this tenant's keys.")
def node_inspect(config: Path, output: str, tenant: str | None) -> None:
    """Which versions of which keys a running node has; never their material."""
    from openkcm.cli import nodeview

    sys.exit(nodeview.inspect(config, tenant, output))


@node.command("workers")
@NODE_CONFIG
@click.argument("count", type=click.IntRange(1, 256))
def node_workers(config: Path, count: int) -> None:
    """Have a running node use COUNT KMIP workers; no connection is dropped."""
    from openkcm.cli import nodeview

    sys.exit(nodeview.workers(config, count))


@node.command()
@click.option("--config", type=CONFIG, required=True, help="The node's JSON file.")
@click.option("--format", "form", type=click.Choice(["nftables", "systemd", "kubernetes"]), required=True)
@click.option("--dns", multiple=True, help="Address of a resolver the node may ask; may be repeated.")
@click.option("--user", default="openkcm", show_default=True, help="The node's system user (nftables).")
def egress(config: Path, form: str, dns: tuple[str, ...], user: str) -> None:
    """Print firewall rules that let a node reach what node.toml names, and nothing else."""
    from openkcm.cli import egress as rules

    click.echo(rules.run(config, form, dns, user), nl=False)


@main.command()
@process_options
def idp(config: Path, ready: Path | None) -> None:
    """Run the demo's identity provider. Never for production: it asks for no password."""
    from openkcm.cli import idp as process

    process.run(config, ready)


# --- streams --------------------------------------------------------------------------------------------------------


@main.group()
def streams() -> None:
    """Compare or create the declared streams and consumers on a stack's running servers."""


@streams.command()
@state_option
@click.option("--update", is_flag=True, help="Also bring what exists to what is declared. Can drop what it held.")
def apply(state: Path, update: bool) -> None:
    """Create what streams/ declares and is missing."""
    from openkcm.cli import up as stack

    sys.exit(stack.apply_streams(state, update=update))


@streams.command()
@state_option
def diff(state: Path) -> None:
    """Name every difference between live and declared; exit status 1 when there is one."""
    from openkcm.cli import up as stack

    sys.exit(stack.diff_streams(state))


# --- the bus --------------------------------------------------------------------------------------------------------


@main.group()
def orbital() -> None:
    """What runs between governance and the nodes."""


@orbital.command("status")
@state_option
@json_option
@click.option("--watch", is_flag=True, help="Stay, and show it anew every second.")
def orbital_status(state: Path, as_json: bool, watch: bool) -> None:
    """Lanes, lags, leases and alarms of each region and node. Exit status 1 when something is not as it should be."""
    from openkcm.cli import status

    try:
        sys.exit(status.run(state, watch=watch, as_json=as_json))
    except (OSError, ValueError) as bad:
        raise click.ClickException(str(bad)) from bad


# --- the fleet ------------------------------------------------------------------------------------------------------


def change(work: Callable[..., Any], *given: Any, **options: Any) -> None:
    """Change the fleet and say what was done; exit status 1, with the reason, when it may not be or did not work."""
    from openkcm.cli import fleet, reconcile
    from openkcm.client import Problem
    from openkcm.contract.errors import ContractError

    try:
        click.echo(work(*given, **options))
    except (fleet.NotAllowed, reconcile.NotReconciled, ContractError, Problem, OSError, ValueError) as no:
        click.echo(f"not done: {no}", err=True)
        sys.exit(1)


@main.group()
def region() -> None:
    """Add, drain or remove a region. A running stack comes to it without a restart of the others."""


@region.command("add")
@click.argument("name")
@click.option("--residency", multiple=True, required=True, help="Jurisdiction it lies in, e.g. DE; may be repeated.")
@click.option("--nodes", type=click.IntRange(1, 12), default=1, show_default=True)
@click.option("--aws-region", "aws_regions", multiple=True, help="Cloud region in which root keys may lie.")
@state_option
def region_add(state: Path, **options: Any) -> None:
    """Write the region NAME, its credentials, permissions, streams; enrol and start its nodes."""
    from openkcm.cli import fleet

    change(fleet.add_region, state, options.pop("name"), **options)


@region.command("drain")
@click.argument("name")
@state_option
def region_drain(state: Path, name: str) -> None:
    """Take in no more tenants; list those who are still there."""
    from openkcm.cli import fleet

    def drain() -> str:
        done, there = fleet.drain_region(state, name)
        lines = [f"{t['tenant']}: {t['state']}{', its last region' if t['last'] else ''}" for t in there]
        return "\n".join([done or f"{name} takes no tenant in", f"tenants still there: {len(there)}", *lines])

    change(drain)


@region.command("remove")
@click.argument("name")
@state_option
def region_remove(state: Path, name: str) -> None:
    """Remove a drained region in which no tenant is left."""
    from openkcm.cli import fleet

    change(fleet.remove_region, state, name)


@node.command("enrol")
@click.argument("name")
@click.option("--region", required=True)
@state_option
def node_enrol(state: Path, name: str, region: str) -> None:
    """Enrol the node NAME by the trust root, and start it."""
    from openkcm.cli import fleet

    change(fleet.enrol_node, state, name, region)


@node.command("remove")
@click.argument("name")
@state_option
def node_remove(state: Path, name: str) -> None:
    """Remove the node NAME for ever: by decree, then its process and its consumers."""
    from openkcm.cli import fleet

    change(fleet.remove_node, state, name)


# --- roots ----------------------------------------------------------------------------------------------------------


@main.group()
def root() -> None:
    """A customer's root key: test it from a node, or import a customer's own material into its KMS."""


@root.command()
@click.argument("provider", type=click.Choice(["aws", "azure", "gcp", "pkcs11", "kmip", "file"]))
@click.argument("ref")
@click.option("--config", type=CONFIG, required=True, help="The node's JSON file.")
@click.option("--credential", help="Name in roots.credentials; default: the provider's.")
@click.option("--tenant", default="root-check", show_default=True, help="Whose context is shown to the KMS.")
@json_option
def check(provider: Any, ref: str, config: Path, credential: str | None, tenant: str, as_json: bool) -> None:
    """Wrap, unwrap and probe by the root key REF as this node would; say who must mend what. Status 1: not usable."""
    from openkcm.cli import root_check
    from openkcm.contract.decrees import RootReference

    reference = RootReference(provider=provider, ref=ref, credential=credential)
    sys.exit(root_check.run(config, reference, tenant, as_json=as_json))


@root.command(name="import")
@click.argument("provider", type=click.Choice(["aws", "azure", "gcp", "pkcs11", "kmip"]))
@click.argument("ref")
@click.option("--material", type=CONFIG, required=True, help="File of 32 raw bytes, 0600; it stays yours.")
@click.option("--wrapping", type=click.Choice(["oaep", "aes-kwp"]), default="oaep", show_default=True)
@click.option("--profile", help="Your administrator's profile; default: the SDK's own chain.")
@click.option("--endpoint-url", help="Your private endpoint.")
def import_(provider: str, ref: str, material: Path, wrapping: str, **options: Any) -> None:
    """At the CUSTOMER's side: wrap your own key material and import it straight into your KMS key REF (BYOK)."""
    from openkcm.cli import byok

    click.echo(byok.run(provider, ref, material, wrapping, options))


# --- ledger ---------------------------------------------------------------------------------------------------------


@main.group()
def ledger() -> None:
    """Back the ledger up, and make it anew from a backup and the tails that mirrors hold."""


@ledger.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@state_option
def ledger_backup(state: Path, file: Path) -> None:
    """Write the running stack's whole ledger into FILE. It holds nothing secret."""
    from openkcm.cli import ledger as keeper

    sys.exit(keeper.make_backup(state, file))


@ledger.command("restore")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@state_option
@json_option
@click.option("--replace", is_flag=True, help="Remove the ledger that the hub still has, once it was read as a copy.")
@click.option("--dry-run", is_flag=True, help="Say what would be recovered and what is lost; change nothing.")
def ledger_restore(state: Path, file: Path, as_json: bool, replace: bool, dry_run: bool) -> None:
    """Make a stopped stack's ledger anew from FILE; open an epoch that names what was recovered and what is lost."""
    from openkcm.cli import ledger as keeper

    sys.exit(keeper.restore(state, file, replace=replace, dry_run=dry_run, as_json=as_json))


# --- witness --------------------------------------------------------------------------------------------------------


@main.group()
def witness() -> None:
    """Witness a ledger from outside: cosign what grows, refuse and remember what forks. Needs openkcm[audit] only."""


def witness_options(function: _F) -> _F:
    """Add `--key FILE` and `--name NAME`."""
    function = click.option(
        "--key", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The witness's own seed, 0600."
    )(function)
    return click.option("--name", required=True, help="Its name in signatures, e.g. auditor.example/w1.")(function)


@witness.command("key")
@witness_options
def witness_key(key: Path, name: str) -> None:
    """Make the key if there is none; print its verifier key, for others to pin."""
    from openkcm.cli import witness as program

    sys.exit(program.new_key(key, name))


@witness.command("run")
@witness_options
@click.option("--url", required=True, help="The CMK's address.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), default=None, help="PEM file; default: system's.")
@click.option("--token", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
              help="File with a bearer token of role auditor; read anew each time.")  # fmt: skip
@click.option("--trust-root", required=True, help="The ledger's trust root, base64, obtained out of band.")
@click.option("--history", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Its own memory.")
@click.option("--every", "every_s", type=click.FloatRange(1, 86400), default=None, help="Seconds; default: once.")
@json_option
def witness_run(**options: Any) -> None:
    """Fetch checkpoints, check that each follows the one before, cosign. Exit status 1 after a fork."""
    from openkcm.cli import witness as program

    sys.exit(program.run(program.Options(**options)))


# --- audit ----------------------------------------------------------------------------------------------------------


@main.group()
def audit() -> None:
    """Read the ledger's mirror with the auditor's own key, and check it."""


def source_options(function: _F) -> _F:
    """Add where the ledger is read: `--state DIR`, or `--export DIR` with `--root KEY`."""
    function = click.option("--root", help="The pinned trust root, base64; else the export's own is believed.")(
        function
    )
    function = click.option(
        "--export", "export_", type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Read an export instead of a running stack.",
    )(function)  # fmt: skip
    return state_option(function)


def _source(state: Path, export_: Path | None, root: str | None) -> Any:
    from openkcm.audit.verify import AuditError
    from openkcm.cli import sources

    try:
        return sources.of_stack(state) if export_ is None else sources.of_export(export_, root)
    except (OSError, ValueError, AuditError) as bad:
        print(f"not audited: {bad}", file=sys.stderr)
        sys.exit(1)


@audit.command()
@source_options
@json_option
@click.option("--witness", "witnesses", multiple=True, help="Verifier key of a witness you trust; may be repeated.")
@click.option("--witness-history", "histories", multiple=True,
              type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="That witness's own history: the ledger must not be shorter, nor another.")  # fmt: skip
@click.option("--against", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="An earlier whole export: the ledger must begin with it, event by event.")  # fmt: skip
@click.option("--verified", is_flag=True, help="You verified --against then: its seals are not checked again.")
def verify(
    state: Path, export_: Path | None, root: str | None, as_json: bool, witnesses: tuple[str, ...],
    histories: tuple[Path, ...], against: Path | None, verified: bool,
) -> None:  # fmt: skip
    """Seals, counters, gaps, approvals, acks, proofs. Names the first bad event; exit status 1 then, 2 for findings."""
    from openkcm.cli import audit as auditor

    source = _source(state, export_, root)
    sys.exit(
        auditor.verify(
            source, as_json=as_json, against=against, verified=verified, witnesses=witnesses, histories=histories
        )
    )


@audit.command()
@source_options
@json_option
@click.option("--until", help="A sequence, or a time (ISO 8601): what the ledger makes of the tables up to there.")
@click.option("--tenant", help="Only this tenant's rows.")
@click.option(
    "--keep", type=click.Path(exists=False, dir_okay=False, path_type=Path), help="Keep the SQLite file there."
)
def replay(
    state: Path, export_: Path | None, root: str | None, as_json: bool, until: str | None, tenant: str | None,
    keep: Path | None,
) -> None:  # fmt: skip
    """Fold the ledger anew and compare with governance's tables row for row."""
    from openkcm.cli import audit as auditor

    source = _source(state, export_, root)
    sys.exit(auditor.replay(source, as_json=as_json, until=until, tenant=tenant, keep=keep))


@audit.command(name="as-of")
@click.argument("point", metavar="TIME|SEQUENCE")
@source_options
@json_option
@click.option("--tenant", help="Only this tenant.")
def as_of(point: str, state: Path, export_: Path | None, root: str | None, as_json: bool, tenant: str | None) -> None:
    """The state then: who could decrypt, on which nodes, and since when not."""
    from openkcm.cli import audit as auditor

    sys.exit(auditor.as_of(_source(state, export_, root), point, as_json=as_json, tenant=tenant))


@audit.command()
@source_options
@json_option
@click.option("--tenant", help="Only this tenant's orders.")
@click.option("--directory", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="JSON object, name to opaque subject: whom to call by name. The ledger knows none.")  # fmt: skip
def account(
    state: Path, export_: Path | None, root: str | None, as_json: bool, tenant: str | None, directory: Path | None
) -> None:
    """Who ordered what, who approved, which node obeyed after how many milliseconds, which did not, who was denied."""
    from openkcm.cli import audit as auditor

    source = _source(state, export_, root)
    sys.exit(auditor.account(source, as_json=as_json, tenant=tenant, directory=directory))


@audit.command()
@click.argument("folder", type=click.Path(path_type=Path))
@source_options
@json_option
@click.option("--tenant", help="Only this tenant's events, each with its inclusion proof.")
def export(
    folder: Path, state: Path, export_: Path | None, root: str | None, as_json: bool, tenant: str | None
) -> None:
    """Write the ledger, or a tenant's slice, as a folder that proves itself anywhere."""
    from openkcm.cli import evidence

    sys.exit(evidence.export(_source(state, export_, root), folder, tenant=tenant, as_json=as_json))


@audit.command()
@source_options
@json_option
@click.option("--kms-log", "log", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
              help="The KMS's own request log, in CloudTrail's form.")  # fmt: skip
@click.option("--tenant", help="Only this tenant's orders: its KMS saw no others.")
def match(state: Path, export_: Path | None, root: str | None, as_json: bool, log: Path, tenant: str | None) -> None:
    """Double entry: every call in the customer's own KMS log has its order in the ledger, and every order its call."""
    from openkcm.cli import evidence

    sys.exit(evidence.match(_source(state, export_, root), log, tenant=tenant, as_json=as_json))


@audit.command()
@click.argument("revocation", required=False)
@source_options
@json_option
@click.option("--tenant", help="The newest revocation of this tenant.")
@click.option("--region", help="And of this region.")
@click.option("--out", type=click.Path(path_type=Path), help="The files' common name, without its ending.")
@click.option("--check", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Check a receipt, JSON or page, without any server.")  # fmt: skip
def receipt(
    revocation: str | None, state: Path, export_: Path | None, root: str | None, as_json: bool, tenant: str | None,
    region: str | None, out: Path | None, file: Path | None,
) -> None:  # fmt: skip
    """One revocation as a document to file: who ordered, who obeyed, with its proof; as JSON and as a page to print."""
    from openkcm.cli import evidence

    if file is not None:
        sys.exit(evidence.check(file, root, as_json=as_json))
    source = _source(state, export_, root)
    sys.exit(evidence.receipt(source, revocation, out, tenant=tenant, region=region, as_json=as_json))


# --- the API's commands, for customers -------------------------------------------------------------------------------

personal.add_to(main)


# --- the vault ------------------------------------------------------------------------------------------------------


@main.group()
def vault() -> None:
    """A region's vault of sealed keys and objects: check it, keep a copy, bring one back. Inside the region."""


@vault.command("verify")
@NODE_CONFIG
@json_option
def vault_verify(config: Path, as_json: bool) -> None:
    """Check every record and name what is lost, planted or left over. Exit status 1 when it is not whole."""
    from openkcm.cli import vault as tool

    sys.exit(tool.verify(config, as_json=as_json))


@vault.command("backup")
@NODE_CONFIG
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def vault_backup(config: Path, file: Path) -> None:
    """Write all records, sealed as they are, into the new FILE."""
    from openkcm.cli import vault as tool

    sys.exit(tool.backup(config, file))


@vault.command("restore")
@NODE_CONFIG
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def vault_restore(config: Path, file: Path) -> None:
    """Write back what is missing of FILE, without destroyed residences and versions under an emergency floor."""
    from openkcm.cli import vault as tool

    sys.exit(tool.restore(config, file))


if __name__ == "__main__":
    main()
