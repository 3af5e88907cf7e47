"""RSA and EC keys in use: encryption, signatures. Keeps no key: the library's objects live for one call.

A private key's DER is unwrapped into the scratch page; the crypto library needs an object of its own made from it, on
its heap, and clears the secret numbers when that is freed at the end of the call (OpenSSL's BN_clear_free).
Source: KMIP 1.4, sections 3.6, 3.16 and 4.29 to 4.32; RFC 8017; FIPS 186-5.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from openkcm.execution.objects import Entry
from openkcm.execution.operations import keyforms
from openkcm.execution.operations.call import Call
from openkcm.execution.operations.keyforms import Private, Public
from openkcm.execution.operations.outcome import OperationFailed
from openkcm.kmip.enums import (
    DigitalSignatureAlgorithm,
    HashingAlgorithm,
    MaskGenerator,
    ObjectType,
    PaddingMethod,
    ResultReason,
)
from openkcm.kmip.structures import CryptographicParameters

__all__ = ["HASHES", "decrypted", "encrypted", "signed", "verified"]

_H, _D, _P = HashingAlgorithm, DigitalSignatureAlgorithm, PaddingMethod
HASHES: Final[dict[int, type[hashes.HashAlgorithm]]] = {
    _H.MD5: hashes.MD5,
    _H.SHA_1: hashes.SHA1,
    _H.SHA_224: hashes.SHA224,
    _H.SHA_256: hashes.SHA256,
    _H.SHA_384: hashes.SHA384,
    _H.SHA_512: hashes.SHA512,
    _H.SHA_512_224: hashes.SHA512_224,
    _H.SHA_512_256: hashes.SHA512_256,
    _H.SHA3_224: hashes.SHA3_224,
    _H.SHA3_256: hashes.SHA3_256,
    _H.SHA3_384: hashes.SHA3_384,
    _H.SHA3_512: hashes.SHA3_512,
}
#: Digital signature algorithm -> (padding; None for ECDSA, hash; None where the parameters name it).
_ALGORITHMS: Final[dict[int, tuple[PaddingMethod | None, HashingAlgorithm | None]]] = {
    _D.SHA_1_WITH_RSA_ENCRYPTION_PKCS1_V1_5: (_P.PKCS1_V1_5, _H.SHA_1),
    _D.SHA_224_WITH_RSA_ENCRYPTION_PKCS1_V1_5: (_P.PKCS1_V1_5, _H.SHA_224),
    _D.SHA_256_WITH_RSA_ENCRYPTION_PKCS1_V1_5: (_P.PKCS1_V1_5, _H.SHA_256),
    _D.SHA_384_WITH_RSA_ENCRYPTION_PKCS1_V1_5: (_P.PKCS1_V1_5, _H.SHA_384),
    _D.SHA_512_WITH_RSA_ENCRYPTION_PKCS1_V1_5: (_P.PKCS1_V1_5, _H.SHA_512),
    _D.SHA3_256_WITH_RSA_ENCRYPTION: (_P.PKCS1_V1_5, _H.SHA3_256),
    _D.SHA3_384_WITH_RSA_ENCRYPTION: (_P.PKCS1_V1_5, _H.SHA3_384),
    _D.SHA3_512_WITH_RSA_ENCRYPTION: (_P.PKCS1_V1_5, _H.SHA3_512),
    _D.RSASSA_PSS_PKCS_1_V2_1: (_P.PSS, None),
    _D.ECDSA_WITH_SHA_1: (None, _H.SHA_1),
    _D.ECDSA_WITH_SHA224: (None, _H.SHA_224),
    _D.ECDSA_WITH_SHA256: (None, _H.SHA_256),
    _D.ECDSA_WITH_SHA384: (None, _H.SHA_384),
    _D.ECDSA_WITH_SHA512: (None, _H.SHA_512),
}


def _invalid(message: str, reason: ResultReason = ResultReason.INVALID_FIELD) -> OperationFailed:
    return OperationFailed(reason, message)


def hash_of(number: int | None) -> hashes.HashAlgorithm:
    """Return the library's hash.

    Raises:
        OperationFailed: None is named, or one that is not offered.
    """
    found = None if number is None else HASHES.get(number)
    if found is None:
        raise _invalid("the hashing algorithm is missing or not offered")
    return found()


def _private(call: Call, entry: Entry) -> Private:
    if entry.record.object_type != ObjectType.PRIVATE_KEY or entry.foreign:
        raise _invalid("the object is no private key, or one that came wrapped")
    return keyforms.load_private(call.material_of(entry))


def _public(call: Call, entry: Entry) -> Public:
    if entry.record.object_type != ObjectType.PUBLIC_KEY or entry.foreign:
        raise _invalid("the object is no public key, or one that came wrapped")
    return keyforms.load_public(call.material_of(entry))


def _encryption_padding(parameters: CryptographicParameters) -> padding.AsymmetricPadding:
    match parameters.padding_method:
        case PaddingMethod.PKCS1_V1_5:
            return padding.PKCS1v15()
        case PaddingMethod.OAEP:
            own = hash_of(parameters.hashing_algorithm or _H.SHA_1)  # RFC 8017's default
            return padding.OAEP(_mask(parameters, own), own, parameters.p_source or None)
        case _:
            raise _invalid("the padding of RSA encryption is OAEP or PKCS1 v1.5")


def _mask(parameters: CryptographicParameters, own: hashes.HashAlgorithm) -> padding.MGF1:
    if parameters.mask_generator not in {None, MaskGenerator.MGF1}:
        raise _invalid("the mask generator is MGF1")
    number = parameters.mask_generator_hashing_algorithm
    return padding.MGF1(own if number is None else hash_of(number))


def encrypted(call: Call, entry: Entry, parameters: CryptographicParameters, data: bytes) -> bytes:
    """Return the data encrypted to a public key.

    Raises:
        OperationFailed: Not such a key, a padding that is not offered, data too long for the key.
    """
    key = _public(call, entry)
    if not isinstance(key, rsa.RSAPublicKey):
        raise _invalid("only RSA keys encrypt")
    try:
        return key.encrypt(data, _encryption_padding(parameters))
    except ValueError as bad:
        raise _invalid("the data is too long for the key", ResultReason.CRYPTOGRAPHIC_FAILURE) from bad


def decrypted(call: Call, entry: Entry, parameters: CryptographicParameters, data: bytes) -> bytes:
    """Return the data decrypted with a private key.

    Raises:
        OperationFailed: Not such a key, a padding that is not offered, data that it does not decrypt.
    """
    key = _private(call, entry)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _invalid("only RSA keys decrypt")
    try:
        return key.decrypt(data, _encryption_padding(parameters))
    except ValueError as bad:
        raise _invalid("the data does not decrypt", ResultReason.CRYPTOGRAPHIC_FAILURE) from bad


def _signature(parameters: CryptographicParameters) -> tuple[PaddingMethod | None, hashes.HashAlgorithm]:
    """Return padding and hash, as the signature algorithm or padding and hash by themselves say."""
    algorithm = parameters.digital_signature_algorithm
    pad, digest = parameters.padding_method, parameters.hashing_algorithm
    if algorithm is not None:
        if algorithm not in _ALGORITHMS:
            raise _invalid("the digital signature algorithm is not offered")
        pad, fixed = _ALGORITHMS[algorithm]
        digest = fixed or digest
    return pad, hash_of(digest)


def _rsa_padding(
    parameters: CryptographicParameters, pad: PaddingMethod | None, digest: hashes.HashAlgorithm, *, verifying: bool
) -> padding.AsymmetricPadding:
    if pad == PaddingMethod.PSS:
        length = parameters.salt_length
        salt = length if length is not None else padding.PSS.AUTO if verifying else digest.digest_size
        return padding.PSS(_mask(parameters, digest), salt)
    if pad == PaddingMethod.PKCS1_V1_5:
        return padding.PKCS1v15()
    raise _invalid("the padding of RSA signatures is PSS or PKCS1 v1.5")


def signed(
    call: Call, entry: Entry, parameters: CryptographicParameters, data: bytes, *, digested: bool = False
) -> bytes:
    """Return a signature.

    Args:
        digested: `data` is the digest already.

    Raises:
        OperationFailed: Not such a key, parameters that are not offered, a digest of another length.
    """
    pad, digest = _signature(parameters)
    key = _private(call, entry)
    how = Prehashed(digest) if digested else digest
    try:
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(data, _rsa_padding(parameters, pad, digest, verifying=False), how)
        return key.sign(data, ec.ECDSA(how))
    except (ValueError, UnsupportedAlgorithm) as bad:
        raise _invalid("the parameters do not fit key and data", ResultReason.CRYPTOGRAPHIC_FAILURE) from bad


def verified(
    call: Call, entry: Entry, parameters: CryptographicParameters, data: bytes, signature: bytes, *, digested: bool
) -> bool:
    """Return whether it is the key's signature.

    Raises:
        OperationFailed: Not such a key, or parameters that are not offered.
    """
    pad, digest = _signature(parameters)
    key = _public(call, entry)
    how = Prehashed(digest) if digested else digest
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, _rsa_padding(parameters, pad, digest, verifying=True), how)
        else:
            key.verify(signature, data, ec.ECDSA(how))
    except InvalidSignature:
        return False
    except (ValueError, UnsupportedAlgorithm) as bad:
        raise _invalid("the parameters do not fit key and data", ResultReason.CRYPTOGRAPHIC_FAILURE) from bad
    return True
