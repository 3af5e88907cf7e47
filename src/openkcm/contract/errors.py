"""What a treaty can be broken by. Pure values; no I/O.

ContractError
├── NameError_          a token, subject or reference that does not fit its grammar
├── EnvelopeError       bytes that are not one well-formed envelope
│   ├── UnknownTag      a well-formed envelope whose event this version does not know
│   └── PayloadError    a known event whose data does not fit its class
└── SealError           not sealed by the named author over these very bytes
"""

from __future__ import annotations

__all__ = ["ContractError", "EnvelopeError", "NameError_", "PayloadError", "SealError", "UnknownTag"]


class ContractError(Exception):
    """Root of the tree."""


class NameError_(ContractError):  # noqa: N801 -- `NameError` is a builtin; callers read `errors.NameError_`
    """A name, subject or reference outside its grammar."""


class EnvelopeError(ContractError):
    """Bytes that are not one well-formed envelope."""


class UnknownTag(EnvelopeError):
    """A well-formed envelope whose tag this version does not know: fail closed, do not drop."""


class PayloadError(EnvelopeError):
    """A known tag whose data does not fit its class."""


class SealError(ContractError):
    """Not sealed by the named author over these very bytes."""
