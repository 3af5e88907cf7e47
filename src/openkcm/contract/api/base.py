"""What every answer has in common: the error, the list, the 202, the state of a tenant region. Pure values."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

import msgspec

from openkcm.contract.ids import EventId

__all__ = ["Accepted", "Health", "Page", "Problem", "Shape", "State"]

_T = TypeVar("_T")
State = Literal["Requested", "Linked", "Active", "Suspended", "Revoked", "Destroyed"]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what the API answers."""


class Problem(Shape, frozen=True, kw_only=True):
    """RFC 9457. `code` is stable; `detail` says what was wrong and what to do next."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str
    requestId: str  # noqa: N815 -- the API's spelling


class Page(msgspec.Struct, Generic[_T], frozen=True, kw_only=True):
    """A list: `$top` and `$skip` choose the part, `count` is of all."""

    value: list[_T]
    count: int


class Accepted(Shape, frozen=True, kw_only=True, omit_defaults=True):
    """202: it is in the ledger (or, a revocation, on its way there for certain). `sync` shows which node has it."""

    resource: str
    sync: str
    event: EventId | None = None
    events: list[EventId] = []
    generation: int | None = None
    fence: int | None = None
    system: str | None = None
    registration: str | None = None
    workload: str | None = None
    enrolment: str | None = None
    authority: str | None = None
    rotation: str | None = None
    approval: str | None = None


class Health(Shape, frozen=True, kw_only=True):
    """Whether the process can do its work."""

    status: Literal["ok", "not ready"]
    checks: dict[str, bool] = {}
