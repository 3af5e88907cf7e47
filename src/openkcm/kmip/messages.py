"""What requests and responses have in common: versions, limits and the two headers. Declarations only: no bytes.

Source: KMIP 1.4 specification, sections 6 and 7.
"""

from __future__ import annotations

from typing import Final

import msgspec

from openkcm.kmip import enums
from openkcm.kmip.framing import MAX_MESSAGE_BYTES
from openkcm.kmip.schema import NEWEST_MINOR, DateTime, Since12, Since14, Structure
from openkcm.kmip.structures import Authentication, Nonce, ProtocolVersion

__all__ = [
    "DEFAULT_LIMITS",
    "KMIP_1_0",
    "KMIP_1_1",
    "KMIP_1_2",
    "KMIP_1_3",
    "KMIP_1_4",
    "SUPPORTED_VERSIONS",
    "Limits",
    "RequestHeader",
    "ResponseHeader",
]

KMIP_1_0, KMIP_1_1, KMIP_1_2, KMIP_1_3, KMIP_1_4 = (
    ProtocolVersion(protocol_version_major=1, protocol_version_minor=minor) for minor in range(NEWEST_MINOR + 1)
)
SUPPORTED_VERSIONS: Final = (KMIP_1_4, KMIP_1_3, KMIP_1_2, KMIP_1_1, KMIP_1_0)  # the best first, as they are answered


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a message may be; checked on what it announces.

    Attributes:
        max_message_bytes: Its whole length, header included.
        max_batch_items: How many operations one message may carry.
    """

    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_batch_items: int = 64


DEFAULT_LIMITS: Final = Limits()


class RequestHeader(Structure, frozen=True, kw_only=True):
    """Section 7.2."""

    protocol_version: ProtocolVersion
    maximum_response_size: int | None = None
    client_correlation_value: Since14[str | None] = None
    server_correlation_value: Since14[str | None] = None
    asynchronous_indicator: bool | None = None
    attestation_capable_indicator: Since12[bool | None] = None
    attestation_type: Since12[tuple[enums.AttestationType, ...]] = ()
    authentication: Authentication | None = None
    batch_error_continuation_option: enums.BatchErrorContinuationOption | None = None
    batch_order_option: bool | None = None
    time_stamp: DateTime | None = None
    batch_count: int


class ResponseHeader(Structure, frozen=True, kw_only=True):
    """Section 7.2."""

    protocol_version: ProtocolVersion
    time_stamp: DateTime
    nonce: Since12[Nonce | None] = None
    attestation_type: Since12[tuple[enums.AttestationType, ...]] = ()
    client_correlation_value: Since14[str | None] = None
    server_correlation_value: Since14[str | None] = None
    batch_count: int
