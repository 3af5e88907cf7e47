"""Nodes' reports on their way into the read model. Refuses what no enrolled node sealed for its own subject."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from openkcm.bus.messages import Stored
from openkcm.contract import envelope as env
from openkcm.contract import reports, subjects, trace
from openkcm.contract.errors import ContractError

__all__ = ["Heard", "UnknownNode", "hear", "may_confirm", "note", "rows_of"]

log = logging.getLogger(__name__)
#: Reports that are only counted, and what each count is about.
NOTES: Final[dict[type[reports.Report], Callable[[reports.Report], str]]] = {
    reports.WorkloadDenied: lambda r: f"{r.workload}/{r.reason}",  # type: ignore[attr-defined]
}

#: Reports that have a table of their own.
KEPT: Final = frozenset({"SyncAck", "RootStateObserved", "RotationComplete", "CheckpointCosigned", "ResidenceShredded"})


FORMS: Final = {None: "unknown", False: "plain", True: "wrapped"}
Value = str | int | bytes | None
Row = tuple[str, Mapping[str, Value]]


class UnknownNode(Exception):
    """Sealed by a key nobody enrolled, as far as the ledger is read."""


class Heard(msgspec.Struct, frozen=True):
    """A genuine report."""

    node: str
    region: str
    tenant: str
    report: reports.Report
    envelope: env.Envelope
    body: bytes


def hear(message: Stored, keys: Mapping[str, tuple[str, str, bytes]]) -> Heard:
    """Return the report in a message.

    (1) a report's subject and one envelope; (2) sealed for it by an enrolled node; (3) that node's own region and name,
    and the same tenant in the subject as in the report.

    Raises:
        UnknownNode: No such node as far as we know.
        ContractError: It is not genuine.
    """
    where = subjects.parse_report(message.subject)  # (1)
    e = env.decode(message.body)
    if e.key not in keys:
        raise UnknownNode(e.key)
    node, region, public = keys[e.key]
    env.verify(e, message.subject, {e.key: public})  # (2)
    report = reports.read(e.tag, e.data)
    tenant = getattr(report, "tenant", "_")
    named = (where.region, where.node, where.tenant, where.tag)
    if named != (region, node, tenant, subjects.report_token(type(report).__name__)):  # (3)
        raise ContractError(f"{node} does not report on {message.subject}")
    return Heard(node, region, tenant, report, e, message.body)


def may_confirm(heard: Heard) -> bool:
    """Whether this may be the last word that a revocation waits for."""
    return isinstance(heard.report, reports.SyncAck) and heard.report.lane == "critical"


def note(heard: Heard, traced: str) -> None:
    """Log a node's word that a critical decree is obeyed, under the trace it came with."""
    said = heard.report
    if traced and isinstance(said, reports.SyncAck) and may_confirm(heard):
        with trace.under(trace.parse(traced)):
            log.info("%s has obeyed %s of %s up to %d", heard.node, said.head, said.tenant, said.floor)


def rows_of(heard: Heard) -> list[Row]:
    """Return what the report changes in the read model."""
    parameters: dict[str, Value] = {
        "node": heard.node,
        "region": heard.region,
        "tenant": heard.tenant,
        "at_ms": heard.envelope.at_ms,
        "data": msgspec.json.encode(heard.report).decode(),
        "body": heard.body,
        "tag": heard.envelope.tag,
    }
    if isinstance(heard.report, reports.HandedOut):
        return _handed_out(heard.report, parameters)
    about = NOTES.get(type(heard.report))
    if about is not None:
        return [("note", {**parameters, "about": about(heard.report)})]
    name = type(heard.report).__name__
    return [(name, parameters)] if name in KEPT else []


def _handed_out(report: reports.HandedOut, parameters: Mapping[str, Value]) -> list[Row]:
    """Return a row a workload and form, then the one that says that the report is counted."""
    counted = {**parameters, "kind": "HandedOut", "series": report.series, "number": report.number}
    sums: dict[tuple[str, str, str], list[reports.Handed]] = {}
    for one in report.handed:
        sums.setdefault((one.registration, one.workload, FORMS[one.wrapped]), []).append(one)
    at_ms = int(parameters["at_ms"])  # type: ignore[arg-type]
    rows: list[Row] = [
        ("handed_out", {
            **counted, "registration": registration, "workload": workload, "form": form,
            "times": sum(one.times for one in of),
            "first_ms": min(at_ms if one.first_ms is None else one.first_ms for one in of),
            "last_ms": max(at_ms if one.last_ms is None else one.last_ms for one in of),
        })
        for (registration, workload, form), of in sums.items()
    ]  # fmt: skip
    return [*rows, ("counted_series", counted)]
