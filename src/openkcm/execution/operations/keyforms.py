"""Key formats: what each kind of key may come in, is kept in, and may be given out as. Pure; keeps no key.

Asymmetric keys are kept as DER in their own standard form (RSA: PKCS#1; EC: SEC 1 and SubjectPublicKeyInfo; or as they
came) and read with the crypto library, whose objects live for one call. Source: KMIP 1.4, sections 2.1.3 and 2.1.7.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from openkcm.execution.operations.outcome import OperationFailed
from openkcm.kmip.enums import CryptographicAlgorithm, ObjectType, RecommendedCurve, ResultReason
from openkcm.kmip.enums import KeyFormatType as Form
from openkcm.kmip.objects import TransparentKey

__all__ = ["CURVES", "Kept", "given", "kept", "load_private", "load_public", "private_der", "public_der"]

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
Public = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

CURVES: Final[dict[RecommendedCurve, ec.EllipticCurve]] = {
    RecommendedCurve.P_256: ec.SECP256R1(),
    RecommendedCurve.P_384: ec.SECP384R1(),
    RecommendedCurve.P_521: ec.SECP521R1(),
    RecommendedCurve.SECP256K1: ec.SECP256K1(),
}
_CURVE_OF: Final = {curve.name: number for number, curve in CURVES.items()}
_RSA_PRIVATE, _RSA_PUBLIC = Form.TRANSPARENT_RSA_PRIVATE_KEY, Form.TRANSPARENT_RSA_PUBLIC_KEY
_EC_PRIVATE, _EC_PUBLIC = Form.TRANSPARENT_EC_PRIVATE_KEY, Form.TRANSPARENT_EC_PUBLIC_KEY
#: Formats of asymmetric keys and what the library calls them.
_PRIVATE_FORMS: Final = {
    Form.PKCS_1: PrivateFormat.TraditionalOpenSSL,
    Form.EC_PRIVATE_KEY: PrivateFormat.TraditionalOpenSSL,
    Form.PKCS_8: PrivateFormat.PKCS8,
}
_PUBLIC_FORMS: Final = {Form.PKCS_1: PublicFormat.PKCS1, Form.X_509: PublicFormat.SubjectPublicKeyInfo}
#: What kinds of key without a structure may come in and go out as.
_SIMPLE: Final[dict[ObjectType, frozenset[Form]]] = {
    ObjectType.SYMMETRIC_KEY: frozenset({Form.RAW, Form.TRANSPARENT_SYMMETRIC_KEY, Form.OPAQUE}),
    ObjectType.SECRET_DATA: frozenset({Form.RAW, Form.OPAQUE}),
    ObjectType.SPLIT_KEY: frozenset({Form.RAW, Form.OPAQUE, Form.TRANSPARENT_SYMMETRIC_KEY}),
    ObjectType.PGP_KEY: frozenset({Form.RAW, Form.OPAQUE}),
}
_OPAQUE: Final = frozenset({Form.OPAQUE, Form.RAW})  # of asymmetric keys: kept as it comes, and nothing else made of it


class Kept(msgspec.Struct, frozen=True):
    """A key as it is kept, with what its material says of itself."""

    material: bytes
    algorithm: int | None = None
    bits: int | None = None


def _refused(message: str = "the key format is not taken or given for this object") -> OperationFailed:
    return OperationFailed(ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED, message)


def _invalid(message: str) -> OperationFailed:
    return OperationFailed(ResultReason.INVALID_FIELD, message)


def load_private(material: memoryview | bytes) -> Private:
    """Return the library's object of a private key in DER; use it and let it go.

    Raises:
        OperationFailed: No such key, or one that is not used here.
    """
    try:
        key = load_der_private_key(material, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as bad:
        raise _invalid("the private key cannot be read") from bad
    if not isinstance(key, Private):
        raise _invalid("private keys are RSA or EC")
    return key


def load_public(material: memoryview | bytes) -> Public:
    """Return the library's object of a public key in DER.

    Raises:
        OperationFailed: No such key, or one that is not used here.
    """
    try:
        key = load_der_public_key(material)  # type: ignore[arg-type]  # any buffer
    except (ValueError, TypeError, UnsupportedAlgorithm) as bad:
        raise _invalid("the public key cannot be read") from bad
    if not isinstance(key, Public):
        raise _invalid("public keys are RSA or EC")
    return key


def private_der(key: Private, form: Form) -> bytes:
    """Return the key's DER in PKCS_1 (RSA), EC_PRIVATE_KEY or PKCS_8."""
    if form == (Form.PKCS_1 if isinstance(key, ec.EllipticCurvePrivateKey) else Form.EC_PRIVATE_KEY):
        raise _refused()
    return key.private_bytes(Encoding.DER, _PRIVATE_FORMS[form], NoEncryption())


def public_der(key: Public, form: Form) -> bytes:
    """Return the key's DER in PKCS_1 (RSA) or X_509."""
    if form == Form.PKCS_1 and isinstance(key, ec.EllipticCurvePublicKey):
        raise _refused()
    return key.public_bytes(Encoding.DER, _PUBLIC_FORMS[form])


def _facts(material: bytes, key: Private | Public) -> Kept:
    is_rsa = isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey)
    return Kept(material, CryptographicAlgorithm.RSA if is_rsa else CryptographicAlgorithm.EC, key.key_size)


def kept(object_type: ObjectType, form: Form, material: bytes | TransparentKey) -> Kept:
    """Return a key that came in this format, as it is kept.

    Raises:
        OperationFailed: The format does not fit the object, or the material not the format.
    """
    if object_type in _SIMPLE:
        if form not in _SIMPLE[object_type]:
            raise _refused()
        if form == Form.TRANSPARENT_SYMMETRIC_KEY:
            if not isinstance(material, TransparentKey) or material.key is None:
                raise _invalid("a transparent symmetric key has the field Key")
            material = material.key
        if not isinstance(material, bytes):
            raise _invalid("key material in this format is a byte string")
        return Kept(material)
    if isinstance(material, TransparentKey):
        key = _from_numbers(form, material)
        return _facts(_canonical(key), key)
    if form in _OPAQUE:
        return Kept(material)
    if object_type == ObjectType.PRIVATE_KEY and form in _PRIVATE_FORMS:
        return _facts(material, load_private(material))
    if object_type == ObjectType.PUBLIC_KEY and form in _PUBLIC_FORMS:
        return _facts(material, load_public(material))
    raise _refused()


def _canonical(key: Private | Public) -> bytes:
    match key:
        case rsa.RSAPrivateKey():
            return private_der(key, Form.PKCS_1)
        case ec.EllipticCurvePrivateKey():
            return private_der(key, Form.EC_PRIVATE_KEY)
        case rsa.RSAPublicKey():
            return public_der(key, Form.PKCS_1)
        case _:
            return public_der(key, Form.X_509)


def _from_numbers(form: Form, k: TransparentKey) -> Private | Public:
    try:
        if form == _RSA_PUBLIC:
            return rsa.RSAPublicNumbers(_n(k.public_exponent), _n(k.modulus)).public_key()
        if form == _RSA_PRIVATE:
            return _rsa_private(k)
        if form in {_EC_PRIVATE, _EC_PUBLIC} and k.recommended_curve in CURVES:
            curve = CURVES[k.recommended_curve]
            if form == _EC_PRIVATE:
                return ec.derive_private_key(_n(k.d), curve)
            return ec.EllipticCurvePublicKey.from_encoded_point(curve, k.q_string or b"")
    except (ValueError, TypeError) as bad:
        raise _invalid("the numbers are no key") from bad
    raise _refused()


def _n(number: int | None) -> int:
    if number is None:
        raise ValueError("a number is missing")
    return number


def _rsa_private(k: TransparentKey) -> rsa.RSAPrivateKey:
    n, d = _n(k.modulus), _n(k.private_exponent)
    e = _n(k.public_exponent)
    p, q = (k.p, k.q) if k.p and k.q else rsa.rsa_recover_prime_factors(n, e, d)
    dp = k.prime_exponent_p or rsa.rsa_crt_dmp1(d, p)
    dq = k.prime_exponent_q or rsa.rsa_crt_dmq1(d, q)
    crt = k.crt_coefficient or rsa.rsa_crt_iqmp(p, q)
    return rsa.RSAPrivateNumbers(p, q, d, dp, dq, crt, rsa.RSAPublicNumbers(e, n)).private_key()


def given(object_type: ObjectType, stored: Form, form: Form, material: bytes) -> bytes | TransparentKey:
    """Return the material of a kept key in the format asked for.

    Raises:
        OperationFailed: It is not given out in that format.
    """
    if form == stored and form not in _TRANSPARENT:
        return material
    if object_type in _SIMPLE:
        if form not in _SIMPLE[object_type] or Form.OPAQUE in {form, stored} or object_type == ObjectType.SECRET_DATA:
            raise _refused()
        return TransparentKey(key=material) if form == Form.TRANSPARENT_SYMMETRIC_KEY else material
    if stored in _OPAQUE or form in _OPAQUE:
        raise _refused()
    if object_type == ObjectType.PRIVATE_KEY:
        private = load_private(material)
        return private_der(private, form) if form in _PRIVATE_FORMS else _numbers(private, form)
    public = load_public(material)
    return public_der(public, form) if form in _PUBLIC_FORMS else _numbers(public, form)


_TRANSPARENT: Final = frozenset({Form.TRANSPARENT_SYMMETRIC_KEY, _RSA_PRIVATE, _RSA_PUBLIC, _EC_PRIVATE, _EC_PUBLIC})


def _numbers(key: Any, form: Form) -> TransparentKey:
    """Return the key as numbers."""
    match key, form:
        case rsa.RSAPublicKey(), Form.TRANSPARENT_RSA_PUBLIC_KEY:
            u = key.public_numbers()
            return TransparentKey(modulus=u.n, public_exponent=u.e)
        case rsa.RSAPrivateKey(), Form.TRANSPARENT_RSA_PRIVATE_KEY:
            r = key.private_numbers()
            return TransparentKey(
                modulus=r.public_numbers.n, private_exponent=r.d, public_exponent=r.public_numbers.e,
                p=r.p, q=r.q, prime_exponent_p=r.dmp1, prime_exponent_q=r.dmq1, crt_coefficient=r.iqmp,
            )  # fmt: skip
        case ec.EllipticCurvePrivateKey(), Form.TRANSPARENT_EC_PRIVATE_KEY if key.curve.name in _CURVE_OF:
            return TransparentKey(recommended_curve=_CURVE_OF[key.curve.name], d=key.private_numbers().private_value)
        case ec.EllipticCurvePublicKey(), Form.TRANSPARENT_EC_PUBLIC_KEY if key.curve.name in _CURVE_OF:
            point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            return TransparentKey(recommended_curve=_CURVE_OF[key.curve.name], q_string=point)
    raise _refused()
