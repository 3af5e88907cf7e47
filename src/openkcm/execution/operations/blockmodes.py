"""Symmetric ciphers in their modes, on whole data or on the beginning of a stream. Keeps no cipher, knows no object.

A cipher object lives for one call; a stream's earlier part is enciphered anew with each part (`streams`). Source: NIST
SP 800-38A and 800-38D; KMIP 1.4, sections 3.6 and 9.1.3.2 for the names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.algorithms import CAST5, Blowfish, Camellia, TripleDES
from cryptography.hazmat.decrepit.ciphers.modes import CFB, OFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from openkcm.execution.operations.outcome import OperationFailed
from openkcm.kmip.enums import BlockCipherMode, CryptographicAlgorithm, PaddingMethod, ResultReason
from openkcm.kmip.structures import CryptographicParameters

__all__ = ["CIPHERS", "GCM_IV_BYTES", "Plan", "check_iv", "decrypted", "encrypted", "iv_bytes", "plan_of"]

Mode, Pad, Algorithm = BlockCipherMode, PaddingMethod, CryptographicAlgorithm
GCM_TAG_BYTES: Final = 16
GCM_TAGS: Final = frozenset(range(12, 17))  # NIST SP 800-38D, section 5.2.1.2; shorter tags are for special uses
GCM_IV_BYTES: Final = frozenset(range(8, 65))  # what the cipher's implementation takes; 12 is the one to use
#: Algorithm -> (the library's, block in bytes). Old ones are here because products still send them.
CIPHERS: Final[dict[int, tuple[Any, int]]] = {
    Algorithm.AES: (algorithms.AES, 16),
    Algorithm.TRIPLE_DES: (TripleDES, 8),
    Algorithm.CAMELLIA: (Camellia, 16),
    Algorithm.BLOWFISH: (Blowfish, 8),
    Algorithm.CAST5: (CAST5, 8),
}
_WHOLE_BLOCKS: Final[dict[int, Callable[[bytes], Any]]] = {Mode.CBC: modes.CBC, Mode.ECB: lambda _: modes.ECB()}  # noqa: S305 -- clients ask for ECB by name; interoperability profiles do
_STREAMING: Final[dict[int, Callable[[bytes], Any]]] = {Mode.CTR: modes.CTR, Mode.CFB: CFB, Mode.OFB: OFB}
_PADS: Final = frozenset({Pad.NONE, Pad.PKCS5, Pad.ANSI_X9_23})


class Plan(msgspec.Struct, frozen=True):
    """What cryptographic parameters come to.

    Attributes:
        tag: Bytes of a GCM tag; 0 in every other mode.
        block: Bytes of a block.
        parameters: For asymmetric keys, whose plan is nothing but them.
    """

    mode: int
    tag: int = 0
    pad: PaddingMethod = Pad.NONE
    algorithm: int = Algorithm.AES
    block: int = 16
    parameters: CryptographicParameters | None = None


def _invalid(message: str, reason: ResultReason = ResultReason.INVALID_FIELD) -> OperationFailed:
    return OperationFailed(reason, message)


def plan_of(algorithm: int, parameters: CryptographicParameters) -> Plan:
    """Return the plan of a symmetric key's parameters.

    Raises:
        OperationFailed: A mode, padding or tag length that is not offered, or parameters for another algorithm.
    """
    named = parameters.cryptographic_algorithm
    if named is not None and named != algorithm:
        raise _invalid("the parameters name another algorithm than the key's")
    if algorithm not in CIPHERS:
        raise _invalid("no cipher is offered for keys of this algorithm")
    block = CIPHERS[algorithm][1]
    mode, pad = parameters.block_cipher_mode, parameters.padding_method or Pad.NONE
    if mode == Mode.GCM and algorithm == Algorithm.AES:
        tag = GCM_TAG_BYTES if parameters.tag_length is None else parameters.tag_length
        if tag not in GCM_TAGS:
            raise _invalid("a tag has 12 to 16 bytes", ResultReason.GENERAL_FAILURE)
        return Plan(mode, tag, algorithm=algorithm)
    if pad not in _PADS:
        raise _invalid("the padding is None, PKCS5 or ANSI X9.23")
    if mode in _STREAMING:
        return Plan(mode, algorithm=algorithm, block=block)
    if mode not in _WHOLE_BLOCKS:
        raise _invalid("the block cipher mode is GCM, CBC, ECB, CTR, CFB or OFB, and always named")
    return Plan(mode, pad=pad, algorithm=algorithm, block=block)


def iv_bytes(plan: Plan) -> int:
    """Return how long an IV of the server's choice is; 0 where there is none."""
    return 12 if plan.tag else 0 if plan.mode == Mode.ECB else plan.block


def check_iv(plan: Plan, iv: bytes) -> None:
    """Refuse an IV of a length that the mode does not have.

    Raises:
        OperationFailed: As it says.
    """
    if plan.tag:
        if len(iv) not in GCM_IV_BYTES:
            raise _invalid("an IV for GCM has 8 to 64 bytes; 12 is the one to use")
    elif plan.mode != Mode.ECB and len(iv) != plan.block:
        raise _invalid(f"an IV for this mode has {plan.block} bytes")


def _cipher(key: memoryview, plan: Plan, mode: Any) -> Cipher[Any]:
    try:
        return Cipher(CIPHERS[plan.algorithm][0](key), mode)
    except (ValueError, UnsupportedAlgorithm) as bad:
        raise _invalid("the key or the mode does not fit this cipher") from bad


def _mode(plan: Plan, iv: bytes) -> Any:
    return (_WHOLE_BLOCKS.get(plan.mode) or _STREAMING[plan.mode])(iv)


def encrypted(
    key: memoryview, plan: Plan, iv: bytes, data: bytes, aad: bytes | None, *, final: bool = True
) -> tuple[bytes, bytes | None]:
    """Return (ciphertext, tag).

    Args:
        final: The data is complete; otherwise what fills whole blocks is enciphered, and there is no tag.

    Raises:
        OperationFailed: Data that the padding does not fit.
    """
    if plan.tag:
        gcm = _cipher(key, plan, modes.GCM(iv)).encryptor()
        gcm.authenticate_additional_data(aad or b"")
        out = gcm.update(data)
        if not final:
            return out, None
        gcm.finalize()
        return out, gcm.tag[: plan.tag]
    if plan.mode in _WHOLE_BLOCKS:
        over = len(data) % plan.block
        if not final:
            data = data[: len(data) - over]
        elif plan.pad != Pad.NONE:
            data = _padded(data, plan)
        elif over:
            raise _invalid(f"without padding the data is whole blocks of {plan.block} bytes", _CRYPTO)
    cipher = _cipher(key, plan, _mode(plan, iv)).encryptor()
    return cipher.update(data) + cipher.finalize(), None


def decrypted(
    key: memoryview, plan: Plan, iv: bytes, data: bytes, tag: bytes | None, aad: bytes | None, *, final: bool = True
) -> bytes:
    """Return the plaintext; of a stream that is not complete only what is certain (of GCM: nothing).

    Raises:
        OperationFailed: The data is not what this key enciphered.
    """
    if plan.tag:
        return _opened(key, plan, iv, data, tag, aad) if final else b""
    if plan.mode in _WHOLE_BLOCKS:
        if not final:
            data = data[: max(0, len(data) - 1) // plan.block * plan.block]  # the last block may be padding
        elif not data or len(data) % plan.block:
            raise _invalid(f"the ciphertext is not whole blocks of {plan.block} bytes", _CRYPTO)
    cipher = _cipher(key, plan, _mode(plan, iv)).decryptor()
    out = cipher.update(data) + cipher.finalize()
    return _unpadded(out, plan) if final and plan.pad != Pad.NONE else out


_CRYPTO: Final = ResultReason.CRYPTOGRAPHIC_FAILURE


def _opened(key: memoryview, plan: Plan, iv: bytes, data: bytes, tag: bytes | None, aad: bytes | None) -> bytes:
    if tag is None:  # before KMIP 1.4 there is no field for it: it is the end of the data
        data, tag = data[: -plan.tag], data[-plan.tag :]
    if len(tag) != plan.tag:
        raise _invalid("the tag does not have the length that the parameters say")
    gcm = _cipher(key, plan, modes.GCM(iv, tag, min_tag_length=plan.tag)).decryptor()
    gcm.authenticate_additional_data(aad or b"")
    out = gcm.update(data)
    try:
        return out + gcm.finalize()
    except InvalidTag:
        raise _invalid("the data does not decrypt", _CRYPTO) from None


def _padded(data: bytes, plan: Plan) -> bytes:
    fill = plan.block - len(data) % plan.block
    return data + (bytes([fill]) * fill if plan.pad == Pad.PKCS5 else bytes(fill - 1) + bytes([fill]))


def _unpadded(out: bytes, plan: Plan) -> bytes:
    fill = out[-1]
    good = 0 < fill <= plan.block
    if plan.pad == Pad.PKCS5:
        good = good and out[-fill:] == bytes([fill]) * fill
    if not good:
        raise _invalid("the data does not decrypt", _CRYPTO)
    return out[:-fill]
