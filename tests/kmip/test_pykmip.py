"""The same bytes as an independent implementation, for every request and response that both know, at 1.2 and 1.4."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from openkcm.kmip import (
    KMIP_1_2,
    KMIP_1_4,
    PAYLOADS,
    Attribute,
    ItemType,
    KmipError,
    custom_attribute,
    decode_payload,
    decode_request,
    encode_item,
    encode_request,
    encode_response,
)
from openkcm.kmip import enums as e
from openkcm.kmip import objects as o
from openkcm.kmip import payloads as p
from openkcm.kmip import structures as s
from openkcm.kmip.generate import read_contents, write_contents

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyKMIP imports its SQL server, which SQLAlchemy calls old
    from kmip.core import attributes as ka
    from kmip.core import enums as ke
    from kmip.core import misc as km
    from kmip.core import objects as ko
    from kmip.core import secrets as ks
    from kmip.core.factories.attributes import AttributeFactory
    from kmip.core.messages import contents as kc
    from kmip.core.messages import messages as kmsg
    from kmip.core.messages import payloads as kp
    from kmip.core.utils import BytearrayStream

KEY, UID = bytes(range(32)), "5f1c3a90-key"
MAKE = AttributeFactory().create_attribute
A = ke.AttributeType


def name_of(text: str) -> Any:
    return ka.Name.create(text, ke.NameType.UNINTERPRETED_TEXT_STRING)


THEIR_TEMPLATE = ko.TemplateAttribute(
    attributes=[
        MAKE(A.CRYPTOGRAPHIC_ALGORITHM, ke.CryptographicAlgorithm.AES),
        MAKE(A.CRYPTOGRAPHIC_LENGTH, 256),
        MAKE(A.CRYPTOGRAPHIC_USAGE_MASK, [ke.CryptographicUsageMask.ENCRYPT, ke.CryptographicUsageMask.DECRYPT]),
        MAKE(A.NAME, name_of("payments"), 0),
        MAKE(A.OBJECT_GROUP, "group"),
        MAKE(A.ACTIVATION_DATE, 1_700_000_000),
        MAKE(A.OPERATION_POLICY_NAME, "default"),
    ]
)
OUR_TEMPLATE = o.TemplateAttribute(
    attribute=(
        Attribute(attribute_name="Cryptographic Algorithm", attribute_value=e.CryptographicAlgorithm.AES),
        Attribute(attribute_name="Cryptographic Length", attribute_value=256),
        Attribute(attribute_name="Cryptographic Usage Mask", attribute_value=12),
        Attribute(
            attribute_name="Name",
            attribute_index=0,
            attribute_value=s.Name(name_value="payments", name_type=e.NameType.UNINTERPRETED_TEXT_STRING),
        ),
        Attribute(attribute_name="Object Group", attribute_value="group"),
        Attribute(attribute_name="Activation Date", attribute_value=1_700_000_000),
        Attribute(attribute_name="Operation Policy Name", attribute_value="default"),
    )
)


def their_block(kind: Any, algorithm: Any, length: int | None, material: bytes = KEY) -> Any:
    return ko.KeyBlock(
        key_format_type=km.KeyFormatType(kind),
        key_value=ko.KeyValue(ko.KeyMaterial(material)),
        cryptographic_algorithm=None if algorithm is None else ka.CryptographicAlgorithm(algorithm),
        cryptographic_length=None if length is None else ka.CryptographicLength(length),
    )


def our_block(kind: Any, algorithm: Any, length: int | None, material: bytes = KEY) -> o.KeyBlock:
    return o.KeyBlock(
        key_format_type=kind,
        key_value=o.KeyValue(key_material=material),
        cryptographic_algorithm=algorithm,
        cryptographic_length=length,
    )


AES, RSA = e.CryptographicAlgorithm.AES, e.CryptographicAlgorithm.RSA
OBJECTS = {
    "symmetric_key": (
        ks.SymmetricKey(their_block(ke.KeyFormatType.RAW, ke.CryptographicAlgorithm.AES, 256)),
        o.SymmetricKey(key_block=our_block(e.KeyFormatType.RAW, AES, 256)),
    ),
    "public_key": (
        ks.PublicKey(their_block(ke.KeyFormatType.PKCS_1, ke.CryptographicAlgorithm.RSA, 2048)),
        o.PublicKey(key_block=our_block(e.KeyFormatType.PKCS_1, RSA, 2048)),
    ),
    "private_key": (
        ks.PrivateKey(their_block(ke.KeyFormatType.PKCS_8, ke.CryptographicAlgorithm.RSA, 2048)),
        o.PrivateKey(key_block=our_block(e.KeyFormatType.PKCS_8, RSA, 2048)),
    ),
    "secret_data": (
        ks.SecretData(
            ks.SecretData.SecretDataType(ke.SecretDataType.PASSWORD), their_block(ke.KeyFormatType.OPAQUE, None, None)
        ),
        o.SecretData(
            secret_data_type=e.SecretDataType.PASSWORD, key_block=our_block(e.KeyFormatType.OPAQUE, None, None)
        ),
    ),
    "opaque_object": (
        ks.OpaqueObject(
            ks.OpaqueObject.OpaqueDataType(ke.OpaqueDataType.NONE), ks.OpaqueObject.OpaqueDataValue(b"opaque")
        ),
        o.OpaqueObject(opaque_data_type=0x80000000, opaque_data_value=b"opaque"),
    ),
    "certificate": (
        ks.Certificate(ke.CertificateType.X_509, b"\x30\x03abc"),
        o.Certificate(certificate_type=e.CertificateType.X_509, certificate_value=b"\x30\x03abc"),
    ),
}
THEIR_GCM = ka.CryptographicParameters(
    block_cipher_mode=ke.BlockCipherMode.GCM,
    cryptographic_algorithm=ke.CryptographicAlgorithm.AES,
    random_iv=True,
    tag_length=16,
)
OUR_GCM = s.CryptographicParameters(
    block_cipher_mode=e.BlockCipherMode.GCM, cryptographic_algorithm=AES, random_iv=True, tag_length=16
)
WRAPPING = (
    ko.KeyWrappingSpecification(
        wrapping_method=ke.WrappingMethod.ENCRYPT,
        encryption_key_information=ko.EncryptionKeyInformation(
            unique_identifier="kek",
            cryptographic_parameters=ka.CryptographicParameters(ke.BlockCipherMode.NIST_KEY_WRAP),
        ),
        encoding_option=ke.EncodingOption.NO_ENCODING,
    ),
    o.KeyWrappingSpecification(
        wrapping_method=e.WrappingMethod.ENCRYPT,
        encryption_key_information=o.EncryptionKeyInformation(
            unique_identifier="kek",
            cryptographic_parameters=s.CryptographicParameters(block_cipher_mode=e.BlockCipherMode.NIST_KEY_WRAP),
        ),
        encoding_option=e.EncodingOption.NO_ENCODING,
    ),
)
C, R, L, S, X = p.objects, p.retrieval, p.lifecycle, p.server, p.cryptography
UIDS: dict[str, Any] = {"unique_identifier": UID}


REQUESTS: dict[str, tuple[Any, Any]] = {
    "create": (
        kp.CreateRequestPayload(ke.ObjectType.SYMMETRIC_KEY, THEIR_TEMPLATE),
        C.CreateRequest(object_type=e.ObjectType.SYMMETRIC_KEY, template_attribute=OUR_TEMPLATE),
    ),
    **{
        f"register {field}": (
            kp.RegisterRequestPayload(ke.ObjectType(int(e.ObjectType[field.upper()])), THEIR_TEMPLATE, theirs),
            C.RegisterRequest(
                object_type=e.ObjectType[field.upper()], template_attribute=OUR_TEMPLATE, **{field: ours}
            ),
        )
        for field, (theirs, ours) in OBJECTS.items()
    },
    "activate": (kp.ActivateRequestPayload(ka.UniqueIdentifier(UID)), L.ActivateRequest(**UIDS)),
    "destroy": (kp.DestroyRequestPayload(ka.UniqueIdentifier(UID)), L.DestroyRequest(**UIDS)),
    "revoke": (
        kp.RevokeRequestPayload(
            ka.UniqueIdentifier(UID), ko.RevocationReason(ke.RevocationReasonCode.KEY_COMPROMISE, "lost")
        ),
        L.RevokeRequest(
            **UIDS,
            revocation_reason=s.RevocationReason(
                revocation_reason_code=e.RevocationReasonCode.KEY_COMPROMISE, revocation_message="lost"
            ),
        ),
    ),
    "get": (kp.GetRequestPayload(UID), R.GetRequest(**UIDS)),
    "get wrapped": (
        kp.GetRequestPayload(UID, ke.KeyFormatType.RAW, key_wrapping_specification=WRAPPING[0]),
        R.GetRequest(**UIDS, key_format_type=e.KeyFormatType.RAW, key_wrapping_specification=WRAPPING[1]),
    ),
    "get attributes": (
        kp.GetAttributesRequestPayload(UID, ["State", "Name", "x-mine"]),
        R.GetAttributesRequest(**UIDS, attribute_name=("State", "Name", "x-mine")),
    ),
    "get attribute list": (kp.GetAttributeListRequestPayload(UID), R.GetAttributeListRequest(**UIDS)),
    "locate": (
        kp.LocateRequestPayload(maximum_items=5, storage_status_mask=1, attributes=[MAKE(A.NAME, name_of("payments"))]),
        R.LocateRequest(
            maximum_items=5,
            storage_status_mask=1,
            attribute=(
                Attribute(
                    attribute_name="Name",
                    attribute_value=s.Name(name_value="payments", name_type=e.NameType.UNINTERPRETED_TEXT_STRING),
                ),
            ),
        ),
    ),
    "query": (
        kp.QueryRequestPayload([ke.QueryFunction.QUERY_OPERATIONS, ke.QueryFunction.QUERY_OBJECTS]),
        S.QueryRequest(query_function=(1, 2)),
    ),
    "discover versions": (
        kp.DiscoverVersionsRequestPayload([kc.ProtocolVersion(1, 4), kc.ProtocolVersion(1, 2)]),
        S.DiscoverVersionsRequest(protocol_version=(KMIP_1_4, KMIP_1_2)),
    ),
    "encrypt": (
        kp.EncryptRequestPayload(UID, THEIR_GCM, b"plaintext", b"\1" * 12, b"aad"),
        X.EncryptRequest(
            **UIDS,
            cryptographic_parameters=OUR_GCM,
            data=b"plaintext",
            iv_counter_nonce=b"\1" * 12,
            authenticated_encryption_additional_data=b"aad",
        ),
    ),
    "decrypt": (
        kp.DecryptRequestPayload(UID, THEIR_GCM, b"ciphertext", b"\1" * 12, b"aad", b"\2" * 16),
        X.DecryptRequest(
            **UIDS,
            cryptographic_parameters=OUR_GCM,
            data=b"ciphertext",
            iv_counter_nonce=b"\1" * 12,
            authenticated_encryption_additional_data=b"aad",
            authenticated_encryption_tag=b"\2" * 16,
        ),
    ),
}
OPERATION = {payloads.request: operation for operation, payloads in PAYLOADS.items()}
VERSIONS = pytest.mark.parametrize(
    ("version", "theirs"),
    [(KMIP_1_2, ke.KMIPVersion.KMIP_1_2), (KMIP_1_4, ke.KMIPVersion.KMIP_1_4)],
    ids=["1.2", "1.4"],
)


def their_message(payload: Any, operation: e.Operation, minor: int, version: Any) -> bytes:
    header = kmsg.RequestHeader(protocol_version=kc.ProtocolVersion(1, minor), batch_count=kc.BatchCount(1))
    item = kmsg.RequestBatchItem(operation=kc.Operation(ke.Operation(int(operation))), request_payload=payload)
    stream = BytearrayStream()
    kmsg.RequestMessage(request_header=header, batch_items=[item]).write(stream, version)
    return bytes(stream.buffer)


@VERSIONS
@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_the_same_bytes_as_theirs_and_is_read_back(name, version, theirs):
    their_payload, ours = REQUESTS[name]
    operation = OPERATION[type(ours)]
    raw = their_message(their_payload, operation, version.protocol_version_minor, theirs)
    assert encode_request(ours, version=version) == raw
    request = decode_request(raw)
    assert request.version == version
    assert request.items[0].operation == operation
    read = decode_payload(request.items[0], version)
    minor = version.protocol_version_minor
    assert read == read_contents(type(ours), write_contents(ours, minor), minor)
    if minor == 4 or name not in {"encrypt", "decrypt"}:  # authenticated encryption is left out towards 1.2
        assert read == ours


RESPONSES: dict[str, tuple[Any, Any]] = {
    "create": (
        kp.CreateResponsePayload(ke.ObjectType.SYMMETRIC_KEY, UID),
        C.CreateResponse(object_type=e.ObjectType.SYMMETRIC_KEY, **UIDS),
    ),
    "register": (kp.RegisterResponsePayload(UID), C.RegisterResponse(**UIDS)),
    "get": (
        kp.GetResponsePayload(ke.ObjectType.SYMMETRIC_KEY, UID, OBJECTS["symmetric_key"][0]),
        R.GetResponse(object_type=e.ObjectType.SYMMETRIC_KEY, **UIDS, symmetric_key=OBJECTS["symmetric_key"][1]),
    ),
    "get attributes": (
        kp.GetAttributesResponsePayload(UID, [MAKE(A.CRYPTOGRAPHIC_LENGTH, 256), MAKE(A.STATE, ke.State.ACTIVE)]),
        R.GetAttributesResponse(
            **UIDS,
            attribute=(
                Attribute(attribute_name="Cryptographic Length", attribute_value=256),
                Attribute(attribute_name="State", attribute_value=e.State.ACTIVE),
            ),
        ),
    ),
    "get attribute list": (
        kp.GetAttributeListResponsePayload(UID, ["State", "Name"]),
        R.GetAttributeListResponse(**UIDS, attribute_name=("State", "Name")),
    ),
    "locate": (kp.LocateResponsePayload(unique_identifiers=["a", "b"]), R.LocateResponse(unique_identifier=("a", "b"))),
    "query": (
        kp.QueryResponsePayload(
            [ke.Operation.CREATE, ke.Operation.ENCRYPT], [ke.ObjectType.SYMMETRIC_KEY], vendor_identification="OpenKCM"
        ),
        S.QueryResponse(
            operation=(1, 0x1F), object_type=(e.ObjectType.SYMMETRIC_KEY,), vendor_identification="OpenKCM"
        ),
    ),
    "encrypt": (
        kp.EncryptResponsePayload(UID, b"ciphertext", b"\1" * 12, b"\2" * 16),
        X.EncryptResponse(
            **UIDS, data=b"ciphertext", iv_counter_nonce=b"\1" * 12, authenticated_encryption_tag=b"\2" * 16
        ),
    ),
    "decrypt": (kp.DecryptResponsePayload(UID, b"plaintext"), X.DecryptResponse(**UIDS, data=b"plaintext")),
}


@VERSIONS
@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_payload_is_the_same_bytes_as_theirs(name, version, theirs):
    their_payload, ours = RESPONSES[name]
    stream = BytearrayStream()
    their_payload.write(stream, theirs)
    assert write_contents(ours, version.protocol_version_minor) == bytes(stream.buffer)[8:]


@VERSIONS
def test_they_read_our_whole_response_with_its_header_and_its_failures(version, theirs):
    ok = encode_item(
        e.Operation.ACTIVATE, b"1", e.ResultStatus.SUCCESS, None, None, L.ActivateResponse(**UIDS), version
    )
    no = encode_item(
        e.Operation.DESTROY,
        b"2",
        e.ResultStatus.OPERATION_FAILED,
        e.ResultReason.ITEM_NOT_FOUND,
        "no such object",
        None,
        version,
    )
    message = kmsg.ResponseMessage()
    message.read(BytearrayStream(encode_response([ok, no], version, 1_700_000_000)), theirs)
    assert message.response_header.time_stamp.value == 1_700_000_000
    assert [item.result_status.value.name for item in message.batch_items] == ["SUCCESS", "OPERATION_FAILED"]
    assert message.batch_items[1].result_reason.value is ke.ResultReason.ITEM_NOT_FOUND
    assert message.batch_items[0].response_payload.unique_identifier.value == UID


def test_a_custom_text_attribute_is_the_same_bytes_as_theirs():
    stream = BytearrayStream()
    MAKE("x-colour", "blue").write(stream)
    assert write_contents(custom_attribute("x-colour", ItemType.TEXT_STRING, "blue"), 4) == bytes(stream.buffer)[8:]


def test_a_credential_in_their_header_is_accepted():
    credential = ko.Credential(
        credential_type=ke.CredentialType.USERNAME_AND_PASSWORD,
        credential_value=ko.UsernamePasswordCredential("user", "secret"),
    )
    header = kmsg.RequestHeader(
        protocol_version=kc.ProtocolVersion(1, 2),
        maximum_response_size=kc.MaximumResponseSize(4096),
        authentication=kc.Authentication([credential]),
        batch_count=kc.BatchCount(1),
    )
    item = kmsg.RequestBatchItem(
        operation=kc.Operation(ke.Operation.ACTIVATE),
        request_payload=kp.ActivateRequestPayload(ka.UniqueIdentifier(UID)),
    )
    stream = BytearrayStream()
    kmsg.RequestMessage(request_header=header, batch_items=[item]).write(stream, ke.KMIPVersion.KMIP_1_2)
    read = decode_request(bytes(stream.buffer)).header
    assert read.maximum_response_size == 4096
    assert read.authentication.credential[0].credential_value.password == "secret"
    assert "secret" not in repr(read)


@pytest.mark.parametrize("name", [name for name in e.__all__ if hasattr(ke, name)])
def test_an_enumeration_numbers_its_members_as_theirs_does(name):
    ours, theirs = getattr(e, name), getattr(ke, name)
    numbers = {member.name.removesuffix("_LINK"): member.value for member in theirs}
    shared = {member.name for member in ours} & set(numbers)
    assert shared
    assert not {both for both in shared if ours[both].value != numbers[both]}


def test_tags_are_numbered_as_theirs():
    from openkcm.kmip import Tag

    shared = {tag.name for tag in Tag} & {tag.name for tag in ke.Tags}
    assert len(shared) > 270
    assert not {name for name in shared if Tag[name].value != ke.Tags[name].value}


def test_only_our_own_error_leaves_when_their_bytes_are_cut():
    raw = their_message(REQUESTS["create"][0], e.Operation.CREATE, 4, ke.KMIPVersion.KMIP_1_4)
    for size in range(len(raw)):
        with pytest.raises(KmipError):
            decode_request(raw[:size])
