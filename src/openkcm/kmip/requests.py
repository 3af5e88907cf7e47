"""Requests as a server sees them: bytes -> items, then payloads one by one. Pure; no clock, no socket.

A request is opened in two steps. `decode_request` reads the header and cuts the batch into items, each with its
operation and where its payload lies; whatever is wrong there makes the whole message invalid. `decode_payload` then
reads one item by its own operation, so that an unknown operation, an unknown field or a critical extension fails that
item alone. What stands around the payload of a message with one item is remembered by its bytes: the same bytes again,
lengths included, are the same message around another payload of the same size.

Source: KMIP 1.4 specification, sections 6 and 7.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NoReturn

import msgspec

from openkcm.kmip.errors import (
    CriticalExtension,
    FieldNotValid,
    KmipError,
    MalformedMessage,
    MessageTooLarge,
    OperationNotSupported,
    VersionNotSupported,
)
from openkcm.kmip.framing import REQUEST
from openkcm.kmip.generate import Reader, read_contents, reader
from openkcm.kmip.messages import DEFAULT_LIMITS, Limits, RequestHeader
from openkcm.kmip.payloads import PAYLOADS
from openkcm.kmip.schema import NEWEST_MINOR
from openkcm.kmip.structures import MessageExtension, ProtocolVersion
from openkcm.kmip.tags import Tag
from openkcm.kmip.ttlv import ItemType

__all__ = ["Request", "RequestItem", "decode_payload", "decode_request"]

MAX_MEMO_ENTRIES: Final = 256  # one workload's clients send a handful; a hostile one can only make us forget
MAX_MEMO_BYTES: Final = 256  # a header without credentials is under 200 bytes


class RequestItem(msgspec.Struct, frozen=True, gc=False):
    """One operation of a batch, its payload not yet read.

    Attributes:
        operation: The wire's number, maybe of no `Operation`.
        unique_batch_item_id: To be repeated in the answer.
        message, start, end: Where the contents of its Request Payload lie.
        fault: What fails this item whatever its payload; `decode_payload` raises it.
    """

    operation: int
    unique_batch_item_id: bytes | None
    message: bytes
    start: int
    end: int
    fault: KmipError | None = None

    @property
    def payload(self) -> bytes:
        """The contents of the Request Payload, raw."""
        return self.message[self.start : self.end]

    def __repr__(self) -> str:
        """Show the operation and sizes, never the payload."""
        return f"<RequestItem operation {self.operation:#x}, {self.end - self.start} bytes>"


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request message."""

    header: RequestHeader
    items: list[RequestItem]

    @property
    def version(self) -> ProtocolVersion:
        """The version asked in, which is the one to answer in."""
        return self.header.protocol_version


_HEADER: Final = Tag.REQUEST_HEADER << 8 | ItemType.STRUCTURE
_VERSION: Final = Tag.PROTOCOL_VERSION << 8 | ItemType.STRUCTURE
_MAJOR: Final = Tag.PROTOCOL_VERSION_MAJOR << 8 | ItemType.INTEGER
_MINOR: Final = Tag.PROTOCOL_VERSION_MINOR << 8 | ItemType.INTEGER
_ITEM: Final = Tag.BATCH_ITEM << 8 | ItemType.STRUCTURE
_OPERATION: Final = Tag.OPERATION << 8 | ItemType.ENUMERATION
_BATCH_ID: Final = Tag.UNIQUE_BATCH_ITEM_ID << 8 | ItemType.BYTE_STRING
_PAYLOAD: Final = Tag.REQUEST_PAYLOAD << 8 | ItemType.STRUCTURE
_EXTENSION: Final = Tag.MESSAGE_EXTENSION << 8 | ItemType.STRUCTURE

_one = struct.Struct(">I").unpack_from
_two = struct.Struct(">II").unpack_from
_four = struct.Struct(">IIII").unpack_from
_eight = struct.Struct(">IIIIIIII").unpack_from
_version_of = struct.Struct(">IIIIiIIIiI").unpack_from

# Compiled at import: a bad table is found there, and no first request pays for it.
_READERS: Final[dict[tuple[int, int], Reader]] = {
    (int(operation), minor): reader(payloads.request, minor)
    for operation, payloads in PAYLOADS.items()
    for minor in range(payloads.since, NEWEST_MINOR + 1)
}

_HEADERS: Final[dict[bytes, RequestHeader]] = {}
_BEFORE_PAYLOAD: Final = 48  # message and header, batch item and operation, payload: what is announced of them
_FRAMES: Final[dict[bytes, tuple[int, RequestHeader, int]]] = {}
"""Everything before the payload of a message with one item -> (length of the message, header, operation)."""


def _malformed(what: str) -> NoReturn:
    raise MalformedMessage(what)


def _read_header(raw: bytes) -> RequestHeader:
    """Return the header in `raw`, and remember it when it is one that comes again and holds no credential."""
    if len(raw) < 40:
        _malformed("a header without a protocol version")
    version, _, major_head, _, major, _, minor_head, _, minor, _ = _version_of(raw)
    if (version, major_head, minor_head) != (_VERSION, _MAJOR, _MINOR):
        _malformed("a header that does not begin with its protocol version")
    if major != 1 or not 0 <= minor <= NEWEST_MINOR:
        raise VersionNotSupported(f"KMIP {major}.{minor}; 1.0 to 1.{NEWEST_MINOR} are spoken")
    try:
        header: RequestHeader = read_contents(RequestHeader, raw, minor)
    except FieldNotValid as bad:
        raise MalformedMessage(f"the header: {bad}") from None  # no item to fail alone
    if (
        len(raw) <= MAX_MEMO_BYTES
        and header.authentication is None
        and header.time_stamp is None
        and header.client_correlation_value is None
    ):
        if len(_HEADERS) >= MAX_MEMO_ENTRIES:
            _HEADERS.clear()
        _HEADERS[raw] = header
    return header


def _read_extensions(data: bytes, offset: int, end: int, minor: int) -> KmipError | None:
    """Read the message extensions that follow a payload; the fault of a critical one is returned."""
    fault: KmipError | None = None
    while offset < end:
        header, length = _two(data, offset)
        start, offset = offset + 8, offset + 8 + length
        if header != _EXTENSION or offset > end or length % 8:
            _malformed("a batch item has something other than message extensions after its payload")
        try:
            extension: MessageExtension = read_contents(MessageExtension, data[start:offset], minor)
        except FieldNotValid as bad:
            fault = bad
            continue
        if extension.criticality_indicator:
            fault = CriticalExtension("a critical message extension, and none is known here")
    return fault


def decode_request(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Request:
    """Read the header of one request and cut its batch into items.

    Args:
        data: Exactly one message.
        limits: What it may be.

    Raises:
        MalformedMessage: The message as a whole cannot be answered item by item.
        VersionNotSupported: Not KMIP 1.0 to 1.4.
        MessageTooLarge: Over a limit.
    """
    size = len(data)
    if size > limits.max_message_bytes:
        raise MessageTooLarge(f"a message of {size} bytes; the most is {limits.max_message_bytes}")
    if size < 16 or size & 7:
        _malformed(f"a message of {size} bytes")
    head_length = _one(data, 12)[0]
    if head_length <= MAX_MEMO_BYTES:
        payload = _BEFORE_PAYLOAD + head_length
        frame = _FRAMES.get(data[:payload])
        if frame is not None and frame[0] == size:
            return Request(frame[1], [RequestItem(frame[2], None, data, payload, size)])
    message, length, head, head_length = _four(data, 0)
    offset = 16 + head_length
    if message != REQUEST or length + 8 != size or head != _HEADER or offset > size or head_length & 7:
        _malformed("not a request message with a header, of the length it announces")
    raw = data[16:offset]
    header = _HEADERS.get(raw) or _read_header(raw)
    if header.batch_count > limits.max_batch_items:
        raise MessageTooLarge(f"a batch of {header.batch_count} items; the most is {limits.max_batch_items}")
    items: list[RequestItem] = []
    while offset < size:
        if size - offset < 32:
            _malformed("a batch item without operation and payload")
        item, length, head, head_length, operation, _, next_head, next_length = _eight(data, offset)
        end = offset + 8 + length
        if item != _ITEM or end > size or length & 7 or length < 24 or head != _OPERATION or head_length != 4:
            _malformed("a batch item that does not fit the message, or does not begin with its operation")
        if len(items) == header.batch_count:
            _malformed("more batch items than the header counts")
        start, batch_id = offset + 32, None
        if next_head == _BATCH_ID:
            at = start + (next_length + 7 & -8)
            if at + 8 > end:
                _malformed("a batch item without a payload")
            batch_id = data[start : start + next_length]
            next_head, next_length = _two(data, at)
            start = at + 8
        at = start + next_length
        if next_head != _PAYLOAD or at > end or next_length & 7:
            _malformed("a batch item without a payload, or one longer than the item")
        fault = None if at == end else _read_extensions(data, at, end, header.protocol_version.protocol_version_minor)
        items.append(RequestItem(operation, batch_id, data, start, at, fault))
        offset = end
    if len(items) != header.batch_count:
        _malformed("fewer batch items than the header counts")
    if len(items) == 1 and batch_id is None and at == size and raw in _HEADERS:
        if len(_FRAMES) >= MAX_MEMO_ENTRIES:
            _FRAMES.clear()
        _FRAMES[data[:start]] = (size, header, operation)
    return Request(header, items)


def decode_payload(item: RequestItem, version: ProtocolVersion) -> Any:
    """Read one item's payload, by its own operation and in the request's version.

    Returns:
        The request class of `PAYLOADS[item.operation]`.

    Raises:
        KmipError: The item's fault, an operation unknown in this version (OperationNotSupported), a field or value that
            it does not have (FieldNotValid), anything else wrong with the bytes (MalformedMessage). Nothing else.
    """
    if item.fault is not None:
        raise item.fault
    read = _READERS.get((item.operation, version.protocol_version_minor))
    if read is None:
        raise OperationNotSupported(f"operation 0x{item.operation:08X} in KMIP 1.{version.protocol_version_minor}")
    try:
        return read(item.message, item.start, item.end)
    except UnicodeDecodeError:
        raise MalformedMessage("a Text String that is not UTF-8") from None
