"""KMIP over HTTP: POST /kmip with TTLV, JSON or XML in it. Pure: bytes in, bytes out; owns no socket.

One `Web` a connection: `length` says where a request ends, `opened` gives the TTLV message in it, `replied` wraps the
TTLV response in the encoding and for the request that it answers. What is wrong with the HTTP itself is answered with
an HTTP status and a KMIP response message in it, and the connection ends. Source: KMIP Profiles 1.4, section 5.15
(HTTPS, JSON, XML profiles); RFC 9112.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from openkcm.kmip import json_text, xml_text
from openkcm.kmip.errors import MalformedMessage, MessageTooLarge
from openkcm.kmip.tags import Tag
from openkcm.kmip.ttlv import Item, read_item, write_item

__all__ = ["FIRST_BYTE", "Web"]

FIRST_BYTE: Final = ord("P")  # of a request here; TTLV begins with 0x42
MAX_HEAD_BYTES: Final = 1 << 13
PATH: Final = "/kmip"
TTLV: Final = "application/octet-stream"

#: Media type -> reader and writer; None is TTLV itself.
ENCODINGS: Final[dict[str, tuple[Callable[[bytes], Item], Callable[[Item], bytes]] | None]] = {
    TTLV: None,
    "application/json": (json_text.read, json_text.write),
    "text/xml": (xml_text.read, xml_text.write),
    "application/xml": (xml_text.read, xml_text.write),
}
_PHRASES: Final = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 411: "Length Required",
    413: "Content Too Large", 415: "Unsupported Media Type", 431: "Request Header Fields Too Large",
}  # fmt: skip


class Web:
    """The HTTP side of one connection."""

    __slots__ = ("_body", "_status", "_type")

    def __init__(self) -> None:
        self._type, self._status, self._body = TTLV, 200, 0

    def length(self, buffer: bytes | bytearray, *, limit: int) -> int | None:
        """Return how many bytes the request at the head of `buffer` has, its head included; None: not known yet.

        Raises:
            MalformedMessage: No request that is answered here. The connection cannot be continued.
        """
        end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
        if end < 0:
            if len(buffer) >= MAX_HEAD_BYTES or (len(buffer) >= 5 and not buffer.startswith(b"POST ")):
                raise self._refused(431 if len(buffer) >= MAX_HEAD_BYTES else 405, "no request with a short head")
            return None
        self._body = end + 4
        size = self._read_head(bytes(buffer[:end]).decode("latin-1"))
        if size > limit:
            self._status = 413
            raise MessageTooLarge(f"a request of {size} bytes; the most is {limit}")
        return self._body + size

    def _refused(self, status: int, why: str) -> MalformedMessage:
        self._status = status
        return MalformedMessage(f"HTTP: {why}")

    def _read_head(self, head: str) -> int:
        """Take the head of a request; return the length of its body."""
        first, *lines = head.split("\r\n")
        method, _, rest = first.partition(" ")
        target, _, version = rest.partition(" ")
        if method != "POST" or version not in {"HTTP/1.1", "HTTP/1.0"}:
            raise self._refused(405, "POST is served, and nothing else")
        if target.partition("?")[0] != PATH:
            raise self._refused(404, f"{PATH} is served, and nothing else")
        fields: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            key = name.lower()
            if not colon or not name or name != name.strip() or key in fields:
                raise self._refused(400, "a header field that cannot be read, or one given twice")
            fields[key] = value.strip()
        if "transfer-encoding" in fields or not fields.get("content-length", "").isdecimal():
            raise self._refused(411, "a Content-Length is needed, and no transfer encoding")
        media = fields.get("content-type", TTLV).partition(";")[0].strip().lower()
        if media not in ENCODINGS:
            raise self._refused(415, "the media types are application/octet-stream, application/json and text/xml")
        self._type = media
        if len(fields["content-length"]) > 9:
            raise self._refused(413, "the body is too large")
        return int(fields["content-length"])

    def opened(self, request: bytes) -> bytes:
        """Return the TTLV message in a whole request, whose length was just asked for.

        Raises:
            KmipError: The body is no message in its encoding.
        """
        body, encoding = request[self._body :], ENCODINGS[self._type]
        if encoding is None:
            return body
        item = encoding[0](body)
        if item.tag != Tag.REQUEST_MESSAGE:
            raise MalformedMessage("not a request message")
        return write_item(item)

    def replied(self, response: bytes) -> bytes:
        """Return a TTLV response as an HTTP response."""
        encoding = ENCODINGS[self._type]
        body = response if encoding is None else encoding[1](read_item(response))
        status = self._status
        head = (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: {self._type}\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\n"
        )
        if status != 200:
            head += "Connection: close\r\n"
        self._status = 200
        return head.encode() + b"\r\n" + body
