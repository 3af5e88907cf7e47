"""The auditors' commands: a witness, and everything that reads the ledger without trusting us."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from openkcm.cli.options import json_option, state_option

__all__ = ["COMMANDS"]

_F = TypeVar("_F", bound=Callable[..., Any])


# --- witness ----------------------------------------------------------------------------------------------------------


@click.group()
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


# --- audit ------------------------------------------------------------------------------------------------------------


@click.group()
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
@click.option("--every-seal", is_flag=True, help="Check each seal, also where its key vouches over a signed tree.")
@click.option("--replay", "replayed", is_flag=True, help="Fold it as well, with governance's own SQL.")
@click.option("--keep", type=click.Path(exists=False, dir_okay=False, path_type=Path),
              help="With --replay: keep the SQLite file there.")  # fmt: skip
def verify(
    state: Path, export_: Path | None, root: str | None, as_json: bool, witnesses: tuple[str, ...],
    histories: tuple[Path, ...], against: Path | None, verified: bool, every_seal: bool, replayed: bool,
    keep: Path | None,
) -> None:  # fmt: skip
    """Seals, counters, gaps, approvals, acks, proofs. Names the first bad event; exit status 1 then, 2 for findings."""
    from openkcm.cli import audit as auditor

    source = _source(state, export_, root)
    how: dict[str, Any] = {"against": against, "verified": verified, "every_seal": every_seal, "witnesses": witnesses,
                           "histories": histories}  # fmt: skip
    if replayed:
        sys.exit(auditor.verify_and_replay(source, keep, as_json=as_json, **how))
    sys.exit(auditor.verify(source, as_json=as_json, **how))


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


COMMANDS = (witness, audit)
