"""Sign and Signature Verify. Declarations only. Source: KMIP 1.4, sections 4.31 and 4.32.

Both came with 1.2; streaming (correlation value, init and final indicators) with 1.3, data digested before with 1.4.
"""

from __future__ import annotations

from openkcm.kmip.enums import ValidityIndicator
from openkcm.kmip.schema import Since13, Since14, Structure
from openkcm.kmip.structures import CryptographicParameters

__all__ = ["SignRequest", "SignResponse", "SignatureVerifyRequest", "SignatureVerifyResponse"]


class SignRequest(Structure, frozen=True, kw_only=True):
    """Sign `data`, or what has been digested already; without parameters the object's own hold."""

    unique_identifier: str | None = None
    cryptographic_parameters: CryptographicParameters | None = None
    data: bytes | None = None
    digested_data: Since14[bytes | None] = None
    correlation_value: Since13[bytes | None] = None
    init_indicator: Since13[bool | None] = None
    final_indicator: Since13[bool | None] = None


class SignResponse(Structure, frozen=True, kw_only=True):
    """The signature."""

    unique_identifier: str
    signature_data: bytes | None = None
    correlation_value: Since13[bytes | None] = None


class SignatureVerifyRequest(Structure, frozen=True, kw_only=True):
    """Ask whether `signature_data` is the object's signature of the data."""

    unique_identifier: str | None = None
    cryptographic_parameters: CryptographicParameters | None = None
    data: bytes | None = None
    digested_data: Since14[bytes | None] = None
    signature_data: bytes | None = None
    correlation_value: Since13[bytes | None] = None
    init_indicator: Since13[bool | None] = None
    final_indicator: Since13[bool | None] = None


class SignatureVerifyResponse(Structure, frozen=True, kw_only=True):
    """Whether it is."""

    unique_identifier: str
    validity_indicator: ValidityIndicator | None = None
    data: bytes | None = None
    correlation_value: Since13[bytes | None] = None
