"""What a tenant's keys were used for: nodes' sealed reports from their regions. Judges each; adds nothing up.

A report counts when (1) its subject and its envelope are one, (2) an enrolled node of that region sealed it for this
subject, (3) it is about this tenant. A node numbers a tenant's reports without a gap, in a series of its database: a
report that comes twice is left out, one that is not there is said.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from openkcm.contract import envelope as env
from openkcm.contract import reports, subjects
from openkcm.contract.errors import ContractError

__all__ = ["Usage", "read"]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """The reports of one tenant.

    Attributes:
        lines: One JSON object a report: subject, the report, and the sealed bytes in base64.
        missing: Numbers that no report has, below the highest of its series.
        refused: Messages that are no such report.
    """

    lines: tuple[bytes, ...] = ()
    missing: int = 0
    refused: int = 0


def read(stored: Iterable[tuple[str, bytes]], tenant: str, nodes: Mapping[str, tuple[str, str, bytes]]) -> Usage:
    """Return a tenant's reports out of what regions hold.

    Args:
        stored: Subject and bytes of each message.
        nodes: Key id -> (node, region, public key) of every node that was ever enrolled.
    """
    lines: list[bytes] = []
    numbers: dict[tuple[str, str], set[int]] = {}
    refused = 0
    for subject, body in stored:
        try:
            node, report = _judged(subject, body, tenant, nodes)
        except ContractError:
            refused += 1
            continue
        seen = numbers.setdefault((node, report.series), set())
        if report.number and report.number in seen:
            continue
        seen.add(report.number)
        line: dict[str, Any] = {"subject": subject, "node": node, "report": report, "original": base64.b64encode(body)}
        lines.append(msgspec.json.encode({**line, "original": line["original"].decode()}))
    missing = sum(max(seen) - len(seen - {0}) for seen in numbers.values())
    return Usage(lines=tuple(lines), missing=missing, refused=refused)


def _judged(
    subject: str, body: bytes, tenant: str, nodes: Mapping[str, tuple[str, str, bytes]]
) -> tuple[str, reports.KeyUsage]:
    where, e = subjects.parse_report(subject), env.decode(body)  # (1)
    node, region, public = nodes.get(e.key, ("", "", b""))
    if not node or (where.region, where.node) != (region, node):
        raise ContractError(f"{subject}: sealed by no node of that name and region")
    env.verify(e, subject, {e.key: public})  # (2)
    report = reports.read(e.tag, e.data)
    if not isinstance(report, reports.KeyUsage) or (where.tenant, report.tenant) != (tenant, tenant):  # (3)
        raise ContractError(f"{subject}: no report on keys of {tenant}")
    return node, report
