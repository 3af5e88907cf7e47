"""`openkcm audit verify | replay | as-of | account`: reads a ledger and prints what the audit finds. Judges nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from openkcm.audit import asof
from openkcm.audit import replay as replays
from openkcm.audit.account import Account
from openkcm.audit.examine import Examined, examine
from openkcm.audit.export import limits
from openkcm.audit.noted import NotBorneOut, Tree
from openkcm.audit.records import utc
from openkcm.audit.seals import Vouched, checked
from openkcm.audit.trees import SignedTrees, Slice, Tampered
from openkcm.audit.verify import AuditError, BadEvent
from openkcm.bus.errors import BusError
from openkcm.bus.messages import Stored
from openkcm.cli import signed as signatures
from openkcm.cli.show import progress, wide_console
from openkcm.cli.sources import Source
from openkcm.contract.checkpoint import epoch_of
from openkcm.projector import ProjectorError

__all__ = ["account", "as_json_text", "as_of", "broken", "moment", "replay", "verify", "verify_and_replay"]

INTACT: Final = 0
BROKEN: Final = 1
FINDINGS: Final = 2
NOT_AUDITED: Final = (AuditError, BusError, ProjectorError, OSError, msgspec.MsgspecError)


def verify(
    source: Source, *, as_json: bool, against: Path | None = None, verified: bool = False, every_seal: bool = False,
    witnesses: Iterable[str] = (), histories: Iterable[Path] = (), fold: replays.Replay | None = None,
) -> int:  # fmt: skip
    """Print whether the ledger holds, and what of it was signed; return the exit status.

    Args:
        against: An earlier whole export: the ledger must begin with it, event by event.
        verified: That export was verified then: the seals in it are not checked again.
        every_seal: Check each seal, also where the sealing key vouches for them over a signed tree.
        fold: Replayed as it is verified.
        witnesses: Verifier keys of witnesses that are trusted; a tree that one of them has not cosigned is named.
        histories: Those witnesses' own histories: the ledger must bear out all that is in them.
    """
    proven: int | None = None
    signed: list[Tree] = []
    try:
        known, kept = signatures.pinned(witnesses, histories)
        claims = None if source.state is None else signatures.claims_of(source.state, kept)
        with source.files_checked():
            trees = source.trees(against)
            hear = [*([trees.hear] if isinstance(trees, Slice) else []), *([] if claims is None else [claims.take])]
            with progress("verified") as seen:
                result = examine(
                    source.messages(), source.trust_root, whole=source.whole, progress=seen,
                    see=[trees.see] if isinstance(trees, SignedTrees) else [],
                    hear=hear, vouched=_vouched(trees, verified=verified, every_seal=every_seal),
                    fold=None if fold is None else fold.take,
                )  # fmt: skip
            if trees is not None:
                proven = trees.check(result.keys)
        if claims is not None:
            signed = claims.judge(result.keys)
        if source.whole and result.events and result.epoch != epoch_of(result.sequence):
            raise NotBorneOut(result.epoch, result.sequence, "made anew in an epoch that the trust root has not opened")
    except NOT_AUDITED as bad:
        return broken(bad, as_json=as_json)
    absent = signatures.missing(signed, known)
    words = (*limits(source.tenant), *(() if claims is None else claims.words()))
    if as_json:
        print(as_json_text({
            "intact": True, "events": result.events, "epoch": result.epoch, "sequence": result.sequence,
            "findings": result.findings, "proven": proven, "trees": signed, "not_cosigned": absent,
            "seals": {"one_by_one": result.events - result.vouched, "vouched": result.vouched},
            "limits": words,
        }))  # fmt: skip
    else:
        _print_verified(result, proven, words)
        _print_signed(signed, absent)
    return FINDINGS if result.findings or absent else INTACT


def verify_and_replay(source: Source, keep: Path | None, *, as_json: bool, **how: Any) -> int:
    """As `verify`, and fold what is verified with governance's own SQL, in the same pass; return the exit status."""
    with replays.Replay(source.trust_root, keep) as made:
        status = verify(source, as_json=as_json, fold=made, **how)
        if status == BROKEN:
            return status
        try:
            rows, cursor = made.counts(), made.projection.cursor
        except NOT_AUDITED as bad:
            return broken(bad, as_json=as_json)
    said = f"replayed up to sequence {cursor}: {sum(rows.values())} rows in {len(rows)} tables"
    print(said, file=sys.stderr if as_json else sys.stdout)
    return status


def _vouched(trees: SignedTrees | Slice | None, *, verified: bool, every_seal: bool) -> Vouched | None:
    """Return what spares a seal: an earlier verification, or the sealing key's own word over the signed tree."""
    if every_seal or not isinstance(trees, SignedTrees):
        return None
    return (lambda sequence, _subject, _key: trees.signed(sequence)) if verified else trees.vouched


def _print_signed(trees: list[Tree], absent: list[str]) -> None:
    console = wide_console()
    for tree in trees:
        late = tree.size - tree.signed
        console.print(
            f"[green]signed[/]: {tree.tree}, epoch {tree.epoch}: {tree.checkpoints} checkpoints, the newest of "
            f"{tree.signed} of {tree.size} events" + (f"; [yellow]{late} not covered yet[/]" if late else "")
        )
        for c in tree.cosigners:
            console.print(f"  cosigned by {c.name} at {utc(c.at_s * 1000)}: {c.size} events", soft_wrap=True)
    for sentence in absent:
        console.print(f"[yellow]{sentence}[/]", soft_wrap=True)


def _print_verified(result: Examined, proven: int | None, words: tuple[str, ...]) -> None:
    console = wide_console()
    console.print(f"[green]intact[/]: {result.events} events, epoch {result.epoch}, up to sequence {result.sequence}")
    if proven is not None:
        console.print(f"[green]proven[/]: {proven} events under signed checkpoints")
    if result.vouched:
        console.print(
            f"[green]sealed[/]: {result.events - result.vouched} seals checked one by one, {result.vouched} by their "
            "key's own word over the signed tree or as verified before (--every-seal checks each)", soft_wrap=True,
        )  # fmt: skip
    for f in result.findings:
        console.print(
            f"[yellow]without authority[/]: {f.tag} at epoch {f.epoch}, sequence {f.sequence}: {f.code}: {f.why}",
            soft_wrap=True,
        )
    for sentence in words:
        console.print(f"[dim]{sentence}[/]", soft_wrap=True)


def replay(
    source: Source, *, as_json: bool, until: str | None = None, tenant: str | None = None, keep: Path | None = None
) -> int:
    """Print whether governance's tables are the ledger's; up to a point only, what the ledger makes of them then."""
    try:
        if until is None and source.registry is not None:
            return _compare(source, tenant, keep, as_json=as_json)
        with _folded(source, until, keep) as made:
            tables, cursor = made.tables(tenant), made.projection.cursor
    except NOT_AUDITED as bad:
        print(f"not audited: {bad}", file=sys.stderr)
        return BROKEN
    rows = {table: len(found) for table, found in tables.items()}
    if as_json:
        print(as_json_text({"sequence": cursor, "tenant": tenant, "rows": rows}))
    else:
        print(f"replayed up to sequence {cursor}: {sum(rows.values())} rows in {len(rows)} tables")
        for table, count in rows.items():
            print(f"  {count:8} {table}")
    return INTACT


def _compare(source: Source, tenant: str | None, keep: Path | None, *, as_json: bool) -> int:
    assert source.registry is not None
    cursor, tables = replays.tables_of(source.registry, tenant)
    with replays.Replay(source.trust_root, keep) as made, progress("replayed") as seen:
        fold(made, source.messages(at_least=cursor), source.trust_root, until=cursor, seen=seen)
        differences = replays.compare(made.tables(tenant), tables)
    rows = sum(len(t) for t in tables.values())
    if as_json:
        print(as_json_text({"equal": not differences, "sequence": cursor, "rows": rows, "tables": len(tables),
                            "tenant": tenant, "differences": differences}))  # fmt: skip
    elif differences:
        for d in differences:
            print(f"{d.table} is not what the ledger says: missing {d.missing}, surplus {d.surplus}")
    else:
        print(f"equal row for row: {len(tables)} tables, {rows} rows, up to sequence {cursor}")
    return BROKEN if differences else INTACT


def as_of(source: Source, point: str, *, as_json: bool, tenant: str | None) -> int:
    """Print the state at a sequence or a time, and who could decrypt then; return the exit status."""
    try:
        words = asof.Obediences()
        with replays.Replay(source.trust_root) as whole, progress("replayed") as seen:
            examine(source.messages(), source.trust_root, whole=source.whole, hear=[words.take], fold=whole.take,
                    progress=seen)  # fmt: skip
            sequence, at_ms = moment(point, whole)
            with replays.Replay(source.trust_root) as then:
                kept = whole.events(until=sequence)
                for batch in kept:
                    then.take(batch, frozenset(one.sequence for one in batch))
                answer = asof.as_of(then.writer, words, at_ms=at_ms, tenant=tenant)
    except NOT_AUDITED as bad:
        return broken(bad, as_json=as_json)
    if as_json:
        print(as_json_text(answer))
        return INTACT
    console = wide_console()
    console.print(f"as of sequence {answer.sequence}, epoch {answer.epoch}, {utc(answer.at_ms)}")
    console.print(f"[dim]{answer.clock}[/]", soft_wrap=True)
    if answer.unordered:
        console.print(f"[yellow]{answer.unordered} events before it claim a later time[/]: clocks ran back there")
    table = Table("tenant", "region", "state", "lease", "node", "could decrypt", "since / since when not", "why")
    for home in answer.residences:
        for n, a in enumerate(home.access or (asof.Access(region="", node="-", could="no", since_ms=None, why=""),)):
            first = (home.tenant, home.region, home.state, f"{home.lease_s} s") if n == 0 else ("", "", "", "")
            table.add_row(*first, a.node, a.could, "never" if a.since_ms is None else utc(a.since_ms), a.why)
        table.add_row("", "", "", "", "", f"[dim]workloads: {', '.join(home.workloads) or 'none'}[/]", "", "")
    console.print(table)
    return INTACT


def account(source: Source, *, as_json: bool, tenant: str | None, directory: Path | None = None) -> int:
    """Print the account of orders and of denied attempts; return the exit status."""
    kept = Account()
    try:
        named = _directory(directory)
        with progress("read") as seen:
            result = examine(source.messages(), source.trust_root, whole=source.whole, hear=[kept.take], progress=seen)
    except NOT_AUDITED as bad:
        return broken(bad, as_json=as_json)
    orders = [order for order in kept.orders(result.findings) if tenant is None or order.tenant == tenant]
    denied = [one for one in kept.denied if tenant is None or one.tenant == tenant]
    if as_json:
        print(as_json_text({"orders": orders, "denied": denied}))
        return INTACT
    table = Table(
        "sequence", "event", "tenant", "region", "by", "approved by", "outcome", "obeyed (ms after)", "silent"
    )
    for o in orders:
        obeyed = ", ".join(f"{word.node} {word.after_ms}" for word in o.obeyed)
        by = ", ".join(named(person) for person in o.approved_by)
        table.add_row(str(o.sequence), o.tag.partition(".")[0], o.tenant, o.region, named(o.by), by, o.outcome, obeyed,
                      ", ".join(o.silent))  # fmt: skip
    console = wide_console()
    console.print(table)
    refused = Table("sequence", "at", "by", "tried", "of tenant", "region", "refused as", title="Denied attempts")
    for one in denied:
        refused.add_row(str(one.sequence), utc(one.at_ms), named(one.by), one.action, one.tenant or "",
                        one.region or "", one.reason)  # fmt: skip
    console.print(refused if denied else "no denied attempts")
    return INTACT


def _directory(file: Path | None) -> Callable[[str], str]:
    """Return what gives a person's name, or the first digits of its opaque subject."""
    names = {} if file is None else msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    by_subject = {subject: name for name, subject in names.items()}
    return lambda person: by_subject.get(person, person[:8])


def fold(made: replays.Replay, messages: Iterator[Stored], trust_root: bytes, *, until: int | None, seen: Any) -> None:
    """Fold messages into a replay, up to and with a sequence."""
    done = 0
    for batch in checked(_upto(messages, until), trust_root):
        made.take(batch.messages, batch.good)
        done += len(batch.messages)
        seen(done)


def moment(point: str, whole: replays.Replay) -> tuple[int, int | None]:
    """Return the sequence of a point, and its time in ms if it was given as one.

    Raises:
        AuditError: Neither a number nor a time, or before the ledger.
    """
    if point.isascii() and point.isdigit():
        return int(point), None
    try:
        given = datetime.fromisoformat(point)
    except ValueError as bad:
        raise AuditError(f"{point!r} is neither a sequence nor a time such as 2026-11-26T15:00:00Z") from bad
    at_ms = int((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp() * 1000)
    return asof.sequence_at(whole.writer, at_ms), at_ms


def _folded(source: Source, until: str | None, keep: Path | None) -> replays.Replay:
    with replays.Replay(source.trust_root) as whole, progress("replayed") as seen:
        last = None
        if until is not None and not until.isdigit():  # a time: the ledger's own clock says which sequence
            fold(whole, source.messages(), source.trust_root, until=None, seen=seen)
            last = moment(until, whole)[0]
        elif until is not None:
            last = int(until)
        made = replays.Replay(source.trust_root, keep)
        fold(made, source.messages(), source.trust_root, until=last, seen=seen)
        return made


def _upto(messages: Iterator[Stored], until: int | None) -> Iterator[Stored]:
    for message in messages:
        if until is not None and message.sequence > until:
            return
        yield message


def broken(bad: Exception, *, as_json: bool) -> int:
    """Print why a ledger was not audited, or where it breaks; return the exit status."""
    if not isinstance(bad, (BadEvent, NotBorneOut, Tampered)):
        print(f"not audited: {bad}", file=sys.stderr)
    elif as_json:
        print(as_json_text(_named(bad)))
    else:
        Console(soft_wrap=True).print(f"[red]broken[/]: {bad}")
    return BROKEN


def _named(bad: BadEvent | NotBorneOut | Tampered) -> dict[str, Any]:
    if not isinstance(bad, Tampered):
        return {"intact": False, "epoch": bad.epoch, "sequence": bad.sequence, "code": bad.code, "why": bad.why}
    epoch = None if bad.sequence is None else epoch_of(bad.sequence)
    return {"intact": False, "epoch": epoch, "sequence": bad.sequence, "code": "signed", "why": str(bad)}


def as_json_text(value: object) -> str:
    """Return a value as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
