"""The bus's subjects, spelled here alone. Pure.

| Subject | What |
| --- | --- |
| `kcm.decree.<region or global>.<tenant or _>.<lane>.<kind>.<id>` | a decree; kind and id are the aggregate's |
| `kcm.lane0.<region or global>.<tenant or _>.<kind>.<id>` | a critical decree as the hub republishes it |
| `kcm.report.<region>.<node>.<tenant or _>.<tag>` | a node's report |
| `kcm.vault.<region>.<tenant>.<kind>.<id>` | a sealed record of the region's vault |
| `kcm.beat.<region>` | governance's sign of life |
| `kcm.checkpoint.<tree>` | a signed checkpoint of one Merkle tree: a region's, or `global` |
| `kcm.noted.<tree>` | the same as the hub republishes it once it is stored |
| `kcm.cosignature.<tree>.<witness>` | the newest cosignature of one outside witness |
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, get_args

import msgspec

from openkcm.contract.errors import NameError_
from openkcm.contract.ids import GLOBAL, NOBODY, TOKEN_PATTERN, Lane, check_token

__all__ = [
    "DecreeSubject",
    "ReportSubject",
    "VaultSubject",
    "beat",
    "checkpoint",
    "cosignature",
    "decree_of_lane0",
    "noted",
    "parse_decree",
    "parse_report",
    "parse_vault",
    "report_token",
    "tree_of",
]

LANES: Final = get_args(Lane)


class DecreeSubject(msgspec.Struct, frozen=True, order=True):
    """Where a decree lives: one subject an aggregate and lane."""

    region: str
    tenant: str
    lane: Lane
    kind: str
    id: str

    def __str__(self) -> str:
        return f"kcm.decree.{self.region}.{self.tenant}.{self.lane}.{self.kind}.{self.id}"

    @property
    def lane0(self) -> str:
        """The subject under which the hub republishes a critical decree; a routine one, told again, names its lane."""
        lane = "" if self.lane == "critical" else f"{self.lane}."
        return f"kcm.lane0.{self.region}.{self.tenant}.{lane}{self.kind}.{self.id}"

    def on(self, lane: Lane) -> DecreeSubject:
        """Return the same aggregate's subject on `lane`."""
        return msgspec.structs.replace(self, lane=lane)


class ReportSubject(msgspec.Struct, frozen=True):
    """Where a node's report goes. `tag` is the report's class name as a token (`sync-ack`)."""

    region: str
    node: str
    tenant: str
    tag: str

    def __str__(self) -> str:
        return f"kcm.report.{self.region}.{self.node}.{self.tenant}.{self.tag}"


class VaultSubject(msgspec.Struct, frozen=True):
    """Where a sealed record lives: one subject a record, in that region only."""

    region: str
    tenant: str
    kind: str
    id: str

    def __str__(self) -> str:
        return f"kcm.vault.{self.region}.{self.tenant}.{self.kind}.{self.id}"


def _split(subject: str, prefix: str, count: int) -> list[str]:
    parts = subject.split(".")
    if len(parts) != count + 2 or parts[0] != "kcm" or parts[1] != prefix:
        raise NameError_(f"{subject[:200]!r} is not a {prefix} subject of {count} tokens")
    for part in parts[2:]:
        if part != NOBODY:
            check_token(part, f"token of a {prefix} subject")
    return parts[2:]


@lru_cache(maxsize=16_384)  # a ledger has many more events than subjects
def parse_decree(subject: str) -> DecreeSubject:
    """Return the parts of a decree's subject.

    Raises:
        NameError_: Not a decree's subject, or no such lane.
    """
    region, tenant, lane, kind, id_ = _split(subject, "decree", 5)
    if lane not in LANES:
        raise NameError_(f"no lane {lane!r}: one of {', '.join(LANES)}")
    return DecreeSubject(region, tenant, lane, kind, id_)  # type: ignore[arg-type]  # checked just above


def decree_of_lane0(subject: str) -> DecreeSubject:
    """Return the decree's own subject for a message seen on lane0.

    Raises:
        NameError_: Not a lane0 subject.
    """
    if subject.count(".") == 6:
        region, tenant, lane, kind, id_ = _split(subject, "lane0", 5)
        if lane != "routine":
            raise NameError_(f"no lane {lane!r} is told again on lane0")
        return DecreeSubject(region, tenant, "routine", kind, id_)
    region, tenant, kind, id_ = _split(subject, "lane0", 4)
    return DecreeSubject(region, tenant, "critical", kind, id_)


def parse_report(subject: str) -> ReportSubject:
    """Return the parts of a report's subject.

    Raises:
        NameError_: Not a report's subject.
    """
    return ReportSubject(*_split(subject, "report", 4))


@lru_cache(maxsize=1024)  # a record's is looked at some times on its way
def parse_vault(subject: str) -> VaultSubject:
    """Return the parts of a vault record's subject.

    Raises:
        NameError_: Not a vault subject.
    """
    return VaultSubject(*_split(subject, "vault", 4))


def beat(region: str) -> str:
    """Return the subject of governance's beat towards `region`."""
    return f"kcm.beat.{check_token(region, 'region')}"


_REGION: Final = re.compile(r"kcm\.decree\.(" + TOKEN_PATTERN[1:-1] + r")\.")


@lru_cache(maxsize=16_384)
def tree_of(subject: str) -> str:
    """Return the Merkle tree in which a stored decree is a leaf: its region's, as the region's mirror filters it."""
    found = _REGION.match(subject)
    return GLOBAL if found is None else found[1]


def checkpoint(tree: str) -> str:
    """Return where a tree's checkpoints are published."""
    return f"kcm.checkpoint.{check_token(tree, 'tree')}"


def noted(tree: str) -> str:
    """Return where a tree's checkpoints are heard once they are stored."""
    return f"kcm.noted.{check_token(tree, 'tree')}"


def cosignature(tree: str, witness: str) -> str:
    """Return where a witness's newest cosignature of a tree is kept."""
    return f"kcm.cosignature.{check_token(tree, 'tree')}.{check_token(witness, 'witness')}"


def report_token(name: str) -> str:
    """Return a report's class name as the subject's token: `SyncAck` -> `sync-ack`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def tenant_aggregate(tenant: str) -> DecreeSubject:
    """The tenant itself (global, routine)."""
    return DecreeSubject(GLOBAL, check_token(tenant, "tenant"), "routine", "tenant", tenant)


def residence_aggregate(region: str, tenant: str, lane: Lane = "routine") -> DecreeSubject:
    """One tenant in one region."""
    return DecreeSubject(check_token(region, "region"), check_token(tenant, "tenant"), lane, "residence", tenant)


def approval_aggregate(tenant: str, approval: str) -> DecreeSubject:
    """One request for a second person's consent (global, routine)."""
    return DecreeSubject(
        GLOBAL, check_token(tenant, "tenant"), "routine", "approval", check_token(approval, "approval")
    )


def ledger_aggregate(lane: Lane = "routine") -> DecreeSubject:
    """The ledger's own events: epochs, keys, nodes (global, of no tenant)."""
    return DecreeSubject(GLOBAL, NOBODY, lane, "ledger", "main")
