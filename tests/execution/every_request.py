"""One request of each operation that OPERATIONS has, aimed at one object. Requests of the codec only; sends nothing."""

from __future__ import annotations

from execution.kmip_client import GCM, attribute, create_request
from openkcm.execution.operations import OPERATIONS
from openkcm.kmip.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    DerivationMethod,
    HashingAlgorithm,
    ObjectType,
    PaddingMethod,
    RevocationReasonCode,
    WrappingMethod,
)
from openkcm.kmip.enums import Operation as Code
from openkcm.kmip.objects import (
    EncryptionKeyInformation,
    KeyWrappingSpecification,
    OpaqueObject,
    TemplateAttribute,
)
from openkcm.kmip.payloads import PAYLOADS
from openkcm.kmip.payloads.derivation import DerivationParameters
from openkcm.kmip.structures import CryptographicParameters, RevocationReason

HMAC = CryptographicParameters(cryptographic_algorithm=CryptographicAlgorithm.HMAC_SHA256)
HASH = CryptographicParameters(hashing_algorithm=HashingAlgorithm.SHA_256)
PSS = CryptographicParameters(padding_method=PaddingMethod.PSS, hashing_algorithm=HashingAlgorithm.SHA_256)
OPAQUE = {"opaque_object": OpaqueObject(opaque_data_type=0x80000001, opaque_data_value=b"x")}
EC = TemplateAttribute(
    attribute=(
        attribute("Cryptographic Algorithm", CryptographicAlgorithm.EC),
        attribute("Cryptographic Length", 256),
        attribute("Cryptographic Usage Mask", 3),
    )
)
#: Operations that name no object, or several in fields of their own.
UNNAMED = {Code.DISCOVER_VERSIONS, Code.QUERY, Code.CREATE, Code.CREATE_KEY_PAIR, Code.REGISTER, Code.LOCATE, Code.HASH,
           Code.RNG_RETRIEVE, Code.RNG_SEED, Code.IMPORT}  # fmt: skip


def wrapped_under(uid):
    """A key wrapping specification that names this key."""
    mode = CryptographicParameters(block_cipher_mode=BlockCipherMode.NIST_KEY_WRAP)
    information = EncryptionKeyInformation(unique_identifier=uid, cryptographic_parameters=mode)
    return KeyWrappingSpecification(wrapping_method=WrappingMethod.ENCRYPT, encryption_key_information=information)


def requests(uid):
    """Return operation -> request; with None the placeholder is meant."""
    aimed = {"unique_identifier": uid}
    new = attribute("Object Group", "g")
    more = {
        Code.CREATE: None,
        Code.CREATE_KEY_PAIR: {"common_template_attribute": EC},
        Code.REGISTER: {"object_type": ObjectType.OPAQUE_OBJECT, "template_attribute": TemplateAttribute(), **OPAQUE},
        Code.IMPORT: {"unique_identifier": "imported-1", "object_type": ObjectType.OPAQUE_OBJECT, **OPAQUE},
        Code.RE_KEY_KEY_PAIR: {"private_key_unique_identifier": uid},
        Code.DERIVE_KEY: {
            "object_type": ObjectType.SECRET_DATA,
            "unique_identifier": (uid or "none-such",),
            "derivation_method": DerivationMethod.HMAC,
            "derivation_parameters": DerivationParameters(cryptographic_parameters=HASH, derivation_data=b"x"),
            "template_attribute": TemplateAttribute(attribute=(attribute("Cryptographic Length", 128),)),
        },
        Code.ADD_ATTRIBUTE: {**aimed, "attribute": new},
        Code.MODIFY_ATTRIBUTE: {**aimed, "attribute": new},
        Code.DELETE_ATTRIBUTE: {**aimed, "attribute_name": "Object Group"},
        Code.GET_USAGE_ALLOCATION: {**aimed, "usage_limits_count": 1},
        Code.REVOKE: {
            **aimed,
            "revocation_reason": RevocationReason(revocation_reason_code=RevocationReasonCode.KEY_COMPROMISE),
        },
        Code.ENCRYPT: {**aimed, "data": b"x", "cryptographic_parameters": GCM},
        Code.DECRYPT: {
            **aimed, "data": b"x" * 16, "iv_counter_nonce": bytes(12), "cryptographic_parameters": GCM,
        },
        Code.SIGN: {**aimed, "data": b"x", "cryptographic_parameters": PSS},
        Code.SIGNATURE_VERIFY: {**aimed, "data": b"x", "signature_data": b"y", "cryptographic_parameters": PSS},
        Code.MAC: {**aimed, "data": b"x", "cryptographic_parameters": HMAC},
        Code.MAC_VERIFY: {**aimed, "data": b"x", "mac_data": b"y", "cryptographic_parameters": HMAC},
        Code.HASH: {"cryptographic_parameters": HASH, "data": b"x"},
        Code.RNG_RETRIEVE: {"data_length": 16},
        Code.RNG_SEED: {"data": b"x"},
        **{code: {} for code in (Code.DISCOVER_VERSIONS, Code.QUERY, Code.LOCATE)},
    }  # fmt: skip
    return {
        code: create_request() if code == Code.CREATE else PAYLOADS[code].request(**more.get(code, aimed))
        for code in OPERATIONS
    }
