"""The generated codec against the plain walker: every structure, every version, every attribute."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openkcm.kmip import (
    ATTRIBUTES,
    PAYLOADS,
    Attribute,
    Item,
    ItemType,
    KmipError,
    NotEncodable,
    RequestHeader,
    ResponseHeader,
    Structure,
    Tag,
    custom_attribute,
    decode_attributes,
    encode_attributes,
    is_custom,
)
from openkcm.kmip import objects as kmip_objects
from openkcm.kmip import structures as kmip_structures
from openkcm.kmip.generate import read_contents, write_contents
from openkcm.kmip.interpret import from_item, to_item
from openkcm.kmip.schema import Kind, fields_of
from openkcm.kmip.ttlv import read_items, write_item

MINORS = [4, 3, 2, 1, 0]
QUICK = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))

S32 = st.integers(-(1 << 31), (1 << 31) - 1)
U32 = st.integers(0, (1 << 32) - 1)
S64 = st.integers(-(1 << 63), (1 << 63) - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
BYTES = st.binary(max_size=20)
LEAVES: dict[ItemType, st.SearchStrategy[Any]] = {
    ItemType.INTEGER: S32,
    ItemType.LONG_INTEGER: S64,
    ItemType.BIG_INTEGER: st.integers(-(1 << 200), 1 << 200),
    ItemType.ENUMERATION: U32,
    ItemType.BOOLEAN: st.booleans(),
    ItemType.TEXT_STRING: TEXT,
    ItemType.BYTE_STRING: BYTES,
    ItemType.DATE_TIME: S64,
    ItemType.INTERVAL: U32,
}
LEAF_ITEMS = st.one_of(
    *[
        st.builds(Item, tag=st.just(Tag.ATTRIBUTE_VALUE), type=st.just(kind), value=value)
        for kind, value in LEAVES.items()
    ]
)
ITEMS = st.recursive(
    LEAF_ITEMS,
    lambda inner: st.builds(
        Item,
        tag=st.just(Tag.ATTRIBUTE_VALUE),
        type=st.just(ItemType.STRUCTURE),
        value=st.lists(inner, max_size=3).map(tuple),
    ),
    max_leaves=4,
)
INDEXES = st.none() | S32


@cache
def values(kind: Kind, minor: int) -> st.SearchStrategy[Any]:
    if kind.structure is not None:
        return instances(kind.structure, minor)
    if kind.members is not None:
        return st.sampled_from(list(kind.members))
    if kind.wire == ItemType.STRUCTURE:
        return st.lists(ITEMS, max_size=2).map(tuple)
    return LEAVES[kind.wire]


@cache
def attributes(minor: int) -> st.SearchStrategy[Attribute]:
    known = [
        st.builds(
            Attribute,
            attribute_name=st.just(rule.name),
            attribute_index=INDEXES,
            attribute_value=values(rule.kind, minor),
        )
        for rule in ATTRIBUTES.values()
        if rule.since <= minor
    ]
    own = st.builds(Attribute, attribute_name=TEXT.map("x-{}".format), attribute_index=INDEXES, attribute_value=ITEMS)
    return st.one_of(own, *known)


@cache
def instances(structure: type[Structure], minor: int) -> st.SearchStrategy[Any]:
    """Values of a structure as KMIP 1.`minor` has it, derived from the table."""
    if structure is Attribute:
        return st.deferred(lambda: attributes(minor))
    drawn: dict[str, st.SearchStrategy[Any]] = {}
    for field in fields_of(structure):
        if field.since > minor:
            continue
        one = st.one_of(*[values(kind, minor) for kind in field.kinds])
        if field.attribute_name:
            one = st.sampled_from([name for name, rule in ATTRIBUTES.items() if rule.since <= minor]) | TEXT.map(
                "x-{}".format
            )
        if field.repeated:
            drawn[field.name] = st.lists(one, max_size=2).map(tuple)
        else:
            drawn[field.name] = st.none() | one if field.optional else one
    return st.builds(structure, **drawn)


def named(module: Any) -> list[type[Structure]]:
    return [getattr(module, name) for name in module.__all__]


EVERY = sorted(
    {
        *named(kmip_structures),
        *named(kmip_objects),
        *(payloads.request for payloads in PAYLOADS.values()),
        *(payloads.response for payloads in PAYLOADS.values()),
        RequestHeader,
        ResponseHeader,
        Attribute,
    },
    key=lambda structure: structure.__name__,
)


def outcome(call: Any) -> Any:
    """What came of it: the value, or that the codec's own error did."""
    try:
        return call()
    except KmipError:
        return KmipError


def interpreted(structure: type[Structure], raw: bytes, minor: int) -> Any:
    return outcome(lambda: from_item(structure, Item(tag=0, type=ItemType.STRUCTURE, value=read_items(raw)), minor))


def by_name(structure: type[Structure]) -> str:
    return structure.__name__


@pytest.mark.parametrize("structure", EVERY, ids=by_name)
@QUICK
@given(data=st.data())
def test_what_is_written_is_read_again_and_is_what_the_plain_walker_writes_and_reads(structure, data):
    minor = data.draw(st.sampled_from(MINORS))
    value = data.draw(instances(structure, minor))
    raw = write_contents(value, minor)
    assert read_contents(structure, raw, minor) == value
    assert write_item(to_item(value, Tag.REQUEST_PAYLOAD, minor))[8:] == raw
    assert interpreted(structure, raw, minor) == value


@pytest.mark.parametrize("structure", EVERY, ids=by_name)
@QUICK
@given(data=st.data())
def test_a_damaged_structure_is_refused_by_both_or_read_the_same_by_both(structure, data):
    minor = data.draw(st.sampled_from(MINORS))
    raw = bytearray(write_contents(data.draw(instances(structure, minor)), minor))
    for _ in range(data.draw(st.integers(1, 3))):
        if raw:
            at = data.draw(st.integers(0, len(raw) - 1))
            raw[at] = data.draw(st.sampled_from([0, 1, 2, 7, 8, 0x42, 0xFF, raw[at] ^ 0x80, raw[at] ^ 1]))
    cut = data.draw(st.integers(0, len(raw)) | st.just(len(raw)))
    damaged = bytes(raw[:cut])
    assert outcome(lambda: read_contents(structure, damaged, minor)) == interpreted(structure, damaged, minor)


def too_new(value, minor):
    rule = ATTRIBUTES.get(value.attribute_name) if isinstance(value, Attribute) else None
    return rule is not None and rule.since > minor


@pytest.mark.parametrize("structure", EVERY, ids=by_name)
@QUICK
@given(data=st.data())
def test_an_older_version_gets_what_it_knows_and_can_read_it(structure, data):
    minor = data.draw(st.sampled_from(MINORS))
    value = data.draw(instances(structure, 4))
    needed = () if structure is Attribute else (f for f in fields_of(structure) if not (f.optional or f.repeated))
    if any(too_new(getattr(value, f.name), minor) for f in needed):
        with pytest.raises(NotEncodable):
            write_contents(value, minor)
        return
    try:
        raw = write_contents(value, minor)
    except KmipError:
        pytest.fail("a newer value must be writable for an older version")
    if too_new(value, minor):
        assert raw == b""
        return
    read_contents(structure, raw, minor)
    assert write_item(to_item(value, Tag.REQUEST_PAYLOAD, minor))[8:] == raw


def test_a_field_newer_than_the_version_is_an_invalid_field():
    encrypt = PAYLOADS[0x1F].request(unique_identifier="k", data=b"x", authenticated_encryption_additional_data=b"aad")
    raw = write_contents(encrypt, 4)
    assert read_contents(type(encrypt), raw, 4) == encrypt
    with pytest.raises(KmipError) as refused:
        read_contents(type(encrypt), raw, 3)
    assert refused.value.reason.name == "INVALID_FIELD"


def test_memo_tables_stay_bounded_whatever_clients_send():
    from openkcm.kmip.generate import MAX_MEMO_ENTRIES, _memo

    parameters = kmip_structures.CryptographicParameters
    for length in range(3 * MAX_MEMO_ENTRIES):
        read_contents(parameters, write_contents(parameters(tag_length=length), 4), 4)
    assert 0 < len(_memo(parameters, 4)) <= MAX_MEMO_ENTRIES


@QUICK
@given(rows=st.lists(attributes(4), max_size=6))
def test_the_catalogue_reads_back_every_attribute_it_stored(rows):
    assert decode_attributes(encode_attributes(rows)) == tuple(rows)
    some = frozenset(row.attribute_name for row in rows[::2])
    wanted = tuple(row for row in rows if row.attribute_name in some or is_custom(row.attribute_name))
    assert decode_attributes(encode_attributes(rows), some) == wanted


@pytest.mark.parametrize("bad", [b"\0" * 8, b"\x42\0\x08\1\0\0\0\x08", b"\x42\0\x08\1\0\0\0\0", b"abc"])
def test_a_broken_row_of_the_catalogue_is_refused(bad):
    with pytest.raises(KmipError):
        decode_attributes(bad)
    with pytest.raises(KmipError):
        decode_attributes(bad, frozenset())


@pytest.mark.parametrize("kind", [ItemType.INTEGER, ItemType.LONG_INTEGER, ItemType.INTERVAL, ItemType.DATE_TIME])
def test_a_custom_attribute_keeps_its_wire_type(kind):
    (back,) = decode_attributes(encode_attributes([custom_attribute("x-count", kind, 7, 2)]))
    assert back.attribute_value == Item(tag=Tag.ATTRIBUTE_VALUE, type=kind, value=7)
    assert back.attribute_index == 2


def test_a_value_of_the_wrong_type_is_our_error_and_not_the_interpreters():
    for value in ("text", b"bytes", 1 << 40, None):
        with pytest.raises(KmipError):
            encode_attributes([Attribute(attribute_name="Cryptographic Length", attribute_value=value)])


def test_no_repr_shows_a_key_a_plaintext_or_a_password():
    credential = kmip_structures.CredentialValue(username="u", password="hunter2")
    key = kmip_objects.KeyValue(key_material=b"0123456789abcdef")
    numbers = kmip_objects.TransparentKey(d=424242, modulus=15)
    text = f"{credential!r}{key!r}{numbers!r}{LEAF!r}"
    assert not any(secret in text for secret in ("hunter2", "0123456789", "424242", "s3cret"))
    assert "<16 bytes>" in text


LEAF = Item(tag=Tag.ATTRIBUTE_VALUE, type=ItemType.TEXT_STRING, value="s3cret")
