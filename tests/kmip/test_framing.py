"""Where a message ends, and what is refused before a byte of it is awaited."""

from __future__ import annotations

import pytest

from openkcm.kmip import MAX_MESSAGE_BYTES, MAX_UNAUTHENTICATED_BYTES, MalformedMessage, MessageTooLarge, message_length
from openkcm.kmip.framing import RESPONSE


def head(length: int, tag: str = "42007801") -> bytes:
    return bytes.fromhex(tag) + length.to_bytes(4, "big")


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_a_length_is_told_as_soon_as_eight_bytes_are_there(buffer):
    raw = head(96)
    assert [message_length(buffer(raw[:size])) for size in range(8)] == [None] * 8
    assert message_length(buffer(raw)) == 104
    assert message_length(buffer(raw + b"more")) == 104


@pytest.mark.parametrize(
    "start", [b"\x16", b"\x16\x03\x01", b"GET / HTTP", b"\0" * 8, head(8, "42007B01"), head(8, "42007802")]
)
def test_another_protocol_is_refused_from_its_first_byte(start):
    with pytest.raises(MalformedMessage):
        message_length(start)


def test_a_client_expects_the_other_kind_of_message():
    assert message_length(head(8, "42007B01"), expected=RESPONSE) == 16


@pytest.mark.parametrize("limit", [MAX_UNAUTHENTICATED_BYTES, MAX_MESSAGE_BYTES])
def test_the_announced_length_is_held_to_the_limit(limit):
    assert message_length(head(limit - 8), limit=limit) == limit
    for announced in (limit, 0xFFFFFFF8):
        with pytest.raises(MessageTooLarge):
            message_length(head(announced), limit=limit)


def test_a_length_that_is_no_multiple_of_eight_is_refused():
    with pytest.raises(MalformedMessage):
        message_length(head(12))
