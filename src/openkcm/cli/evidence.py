"""`openkcm audit export | receipt`: evidence to hand to somebody else. Makes files; judges nothing."""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.table import Table

from openkcm.audit import export as exports
from openkcm.audit import match as matching
from openkcm.audit import receipt as receipts
from openkcm.audit.examine import examine
from openkcm.audit.page import page_of
from openkcm.audit.records import utc
from openkcm.audit.replay import Replay
from openkcm.audit.usage import Usage, read
from openkcm.audit.verify import AuditError
from openkcm.cli import endpoints
from openkcm.cli.audit import BROKEN, INTACT, NOT_AUDITED, as_json_text, broken
from openkcm.cli.show import progress, wide_console
from openkcm.cli.sources import Source, read_usage
from openkcm.client import Portal, Problem
from openkcm.contract import checkpoint as cp
from openkcm.contract.decrees import stricter
from openkcm.contract.errors import ContractError
from openkcm.projector import Reader, open_reader
from openkcm.projector.trees import TreeHead, heads

__all__ = ["check", "export", "match", "receipt"]

COVERED_S: Final = 10.0
OPERATOR: Final = "provider/operator"


def export(source: Source, folder: Path, *, tenant: str | None, as_json: bool) -> int:
    """Write an export; return the exit status."""
    try:
        with Replay(source.trust_root) as whole:
            _verified(source, whole)
            notes = checkpoints(source, whole.writer)
            used = _usage(source, whole.writer, tenant)
            with progress("exported") as seen:
                done = exports.write(
                    folder, whole.writer, source.trust_root, notes, tenant=tenant, made_at=_now(), progress=seen,
                    usage=used,
                )  # fmt: skip
    except (*NOT_AUDITED, Problem, ContractError) as bad:
        return broken(bad, as_json=as_json)
    if used is not None and (used.missing or used.refused):
        print(f"of the use of keys {used.missing} reports are missing and {used.refused} were none", file=sys.stderr)
    if as_json:
        print(as_json_text(done))
    else:
        print(f"{folder}: {done.events} events up to sequence {done.last}, {done.proven} under signed checkpoints")
        print(f"check it anywhere: python {folder}/check.py {base64.b64encode(source.trust_root).decode()}")
    return INTACT


def receipt(
    source: Source, revocation: str | None, out: Path | None, *, tenant: str | None, region: str | None, as_json: bool
) -> int:
    """Write the receipt of a revocation (the newest when none is named) as JSON and as a page."""
    try:
        with Replay(source.trust_root) as whole:
            _verified(source, whole)
            chosen = revocation or _newest(whole.writer, tenant, region)
            document = receipts.make(
                whole.writer, source.trust_root, checkpoints(source, whole.writer), chosen, made_at=_now(),
                handed_out=_handed_out(source, whole.writer, chosen),
            )  # fmt: skip
        stem = out or Path(f"receipt-{document['summary']['tenant']}-{document['summary']['region']}-{chosen[:8]}")
        files = [stem.with_suffix(".json"), stem.with_suffix(".html")]
        files[0].write_text(as_json_text(document) + "\n", encoding="utf-8")
        files[1].write_bytes(page_of(document))
    except (*NOT_AUDITED, Problem, ContractError) as bad:
        return broken(bad, as_json=as_json)
    if as_json:
        print(as_json_text({"receipt": str(files[0]), "page": str(files[1]), "summary": document["summary"]}))
    else:
        s = document["summary"]
        print(f"{files[0]} and {files[1]}: {s['tenant']} in {s['region']}, ordered {s['ordered_at']}, {s['outcome']}")
        print(f"check it anywhere: openkcm audit receipt --check {files[1]} --root {document['trust_root']}")
    return INTACT


def check(file: Path, root: str | None, *, as_json: bool) -> int:
    """Check a receipt, without any server; return the exit status."""
    try:
        found = receipts.check(file.read_bytes(), None if root is None else base64.b64decode(root, validate=True))
    except (AuditError, OSError, ValueError) as bad:
        print(as_json_text({"good": False, "why": str(bad)}) if as_json else f"no proof: {bad}")
        return BROKEN
    if as_json:
        print(as_json_text({"good": True, **msgspec.to_builtins(found)}))
        return INTACT
    s = found.summary
    print(f"good: {found.events} events of ledger {found.ledger}, {found.proven} under signed checkpoints")
    if root is None:
        print(f"sealed under trust root {found.trust_root}: compare it with the one you were given another way")
    print(
        f"{s['tenant']} in {s['region']}: revoked at {s['ordered_at']} by {s['ordered_by']['subject']}, {s['outcome']}"
    )
    for node in s["nodes"]:
        print(f"  {node['node']} obeyed {node['after_ms']} ms after the order, {node['state']}")
    for node in s["silent"]:
        print(f"  {node}: no word of it; it serves nobody once its lease is over")
    for sentence in found.outside["words"]:
        print(f"  outside: {sentence}")
    return INTACT


def match(source: Source, log: Path, *, tenant: str | None, as_json: bool) -> int:
    """Print whether the ledger's orders and a KMS's own request log agree; return the exit status."""
    causes = matching.Causes()
    try:
        with progress("read") as seen:
            examine(source.messages(), source.trust_root, whole=source.whole, hear=[causes.take], progress=seen)
        if tenant is not None:
            causes.homes = {place: home for place, home in causes.homes.items() if place[0] == tenant}
        found = matching.match(causes, matching.read_log(log.read_bytes()))
    except NOT_AUDITED as bad:
        return broken(bad, as_json=as_json)
    if as_json:
        print(as_json_text({"agree": found.agree, **msgspec.to_builtins(found)}))
        return INTACT if found.agree else BROKEN
    table = Table("order", "sequence", "correlation", "tenant", "region", "version", "wraps", "unwraps", "refused")
    for m in found.matched:
        table.add_row(m.tag.partition(".")[0], str(m.sequence), m.correlation, m.tenant, m.region, str(m.version),
                      str(m.wraps), str(m.unwraps), str(m.refused))  # fmt: skip
    wide_console().print(table)
    print("the two books agree" if found.agree else "the two books do not agree")
    for number, why in found.unordered:
        print(f"  call {number} of the KMS has no order: {why}")
    for why in found.unseen:
        print(f"  the KMS never saw: {why}")
    return INTACT if found.agree else BROKEN


def checkpoints(source: Source, replay: Reader) -> dict[tuple[str, int], cp.Note]:
    """Return the newest signed checkpoint of each tree, once they cover what was read.

    Raises:
        AuditError: They do not, some seconds later: is the notary running?
        Problem: The API does not answer.
    """
    if source.export is not None:
        return source.export.checkpoints()
    assert source.state is not None
    running = endpoints.load(source.state)
    wanted = {head.tree: head for head in heads(replay)}
    deadline = time.monotonic() + COVERED_S
    with Portal(running.cmk.url, running.people[OPERATOR].token, ca=running.cmk.ca) as portal:
        while True:
            notes = _notes(portal.get("/checkpoints"))
            late = [tree for tree, head in wanted.items() if not _covers(notes.get((tree, head.epoch)), head)]
            if not late:
                return notes
            if time.monotonic() > deadline:
                raise AuditError(f"no checkpoint covers the newest events of {', '.join(sorted(late))}")
            time.sleep(0.2)


def _covers(note: cp.Note | None, head: TreeHead) -> bool:
    return note is not None and note.checkpoint().size >= head.edge.size


def _notes(answer: Mapping[str, Any]) -> dict[tuple[str, int], cp.Note]:
    signed = [tree["checkpoint"] for tree in answer["value"] if tree["checkpoint"] is not None]
    notes = [cp.parse_note(one["note"]) for one in signed]
    return {(note.checkpoint().tree, note.checkpoint().epoch): note for note in notes}


def _verified(source: Source, whole: Replay) -> None:
    with progress("verified") as seen:
        examine(source.messages(), source.trust_root, whole=source.whole, fold=whole.take, progress=seen)


def _newest(replay: Reader, tenant: str | None, region: str | None) -> str:
    found = replay.rows(
        "SELECT r.event FROM revocation r JOIN event e ON e.id = r.event "
        "WHERE (:t IS NULL OR r.tenant = :t) AND (:r IS NULL OR r.region = :r) ORDER BY e.sequence DESC LIMIT 1",
        {"t": tenant, "r": region},
    )
    if not found:
        raise AuditError("the ledger holds no such revocation")
    return str(found[0][0])


def _handed_out(source: Source, replay: Reader, revocation: str) -> list[dict[str, Any]] | None:
    """What nodes reported of KMIP Get for this residence: counted by governance, no part of the ledger."""
    if source.registry is None:
        return None
    tenant, region = replay.rows("SELECT tenant, region FROM revocation WHERE event = ?", (revocation,))[0]
    reader = open_reader(source.registry)
    try:
        return [
            {
                **row, "last_at": utc(row.pop("last_ms")),
                "policy": stricter(row.pop("ceiling") or "allowed", row["policy"]),
            }
            for row in reader.records(
                "SELECT coalesce(s.system, '') AS system, h.workload, sum(h.times) AS times, "
                "sum(h.times) FILTER (WHERE h.form = 'wrapped') AS wrapped, max(h.last_ms) AS last_ms, "
                "max(s.hand_out) AS policy, (SELECT c.hand_out FROM configuration AS c WHERE c.tenant = h.tenant "
                "AND c.region = h.region) AS ceiling FROM handed_out AS h LEFT JOIN registered_system AS s "
                "ON s.tenant = h.tenant AND s.region = h.region AND s.registration = h.registration "
                "WHERE h.tenant = ? AND h.region = ? GROUP BY 1, 2 ORDER BY 1, 2", (tenant, region),
            )
        ]  # fmt: skip
    finally:
        reader.close()


def _usage(source: Source, replay: Reader, tenant: str | None) -> Usage | None:
    """What the tenant's regions hold of the use of its keys; None for a whole ledger, or without a running stack."""
    if tenant is None or source.state is None:
        return None
    regions = [r for (r,) in replay.rows("SELECT region FROM tenant_region WHERE tenant = ? ORDER BY 1", (tenant,))]
    rows = replay.rows("SELECT key, node, region, public_key FROM node")
    nodes = {key: (node, region, base64.b64decode(public)) for key, node, region, public in rows}
    return read(asyncio.run(read_usage(source.state, tenant, regions)), tenant, nodes)


def _now() -> str:
    return utc(time.time_ns() // 1_000_000)
