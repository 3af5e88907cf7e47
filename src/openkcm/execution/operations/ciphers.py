"""Encrypt and Decrypt with AES: GCM, CBC, and ECB where a client asks for it by name. Keeps no cipher, no key.

The key is unwrapped into the scratch page by `Call.key_of`; every cipher object lives for one call. Before KMIP 1.4
there is no field for an authentication tag, so there the tag is the end of the data. Source: KMIP 1.4, 4.29 and 4.30.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from openkcm.execution.objects import Entry
from openkcm.execution.operations.call import Call
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.kmip.enums import BlockCipherMode, CryptographicAlgorithm, PaddingMethod, ResultReason
from openkcm.kmip.payloads.cryptography import DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse
from openkcm.kmip.structures import CryptographicParameters

__all__ = ["decrypt", "encrypt"]

BLOCK_BYTES: Final = 16
GCM_TAG_BYTES: Final = 16
GCM_TAGS: Final = frozenset(range(12, 17))  # NIST SP 800-38D, section 5.2.1.2; shorter tags are for special uses
GCM_IV_BYTES: Final = frozenset(range(8, 65))  # what the cipher's implementation takes; 12 is the one to use
TAG_FIELD_MINOR: Final = 4


class Plan(msgspec.Struct, frozen=True):
    """What cryptographic parameters come to. tag: bytes; pad: PKCS5 padding is added and checked."""

    mode: BlockCipherMode
    tag: int = 0
    pad: bool = False


def _invalid(message: str, reason: ResultReason = ResultReason.INVALID_FIELD) -> OperationFailed:
    return OperationFailed(reason, message)


def _plan(entry: Entry, parameters: CryptographicParameters | None) -> Plan:
    """Return the plan of these parameters, or of the object's own when the request has none; kept for the next call."""
    given = parameters
    if parameters is None:
        parameters = entry.value("Cryptographic Parameters")
        if parameters is None:
            raise _invalid("neither the request nor the object has Cryptographic Parameters")
    algorithm = parameters.cryptographic_algorithm
    if entry.record.algorithm != CryptographicAlgorithm.AES:
        raise _invalid("the object is no AES key")
    if algorithm is not None and algorithm != CryptographicAlgorithm.AES:
        raise _invalid("the object is an AES key, the parameters name another algorithm")
    mode, padding = parameters.block_cipher_mode, parameters.padding_method or PaddingMethod.NONE
    if mode == BlockCipherMode.GCM:
        tag = GCM_TAG_BYTES if parameters.tag_length is None else parameters.tag_length
        if tag not in GCM_TAGS:
            raise _invalid("a tag has 12 to 16 bytes", ResultReason.GENERAL_FAILURE)
        plan = Plan(mode, tag)
    elif mode in {BlockCipherMode.CBC, BlockCipherMode.ECB}:
        if padding not in {PaddingMethod.NONE, PaddingMethod.PKCS5}:
            raise _invalid("the padding is None or PKCS5")
        plan = Plan(mode, pad=padding == PaddingMethod.PKCS5)
    else:
        raise _invalid("the block cipher mode is GCM, CBC or ECB, and always named")
    entry.parameters, entry.plan = given, plan
    return plan


def _whole(asked: EncryptRequest | DecryptRequest) -> bytes:
    """Return the data of a request that is not part of a stream."""
    if asked.correlation_value is not None or bool(asked.init_indicator) != bool(asked.final_indicator):
        raise _invalid("data is not taken in parts", ResultReason.FEATURE_NOT_SUPPORTED)
    if asked.data is None:
        raise _invalid("the data is missing", ResultReason.INVALID_MESSAGE)
    return asked.data


def encrypt(call: Call, asked: EncryptRequest) -> EncryptResponse:
    """Encrypt; a missing IV is chosen at random and returned.

    Raises:
        OperationFailed: Parameters, IV or data that do not fit the cipher.
    """
    entry = call.object(asked.unique_identifier)
    given = asked.cryptographic_parameters
    plan: Plan = entry.plan if given is entry.parameters else _plan(entry, given)
    data = asked.data
    if data is None or asked.correlation_value is not None or asked.init_indicator or asked.final_indicator:
        data = _whole(asked)
    iv = asked.iv_counter_nonce
    chosen = None
    tag = None
    call.placeholder = entry.uid
    if plan.tag:
        if iv is None:
            iv = chosen = call.bench.new_iv()
        elif len(iv) not in GCM_IV_BYTES:
            raise _invalid("an IV for GCM has 8 to 64 bytes; 12 is the one to use")
        both = AESGCM(call.key_of(entry)).encrypt(iv, data, asked.authenticated_encryption_additional_data)
        if call.version.protocol_version_minor >= TAG_FIELD_MINOR:
            end = len(data)
            out, tag = both[:end], both[end : end + plan.tag]
        else:
            out = both[: len(data) + plan.tag]
    else:
        if plan.mode == BlockCipherMode.CBC:
            if iv is None:
                iv = chosen = os.urandom(BLOCK_BYTES)
            mode: modes.CBC | modes.ECB = modes.CBC(_block_iv(iv))
        else:
            mode = modes.ECB()  # noqa: S305 -- a client asked for it by name; interoperability profiles do
        if plan.pad:
            fill = BLOCK_BYTES - len(data) % BLOCK_BYTES
            data += bytes([fill]) * fill
        elif len(data) % BLOCK_BYTES:
            raise _invalid("without padding the data is whole blocks of 16 bytes", ResultReason.CRYPTOGRAPHIC_FAILURE)
        cipher = Cipher(algorithms.AES(call.key_of(entry)), mode).encryptor()
        out = cipher.update(data) + cipher.finalize()
    return EncryptResponse(
        unique_identifier=entry.uid, data=out, iv_counter_nonce=chosen, authenticated_encryption_tag=tag
    )


def _block_iv(iv: bytes) -> bytes:
    if len(iv) != BLOCK_BYTES:
        raise _invalid("an IV for CBC has 16 bytes")
    return iv


def decrypt(call: Call, asked: DecryptRequest) -> DecryptResponse:
    """Decrypt.

    Raises:
        OperationFailed: No IV (InvalidMessage), or the data is not what this key encrypted (CryptographicFailure).
    """
    entry = call.object(asked.unique_identifier)
    given = asked.cryptographic_parameters
    plan: Plan = entry.plan if given is entry.parameters else _plan(entry, given)
    data = _whole(asked)
    iv = asked.iv_counter_nonce
    call.placeholder = entry.uid
    if iv is None and plan.mode != BlockCipherMode.ECB:
        raise _invalid("the IV is missing", ResultReason.INVALID_MESSAGE)
    if plan.tag:
        assert iv is not None
        out = _open_gcm(call, entry, asked, data, iv, plan.tag)
    else:
        if not data or len(data) % BLOCK_BYTES:
            raise _invalid("the ciphertext is not whole blocks of 16 bytes", ResultReason.CRYPTOGRAPHIC_FAILURE)
        mode = modes.ECB() if iv is None or plan.mode == BlockCipherMode.ECB else modes.CBC(_block_iv(iv))  # noqa: S305
        cipher = Cipher(algorithms.AES(call.key_of(entry)), mode).decryptor()
        out = cipher.update(data) + cipher.finalize()
        if plan.pad:
            fill = out[-1]
            if not 0 < fill <= BLOCK_BYTES or out[-fill:] != bytes([fill]) * fill:
                raise _invalid("the data does not decrypt", ResultReason.CRYPTOGRAPHIC_FAILURE)
            out = out[:-fill]
    return DecryptResponse(unique_identifier=entry.uid, data=out)


def _open_gcm(call: Call, entry: Entry, asked: DecryptRequest, data: bytes, iv: bytes, length: int) -> bytes:
    if len(iv) not in GCM_IV_BYTES:
        raise _invalid("an IV for GCM has 8 to 64 bytes; 12 is the one to use")
    tag = asked.authenticated_encryption_tag
    if tag is None:
        data, tag = data[:-length], data[-length:]
    if len(tag) != length:
        raise _invalid("the tag does not have the length that the parameters say")
    extra = asked.authenticated_encryption_additional_data
    try:
        if length == GCM_TAG_BYTES:
            return AESGCM(call.key_of(entry)).decrypt(iv, data + tag, extra)
        cipher = Cipher(algorithms.AES(call.key_of(entry)), modes.GCM(iv, tag, min_tag_length=length)).decryptor()
        cipher.authenticate_additional_data(extra or b"")
        return cipher.update(data) + cipher.finalize()
    except InvalidTag:
        raise _invalid("the data does not decrypt", ResultReason.CRYPTOGRAPHIC_FAILURE) from None
