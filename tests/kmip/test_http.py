"""KMIP over HTTP and the text encodings: what is refused, how, and that nothing but the codec's own error escapes."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openkcm.kmip import KmipError, encode_request, json_text, names, xml_text
from openkcm.kmip.enums import ResultReason, ResultStatus
from openkcm.kmip.errors import MessageTooLarge
from openkcm.kmip.http import MAX_HEAD_BYTES, Web
from openkcm.kmip.messages import KMIP_1_4
from openkcm.kmip.payloads.server import QueryRequest
from openkcm.kmip.responses import encode_item, encode_response
from openkcm.kmip.tags import Tag
from openkcm.kmip.ttlv import MAX_DEPTH, Item, ItemType, read_item, write_item

QUERY = encode_request(QueryRequest(query_function=(1, 2)))
ANSWER = encode_response(
    [encode_item(0x18, None, ResultStatus.OPERATION_FAILED, ResultReason.INVALID_FIELD, "no <&> \"'", None, KMIP_1_4)],
    KMIP_1_4,
    0,
)


def post(body=QUERY, *, line="POST /kmip HTTP/1.1", **fields):
    given = {"Content_Type": "application/octet-stream", "Content_Length": str(len(body)), **fields}
    head = "\r\n".join([line, *(f"{k.replace('_', '-')}: {v}" for k, v in given.items() if v is not None)])
    return head.encode() + b"\r\n\r\n" + body


def test_a_request_is_cut_at_its_length_and_answered_in_its_encoding():
    web, raw = Web(), post()
    for cut in range(len(raw)):
        size = web.length(raw[:cut] or b"P", limit=4096)
        assert size in (None, len(raw))
    assert web.length(raw + b"POST", limit=4096) == len(raw)
    assert web.opened(raw) == QUERY
    head, _, body = web.replied(ANSWER).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == ANSWER


@pytest.mark.parametrize(("media", "module"), [("text/xml; charset=utf-8", xml_text), ("application/json", json_text)])
def test_texts_go_in_and_out(media, module):
    web = Web()
    raw = post(module.write(read_item(QUERY)), Content_Type=media)
    assert web.length(raw, limit=1 << 20) == len(raw)
    assert web.opened(raw) == QUERY
    body = web.replied(ANSWER).partition(b"\r\n\r\n")[2]
    assert write_item(module.read(body)) == ANSWER


@pytest.mark.parametrize("module", [xml_text, json_text])
@pytest.mark.parametrize(
    "innermost", [(), (Item(tag=Tag.BATCH_COUNT, type=ItemType.INTEGER, value=1),)], ids=["empty", "leaf"]
)
def test_a_text_nests_as_deep_as_a_binary_message_and_no_deeper(module, innermost):
    """Found by the fuzzer: an empty structure one level below the deepest was read."""
    item = Item(tag=Tag.REQUEST_MESSAGE, type=ItemType.STRUCTURE, value=innermost)
    for _ in range(MAX_DEPTH - 1):
        item = Item(tag=Tag.REQUEST_MESSAGE, type=ItemType.STRUCTURE, value=(item,))
    assert module.read(module.write(item)) == read_item(write_item(item)) == item
    deeper = Item(tag=Tag.REQUEST_MESSAGE, type=ItemType.STRUCTURE, value=(item,))
    for read, spelled in ((module.read, module.write(deeper)), (read_item, write_item(deeper))):
        with pytest.raises(MessageTooLarge, match="deeper than 16"):
            read(spelled)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (post(line="GET /kmip HTTP/1.1"), 405),
        (b"PUT /kmip HTTP/1.1\r\n", 405),
        (post(line="POST /other HTTP/1.1"), 404),
        (post(line="POST /kmip HTTP/2.0"), 405),
        (post(Content_Length=None), 411),
        (post(Content_Length="-5"), 411),
        (post(Content_Length="1e3"), 411),
        (post(Content_Length="٣"), 411),
        (post(Transfer_Encoding="chunked"), 411),
        (post(Content_Type="image/png"), 415),
        (post(Content_Length="99999999999999999999"), 413),
        (post(Content_Length="5000"), 413),
        (post(Bad="x\r\n y"), 400),
        (post(content_length="3"), 400),
        (b"POST /kmip HTTP/1.1\r\nX: " + b"a" * MAX_HEAD_BYTES, 431),
    ],
    ids=lambda x: str(x)[:40],
)  # fmt: skip
def test_what_is_no_request_of_ours_gets_its_status_and_a_kmip_answer(raw, status):
    web = Web()
    with pytest.raises(KmipError):
        web.length(raw, limit=4096)
    assert web.replied(ANSWER).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<", b"<RequestMessage>", b"<a/>", b"<RequestMessage type='Integer' value='1'/>", b"{}", b"[]", b"nul",
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><RequestMessage/>',
        b"<RequestMessage><BatchCount type='Integer' value='99999999999'/></RequestMessage>",
        b"<RequestMessage><BatchCount type='Nonsense' value='1'/></RequestMessage>",
        b"<RequestMessage><BatchCount type='Integer' value='1'><X/></BatchCount></RequestMessage>",
        b"<RequestMessage/><RequestMessage/>",
        b"<RequestMessage>" * 40,
        b'{"tag":"RequestMessage","value":1}', b'{"tag":"RequestMessage","value":[1]}',
        b'{"tag":"RequestMessage","value":[],"more":1}', b'{"tag":"NoSuchTag","value":[]}',
        b'{"tag":"RequestMessage","value":[{"tag":"BatchCount","type":"Integer","value":[]}]}',
        b'{"tag":"RequestMessage","value":[{"tag":"Operation","type":"Enumeration","value":"Fly"}]}',
        b'{"tag":"RequestMessage","value":[{"tag":"TimeStamp","type":"DateTime","value":"yesterday"}]}',
        b'{"tag":"RequestMessage","value":[{"tag":"Data","type":"ByteString","value":"0g"}]}',
        b'{"tag":"RequestMessage","value":[{"tag":"X","type":"Boolean","value":"maybe"}]}',
        b'{"tag":"0x42007801","value":[]}', b'{"tag":"RequestMessage","value":' * 100,
    ],
)  # fmt: skip
def test_what_spells_no_message_is_a_codec_error(body):
    for module in (xml_text, json_text):
        with pytest.raises(KmipError):
            module.read(body)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([xml_text, json_text]), st.integers(0, 400), st.integers(0, 255))
def test_only_the_codecs_own_error_escapes(noise, module, at, byte):
    good = bytearray(module.write(read_item(QUERY)))
    good[at % len(good)] = byte
    for data in (noise, bytes(good)):
        with contextlib.suppress(KmipError):
            write_item(module.read(data))


def test_numbers_too_large_for_other_readers_of_json_are_text():
    item = Item(tag=Tag.REQUEST_MESSAGE, type=ItemType.STRUCTURE, value=(
        Item(tag=Tag.USAGE_LIMITS_TOTAL, type=ItemType.LONG_INTEGER, value=-(1 << 60)),
        Item(tag=Tag.USAGE_LIMITS_COUNT, type=ItemType.LONG_INTEGER, value=7),
        Item(tag=0x540001, type=ItemType.BIG_INTEGER, value=-1),
        Item(tag=Tag.TIME_STAMP, type=ItemType.DATE_TIME, value=1 << 62),
        Item(tag=Tag.CRYPTOGRAPHIC_USAGE_MASK, type=ItemType.INTEGER, value=12),
    ))  # fmt: skip
    tree = json.loads(json_text.write(item))["value"]
    assert [child["value"] for child in tree] == [
        "0xF000000000000000",
        7,
        "0x" + "f" * 16,
        "0x4000000000000000",
        "Encrypt|Decrypt",
    ]
    assert tree[2]["tag"] == "0x540001"
    assert json_text.read(json_text.write(item)) == item
    assert xml_text.read(xml_text.write(item)) == item


def test_every_tag_is_found_by_its_name_whatever_the_case():
    for tag in Tag:
        name = names.tag_name(tag)
        assert names.tag_number(name) == names.tag_number(name.upper()) == tag
