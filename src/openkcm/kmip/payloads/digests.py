"""MAC, MAC Verify, Hash and the random generator. Declarations only. Source: KMIP 1.4, sections 4.33 to 4.37.

All came with 1.2; streaming (correlation value, init and final indicators) with 1.3.
"""

from __future__ import annotations

from openkcm.kmip.enums import ValidityIndicator
from openkcm.kmip.schema import Since13, Structure
from openkcm.kmip.structures import CryptographicParameters

__all__ = [
    "HashRequest",
    "HashResponse",
    "MACRequest",
    "MACResponse",
    "MACVerifyRequest",
    "MACVerifyResponse",
    "RNGRetrieveRequest",
    "RNGRetrieveResponse",
    "RNGSeedRequest",
    "RNGSeedResponse",
]


class MACRequest(Structure, frozen=True, kw_only=True):
    """Authenticate `data` under the object; without parameters the object's own hold."""

    unique_identifier: str | None = None
    cryptographic_parameters: CryptographicParameters | None = None
    data: bytes | None = None
    correlation_value: Since13[bytes | None] = None
    init_indicator: Since13[bool | None] = None
    final_indicator: Since13[bool | None] = None


class MACResponse(Structure, frozen=True, kw_only=True):
    """The message authentication code."""

    unique_identifier: str
    mac_data: bytes | None = None
    correlation_value: Since13[bytes | None] = None


class MACVerifyRequest(Structure, frozen=True, kw_only=True):
    """Ask whether `mac_data` authenticates `data` under the object."""

    unique_identifier: str | None = None
    cryptographic_parameters: CryptographicParameters | None = None
    data: bytes | None = None
    mac_data: bytes | None = None
    correlation_value: Since13[bytes | None] = None
    init_indicator: Since13[bool | None] = None
    final_indicator: Since13[bool | None] = None


class MACVerifyResponse(Structure, frozen=True, kw_only=True):
    """Whether it does."""

    unique_identifier: str
    validity_indicator: ValidityIndicator | None = None
    correlation_value: Since13[bytes | None] = None


class RNGRetrieveRequest(Structure, frozen=True, kw_only=True):
    """Ask for random bytes."""

    data_length: int


class RNGRetrieveResponse(Structure, frozen=True, kw_only=True):
    """The random bytes; fewer than asked for when the server says so by their number."""

    data: bytes


class RNGSeedRequest(Structure, frozen=True, kw_only=True):
    """Give the generator something to mix in."""

    data: bytes


class RNGSeedResponse(Structure, frozen=True, kw_only=True):
    """How many of the bytes were used."""

    data_length: int


class HashRequest(Structure, frozen=True, kw_only=True):
    """Hash `data`; no key is involved."""

    cryptographic_parameters: CryptographicParameters
    data: bytes | None = None
    correlation_value: Since13[bytes | None] = None
    init_indicator: Since13[bool | None] = None
    final_indicator: Since13[bool | None] = None


class HashResponse(Structure, frozen=True, kw_only=True):
    """The hash."""

    data: bytes | None = None
    correlation_value: Since13[bytes | None] = None
