"""What a certificate says of itself, as attributes. Pure; trusts none. Source: KMIP 1.4, sections 3.8 to 3.16."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import SignatureAlgorithmOID as Oid

from openkcm.execution.operations.outcome import OperationFailed
from openkcm.kmip import Attribute, AttributeValue
from openkcm.kmip.enums import CertificateType, CryptographicAlgorithm, DigitalSignatureAlgorithm, ResultReason
from openkcm.kmip.structures import (
    CertificateIdentifier,
    CertificateIssuer,
    CertificateSubject,
    X509CertificateIdentifier,
    X509CertificateIssuer,
    X509CertificateSubject,
)

__all__ = ["attributes_of"]

_D = DigitalSignatureAlgorithm
_SIGNATURES: Final = {
    Oid.RSA_WITH_SHA1: _D.SHA_1_WITH_RSA_ENCRYPTION_PKCS1_V1_5,
    Oid.RSA_WITH_SHA224: _D.SHA_224_WITH_RSA_ENCRYPTION_PKCS1_V1_5,
    Oid.RSA_WITH_SHA256: _D.SHA_256_WITH_RSA_ENCRYPTION_PKCS1_V1_5,
    Oid.RSA_WITH_SHA384: _D.SHA_384_WITH_RSA_ENCRYPTION_PKCS1_V1_5,
    Oid.RSA_WITH_SHA512: _D.SHA_512_WITH_RSA_ENCRYPTION_PKCS1_V1_5,
    Oid.RSASSA_PSS: _D.RSASSA_PSS_PKCS_1_V2_1,
    Oid.ECDSA_WITH_SHA224: _D.ECDSA_WITH_SHA224,
    Oid.ECDSA_WITH_SHA256: _D.ECDSA_WITH_SHA256,
    Oid.ECDSA_WITH_SHA384: _D.ECDSA_WITH_SHA384,
    Oid.ECDSA_WITH_SHA512: _D.ECDSA_WITH_SHA512,
}


def attributes_of(material: bytes, kind: int) -> list[Attribute]:
    """Return the attributes that the server sets on a certificate.

    Args:
        kind: Certificate type; of PGP certificates nothing but the length is said.

    Raises:
        OperationFailed: An X.509 certificate that cannot be read.
    """
    values: dict[str, AttributeValue] = {
        "Certificate Type": CertificateType(kind),
        "Certificate Length": len(material),
    }
    if kind == CertificateType.X_509:
        try:
            values |= _x509(x509.load_der_x509_certificate(material))
        except (ValueError, UnsupportedAlgorithm) as bad:
            raise OperationFailed(ResultReason.INVALID_FIELD, "the certificate cannot be read") from bad
    return [Attribute(attribute_name=name, attribute_value=value) for name, value in values.items()]


def _x509(c: x509.Certificate) -> dict[str, AttributeValue]:
    issuer, subject = c.issuer.public_bytes(), c.subject.public_bytes()
    serial = c.serial_number.to_bytes(c.serial_number.bit_length() // 8 + 1, "big")
    values: dict[str, AttributeValue] = {
        "X.509 Certificate Identifier": X509CertificateIdentifier(
            issuer_distinguished_name=issuer, certificate_serial_number=serial
        ),
        "X.509 Certificate Subject": X509CertificateSubject(subject_distinguished_name=subject),
        "X.509 Certificate Issuer": X509CertificateIssuer(issuer_distinguished_name=issuer),
        "Certificate Identifier": CertificateIdentifier(
            issuer=c.issuer.rfc4514_string(), serial_number=str(c.serial_number)
        ),
        "Certificate Subject": CertificateSubject(certificate_subject_distinguished_name=c.subject.rfc4514_string()),
        "Certificate Issuer": CertificateIssuer(certificate_issuer_distinguished_name=c.issuer.rfc4514_string()),
    }
    signature = _SIGNATURES.get(c.signature_algorithm_oid)
    if signature is not None:
        values["Digital Signature Algorithm"] = signature
    try:
        key = c.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return values
    if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        is_rsa = isinstance(key, rsa.RSAPublicKey)
        values["Cryptographic Algorithm"] = CryptographicAlgorithm.RSA if is_rsa else CryptographicAlgorithm.EC
        values["Cryptographic Length"] = key.key_size
    return values
