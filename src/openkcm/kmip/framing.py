"""Where one message ends in a stream of bytes. Pure: owns no socket, decodes nothing."""

from __future__ import annotations

import struct
from typing import Final

from openkcm.kmip.errors import MalformedMessage, MessageTooLarge
from openkcm.kmip.tags import Tag
from openkcm.kmip.ttlv import ItemType

__all__ = ["HEADER_BYTES", "MAX_MESSAGE_BYTES", "MAX_UNAUTHENTICATED_BYTES", "REQUEST", "RESPONSE", "message_length"]

HEADER_BYTES: Final = 8
MAX_UNAUTHENTICATED_BYTES: Final = 1 << 20  # until the sender is a known workload; the largest object is some KiB
MAX_MESSAGE_BYTES: Final = 8 << 20  # afterwards: bulk Encrypt of some MiB, batches, long Locate answers

REQUEST: Final = Tag.REQUEST_MESSAGE << 8 | ItemType.STRUCTURE
RESPONSE: Final = Tag.RESPONSE_MESSAGE << 8 | ItemType.STRUCTURE

_HEAD = struct.Struct(">II").unpack_from


def message_length(
    buffer: bytes | bytearray | memoryview, *, limit: int = MAX_UNAUTHENTICATED_BYTES, expected: int = REQUEST
) -> int | None:
    """Return how many bytes the message at the head of `buffer` has, its eight header bytes included.

    The caller reads on until it has that many. The limit is checked on the announcement, so that a peer cannot make us
    wait for, or make room for, what we would refuse.

    Args:
        buffer: What has arrived so far, from the start of a message.
        limit: The largest message accepted, in bytes.
        expected: REQUEST for a server, RESPONSE for a client.

    Returns:
        The length, or None while fewer than eight bytes are there and all fit.

    Raises:
        MalformedMessage: Another protocol, or the wrong kind of message. The stream cannot be continued.
        MessageTooLarge: Longer than `limit`. The stream cannot be continued.
    """
    if len(buffer) < HEADER_BYTES:
        if bytes(buffer[:4]) != expected.to_bytes(4, "big")[: len(buffer)]:
            raise MalformedMessage("the stream does not begin with a KMIP message")
        return None
    header, length = _HEAD(buffer)
    if header != expected:
        raise MalformedMessage("the stream does not begin with a KMIP message")
    if length % 8:
        raise MalformedMessage(f"a message of {length} bytes: not a multiple of 8")
    if length + HEADER_BYTES > limit:
        raise MessageTooLarge(f"a message of {length + HEADER_BYTES} bytes; the most is {limit}")
    size: int = length + HEADER_BYTES
    return size
