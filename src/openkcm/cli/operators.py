"""The operators' commands: nodes, regions, streams, the bus, the vault, root keys, the ledger's copies."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from openkcm.cli.options import CONFIG, NODE_CONFIG, OUTPUT, json_option, state_option

__all__ = ["COMMANDS"]


# --- a node -----------------------------------------------------------------------------------------------------------


@click.group(invoke_without_command=True)
@click.option("--config", type=CONFIG, help="Its JSON file.")
@click.option("--ready", type=click.Path(dir_okay=False, path_type=Path), help="Written when the process serves.")
@click.option("--take-over", is_flag=True, help="Get ready beside the process that runs, then have it make way.")
@click.pass_context
def node(context: click.Context, config: Path | None, ready: Path | None, take_over: bool) -> None:
    """Run a crypto node (custodian and KMIP workers), or see to one."""
    if context.invoked_subcommand is not None:
        return
    if config is None:
        raise click.UsageError("a node needs --config")
    from openkcm.execution import node as process

    process.run(config, ready, take_over=take_over)


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


# --- streams ----------------------------------------------------------------------------------------------------------


@click.group()
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


# --- the bus ----------------------------------------------------------------------------------------------------------


@click.group()
def orbital() -> None:
    """What runs between governance and the nodes."""


@orbital.command("mirrors")
@state_option
@click.option("--repair", is_flag=True, help="Make those anew that are short.")
def orbital_mirrors(state: Path, repair: bool) -> None:
    """Compare what each region's mirrors can give with what the hub has. Exit status 1 when one is short, or late."""
    import asyncio

    from openkcm.bus.errors import BusError
    from openkcm.cli import background, mirrors

    try:
        layout = background.saved_layout(state)
        for line in asyncio.run(mirrors.make_whole(layout)) if repair else []:
            click.echo(line)
        counts = asyncio.run(mirrors.compare(layout))
    except (BusError, OSError, ValueError) as bad:
        raise click.ClickException(str(bad)) from bad
    for count in counts:
        word = " SHORT" if count.is_short else " not at the hub's end" if not count.level else ""
        click.echo(f"{count.region} {count.stream}: {count.mirror} of {count.hub}{word}")
    sys.exit(any(count.mirror < count.hub for count in counts))


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


# --- the fleet --------------------------------------------------------------------------------------------------------


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


@click.group()
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


@node.command("restart")
@click.argument("name")
@state_option
def node_restart(state: Path, name: str) -> None:
    """Replace the process of the node NAME while it serves: the new one unseals first, then the old one makes way."""
    from openkcm.cli import fleet

    change(lambda state, name: fleet.restart_nodes(state, node=name), state, name)


@region.command("restart")
@click.argument("name")
@state_option
def region_restart(state: Path, name: str) -> None:
    """Replace the processes of the region's nodes, one after another, while they serve."""
    from openkcm.cli import fleet

    change(lambda state, name: fleet.restart_nodes(state, region=name), state, name)


@node.command("remove")
@click.argument("name")
@state_option
def node_remove(state: Path, name: str) -> None:
    """Remove the node NAME for ever: by decree, then its process and its consumers."""
    from openkcm.cli import fleet

    change(fleet.remove_node, state, name)


# --- certificates -----------------------------------------------------------------------------------------------------


@click.group()
def certificates() -> None:
    """New certificates, or another CA, for a running one-command stack: without a restart of what serves."""


@certificates.command("renew")
@state_option
@click.option("--new-ca", is_flag=True, help="By a new CA, trusted beside the earlier one until `retire-ca`.")
def certificates_renew(state: Path, new_ca: bool) -> None:
    """Give every server and process a new certificate. Workloads keep theirs: their tenants enrol new ones."""
    from openkcm.cli import fleet

    change(lambda state: fleet.renew_certificates(state, *(["succeed"] if new_ca else []), "renew"), state)


@certificates.command("retire-ca")
@state_option
def certificates_retire_ca(state: Path) -> None:
    """Trust the earlier CA no more. Refused while anybody, a workload too, has a certificate of it."""
    from openkcm.cli import fleet

    change(lambda state: fleet.renew_certificates(state, "retire"), state)


# --- roots ------------------------------------------------------------------------------------------------------------


@click.group()
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
@click.option(
    "--material",
    type=CONFIG,
    required=True,
    help="0600: 32 raw bytes; for azure an RSA private key in PEM. It stays yours.",
)
@click.option("--wrapping", type=click.Choice(["oaep", "aes-kwp"]), default="oaep", show_default=True, help="For aws.")
@click.option("--import-job", help="gcp: your import job's name, in the key's ring.")
@click.option("--kek", help="azure: your key exchange key's name, in the same vault.")
@click.option("--profile", help="Your administrator's profile; default: the SDK's own chain.")
@click.option("--endpoint-url", help="Your private endpoint.")
def import_(provider: str, ref: str, material: Path, wrapping: str, **options: Any) -> None:
    """At the CUSTOMER's side: wrap your own key material and import it straight into your KMS key REF (BYOK)."""
    from openkcm.cli import byok

    click.echo(byok.run(provider, ref, material, wrapping, options))


# --- ledger -----------------------------------------------------------------------------------------------------------


@click.group()
def ledger() -> None:
    """Back the ledger up, make it anew from a backup and mirrors' tails, rotate the key that it is sealed with."""


@ledger.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@state_option
def ledger_backup(state: Path, file: Path) -> None:
    """Write the running stack's whole ledger into FILE. It holds nothing secret."""
    from openkcm.cli import ledger as keeper

    sys.exit(keeper.make_backup(state, file))


@ledger.command("snapshot")
@state_option
@click.argument("folder", type=click.Path(path_type=Path))
def ledger_snapshot(state: Path, folder: Path) -> None:
    """Write governance's read model of the ledger into FOLDER, signed: another CMK starts from it in seconds."""
    from openkcm.cli import snapshot

    sys.exit(snapshot.make(state, folder))


@ledger.command("rotate-key")
@state_option
def ledger_rotate_key(state: Path) -> None:
    """Give the running stack's governance another sealing key: announced, changed over to, the old one retired."""
    from openkcm.cli import sealing_key

    sys.exit(sealing_key.rotate(state))


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


# --- the vault --------------------------------------------------------------------------------------------------------


@click.group()
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
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--own", is_flag=True, help="From this node's own copy instead of a backup's FILE.")
def vault_restore(config: Path, file: Path | None, own: bool) -> None:
    """Write back what is missing of FILE, or of this node's own copy; nothing that was ended."""
    from openkcm.cli import vault as tool

    if own == (file is not None):
        raise click.UsageError("name a backup's FILE, or say --own")
    sys.exit(tool.restore(config, file))


COMMANDS = (node, streams, orbital, region, certificates, root, ledger, vault)
