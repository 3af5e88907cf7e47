"""Derive Key: a key or a secret from another. Source: KMIP 1.4, section 4.6; RFC 8018, RFC 5869, NIST SP 800-108.

The library returns what it derives as bytes: for that one moment the new material lies outside the locked page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from openkcm.execution.objects import Entry
from openkcm.execution.operations import asymmetric, blockmodes, keyforms, material
from openkcm.execution.operations.call import Call, Put
from openkcm.execution.operations.keypairs import linked
from openkcm.execution.operations.making import Making, key_bytes, new_record, template_attributes
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.execution.operations.template import value_of
from openkcm.kmip import Attribute
from openkcm.kmip.enums import (
    CryptographicUsageMask,
    DerivationMethod,
    KeyFormatType,
    LinkType,
    ObjectType,
    ResultReason,
    SecretDataType,
)
from openkcm.kmip.payloads.derivation import DerivationParameters, DeriveKeyRequest, DeriveKeyResponse

__all__ = ["derive_key"]

MOST_ITERATIONS: Final = 1_000_000  # of PBKDF2: about half a second, during which this worker serves nobody else
MOST_DERIVED_BYTES: Final = 512
_KINDS: Final = frozenset({ObjectType.SYMMETRIC_KEY, ObjectType.SECRET_DATA})


def _invalid(message: str, reason: ResultReason = ResultReason.INVALID_FIELD) -> OperationFailed:
    return OperationFailed(reason, message)


def derive_key(call: Call, asked: DeriveKeyRequest) -> Making:
    """Make an object whose material follows from another's."""
    if asked.object_type not in _KINDS:
        raise _invalid("symmetric keys and secret data are derived")
    bases = [call.object(uid) for uid in asked.unique_identifier]
    if not bases:
        raise _invalid("the object to derive from is not named")
    attributes = template_attributes(call, asked.template_attribute)
    algorithm, bits = value_of(attributes, "Cryptographic Algorithm"), value_of(attributes, "Cryptographic Length")
    if bits is None or (algorithm is None and asked.object_type == ObjectType.SYMMETRIC_KEY):
        raise _invalid("Cryptographic Length, and for a key Cryptographic Algorithm, are needed")
    size = bits // 8 if algorithm is None else key_bytes(algorithm, bits)
    if not 0 < size <= MOST_DERIVED_BYTES or bits % 8 > 0 == (algorithm is None):
        raise _invalid(f"whole bytes, at most {MOST_DERIVED_BYTES}, are derived")
    made = _METHODS[asked.derivation_method](call, bases, asked.derivation_parameters, size)
    if len(made) < size:
        raise _invalid("the method gives fewer bytes than asked for", ResultReason.CRYPTOGRAPHIC_FAILURE)
    made = made[:size]
    if value_of(attributes, "Cryptographic Usage Mask") is None:
        own = int(CryptographicUsageMask.ENCRYPT | CryptographicUsageMask.DECRYPT)
        attributes.append(Attribute(attribute_name="Cryptographic Usage Mask", attribute_value=own))
    is_key = asked.object_type == ObjectType.SYMMETRIC_KEY
    block = b"" if is_key else int(SecretDataType.SEED).to_bytes(4, "big")
    shape = material.Shape(KeyFormatType.RAW, block, algorithm, bits)
    record = new_record(call, asked.object_type, attributes, call.digest(made) if is_key else None, shape)
    record = call.wrap(linked(record, LinkType.DERIVATION_BASE_OBJECT, bases[0].uid), made)
    yield Put(record, 0)
    call.placeholder = record.uid
    return DeriveKeyResponse(unique_identifier=record.uid)


def _base(call: Call, bases: list[Entry]) -> memoryview | bytes:
    """Return the material of the one base that holds a secret."""
    entry = bases[0]
    if entry.record.object_type not in _KINDS or entry.foreign:
        raise _invalid("keys are derived from symmetric keys and secret data")
    return call.material_of(entry)


def _data(call: Call, bases: list[Entry], given: DerivationParameters) -> bytes:
    """Return the derivation data: given, or a second object's material (section 4.6)."""
    if given.derivation_data is not None:
        return given.derivation_data
    second = next((e for e in bases[1:] if e.record.object_type == ObjectType.SECRET_DATA and not e.foreign), None)
    return b"" if second is None else bytes(call.material_of(second))


def _hash(given: DerivationParameters) -> hashes.HashAlgorithm:
    parameters = given.cryptographic_parameters
    return asymmetric.hash_of(None if parameters is None else parameters.hashing_algorithm)


def _pbkdf2(call: Call, bases: list[Entry], given: DerivationParameters, size: int) -> bytes:
    if given.salt is None or given.iteration_count is None:
        raise _invalid("PBKDF2 needs salt and iteration count")
    if not 0 < given.iteration_count <= MOST_ITERATIONS:
        raise _invalid(f"PBKDF2 is done with at most {MOST_ITERATIONS} iterations")
    kdf = PBKDF2HMAC(_hash(given), size, given.salt, given.iteration_count)
    return kdf.derive(_base(call, bases))


def _hmac(call: Call, bases: list[Entry], given: DerivationParameters, size: int) -> bytes:
    data = _data(call, bases, given)
    return HKDF(_hash(given), size, given.salt or None, data).derive(_base(call, bases))


def _hashed(call: Call, bases: list[Entry], given: DerivationParameters, _size: int) -> bytes:
    digest = hashes.Hash(_hash(given))
    digest.update(_base(call, bases) if given.derivation_data is None else given.derivation_data)
    return digest.finalize()


def _encrypted(call: Call, bases: list[Entry], given: DerivationParameters, _size: int) -> bytes:
    parameters = given.cryptographic_parameters
    if parameters is None:
        raise _invalid("derivation by encryption needs Cryptographic Parameters")
    data = _data(call, bases, given)
    entry = bases[0]
    if entry.record.object_type != ObjectType.SYMMETRIC_KEY:
        raise _invalid("derivation by encryption needs a symmetric key")
    plan = blockmodes.plan_of(entry.record.algorithm, parameters)
    iv = given.initialization_vector or b""
    if len(iv) != blockmodes.iv_bytes(plan):
        raise _invalid("the initialization vector does not fit the mode")
    return blockmodes.encrypted(call.key_of(entry), plan, iv, data, None)[0]


def _counter(call: Call, bases: list[Entry], given: DerivationParameters, size: int) -> bytes:
    fixed = _data(call, bases, given)
    kdf = KBKDFHMAC(
        algorithm=_hash(given), mode=Mode.CounterMode, length=size, rlen=4, llen=None,
        location=CounterLocation.BeforeFixed, label=None, context=None, fixed=fixed,
    )  # fmt: skip
    return kdf.derive(_base(call, bases))


def _agreement(call: Call, bases: list[Entry], _given: DerivationParameters, _size: int) -> bytes:
    private = next((e for e in bases if e.record.object_type == ObjectType.PRIVATE_KEY and not e.foreign), None)
    public = next((e for e in bases if e.record.object_type == ObjectType.PUBLIC_KEY and not e.foreign), None)
    if private is None or public is None:
        raise _invalid("key agreement needs a private and a public key")
    other = keyforms.load_public(bytes(call.material_of(public)))
    own = keyforms.load_private(call.material_of(private))
    if not isinstance(own, ec.EllipticCurvePrivateKey) or not isinstance(other, ec.EllipticCurvePublicKey):
        raise _invalid("key agreement is done with EC keys")
    try:
        return own.exchange(ec.ECDH(), other)
    except ValueError as bad:
        raise _invalid("the keys are on different curves", ResultReason.CRYPTOGRAPHIC_FAILURE) from bad


def _not_offered(*_: Any) -> bytes:
    raise _invalid("this method of derivation is not offered", ResultReason.FEATURE_NOT_SUPPORTED)


_METHODS: Final[dict[DerivationMethod, Callable[[Call, list[Entry], DerivationParameters, int], bytes]]] = {
    DerivationMethod.PBKDF2: _pbkdf2,
    DerivationMethod.HASH: _hashed,
    DerivationMethod.HMAC: _hmac,
    DerivationMethod.ENCRYPT: _encrypted,
    DerivationMethod.NIST800_108_C: _counter,
    DerivationMethod.NIST800_108_F: _not_offered,
    DerivationMethod.NIST800_108_DPI: _not_offered,
    DerivationMethod.ASYMMETRIC_KEY: _agreement,
}
