"""Double entry: the ledger's orders against the request log of the customer's own KMS. Pure; opens nothing.

Every call of a node carries an encryption context that the KMS writes into its own log: tenant, region, level and
version of the key, its record, the root, and the hash of the residence's first approvers. Each such call must have an
order in the ledger, by which its correlation id is named, and each order must have its call:

- version 1 of a residence's L2 is wrapped because a root was linked and a system registered; version n + 1 because of
  the n-th rotation ordered for L2, an emergency's included. One order, one record that is in use.
- the key asked is a root that the ledger linked there, and the approvers are the first that were appointed.

What it cannot show: calls that a log does not hold, and who in the customer's own house made others without a context.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from openkcm.audit.verify import AuditError, Event
from openkcm.contract import decrees as d
from openkcm.contract import statements

__all__ = ["BadLog", "Call", "Causes", "Match", "Matched", "match", "read_log"]

PREFIX: Final = "openkcm-"
WRAPS: Final = "Encrypt"
VERBS: Final = frozenset({WRAPS, "Decrypt", "ReEncrypt", "GenerateDataKey"})


class BadLog(AuditError):
    """Not a request log of a KMS."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the KMS wrote it down. `number`: its place in the log, from 1."""

    number: int
    at: str
    verb: str
    context: dict[str, str]
    error: str | None = None


class Matched(msgspec.Struct, frozen=True, kw_only=True):
    """One order and what the KMS saw of it."""

    correlation: str
    event: str
    sequence: int
    tag: str
    tenant: str
    region: str
    version: int
    records: tuple[str, ...]
    wraps: int
    unwraps: int
    refused: int


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """The two books compared. `unordered`: calls without an order, and why. `unseen`: orders without a call."""

    matched: tuple[Matched, ...]
    unordered: tuple[tuple[int, str], ...]
    unseen: tuple[str, ...]
    others: int

    @property
    def agree(self) -> bool:
        """Whether every call has its order, and every order its call."""
        return not self.unordered and not self.unseen


class _Home:
    """What the ledger ordered of one residence."""

    def __init__(self) -> None:
        self.roots: set[str] = set()
        self.approvers: str | None = None
        self.linked: Event | None = None
        self.has_system = False
        self.rotations: list[Event] = []

    def causes(self) -> list[Event]:
        """The order behind each version of L2, the first is version 1's."""
        first = [self.linked] if self.linked is not None and self.has_system else []
        return [*first, *self.rotations]


class Causes:
    """What the ledger ordered: a listener of `examine`."""

    def __init__(self) -> None:
        self.homes: dict[tuple[str, str], _Home] = {}

    def take(self, event: Event, _body: bytes = b"") -> None:
        """Take the next event in."""
        where, x = event.subject, event.decree
        home = self.homes.setdefault((where.tenant, where.region), _Home())
        if isinstance(x, d.RootKeyLinked):
            home.roots.add(f"{x.root.provider}:{x.root.ref}")
            home.linked = home.linked or event
        elif isinstance(x, d.SystemRegistered):
            home.has_system = True
        elif isinstance(x, (d.RotationOrdered, d.EmergencyRotationOrdered)) and x.level == "L2":
            home.rotations.append(event)
        elif isinstance(x, d.ApproversSet) and x.version == 1:
            pairs = ((a.person, a.public_key) for a in x.approvers)
            home.approvers = statements.approvers_hash(where.tenant, where.region, 1, pairs, x.previous, x.quorum)


def read_log(raw: bytes) -> Iterator[Call]:
    """Yield the calls of a log in CloudTrail's form: one record a line, or one document with `Records`.

    Raises:
        BadLog: It is neither.
    """
    try:
        document = msgspec.json.decode(raw) if raw.lstrip()[:12].startswith(b'{"Records"') else None
        records = document["Records"] if document is not None else [msgspec.json.decode(x) for x in raw.splitlines()]
        for number, record in enumerate(records, 1):
            asked = record.get("requestParameters") or {}
            context = {str(k): str(v) for k, v in (asked.get("encryptionContext") or {}).items()}
            yield Call(number=number, at=str(record["eventTime"]), verb=str(record["eventName"]), context=context,
                       error=record.get("errorCode"))  # fmt: skip
    except (msgspec.MsgspecError, KeyError, AttributeError, TypeError) as bad:
        raise BadLog(f"not a log in CloudTrail's form: {bad}") from bad


def match(causes: Causes, calls: Iterable[Call]) -> Match:
    """Compare the two books."""
    seen: dict[tuple[str, str, int], list[Call]] = {}
    unordered: list[tuple[int, str]] = []
    others = 0
    for call in calls:
        if call.verb not in VERBS or not any(name.startswith(PREFIX) for name in call.context):
            others += 1
            continue
        why, place = _judge(causes, call)
        if why is not None:
            unordered.append((call.number, f"{call.at} {call.verb}: {why}"))
        else:
            seen.setdefault(place, []).append(call)
    matched, unseen = [], []
    for (tenant, region), home in sorted(causes.homes.items()):
        for version, cause in enumerate(home.causes(), 1):
            found = seen.get((tenant, region, version), [])
            told = _told(cause, tenant, region, version, found)
            matched.append(told)
            if told.wraps == 0:
                unseen.append(
                    f"{told.tag} at {told.sequence} ({tenant}, {region}): version {version} was never wrapped"
                )
    return Match(matched=tuple(matched), unordered=tuple(unordered), unseen=tuple(unseen), others=others)


def _judge(causes: Causes, call: Call) -> tuple[str | None, tuple[str, str, int]]:
    said: dict[str, Any] = {name.removeprefix(PREFIX): value for name, value in call.context.items()}
    tenant, region, version = said.get("tenant", ""), said.get("region", ""), str(said.get("version", ""))
    place = (tenant, region, int(version) if version.isascii() and version.isdigit() else 0)
    home = causes.homes.get((tenant, region))
    if home is None or home.linked is None:
        return f"no root of {tenant!r} was ever linked in {region!r}", place
    if said.get("root") not in home.roots:
        return f"root {said.get('root')!r} was never linked there", place
    if said.get("approvers") != home.approvers:
        return "under other first approvers than the ledger's", place
    if said.get("level") != "L2" or not 1 <= place[2] <= len(home.causes()):
        return f"nobody ordered version {version} of {said.get('level')}", place
    return None, place


def _told(cause: Event, tenant: str, region: str, version: int, calls: list[Call]) -> Matched:
    good = [call for call in calls if call.error is None]
    return Matched(
        correlation=cause.envelope.correlation, event=cause.envelope.id, sequence=cause.sequence,
        tag=cause.envelope.tag, tenant=tenant, region=region, version=version,
        records=tuple(sorted({call.context.get(f"{PREFIX}record", "") for call in good if call.verb == WRAPS})),
        wraps=sum(call.verb == WRAPS for call in good), unwraps=sum(call.verb != WRAPS for call in good),
        refused=len(calls) - len(good),
    )  # fmt: skip
