"""What a node says, sealed with its own enrolled key: reports on the bus, records in the vault. Sends nothing."""

from __future__ import annotations

import itertools
import time
import uuid

import msgspec

from openkcm.contract import envelope as env
from openkcm.contract import reports, seal, subjects
from openkcm.contract.ids import NOBODY

__all__ = ["Voice"]


class Voice:
    """The node's author: name, region, key and its own count of messages."""

    def __init__(self, node: str, region: str, signer: seal.Signer) -> None:
        self.node, self.region, self.signer = node, region, signer
        self._actor = env.Actor(issuer="node", subject=node)
        self._count = itertools.count(time.time_ns() // 1_000_000)  # above every earlier run's; a record, no decision

    def _seal(
        self, subject: str, tag: str, data: bytes, epoch: int, correlation: str | None, above: int = 0
    ) -> env.Envelope:
        own = str(uuid.uuid4())
        return env.seal_envelope(
            env.Envelope(
                id=own,
                tag=tag,
                subject=subject,
                counter=max(next(self._count), above + 1),
                epoch=epoch,
                actor=self._actor,
                correlation=correlation or own,
                at_ms=time.time_ns() // 1_000_000,
                time_source="node",
                key=self.signer.key_id,
                data=msgspec.Raw(data),
            ),
            self.signer,
        )

    def report(
        self, tenant: str | None, report: reports.Report, *, epoch: int, correlation: str | None = None
    ) -> env.Envelope:
        """Return the sealed report, addressed to governance."""
        token = subjects.report_token(type(report).__name__)
        subject = str(subjects.ReportSubject(self.region, self.node, tenant or NOBODY, token))
        return self._seal(subject, reports.tag_of(report), msgspec.json.encode(report), epoch, correlation)

    def record(self, subject: subjects.VaultSubject, tag: str, data: bytes, *, epoch: int, above: int) -> env.Envelope:
        """Return the sealed vault record; its counter is above that of the revision it replaces."""
        return self._seal(str(subject), tag, data, epoch, None, above)
