"""Responses as a server writes them: items one by one, then the message around them. Pure; no clock, no socket.

Items come first, since an operation's result is ready before the header is. What the request's version does not have
is left out: fields by the table, attributes by their rules.

Source: KMIP 1.4 specification, sections 6 and 7.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Final

from openkcm.kmip.enums import ResultReason, ResultStatus
from openkcm.kmip.errors import NotEncodable
from openkcm.kmip.framing import RESPONSE
from openkcm.kmip.generate import Writer, write_contents, writer
from openkcm.kmip.messages import ResponseHeader
from openkcm.kmip.payloads import PAYLOADS
from openkcm.kmip.schema import NEWEST_MINOR, Structure
from openkcm.kmip.structures import ProtocolVersion
from openkcm.kmip.tags import Tag
from openkcm.kmip.ttlv import ItemType

__all__ = ["encode_item", "encode_response"]

_HEADER: Final = Tag.RESPONSE_HEADER << 8 | ItemType.STRUCTURE
_ITEM: Final = Tag.BATCH_ITEM << 8 | ItemType.STRUCTURE
_OPERATION: Final = Tag.OPERATION << 8 | ItemType.ENUMERATION
_BATCH_ID: Final = Tag.UNIQUE_BATCH_ITEM_ID << 8 | ItemType.BYTE_STRING
_STATUS: Final = Tag.RESULT_STATUS << 8 | ItemType.ENUMERATION
_REASON: Final = Tag.RESULT_REASON << 8 | ItemType.ENUMERATION
_MESSAGE: Final = Tag.RESULT_MESSAGE << 8 | ItemType.TEXT_STRING
_PAYLOAD: Final = Tag.RESPONSE_PAYLOAD << 8 | ItemType.STRUCTURE

_put_two = struct.Struct(">II").pack
_put_enum = struct.Struct(">IIII").pack
MAX_MEMO_ENTRIES: Final = 256
_AROUND: Final[dict[tuple[int, int, int], tuple[bytes, bytes]]] = {}
"""Operation, length of the batch item's id (-1: none), of the payload -> what stands before the id, and after it."""

_SUCCESS: Final = ResultStatus.SUCCESS
_PAD: Final = tuple(bytes(-size % 8) for size in range(8))

# Compiled at import: a bad table is found there, and no first request pays for it.
_WRITERS: Final[tuple[dict[type[Structure], Writer], ...]] = tuple(
    {payloads.response: writer(payloads.response, minor) for payloads in PAYLOADS.values()}
    for minor in range(NEWEST_MINOR + 1)
)


def _around(operation: int, id_bytes: int, payload_bytes: int) -> tuple[bytes, bytes]:
    """Return what stands before and after the id of an item that succeeded, and remember it; without one, it is one."""
    before = _put_enum(_OPERATION, 4, operation, 0)
    after = _put_enum(_STATUS, 4, _SUCCESS, 0) + _put_two(_PAYLOAD, payload_bytes)
    if id_bytes < 0:
        before, after = before + after, b""
    else:
        before, after = before + _put_two(_BATCH_ID, id_bytes), _PAD[id_bytes & 7] + after
    before = _put_two(_ITEM, len(before) + max(0, id_bytes) + len(after) + payload_bytes) + before
    if len(_AROUND) >= MAX_MEMO_ENTRIES:
        _AROUND.clear()
    _AROUND[operation, id_bytes, payload_bytes] = before, after
    return before, after


def encode_item(
    operation: int | None,
    unique_batch_item_id: bytes | None,
    status: ResultStatus,
    reason: ResultReason | None,
    message: str | None,
    payload: Structure | None,
    version: ProtocolVersion,
) -> bytes:
    """Return one batch item of a response; fields and attributes that the version does not have are left out.

    Args:
        operation: As asked; None only when the request could not be read that far.
        unique_batch_item_id: As asked.
        status: Success or not.
        reason: Given with any status but success.
        message: One line for people, no secret in it.
        payload: The response class of the operation, with success.
        version: The request's.

    Raises:
        NotEncodable: A value of the payload that its field cannot hold.
    """
    contents = None
    if payload is not None:
        write = _WRITERS[version.protocol_version_minor].get(payload.__class__)
        if write is None:
            raise NotEncodable(f"{type(payload).__name__} is no response")
        try:
            contents = write(payload)
        except (struct.error, TypeError, AttributeError, OverflowError, UnicodeEncodeError) as bad:
            raise NotEncodable(f"{type(payload).__name__}: {bad}") from bad
        if status is _SUCCESS and operation is not None and reason is None and message is None:  # the common case
            again = unique_batch_item_id
            key = (operation, -1 if again is None else len(again), len(contents))
            before, after = _AROUND.get(key) or _around(*key)
            return before + contents if again is None else b"".join((before, again, after, contents))
    parts: list[bytes] = []
    if operation is not None:
        parts.append(_put_enum(_OPERATION, 4, operation, 0))
    if unique_batch_item_id is not None:
        n = len(unique_batch_item_id)
        parts += (_put_two(_BATCH_ID, n), unique_batch_item_id, _PAD[n & 7])
    parts.append(_put_enum(_STATUS, 4, status, 0))
    if reason is not None:
        parts.append(_put_enum(_REASON, 4, reason, 0))
    if message is not None:
        text = message.encode(errors="replace")
        parts += (_put_two(_MESSAGE, len(text)), text, _PAD[len(text) & 7])
    if contents is not None:
        parts += (_put_two(_PAYLOAD, len(contents)), contents)
    raw = b"".join(parts)
    return _put_two(_ITEM, len(raw)) + raw


class _LastHeader:
    """The response header written last; a busy worker writes the same one all second long."""

    key: ClassVar[tuple[int, int, int]] = (-1, -1, -1)
    raw: ClassVar[bytes] = b""


def encode_response(
    items: list[bytes], version: ProtocolVersion, now: int, *, client_correlation_value: str | None = None
) -> bytes:
    """Return the response message of these items.

    Args:
        items: From `encode_item`, in the order of the request.
        version: The request's.
        now: The time stamp, seconds since 1970.
        client_correlation_value: The request's, repeated to clients of 1.4 that sent one.

    Raises:
        NotEncodable: A time or text that does not fit.
    """
    key = (version.protocol_version_minor, now, len(items))
    if client_correlation_value is not None or _LastHeader.key != key:
        header = ResponseHeader(
            protocol_version=version,
            time_stamp=now,
            client_correlation_value=client_correlation_value,
            batch_count=len(items),
        )
        contents = write_contents(header, version.protocol_version_minor)
        raw = _put_two(_HEADER, len(contents)) + contents
        if client_correlation_value is None:
            _LastHeader.raw, _LastHeader.key = raw, key
    else:
        raw = _LastHeader.raw
    if len(items) == 1:
        return b"".join((_put_two(RESPONSE, len(raw) + len(items[0])), raw, items[0]))
    body = b"".join((raw, *items))
    return _put_two(RESPONSE, len(body)) + body
