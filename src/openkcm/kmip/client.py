"""The client's half: requests to bytes, responses from bytes. For tests, load generators and the demo. Pure; no socket.

Source: KMIP 1.4 specification, sections 6 and 7.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from openkcm.kmip.enums import Operation, ResultReason, ResultStatus
from openkcm.kmip.errors import FieldNotValid, MalformedMessage, NotEncodable, OperationNotSupported
from openkcm.kmip.framing import RESPONSE
from openkcm.kmip.generate import read_contents, write_contents
from openkcm.kmip.messages import KMIP_1_4, RequestHeader, ResponseHeader
from openkcm.kmip.payloads import PAYLOADS
from openkcm.kmip.schema import NEWEST_MINOR, Structure
from openkcm.kmip.structures import ProtocolVersion
from openkcm.kmip.tags import Tag
from openkcm.kmip.ttlv import Item, ItemType, cut, read_leaf, write_item

__all__ = ["Response", "ResponseItem", "decode_response", "encode_request"]

_OPERATION_OF: Final[dict[type[Structure], Operation]] = {
    payloads.request: operation for operation, payloads in PAYLOADS.items()
}


class ResponseItem(msgspec.Struct, frozen=True, kw_only=True):
    """One operation's result; `payload` is the response class of its operation."""

    operation: int | None
    unique_batch_item_id: bytes | None
    status: ResultStatus
    reason: ResultReason | None
    message: str | None
    payload: Any


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """One response message."""

    header: ResponseHeader
    items: tuple[ResponseItem, ...]


def _structure(tag: Tag, contents: bytes) -> bytes:
    return (tag << 8 | ItemType.STRUCTURE).to_bytes(4, "big") + len(contents).to_bytes(4, "big") + contents


def encode_request(
    *payloads: Structure,
    version: ProtocolVersion = KMIP_1_4,
    header: RequestHeader | None = None,
) -> bytes:
    """Return one request message; several payloads make a batch with identifiers 1, 2, ...

    Args:
        payloads: Request classes of `PAYLOADS`.
        version: Asked in, unless a header is given.
        header: For options beyond the version; its batch count is taken as it stands.

    Raises:
        NotEncodable: Not a request, or a value that does not fit.
    """
    head = header or RequestHeader(protocol_version=version, batch_count=len(payloads))
    minor = head.protocol_version.protocol_version_minor
    parts = [_structure(Tag.REQUEST_HEADER, write_contents(head, minor))]
    for number, payload in enumerate(payloads, 1):
        operation = _OPERATION_OF.get(type(payload))
        if operation is None:
            raise NotEncodable(f"{type(payload).__name__} is no request")
        item = write_item(Item(tag=Tag.OPERATION, type=ItemType.ENUMERATION, value=operation))
        if len(payloads) > 1:
            name = number.to_bytes(4, "big")
            item += write_item(Item(tag=Tag.UNIQUE_BATCH_ITEM_ID, type=ItemType.BYTE_STRING, value=name))
        item += _structure(Tag.REQUEST_PAYLOAD, write_contents(payload, minor))
        parts.append(_structure(Tag.BATCH_ITEM, item))
    return _structure(Tag.REQUEST_MESSAGE, b"".join(parts))


def decode_response(data: bytes) -> Response:
    """Read one response message with all its payloads.

    Raises:
        KmipError: Anything wrong with the bytes.
    """
    message = list(cut(data, 0, len(data)))
    if len(message) != 1 or message[0][0] != RESPONSE:
        raise MalformedMessage("not one response message")
    parts = list(cut(data, message[0][1], len(data)))
    if not parts or parts[0][0] != Tag.RESPONSE_HEADER << 8 | ItemType.STRUCTURE:
        raise MalformedMessage("a response without a header")
    header: ResponseHeader = read_contents(ResponseHeader, data[parts[0][1] : parts[0][2]], NEWEST_MINOR)
    minor = header.protocol_version.protocol_version_minor
    if header.protocol_version.protocol_version_major != 1 or not 0 <= minor <= NEWEST_MINOR:
        raise MalformedMessage("a response in another version")
    return Response(header=header, items=tuple(_read_result(data, *part, minor) for part in parts[1:]))


def _read_result(data: bytes, head: int, start: int, end: int, minor: int) -> ResponseItem:
    if head != Tag.BATCH_ITEM << 8 | ItemType.STRUCTURE:
        raise MalformedMessage("something else among the batch items")
    found: dict[int, Any] = {}
    payload = None
    for child, value, stop in cut(data, start, end):
        if child == Tag.RESPONSE_PAYLOAD << 8 | ItemType.STRUCTURE:
            payload = data[value:stop]
        elif child & 0xFF != ItemType.STRUCTURE:
            found[child >> 8] = read_leaf(child & 0xFF, data[value:stop])
    operation, reason = found.get(Tag.OPERATION), found.get(Tag.RESULT_REASON)
    answer = None
    if payload is not None:
        if operation not in PAYLOADS:
            raise OperationNotSupported("a response to an operation unknown here")
        answer = read_contents(PAYLOADS[operation].response, payload, minor)
    try:
        return ResponseItem(
            operation=operation,
            unique_batch_item_id=found.get(Tag.UNIQUE_BATCH_ITEM_ID),
            status=ResultStatus(found.get(Tag.RESULT_STATUS, -1)),
            reason=None if reason is None else ResultReason(reason),
            message=found.get(Tag.RESULT_MESSAGE),
            payload=answer,
        )
    except ValueError:
        raise FieldNotValid("a result with an unknown status or reason") from None
