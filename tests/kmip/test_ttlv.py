"""The walker against the examples of the specification's section 9.1.2, and against what must be refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openkcm.kmip import Item, ItemType, KmipError, MalformedMessage, MessageTooLarge, NotEncodable
from openkcm.kmip.ttlv import MAX_DEPTH, MAX_ITEMS, cut, read_item, write_item, write_leaf

T = ItemType
EXAMPLES = [  # (type, value, bytes), all tagged 420020 as in the specification
    (T.INTEGER, 8, "42002002 00000004 00000008 00000000"),
    (T.INTEGER, -1, "42002002 00000004 FFFFFFFF 00000000"),
    (T.LONG_INTEGER, 123456789000000000, "42002003 00000008 01B69B4BA5749200"),
    (
        T.BIG_INTEGER,
        1234567890000000000000000000,
        "42002004 00000010 0000000003FD35EB6BC2DF4618080000",
    ),
    (T.BIG_INTEGER, -1, "42002004 00000008 FFFFFFFFFFFFFFFF"),
    (T.BIG_INTEGER, 1 << 63, "42002004 00000010 0000000000000000 8000000000000000"),
    (T.ENUMERATION, 255, "42002005 00000004 000000FF 00000000"),
    (T.BOOLEAN, True, "42002006 00000008 0000000000000001"),
    (T.BOOLEAN, False, "42002006 00000008 0000000000000000"),
    (T.TEXT_STRING, "Hello World", "42002007 0000000B 48656C6C6F20576F 726C640000000000"),
    (T.TEXT_STRING, "", "42002007 00000000"),
    (T.BYTE_STRING, b"\1\2\3", "42002008 00000003 0102030000000000"),
    (T.DATE_TIME, 1205495800, "42002009 00000008 0000000047DA67F8"),
    (T.INTERVAL, 864000, "4200200A 00000004 000D2F00 00000000"),
    (
        T.STRUCTURE,
        (Item(tag=0x420004, type=T.ENUMERATION, value=254), Item(tag=0x420005, type=T.INTEGER, value=255)),
        "42002001 00000020 42000405 00000004 000000FE 00000000 42000502 00000004 000000FF 00000000",
    ),
]


@pytest.mark.parametrize(("kind", "value", "text"), EXAMPLES)
def test_a_value_is_the_bytes_of_the_specification_both_ways(kind, value, text):
    item, raw = Item(tag=0x420020, type=kind, value=value), bytes.fromhex(text)
    assert write_item(item) == raw
    assert read_item(raw) == item
    assert type(read_item(raw).value) is type(value)


REFUSED = {
    "nothing": "",
    "half a header": "42002002 0000",
    "an Integer of eight bytes": "42002002 00000008 0000000000000008",
    "an Integer of no bytes": "42002002 00000000",
    "a value cut short": "42002002 00000004 000000",
    "padding cut short": "42002008 00000003 010203",
    "a Boolean of two": "42002006 00000008 0000000000000002",
    "a Big Integer of four bytes": "42002004 00000004 00000001 00000000",
    "a Big Integer of no bytes": "42002004 00000000",
    "text that is not UTF-8": "42002007 00000001 FF00000000000000",
    "a type of zero": "42002000 00000000",
    "a type of eleven": "4200200B 00000008 0000000000000000",
    "four gigabytes announced": "42002008 FFFFFFFF 0000000000000000",
    "a structure that is no multiple of eight": "42002001 00000004 00000000 00000000",
    "a child longer than its structure": "42002001 00000008 42000408 00000010 0000000000000000 0000000000000000",
    "something after the item": "42002007 00000000 00",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_broken_bytes_are_a_malformed_message(text):
    with pytest.raises(MalformedMessage):
        read_item(bytes.fromhex(text))


def nest(levels: int) -> bytes:
    raw = b""
    for _ in range(levels):
        raw = bytes.fromhex("42002001") + len(raw).to_bytes(4, "big") + raw
    return raw


def test_nesting_ends_at_its_limit():
    read_item(nest(MAX_DEPTH))
    for levels in (MAX_DEPTH + 2, 5000):
        with pytest.raises(MessageTooLarge):
            read_item(nest(levels))


def test_the_number_of_items_in_one_structure_ends_at_its_limit():
    one = bytes.fromhex("42002007 00000000")
    for count, fits in ((MAX_ITEMS, True), (MAX_ITEMS + 1, False)):
        raw = bytes.fromhex("42002001") + (8 * count).to_bytes(4, "big") + one * count
        if fits:
            assert len(read_item(raw).value) == count
        else:
            with pytest.raises(MessageTooLarge):
                read_item(raw)


@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=64))
def test_any_bytes_are_an_item_or_the_codecs_own_error(raw):
    for read in (read_item, lambda data: list(cut(data, 0, len(data)))):
        try:
            read(raw)
        except KmipError:
            continue


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (T.INTEGER, 1 << 31),
        (T.INTEGER, "1"),
        (T.ENUMERATION, -1),
        (T.INTERVAL, 1 << 32),
        (T.LONG_INTEGER, 1 << 63),
        (T.TEXT_STRING, b"bytes"),
        (T.TEXT_STRING, "\ud800"),
        (T.BYTE_STRING, "text"),
        (T.BOOLEAN, 1),
        (T.STRUCTURE, ()),
    ],
)
def test_a_value_that_does_not_fit_its_type_is_not_encodable(kind, value):
    with pytest.raises(NotEncodable):
        write_leaf(kind, value)
