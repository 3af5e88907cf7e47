"""Everything governance refuses with, and the HTTP status of each. Pure values.

GovernanceError
├── Unauthenticated ─┬─ BadCredential        who asks
│                    └─ StepUpRequired
├── Forbidden, NotFound, CrossSite           whether it is theirs
├── TooMany                                  and how often
├── Invalid ─┬─ InvalidReference             a request that says nothing we could do
│            └─ SecretRefused
├── IllegalNow ─┬─ NotOpen                   right words at the wrong time: the aggregate's state forbids it
│               └─ OtherWords
├── NeedsApproval, BadSignature              two people of the tenant
├── KeyReused, Stale, Conflicting            idempotency key, If-Match, somebody else was faster
├── TooLarge, WrongMediaType
└── LedgerUnavailable, Inconsistent          nothing was decided; try again / call the operator
"""

from __future__ import annotations

from typing import ClassVar, Final

__all__ = [
    "STATUS",
    "BadCredential",
    "BadSignature",
    "Conflicting",
    "CrossSite",
    "Forbidden",
    "Foreign",
    "GovernanceError",
    "IllegalNow",
    "Inconsistent",
    "Invalid",
    "InvalidReference",
    "KeyReused",
    "LedgerUnavailable",
    "NeedsApproval",
    "NotFound",
    "NotOpen",
    "OtherWords",
    "SecretRefused",
    "Stale",
    "StepUpRequired",
    "TooLarge",
    "TooMany",
    "Unauthenticated",
    "WrongMediaType",
]


class GovernanceError(Exception):
    """Root of the tree. `code` is stable; the message says what was wrong and what to do next, and holds no secret."""

    code: ClassVar[str] = "internal-error"
    #: Somebody tried what is not theirs: it goes into the ledger.
    refusal: ClassVar[bool] = False


class Unauthenticated(GovernanceError):
    """No proof of identity, or a bad one."""

    code = "unauthenticated"


class BadCredential(Unauthenticated):
    """A token that does not hold: somebody else's, for somebody else, forged, or past its time."""

    refusal = True


class StepUpRequired(Unauthenticated):
    """Signed in too long ago for this: sign in again (RFC 9470)."""

    code = "step-up-required"
    refusal = True


class CrossSite(GovernanceError):
    """A page of somebody else's sent this in the person's name."""

    code = "cross-site-request"
    refusal = True


class TooMany(GovernanceError):
    """Faster than the caller's budget. Revocations have a budget of their own."""

    code = "too-many-requests"


class Forbidden(GovernanceError):
    """Known, but the role does not allow it."""

    code = "forbidden"
    refusal = True


class NotFound(GovernanceError):
    """Not there, or not theirs: the two look the same."""

    code = "not-found"


class Foreign(NotFound):
    """Another tenant's: answered like what is not there, and written down."""

    refusal = True


class Invalid(GovernanceError):
    """A request outside its grammar."""

    code = "invalid-request"


class InvalidReference(Invalid):
    """A root key's reference that no key of this region can have."""

    code = "invalid-reference"


class SecretRefused(Invalid):
    """Something shaped like a secret where only a reference belongs. It was not stored."""

    code = "secret-refused"


class IllegalNow(GovernanceError):
    """The state does not allow it; nothing was changed."""

    code = "illegal-in-this-state"


class NotOpen(IllegalNow):
    """The approval is closed: used, refused, taken back, expired. Its signatures count no more."""

    refusal = True


class OtherWords(IllegalNow):
    """The words that were signed are not the ones this command has here now."""

    refusal = True


class NeedsApproval(GovernanceError):
    """It takes two different people of the tenant: prepare an approval."""

    code = "approval-required"
    refusal = True


class BadSignature(GovernanceError):
    """Not an approver's signature over these very words."""

    code = "bad-signature"
    refusal = True


class KeyReused(GovernanceError):
    """The idempotency key came with another request before."""

    code = "idempotency-key-reused"


class Stale(GovernanceError):
    """If-Match names another generation than the present one."""

    code = "stale-generation"


class Conflicting(GovernanceError):
    """Others wrote at the same time, again and again: nothing was written, try again."""

    code = "conflict"


class TooLarge(GovernanceError):
    """More bytes than a request may have."""

    code = "too-large"


class WrongMediaType(GovernanceError):
    """A body that is not JSON."""

    code = "unsupported-media-type"


class LedgerUnavailable(GovernanceError):
    """The ledger does not answer. It may still have arrived: repeat with the same idempotency key."""

    code = "ledger-unavailable"


class Inconsistent(GovernanceError):
    """The ledger holds something this version cannot decide upon."""

    code = "ledger-inconsistent"


STATUS: Final[dict[str, int]] = {
    "unauthenticated": 401,
    "step-up-required": 401,
    "cross-site-request": 403,
    "too-many-requests": 429,
    "forbidden": 403,
    "not-found": 404,
    "invalid-request": 422,
    "invalid-reference": 422,
    "secret-refused": 422,
    "illegal-in-this-state": 409,
    "approval-required": 409,
    "bad-signature": 422,
    "idempotency-key-reused": 409,
    "stale-generation": 412,
    "conflict": 409,
    "too-large": 413,
    "unsupported-media-type": 415,
    "ledger-unavailable": 503,
    "ledger-inconsistent": 503,
    "internal-error": 500,
}
