"""Keys wrapped for Get and Export: RFC 3394, RFC 5649 and AES-GCM under another managed object. Keeps no key.

Both keys lie in the scratch page; wrapping works block by block on buffers of its own, which hold ciphertext only when
it is done. Source: KMIP 1.4, sections 2.1.5 and 2.1.6; RFC 3394 section 2.2.1; RFC 5649 section 4.1.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec.structs import replace

from openkcm.execution.objects import Entry
from openkcm.execution.operations.call import Call
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.execution.secretmem import wipe
from openkcm.kmip.attributes import Attribute
from openkcm.kmip.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    CryptographicUsageMask,
    EncodingOption,
    ObjectType,
    ResultReason,
    State,
    WrappingMethod,
)
from openkcm.kmip.generate import write_contents
from openkcm.kmip.objects import KeyValue, KeyWrappingData, KeyWrappingSpecification
from openkcm.kmip.schema import NEWEST_MINOR
from openkcm.kmip.structures import CryptographicParameters
from openkcm.kmip.tags import Tag
from openkcm.kmip.ttlv import ItemType

__all__ = ["wrap", "wrap_key", "wrap_key_padded", "wrapping_key"]

_IV_3394: Final = bytes.fromhex("a6a6a6a6a6a6a6a6")
_IV_5649: Final = bytes.fromhex("a65959a6")
GCM_IV_BYTES: Final = 12
_USE: Final = int(CryptographicUsageMask.WRAP_KEY)
_KEY_VALUE: Final = struct.Struct(">II")


def _no(reason: ResultReason, message: str) -> OperationFailed:
    return OperationFailed(reason, message)


def wrapping_key(call: Call, specification: KeyWrappingSpecification) -> Entry:
    """Return the object that wraps.

    Raises:
        OperationFailed: A method that is not offered; no such key; it may not wrap, or not now.
    """
    if specification.wrapping_method != WrappingMethod.ENCRYPT or specification.mac_signature_key_information:
        raise _no(ResultReason.FEATURE_NOT_SUPPORTED, "keys are wrapped by encrypting them, and in no other way")
    information = specification.encryption_key_information
    if information is None:
        raise _no(ResultReason.INVALID_FIELD, "the wrapping key is not named")
    entry = call.peek(information.unique_identifier)
    state = entry.state_at(call.now_s)
    if state in {State.DESTROYED, State.DESTROYED_COMPROMISED}:
        raise _no(ResultReason.ITEM_NOT_FOUND, "the wrapping key was destroyed")
    if state != State.ACTIVE or not entry.usage & _USE or not entry.allows_at(_USE, call.now_s):
        raise _no(ResultReason.PERMISSION_DENIED, "the wrapping key is not active or may not wrap keys")
    if entry.record.object_type != ObjectType.SYMMETRIC_KEY or entry.record.algorithm != CryptographicAlgorithm.AES:
        raise _no(ResultReason.INVALID_FIELD, "keys are wrapped under AES keys")
    return entry


def wrap(
    call: Call, kek: Entry, specification: KeyWrappingSpecification, value: KeyValue, attributes: tuple[Attribute, ...]
) -> tuple[bytes, KeyWrappingData]:
    """Return the wrapped key value, and how it is wrapped.

    Args:
        value: The key; bytes in a view of the scratch page where it has no structure.
        attributes: To be wrapped with it, when the specification asks for some.

    Raises:
        OperationFailed: An encoding, a mode or a length that does not fit.
    """
    information = specification.encryption_key_information
    assert information is not None
    parameters = information.cryptographic_parameters or _own_parameters(kek)
    if specification.encoding_option == EncodingOption.NO_ENCODING:
        if attributes or not isinstance(value.key_material, bytes | memoryview):
            raise _no(ResultReason.ENCODING_OPTION_ERROR, "only a byte string without attributes goes unencoded")
        plain: bytes | memoryview = value.key_material
    else:
        if isinstance(value.key_material, memoryview):
            value = KeyValue(key_material=bytes(value.key_material))
        contents = write_contents(replace(value, attribute=attributes), NEWEST_MINOR)
        plain = _KEY_VALUE.pack(Tag.KEY_VALUE << 8 | ItemType.STRUCTURE, len(contents)) + contents
    mode = parameters.block_cipher_mode or BlockCipherMode.NIST_KEY_WRAP
    key, iv = call.key_of(kek), None
    if mode in {BlockCipherMode.NIST_KEY_WRAP, BlockCipherMode.X9_102_AESKW}:
        if len(plain) % 8 or len(plain) < 16:
            raise _no(ResultReason.CRYPTOGRAPHIC_FAILURE, "RFC 3394 wraps whole 8-byte blocks: ask for padding")
        wrapped = wrap_key(key, plain)
    elif mode == BlockCipherMode.AES_KEY_WRAP_PADDING:
        wrapped = wrap_key_padded(key, plain)
    elif mode == BlockCipherMode.GCM:
        iv = os.urandom(GCM_IV_BYTES)
        wrapped = AESGCM(key).encrypt(iv, plain, None)  # the tag is the end: key wrapping data has no field for it
    else:
        raise _no(ResultReason.INVALID_FIELD, "keys are wrapped by NISTKeyWrap, AESKeyWrapPadding or GCM")
    data = KeyWrappingData(
        wrapping_method=specification.wrapping_method,
        encryption_key_information=information,
        iv_counter_nonce=iv,
        encoding_option=specification.encoding_option,
    )
    return wrapped, data


def _own_parameters(kek: Entry) -> CryptographicParameters:
    own = kek.value("Cryptographic Parameters")
    return own if isinstance(own, CryptographicParameters) else CryptographicParameters()


def wrap_key(kek: memoryview | bytes, plain: memoryview | bytes) -> bytes:
    """Return `plain` (whole blocks of 8 bytes, two or more) wrapped under an AES key by RFC 3394."""
    return _wrap(kek, _IV_3394, plain)


def wrap_key_padded(kek: memoryview | bytes, plain: memoryview | bytes) -> bytes:
    """Return `plain` (one byte or more) wrapped under an AES key by RFC 5649."""
    size = len(plain)
    head = _IV_5649 + size.to_bytes(4, "big")
    padded = bytearray(-(-size // 8) * 8)
    padded[:size] = plain
    try:
        if len(padded) > 8:
            return _wrap(kek, head, padded)
        block = bytearray(head) + padded
        try:
            cipher = Cipher(algorithms.AES(kek), modes.ECB()).encryptor()  # noqa: S305 -- the RFC's own step
            return cipher.update(block) + cipher.finalize()
        finally:
            wipe(memoryview(block))
    finally:
        wipe(memoryview(padded))


def _wrap(kek: memoryview | bytes, iv: bytes, plain: memoryview | bytes | bytearray) -> bytes:
    cipher = Cipher(algorithms.AES(kek), modes.ECB()).encryptor()  # noqa: S305 -- the RFC's own step
    out = bytearray(8 + len(plain))
    out[8:] = plain
    view, block, result = memoryview(out), bytearray(16), bytearray(31)
    block[:8] = iv
    count = len(plain) // 8
    for step in range(6 * count):
        register = view[8 + step % count * 8 :][:8]
        block[8:] = register  # a view: no copy of the key is left behind
        cipher.update_into(block, result)
        block[:8] = (int.from_bytes(result[:8], "big") ^ step + 1).to_bytes(8, "big")
        register[:] = memoryview(result)[8:16]
    view[:8] = block[:8]
    wipe(memoryview(block))
    return bytes(out)
