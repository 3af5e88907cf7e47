"""Sign, Signature Verify, MAC, MAC Verify, Hash. Keeps no key. Source: KMIP 1.4, sections 4.31 to 4.34 and 4.37."""

from __future__ import annotations

import hmac as constant_time
from collections.abc import Generator
from typing import Any, Final

from cryptography.hazmat.primitives import cmac, hashes, hmac
from cryptography.hazmat.primitives.ciphers import algorithms

from openkcm.execution.objects import Entry
from openkcm.execution.operations import asymmetric, streams, usage
from openkcm.execution.operations.call import Call
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.kmip.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    HashingAlgorithm,
    ObjectType,
    Operation,
    ResultReason,
    ValidityIndicator,
)
from openkcm.kmip.payloads.digests import (
    HashRequest,
    HashResponse,
    MACRequest,
    MACResponse,
    MACVerifyRequest,
    MACVerifyResponse,
)
from openkcm.kmip.payloads.signatures import (
    SignatureVerifyRequest,
    SignatureVerifyResponse,
    SignRequest,
    SignResponse,
)
from openkcm.kmip.structures import CryptographicParameters

__all__ = ["hash_", "mac", "mac_verify", "sign", "signature_verify"]

_A, _H = CryptographicAlgorithm, HashingAlgorithm
#: HMAC algorithm -> its hash.
_HMACS: Final[dict[int, HashingAlgorithm]] = {
    _A.HMAC_MD5: _H.MD5,
    _A.HMAC_SHA1: _H.SHA_1,
    _A.HMAC_SHA224: _H.SHA_224,
    _A.HMAC_SHA256: _H.SHA_256,
    _A.HMAC_SHA384: _H.SHA_384,
    _A.HMAC_SHA512: _H.SHA_512,
    _A.HMAC_SHA3_224: _H.SHA3_224,
    _A.HMAC_SHA3_256: _H.SHA3_256,
    _A.HMAC_SHA3_384: _H.SHA3_384,
    _A.HMAC_SHA3_512: _H.SHA3_512,
}
_KEYS: Final = frozenset({ObjectType.SYMMETRIC_KEY, ObjectType.SECRET_DATA})
Work = Generator[Any, Any, Any]


def _invalid(message: str, reason: ResultReason = ResultReason.INVALID_FIELD) -> OperationFailed:
    return OperationFailed(reason, message)


def _parameters(entry: Entry, given: CryptographicParameters | None) -> CryptographicParameters:
    found = entry.value("Cryptographic Parameters") if given is None else given
    if not isinstance(found, CryptographicParameters):
        raise _invalid("neither the request nor the object has Cryptographic Parameters")
    return found


def _validity(good: bool) -> ValidityIndicator:
    return ValidityIndicator.VALID if good else ValidityIndicator.INVALID


# --- signatures -----------------------------------------------------------------------------------------------------


def sign(call: Call, asked: SignRequest) -> SignResponse | Work:
    """Sign data, or a digest of it."""
    entry = call.object(asked.unique_identifier)
    if entry.limited:
        return usage.limited(call, entry, len(asked.data or b""), lambda c, e: _sign(c, e, asked))
    return _sign(call, entry, asked)


def _sign(call: Call, entry: Entry, asked: SignRequest) -> SignResponse:
    call.placeholder = entry.uid
    if asked.digested_data is not None:
        parameters = _parameters(entry, asked.cryptographic_parameters)
        made = asymmetric.signed(call, entry, parameters, asked.digested_data, digested=True)
        return SignResponse(unique_identifier=entry.uid, signature_data=made)
    part = streams.part_of(call, Operation.SIGN, entry.uid, asked)
    signature = None
    if part.final:
        parameters = _parameters(entry, part.first.cryptographic_parameters)
        signature = asymmetric.signed(call, entry, parameters, part.data)
    return SignResponse(unique_identifier=entry.uid, signature_data=signature, correlation_value=part.done(call))


def signature_verify(call: Call, asked: SignatureVerifyRequest) -> SignatureVerifyResponse:
    """Say whether a signature is the key's."""
    entry = call.object(asked.unique_identifier)
    call.placeholder = entry.uid
    digest = asked.digested_data
    if digest is not None:
        good = _verified(call, entry, asked.cryptographic_parameters, digest, asked.signature_data, digested=True)
        return SignatureVerifyResponse(unique_identifier=entry.uid, validity_indicator=_validity(good))
    part = streams.part_of(call, Operation.SIGNATURE_VERIFY, entry.uid, asked)
    validity = None
    if part.final:
        signature = asked.signature_data or part.first.signature_data
        given = part.first.cryptographic_parameters
        validity = _validity(_verified(call, entry, given, part.data, signature, digested=False))
    return SignatureVerifyResponse(
        unique_identifier=entry.uid, validity_indicator=validity, correlation_value=part.done(call)
    )


def _verified(
    call: Call,
    entry: Entry,
    given: CryptographicParameters | None,
    data: bytes,
    signature: bytes | None,
    *,
    digested: bool,
) -> bool:
    if signature is None:
        raise _invalid("the signature is missing", ResultReason.INVALID_MESSAGE)
    return asymmetric.verified(call, entry, _parameters(entry, given), data, signature, digested=digested)


# --- message authentication codes -----------------------------------------------------------------------------------


def _mac(call: Call, entry: Entry, given: CryptographicParameters | None, data: bytes) -> bytes:
    if entry.record.object_type not in _KEYS:
        raise _invalid("the object is no symmetric key")
    parameters = _parameters(entry, given)
    algorithm = parameters.cryptographic_algorithm or entry.record.algorithm
    key = call.key_of(entry)
    if algorithm == CryptographicAlgorithm.AES and parameters.block_cipher_mode == BlockCipherMode.CMAC:
        try:
            code: Any = cmac.CMAC(algorithms.AES(key))
        except ValueError as bad:
            raise _invalid("the key does not fit the cipher") from bad
    elif algorithm in _HMACS:
        code = hmac.HMAC(key, asymmetric.hash_of(_HMACS[algorithm]))
    else:
        raise _invalid("codes are HMAC with an algorithm named, or AES-CMAC")
    code.update(data)
    made: bytes = code.finalize()
    return made


def mac(call: Call, asked: MACRequest) -> MACResponse | Work:
    """Authenticate data."""
    entry = call.object(asked.unique_identifier)
    if entry.limited:
        return usage.limited(call, entry, len(asked.data or b""), lambda c, e: _macked(c, e, asked))
    return _macked(call, entry, asked)


def _macked(call: Call, entry: Entry, asked: MACRequest) -> MACResponse:
    call.placeholder = entry.uid
    part = streams.part_of(call, Operation.MAC, entry.uid, asked)
    made = _mac(call, entry, part.first.cryptographic_parameters, part.data) if part.final else None
    return MACResponse(unique_identifier=entry.uid, mac_data=made, correlation_value=part.done(call))


def mac_verify(call: Call, asked: MACVerifyRequest) -> MACVerifyResponse:
    """Say whether a code is the key's."""
    entry = call.object(asked.unique_identifier)
    call.placeholder = entry.uid
    part = streams.part_of(call, Operation.MAC_VERIFY, entry.uid, asked)
    validity = None
    if part.final:
        code = asked.mac_data or part.first.mac_data
        if code is None:
            raise _invalid("the code is missing", ResultReason.INVALID_MESSAGE)
        made = _mac(call, entry, part.first.cryptographic_parameters, part.data)
        validity = _validity(constant_time.compare_digest(made, code))
    return MACVerifyResponse(
        unique_identifier=entry.uid, validity_indicator=validity, correlation_value=part.done(call)
    )


# --- hashes ---------------------------------------------------------------------------------------------------------


def hash_(call: Call, asked: HashRequest) -> HashResponse:
    """Hash data; no key is involved."""
    part = streams.part_of(call, Operation.HASH, None, asked)
    made = None
    if part.final:
        digest = hashes.Hash(asymmetric.hash_of(part.first.cryptographic_parameters.hashing_algorithm))
        digest.update(part.data)
        made = digest.finalize()
    return HashResponse(data=made, correlation_value=part.done(call))
