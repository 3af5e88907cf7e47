"""Encrypt and Decrypt. Keeps no cipher, no key. Source: KMIP 1.4, sections 4.29 and 4.30.

AES-GCM of whole data is the hot path, in line here; other modes are in `blockmodes`, RSA in `asymmetric`, data in parts
in `streams`. The key is unwrapped into the scratch page by `Call.key_of`; a cipher goes with it at the latest.
Before KMIP 1.4 there is no field for an authentication tag, so there the tag is the end of the data.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any, Final

from cryptography.exceptions import InvalidTag

from openkcm.execution.objects import Entry
from openkcm.execution.operations import asymmetric, blockmodes, streams, usage
from openkcm.execution.operations.blockmodes import GCM_IV_BYTES, GCM_TAG_BYTES, Plan
from openkcm.execution.operations.call import Call
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.kmip.enums import BlockCipherMode, CryptographicAlgorithm, ObjectType, Operation, ResultReason
from openkcm.kmip.payloads.cryptography import DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse
from openkcm.kmip.structures import CryptographicParameters

__all__ = ["decrypt", "encrypt"]

TAG_FIELD_MINOR: Final = 4
_RSA: Final = CryptographicAlgorithm.RSA
_ASYMMETRIC: Final = frozenset({ObjectType.PUBLIC_KEY, ObjectType.PRIVATE_KEY})


def _invalid(message: str, reason: ResultReason = ResultReason.INVALID_FIELD) -> OperationFailed:
    return OperationFailed(reason, message)


def _plan(entry: Entry, parameters: CryptographicParameters | None) -> Plan:
    """Return the plan of these parameters, or of the object's own when the request has none; kept for the next call."""
    given = parameters
    if parameters is None:
        parameters = entry.value("Cryptographic Parameters")
        if parameters is None:
            raise _invalid("neither the request nor the object has Cryptographic Parameters")
    if entry.record.object_type in _ASYMMETRIC:
        plan = Plan(0, algorithm=_RSA, parameters=parameters)
    elif entry.record.object_type != ObjectType.SYMMETRIC_KEY:
        raise _invalid("the object is no key")
    else:
        plan = blockmodes.plan_of(entry.record.algorithm, parameters)
    entry.parameters, entry.plan = given, plan
    return plan


def encrypt(call: Call, asked: EncryptRequest) -> EncryptResponse | Generator[Any, Any, Any]:
    """Encrypt; a missing IV is chosen at random and returned.

    Raises:
        OperationFailed: Parameters, IV or data that do not fit the cipher.
    """
    entry = call.object(asked.unique_identifier)
    given = asked.cryptographic_parameters
    plan: Plan = entry.plan if given is entry.parameters else _plan(entry, given)
    data = asked.data
    if (
        entry.limited
        or not plan.tag
        or data is None
        or asked.correlation_value is not None
        or asked.init_indicator
        or asked.final_indicator
    ):
        return _encrypt(call, entry, plan, asked)
    iv = asked.iv_counter_nonce
    chosen = tag = None
    call.placeholder = entry.uid
    if iv is None:
        iv = chosen = call.bench.new_iv()
    elif len(iv) not in GCM_IV_BYTES:
        raise _invalid("an IV for GCM has 8 to 64 bytes; 12 is the one to use")
    both = call.gcm_of(entry).encrypt(iv, data, asked.authenticated_encryption_additional_data)
    if call.version.protocol_version_minor >= TAG_FIELD_MINOR:
        end = len(data)
        out, tag = both[:end], both[end : end + plan.tag]
    else:
        out = both[: len(data) + plan.tag]
    return EncryptResponse(
        unique_identifier=entry.uid, data=out, iv_counter_nonce=chosen, authenticated_encryption_tag=tag
    )


def _encrypt(call: Call, entry: Entry, plan: Plan, asked: EncryptRequest) -> EncryptResponse | Generator[Any, Any, Any]:
    if entry.limited:
        size = len(asked.data or b"")
        return usage.limited(call, entry, size, lambda c, e: _encrypted(c, e, plan, asked))
    return _encrypted(call, entry, plan, asked)


def _encrypted(call: Call, entry: Entry, plan: Plan, asked: EncryptRequest) -> EncryptResponse:
    part = streams.part_of(call, Operation.ENCRYPT, entry.uid, asked)
    call.placeholder = entry.uid
    if plan.parameters is not None:
        out = asymmetric.encrypted(call, entry, plan.parameters, _whole(part))
        return EncryptResponse(unique_identifier=entry.uid, data=out)
    if not part.whole:
        plan = _plan(entry, part.first.cryptographic_parameters)  # the first part's hold for all
    iv, chosen = part.iv or part.first.iv_counter_nonce, None
    if iv is None:
        iv = os.urandom(blockmodes.iv_bytes(plan))
        chosen = iv or None
    blockmodes.check_iv(plan, iv)
    aad = part.first.authenticated_encryption_additional_data
    out, tag = blockmodes.encrypted(call.key_of(entry), plan, iv, part.data, aad, final=part.final)
    fresh = part.fresh(out)
    if tag is not None and call.version.protocol_version_minor < TAG_FIELD_MINOR:
        fresh, tag = fresh + tag, None
    return EncryptResponse(
        unique_identifier=entry.uid,
        data=fresh,
        iv_counter_nonce=chosen,
        correlation_value=part.done(call, iv=iv, result=out),
        authenticated_encryption_tag=tag,
    )


def _whole(part: streams.Part) -> bytes:
    if not part.whole:
        raise _invalid("RSA takes no data in parts", ResultReason.FEATURE_NOT_SUPPORTED)
    return part.data


def decrypt(call: Call, asked: DecryptRequest) -> DecryptResponse:
    """Decrypt.

    Raises:
        OperationFailed: No IV (InvalidMessage), or the data is not what this key encrypted (CryptographicFailure).
    """
    entry = call.object(asked.unique_identifier)
    given = asked.cryptographic_parameters
    plan: Plan = entry.plan if given is entry.parameters else _plan(entry, given)
    call.placeholder = entry.uid
    data, iv, tag = asked.data, asked.iv_counter_nonce, asked.authenticated_encryption_tag
    if (
        plan.tag != GCM_TAG_BYTES
        or data is None
        or iv is None
        or asked.correlation_value is not None
        or asked.init_indicator
        or asked.final_indicator
    ):
        return _decrypted(call, entry, plan, asked)
    if len(iv) not in GCM_IV_BYTES:
        raise _invalid("an IV for GCM has 8 to 64 bytes; 12 is the one to use")
    if tag is not None:
        if len(tag) != GCM_TAG_BYTES:
            raise _invalid("the tag does not have the length that the parameters say")
        data += tag
    try:
        out = call.gcm_of(entry).decrypt(iv, data, asked.authenticated_encryption_additional_data)
    except InvalidTag:
        raise _invalid("the data does not decrypt", ResultReason.CRYPTOGRAPHIC_FAILURE) from None
    return DecryptResponse(unique_identifier=entry.uid, data=out)


def _decrypted(call: Call, entry: Entry, plan: Plan, asked: DecryptRequest) -> DecryptResponse:
    part = streams.part_of(call, Operation.DECRYPT, entry.uid, asked)
    if plan.parameters is not None:
        out = asymmetric.decrypted(call, entry, plan.parameters, _whole(part))
        return DecryptResponse(unique_identifier=entry.uid, data=out)
    if not part.whole:
        plan = _plan(entry, part.first.cryptographic_parameters)
    iv = part.first.iv_counter_nonce
    if iv is None:
        if plan.mode != BlockCipherMode.ECB:
            raise _invalid("the IV is missing", ResultReason.INVALID_MESSAGE)
        iv = b""
    blockmodes.check_iv(plan, iv)
    tag = asked.authenticated_encryption_tag
    aad = part.first.authenticated_encryption_additional_data
    out = blockmodes.decrypted(call.key_of(entry), plan, iv, part.data, tag, aad, final=part.final)
    return DecryptResponse(
        unique_identifier=entry.uid, data=part.fresh(out), correlation_value=part.done(call, iv=iv, result=out)
    )
