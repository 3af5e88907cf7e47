"""Encrypt and Decrypt. Declarations only. Source: KMIP 1.4, sections 4.29 and 4.30.

Streaming (correlation value, init and final indicators) came with 1.3, authenticated encryption with 1.4.
"""

from __future__ import annotations

from openkcm.kmip.schema import Since13, Since14, Structure
from openkcm.kmip.structures import CryptographicParameters

__all__ = ["DecryptRequest", "DecryptResponse", "EncryptRequest", "EncryptResponse"]


class EncryptRequest(Structure, frozen=True, kw_only=True):
    """Encrypt `data` under the object; without parameters the object's own hold."""

    unique_identifier: str | None = None
    cryptographic_parameters: CryptographicParameters | None = None
    data: bytes | None = None
    iv_counter_nonce: bytes | None = None
    correlation_value: Since13[bytes | None] = None
    init_indicator: Since13[bool | None] = None
    final_indicator: Since13[bool | None] = None
    authenticated_encryption_additional_data: Since14[bytes | None] = None


class EncryptResponse(Structure, frozen=True, kw_only=True):
    """The ciphertext; the IV only where the server chose it."""

    unique_identifier: str
    data: bytes | None = None
    iv_counter_nonce: bytes | None = None
    correlation_value: Since13[bytes | None] = None
    authenticated_encryption_tag: Since14[bytes | None] = None


class DecryptRequest(Structure, frozen=True, kw_only=True):
    """Decrypt `data` under the object; without parameters the object's own hold."""

    unique_identifier: str | None = None
    cryptographic_parameters: CryptographicParameters | None = None
    data: bytes | None = None
    iv_counter_nonce: bytes | None = None
    correlation_value: Since13[bytes | None] = None
    init_indicator: Since13[bool | None] = None
    final_indicator: Since13[bool | None] = None
    authenticated_encryption_additional_data: Since14[bytes | None] = None
    authenticated_encryption_tag: Since14[bytes | None] = None


class DecryptResponse(Structure, frozen=True, kw_only=True):
    """The plaintext."""

    unique_identifier: str
    data: bytes | None = None
    correlation_value: Since13[bytes | None] = None
