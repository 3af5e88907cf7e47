"""A verified event as the records other tools read: CloudEvents 1.0 and OCSF API Activity. Pure.

Sources: CloudEvents 1.0.2 (JSON format; extension attributes are lower-case, so integers that do not fit 32 bits are
strings), RFC 8785 (canonical JSON), OCSF 1.3 class 6003. Persons are opaque subjects: no name is known here.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import rfc8785

from openkcm.audit.verify import Event
from openkcm.contract import decrees as d

__all__ = ["cloud_event", "ocsf", "utc"]

SOURCE: Final = "urn:openkcm:ledger"
OCSF_VERSION: Final = "1.3.0"
CREATE, READ, UPDATE, DELETE = 1, 2, 3, 4
#: What an event does, in OCSF's four words; anything else updates.
ACTIVITY: Final[dict[type[d.Decree], int]] = {
    d.TenantRegistered: CREATE, d.SystemRegistered: CREATE, d.WorkloadEnrolled: CREATE, d.NodeEnrolled: CREATE,
    d.ApprovalRequested: CREATE, d.LedgerOpened: CREATE, d.WorkloadRemoved: DELETE, d.SystemDecommissioned: DELETE,
    d.ContextDestroyed: DELETE, d.NodeRemoved: DELETE, d.RoleWithdrawn: DELETE,
    d.WorkloadAuthorityTrusted: CREATE, d.WorkloadAuthoritiesRemoved: DELETE,
}  # fmt: skip
#: OCSF severities: 1 informational, 3 medium, 4 high, 5 critical.
SEVERITY: Final[dict[type[d.Decree], int]] = {
    d.AccessDenied: 3, d.AccessRestored: 4, d.AccessRevoked: 5, d.ContextDestroyed: 5, d.EmergencyRotationOrdered: 5,
    d.SigningKeyRotated: 4, d.NodeRemoved: 4, d.ApproversSet: 4, d.WorkloadAuthorityTrusted: 4,
}  # fmt: skip


def utc(at_ms: int) -> str:
    """Return a time as RFC 3339, UTC, with milliseconds."""
    moment = datetime.fromtimestamp(at_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def cloud_event(event: Event, body: bytes) -> bytes:
    """Return the event as one canonical JSON line, without its newline. `original` holds the stored bytes."""
    e, where = event.envelope, event.subject
    record: dict[str, Any] = {
        "specversion": "1.0",
        "id": e.id,
        "source": SOURCE,
        "type": f"openkcm.{e.tag}",
        "subject": e.subject,
        "time": utc(e.at_ms),
        "datacontenttype": "application/json",
        "data": msgspec.json.decode(e.data),
        "sequence": str(event.sequence),
        "ledgerepoch": str(e.epoch),
        "counter": str(e.counter),
        "lane": where.lane,
        "region": where.region,
        "tenant": where.tenant,
        "actorissuer": e.actor.issuer,
        "actorsubject": e.actor.subject,
        "correlation": e.correlation,
        "timesource": e.time_source,
        "sealkey": e.key,
        "original": base64.b64encode(body).decode(),
    }
    if e.causation is not None:
        record["causation"] = e.causation
    return _canonical(record)


def _canonical(record: dict[str, Any]) -> bytes:
    """Return RFC 8785's form. Ours have no fraction: plain ASCII without an escape is the same sorted by either."""
    raw = msgspec.json.encode(record, order="sorted")
    return raw if raw.isascii() and b"\\" not in raw else rfc8785.dumps(record)


def ocsf(event: Event) -> dict[str, Any]:
    """Return the event as an OCSF API Activity (class 6003)."""
    e, where, kind = event.envelope, event.subject, type(event.decree)
    activity = ACTIVITY.get(kind, UPDATE)
    denied = isinstance(event.decree, d.AccessDenied)
    return {
        "category_uid": 6,
        "class_uid": 6003,
        "class_name": "API Activity",
        "activity_id": activity,
        "type_uid": 600300 + activity,
        "severity_id": SEVERITY.get(kind, 1),
        "status_id": 2 if denied else 1,
        "status": "Failure" if denied else "Success",
        "time": e.at_ms,
        "message": f"{e.name} in {where.region} for {where.tenant}",
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": "OpenKCM", "vendor_name": "OpenKCM"},
            "uid": e.id,
            "event_code": e.tag,
            "sequence": event.sequence,
            "correlation_uid": e.correlation,
            "log_name": "LEDGER",
        },
        "actor": {"user": {"uid": e.actor.subject, "domain": e.actor.issuer}},
        "api": {"operation": event.decree.action if isinstance(event.decree, d.AccessDenied) else e.name,
                "service": {"name": "openkcm-cmk"}},
        "src_endpoint": {"name": "openkcm-cmk"},
        "resources": [{"uid": e.subject, "type": where.kind, "region": where.region, "owner": {"uid": where.tenant}}],
        "unmapped": {"epoch": e.epoch, "counter": e.counter, "lane": where.lane, "seal_key": e.key},
    }  # fmt: skip
