"""What KMIP bytes can be broken by. Pure values; opens nothing, imports only the enumerations.

KmipError                     every error of this room; each carries the Result Reason that answers it
├── MalformedMessage          InvalidMessage: the bytes are not one well-formed message of ours (the peer's fault)
│   ├── MessageTooLarge       the announced length or count is over the limit; nothing was allocated
│   └── VersionNotSupported   a protocol version that we do not speak
├── FieldNotValid             InvalidField: a well-formed field that this structure, or this version of it, has not
├── OperationNotSupported     OperationNotSupported: fails its batch item alone
├── CriticalExtension         FeatureNotSupported: an extension we may not ignore and do not know
└── NotEncodable              GeneralFailure: a value of our own that does not fit the wire (our fault)

No message quotes a value from the wire except numbers: values may be keys, plaintexts or passwords.
"""

from __future__ import annotations

from typing import ClassVar

from openkcm.kmip.enums import ResultReason

__all__ = [
    "CriticalExtension",
    "FieldNotValid",
    "KmipError",
    "MalformedMessage",
    "MessageTooLarge",
    "NotEncodable",
    "OperationNotSupported",
    "VersionNotSupported",
]


class KmipError(Exception):
    """Root of the tree.

    Attributes:
        reason: The Result Reason with which a server answers.
    """

    reason: ClassVar[ResultReason] = ResultReason.GENERAL_FAILURE


class MalformedMessage(KmipError):
    """Truncated, overlong, misplaced or wrongly typed: not a message that can be read."""

    reason = ResultReason.INVALID_MESSAGE


class MessageTooLarge(MalformedMessage):
    """Over a limit that was checked before anything was allocated."""


class VersionNotSupported(MalformedMessage):
    """A protocol version outside 1.0 to 1.4."""


class FieldNotValid(KmipError):
    """A field that the structure does not have in this version, or a value outside its enumeration."""

    reason = ResultReason.INVALID_FIELD


class OperationNotSupported(KmipError):
    """No payload of this operation is known in this version."""

    reason = ResultReason.OPERATION_NOT_SUPPORTED


class CriticalExtension(KmipError):
    """A message extension marked critical; none is known here."""

    reason = ResultReason.FEATURE_NOT_SUPPORTED


class NotEncodable(KmipError):
    """A value handed to a writer that its field cannot hold."""
