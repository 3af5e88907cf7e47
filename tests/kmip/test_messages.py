"""Requests cut into items, items read one by one, responses written: and what may fail what."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openkcm.kmip import (
    KMIP_1_0,
    KMIP_1_1,
    KMIP_1_2,
    KMIP_1_3,
    KMIP_1_4,
    SUPPORTED_VERSIONS,
    Attribute,
    CriticalExtension,
    FieldNotValid,
    Item,
    ItemType,
    KmipError,
    Limits,
    MalformedMessage,
    MessageTooLarge,
    NotEncodable,
    OperationNotSupported,
    RequestHeader,
    Tag,
    VersionNotSupported,
    decode_payload,
    decode_request,
    decode_response,
    encode_item,
    encode_request,
    encode_response,
    responses,
)
from openkcm.kmip import requests as kmip_requests
from openkcm.kmip.enums import BlockCipherMode, CredentialType, Operation, QueryFunction, ResultReason, ResultStatus
from openkcm.kmip.generate import reader, write_contents
from openkcm.kmip.payloads.cryptography import EncryptRequest, EncryptResponse
from openkcm.kmip.payloads.lifecycle import ActivateRequest, ActivateResponse, DestroyRequest
from openkcm.kmip.payloads.retrieval import (
    GetAttributeListResponse,
    GetAttributesResponse,
    LocateRequest,
    LocateResponse,
)
from openkcm.kmip.payloads.server import DiscoverVersionsRequest, QueryRequest, QueryResponse
from openkcm.kmip.structures import (
    Authentication,
    Credential,
    CredentialValue,
    CryptographicParameters,
    ProtocolVersion,
)
from openkcm.kmip.ttlv import read_item, write_item

ENCRYPT = EncryptRequest(
    unique_identifier="k",
    cryptographic_parameters=CryptographicParameters(block_cipher_mode=BlockCipherMode.GCM, tag_length=16),
    data=b"plaintext",
    authenticated_encryption_additional_data=b"aad",
)
BATCH = (ENCRYPT, ActivateRequest(unique_identifier="a"), DestroyRequest())


def item(tag: int, kind: ItemType, value: object) -> Item:
    return Item(tag=tag, type=kind, value=value)  # type: ignore[arg-type]


def change(raw: bytes, at: tuple[int, ...], edit: object) -> bytes:
    """Return the message with the children of the structure at this path edited."""

    def walk(node: Item, path: tuple[int, ...]) -> Item:
        children = list(node.value)  # type: ignore[arg-type]
        if path:
            children[path[0]] = walk(children[path[0]], path[1:])
        else:
            children = edit(children)  # type: ignore[operator]
        return Item(tag=node.tag, type=node.type, value=tuple(children))

    return write_item(walk(read_item(raw), at))


def extension(critical: bool) -> Item:
    return item(
        Tag.MESSAGE_EXTENSION,
        ItemType.STRUCTURE,
        (
            item(Tag.VENDOR_IDENTIFICATION, ItemType.TEXT_STRING, "acme"),
            item(Tag.CRITICALITY_INDICATOR, ItemType.BOOLEAN, critical),
            item(Tag.VENDOR_EXTENSION, ItemType.STRUCTURE, (item(0x540001, ItemType.INTEGER, 1),)),
        ),
    )


def test_a_batch_is_cut_into_items_that_are_read_one_by_one():
    request = decode_request(encode_request(*BATCH))
    assert request.version == KMIP_1_4
    assert [one.operation for one in request.items] == [Operation.ENCRYPT, Operation.ACTIVATE, Operation.DESTROY]
    assert [one.unique_batch_item_id for one in request.items] == [b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\3"]
    assert tuple(decode_payload(one, request.version) for one in request.items) == BATCH


def test_an_unknown_operation_fails_its_item_alone():
    raw = change(
        encode_request(*BATCH), (2,), lambda c: [item(Tag.OPERATION, ItemType.ENUMERATION, 0x80000001), *c[1:]]
    )
    request = decode_request(raw)
    with pytest.raises(OperationNotSupported):
        decode_payload(request.items[1], request.version)
    assert decode_payload(request.items[2], request.version) == DestroyRequest()


def test_an_operation_newer_than_the_version_is_not_supported():
    for payload, oldest in ((EncryptRequest(data=b"x"), KMIP_1_2), (DiscoverVersionsRequest(), KMIP_1_1)):
        for version in SUPPORTED_VERSIONS:
            request = decode_request(encode_request(payload, version=version))
            if version.protocol_version_minor >= oldest.protocol_version_minor:
                assert decode_payload(request.items[0], version) == payload
            else:
                with pytest.raises(OperationNotSupported):
                    decode_payload(request.items[0], version)


def test_an_unknown_field_and_a_malformed_payload_fail_their_item_alone():
    stray = item(Tag.Q_STRING, ItemType.BYTE_STRING, b"?")
    wrong = item(Tag.UNIQUE_IDENTIFIER, ItemType.INTEGER, 1)
    twice = item(Tag.UNIQUE_IDENTIFIER, ItemType.TEXT_STRING, "a")
    for added, error in ((stray, FieldNotValid), (wrong, MalformedMessage), (twice, MalformedMessage)):
        request = decode_request(change(encode_request(*BATCH), (2, 2), lambda c, added=added: [*c, added]))
        with pytest.raises(error):
            decode_payload(request.items[1], request.version)
        assert decode_payload(request.items[0], request.version) == ENCRYPT


def test_a_value_outside_its_enumeration_is_an_invalid_field_and_query_functions_are_open():
    raw = change(encode_request(ENCRYPT), (1, 1, 1), lambda c: [item(Tag.BLOCK_CIPHER_MODE, ItemType.ENUMERATION, 99)])
    request = decode_request(raw)
    with pytest.raises(FieldNotValid):
        decode_payload(request.items[0], request.version)
    query = QueryRequest(query_function=(QueryFunction.QUERY_OPERATIONS, 0x0F))
    request = decode_request(encode_request(query))
    assert decode_payload(request.items[0], request.version) == query


def test_a_critical_extension_fails_its_item_and_another_is_ignored():
    raw = encode_request(*BATCH)
    request = decode_request(change(raw, (2,), lambda c: [*c, extension(critical=False), extension(critical=True)]))
    with pytest.raises(CriticalExtension) as refused:
        decode_payload(request.items[1], request.version)
    assert refused.value.reason is ResultReason.FEATURE_NOT_SUPPORTED
    assert decode_payload(request.items[0], request.version) == ENCRYPT
    request = decode_request(change(raw, (2,), lambda c: [*c, extension(critical=False)]))
    assert decode_payload(request.items[1], request.version) == BATCH[1]


def test_a_message_that_is_not_well_formed_is_refused_as_a_whole():
    raw = encode_request(*BATCH)
    stray = item(Tag.Q_STRING, ItemType.BYTE_STRING, b"?")
    for bad in (
        b"",
        raw[:-8],
        raw + bytes(8),
        change(raw, (), lambda c: c[1:]),
        change(raw, (), lambda c: c[:-1]),
        change(raw, (), lambda c: [*c, c[-1]]),
        change(raw, (), lambda c: [*c, stray]),
        change(raw, (0,), lambda c: [*c, stray]),
        change(raw, (0,), lambda c: c[1:]),
        change(raw, (1,), lambda c: c[1:]),
        change(raw, (1,), lambda c: c[:-1]),
        change(raw, (1,), lambda c: [*c, stray]),
    ):
        with pytest.raises(MalformedMessage) as refused:
            decode_request(bad)
        assert refused.value.reason is ResultReason.INVALID_MESSAGE


@pytest.mark.parametrize(("major", "minor"), [(0, 9), (1, 5), (1, -1), (2, 0), (2, 1)])
def test_a_version_that_is_not_spoken_is_named_as_such(major, minor):
    version = ProtocolVersion(protocol_version_major=major, protocol_version_minor=minor)
    with pytest.raises(VersionNotSupported):
        decode_request(encode_request(*BATCH, version=version))


def test_limits_are_checked_on_what_is_announced():
    raw = encode_request(*BATCH)
    decode_request(raw, limits=Limits(max_message_bytes=len(raw), max_batch_items=3))
    for limits in (Limits(max_message_bytes=len(raw) - 1), Limits(max_batch_items=2)):
        with pytest.raises(MessageTooLarge):
            decode_request(raw, limits=limits)
    header = RequestHeader(protocol_version=KMIP_1_4, batch_count=1 << 30)
    with pytest.raises(MessageTooLarge):
        decode_request(encode_request(ENCRYPT, header=header))
    with pytest.raises(MalformedMessage):
        decode_request(encode_request(ENCRYPT, header=RequestHeader(protocol_version=KMIP_1_4, batch_count=-1)))


def test_headers_are_remembered_but_none_with_a_credential_or_a_time():
    kmip_requests._HEADERS.clear()
    user = CredentialValue(username="user", password="secret")
    credential = Credential(credential_type=CredentialType.USERNAME_AND_PASSWORD, credential_value=user)
    for header in (
        RequestHeader(protocol_version=KMIP_1_4, time_stamp=1, batch_count=1),
        RequestHeader(
            protocol_version=KMIP_1_4, authentication=Authentication(credential=(credential,)), batch_count=1
        ),
    ):
        assert decode_request(encode_request(ENCRYPT, header=header)).header == header
    assert not kmip_requests._HEADERS
    for count in range(600):
        header = RequestHeader(protocol_version=KMIP_1_4, maximum_response_size=count, batch_count=1)
        assert decode_request(encode_request(ENCRYPT, header=header)).header == header
    assert 0 < len(kmip_requests._HEADERS) <= kmip_requests.MAX_MEMO_ENTRIES


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_and_cut_requests_give_only_the_codecs_own_errors(data):
    raw = bytearray(encode_request(*BATCH, version=data.draw(st.sampled_from(SUPPORTED_VERSIONS))))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))])
    try:
        request = decode_request(cut)
    except KmipError:
        return
    for one in request.items:
        try:
            decode_payload(one, request.version)
        except KmipError:
            continue


def answer(payload: object, version: ProtocolVersion, operation: Operation = Operation.ENCRYPT) -> object:
    raw = encode_item(operation, None, ResultStatus.SUCCESS, None, None, payload, version)  # type: ignore[arg-type]
    return decode_response(encode_response([raw], version, 1_700_000_000)).items[0].payload


def test_a_response_carries_the_requests_version_time_and_items_in_order():
    for version in SUPPORTED_VERSIONS:
        items = [
            encode_item(
                Operation.ACTIVATE,
                b"\1",
                ResultStatus.SUCCESS,
                None,
                None,
                ActivateResponse(unique_identifier="a"),
                version,
            ),
            encode_item(
                Operation.GET,
                b"\2",
                ResultStatus.OPERATION_FAILED,
                ResultReason.ITEM_NOT_FOUND,
                "not found",
                None,
                version,
            ),
            encode_item(None, None, ResultStatus.OPERATION_FAILED, ResultReason.INVALID_MESSAGE, None, None, version),
        ]
        for now in (1_700_000_000, 1_700_000_000, 1_700_000_001):
            response = decode_response(encode_response(items, version, now))
            assert (response.header.protocol_version, response.header.time_stamp) == (version, now)
            assert response.header.batch_count == 3
        first, second, third = response.items
        assert first.payload == ActivateResponse(unique_identifier="a")
        assert (second.reason, second.message) == (ResultReason.ITEM_NOT_FOUND, "not found")
        assert second.unique_batch_item_id == b"\2"
        assert (third.operation, third.reason) == (None, ResultReason.INVALID_MESSAGE)


def test_the_header_kept_from_one_answer_never_serves_another():
    one = encode_item(Operation.QUERY, None, ResultStatus.SUCCESS, None, None, QueryResponse(), KMIP_1_4)
    for version in (KMIP_1_4, KMIP_1_2):
        for now in (5, 6):
            for count in (1, 2, 1):
                header = decode_response(encode_response([one] * count, version, now)).header
                assert (header.protocol_version, header.batch_count, header.time_stamp) == (version, count, now)


def test_a_correlation_value_is_repeated_to_those_who_know_it():
    raw = encode_item(Operation.QUERY, None, ResultStatus.SUCCESS, None, None, QueryResponse(), KMIP_1_4)
    for version, expected in ((KMIP_1_4, "mine"), (KMIP_1_3, None)):
        response = decode_response(encode_response([raw], version, 1, client_correlation_value="mine"))
        assert response.header.client_correlation_value == expected
        assert decode_response(encode_response([raw], version, 1)).header.client_correlation_value is None


def test_what_a_version_does_not_have_is_left_out_of_its_answer():
    encrypted = EncryptResponse(
        unique_identifier="k", data=b"c", correlation_value=b"x", authenticated_encryption_tag=b"t"
    )
    assert answer(encrypted, KMIP_1_4) == encrypted
    assert answer(encrypted, KMIP_1_3).authenticated_encryption_tag is None
    assert answer(encrypted, KMIP_1_2).correlation_value is None
    rows = (
        Attribute(attribute_name="Cryptographic Length", attribute_value=256),
        Attribute(attribute_name="Fresh", attribute_value=True),
        Attribute(attribute_name="Sensitive", attribute_value=False),
    )
    read = GetAttributesResponse(unique_identifier="k", attribute=rows)
    listed = GetAttributeListResponse(
        unique_identifier="k", attribute_name=("x-own", *[row.attribute_name for row in rows])
    )
    for version, count in ((KMIP_1_4, 3), (KMIP_1_3, 2), (KMIP_1_0, 1)):
        assert answer(read, version, Operation.GET_ATTRIBUTES).attribute == rows[:count]
        assert len(answer(listed, version, Operation.GET_ATTRIBUTE_LIST).attribute_name) == count + 1


def test_a_long_locate_answer_is_read_back():
    found = LocateResponse(located_items=10_000, unique_identifier=tuple(f"id-{number}" for number in range(10_000)))
    assert answer(found, KMIP_1_4, Operation.LOCATE) == found


def test_what_was_read_in_one_version_is_not_taken_for_known_in_an_older_one():
    salted = CryptographicParameters(block_cipher_mode=BlockCipherMode.GCM, salt_length=20)
    payload = EncryptRequest(cryptographic_parameters=salted, data=b"x")
    newest = decode_request(encode_request(payload)).items[0]
    assert decode_payload(newest, KMIP_1_4) == decode_payload(newest, KMIP_1_4) == payload
    for version in (KMIP_1_3, KMIP_1_2):
        with pytest.raises(FieldNotValid):
            decode_payload(newest, version)


def test_an_attribute_newer_than_the_version_is_an_invalid_field():
    wanted = LocateRequest(attribute=(Attribute(attribute_name="Sensitive", attribute_value=True),))
    newest = decode_request(encode_request(wanted)).items[0]
    assert decode_payload(newest, KMIP_1_4) == wanted
    with pytest.raises(FieldNotValid):
        decode_payload(newest, KMIP_1_3)


def test_what_cannot_be_written_is_the_codecs_own_error():
    for payload in (ENCRYPT, EncryptResponse(unique_identifier=7), EncryptResponse(unique_identifier="k", data="text")):
        with pytest.raises(NotEncodable):
            encode_item(Operation.ENCRYPT, None, ResultStatus.SUCCESS, None, None, payload, KMIP_1_4)
    with pytest.raises(NotEncodable):
        encode_response([], KMIP_1_4, 1 << 70)


def test_a_broken_response_is_the_codecs_own_error():
    raw = encode_response(
        [encode_item(Operation.QUERY, None, ResultStatus.SUCCESS, None, None, QueryResponse(operation=(1,)), KMIP_1_4)],
        KMIP_1_4,
        1,
    )
    for at in range(len(raw)):
        for value in (0, 1, 0xFF, raw[at] ^ 0x80):
            try:
                decode_response(raw[:at] + bytes([value]) + raw[at + 1 :])
            except KmipError:
                continue
    for size in range(len(raw)):
        with pytest.raises(KmipError):
            decode_response(raw[:size])


def test_no_repr_of_a_request_shows_its_payload():
    request = decode_request(encode_request(ENCRYPT))
    assert "plaintext" not in repr(request)
    assert write_contents(ENCRYPT, 4)[:8].hex() not in repr(request.items[0])


def _read(raw: bytes) -> object:
    """What a message comes to, or how it is refused."""
    try:
        request = decode_request(raw)
        return request.header, [(one.operation, one.payload, one.fault) for one in request.items]
    except KmipError as bad:
        return type(bad), str(bad)


def test_a_message_whose_surroundings_are_remembered_is_read_as_if_they_were_not():
    raw = encode_request(ENCRYPT)
    near = [raw + bytes(8), raw[:-8]]
    for at in range(len(raw)):
        near += [raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :] for bit in (0, 3, 7)]
    for one in near:
        kmip_requests._FRAMES.clear()
        fresh = _read(one)
        assert _read(raw) == _read(raw)
        assert _read(one) == _read(one) == fresh


def test_only_so_many_surroundings_are_remembered():
    kmip_requests._FRAMES.clear()
    for size in range(8, 8 * 600, 8):
        decode_request(encode_request(EncryptRequest(data=bytes(size))))
    assert 0 < len(kmip_requests._FRAMES) <= kmip_requests.MAX_MEMO_ENTRIES


@pytest.mark.parametrize("plain", [None, b"", b"1234567", b"12345678", bytes(1000)])
@pytest.mark.parametrize("tag", [None, bytes(16), bytes(13)])
def test_what_stands_around_strings_depends_on_all_their_lengths(plain, tag):
    answer = EncryptResponse(unique_identifier="k", data=plain, authenticated_encryption_tag=tag)
    for _ in range(2):
        raw = encode_response(
            [encode_item(0x1F, None, ResultStatus.SUCCESS, None, None, answer, KMIP_1_4)], KMIP_1_4, 0
        )
        assert decode_response(raw).items[0].payload == answer


@pytest.mark.parametrize("again", [None, b"", b"1", b"12345678", b"123456789"])
def test_a_plain_answer_is_the_same_whether_its_surroundings_are_remembered_or_not(again):
    answer = ActivateResponse(unique_identifier="k")
    responses._AROUND.clear()
    for code in (Operation.ACTIVATE, Operation.ENCRYPT):
        items = [encode_item(code, again, ResultStatus.SUCCESS, None, None, answer, KMIP_1_4) for _ in range(2)]
        assert items[0] == items[1]
        slow = encode_item(code, again, ResultStatus.SUCCESS, None, "m", answer, KMIP_1_4)
        tree = read_item(slow)
        parts = tuple(part for part in tree.value if part.tag != Tag.RESULT_MESSAGE)
        assert items[0] == write_item(Item(tag=tree.tag, type=tree.type, value=parts))


@pytest.mark.parametrize("first", [None, "k", "kk", "k" * 300])
@pytest.mark.parametrize("parameters", [None, ENCRYPT.cryptographic_parameters, CryptographicParameters()])
def test_what_a_request_begins_with_is_remembered_only_when_nothing_else_can_be_meant(first, parameters):
    some = [EncryptRequest(unique_identifier=u, cryptographic_parameters=p, data=b"d") for u in ("k", None) for p in
            (ENCRYPT.cryptographic_parameters, None)]  # fmt: skip
    one = EncryptRequest(unique_identifier=first, cryptographic_parameters=parameters)
    for payload in (*some, one, one, *some, one):
        request = decode_request(encode_request(payload))
        assert decode_payload(request.items[0], request.version) == payload
    if first and parameters == ENCRYPT.cryptographic_parameters:
        whole = write_contents(one, 4)
        with pytest.raises(MalformedMessage):  # nor is it taken from beyond the end
            reader(EncryptRequest, 4)(whole, 0, len(whole) - 8)
