"""The names of things and their grammar. Pure.

Every name that becomes a subject token is `[a-z0-9-]{1,63}`; `_` stands for "nobody in particular".
"""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from openkcm.contract.errors import NameError_

__all__ = [
    "GLOBAL",
    "NOBODY",
    "EventId",
    "KeyId",
    "Lane",
    "NodeName",
    "PersonId",
    "Region",
    "SystemName",
    "TenantId",
    "WorkloadName",
    "check_token",
    "event_id",
    "pattern_of",
]

TOKEN_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_TOKEN: Final = re.compile(TOKEN_PATTERN[:-1] + r"\Z")  # `$` would allow a trailing newline
GLOBAL: Final = "global"
NOBODY: Final = "_"

_Token = Annotated[str, Meta(pattern=TOKEN_PATTERN)]
TenantId = _Token
Region = _Token
NodeName = _Token
SystemName = _Token
WorkloadName = _Token
PersonId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]  # opaque OIDC subject; a mail address does not fit
EventId = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
KeyId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
Lane = Literal["critical", "routine"]


def pattern_of(name: Any) -> str:
    """Return the pattern of a type of names, to be compiled; `fullmatch` it."""
    return str(name.__metadata__[0].pattern)


def check_token(token: str, what: str) -> str:
    """Return `token` when it is a valid subject token.

    Raises:
        NameError_: It is not; the message names `what` it should have been.
    """
    if not _TOKEN.match(token):
        raise NameError_(
            f"{what} {token[:80]!r} is not a token: lower-case letters, digits and inner hyphens, 1 to 63 characters"
        )
    return token


def event_id(tenant: str, actor: str, command: str, idempotency_key: str, subject: str) -> str:
    """Return the event's id: a UUID from SHA-256 of who asks what under which key, so a retry is the same event."""
    parts = (tenant, actor, command, idempotency_key, subject)
    digest = hashlib.sha256(b"".join(len(p.encode()).to_bytes(4, "big") + p.encode() for p in parts)).digest()
    number = (
        int.from_bytes(digest[:16], "big") & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62
    )  # RFC 9562 version 8
    return str(uuid.UUID(int=number))
