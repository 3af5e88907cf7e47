"""What the fuzzers run: bytes into a decoder, and what must hold whatever comes. Imports no fuzzer.

Only `KmipError` leaves a decoder; what is accepted is written and read again as the same; the generated readers agree
with the interpreted walker; PyKMIP, when it reads a message at all, sees the same batch. Anything else raises here.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any, Final

from openkcm.kmip import (
    PAYLOADS,
    KmipError,
    RequestItem,
    decode_payload,
    decode_request,
    decode_response,
    json_text,
    message_length,
    xml_text,
)
from openkcm.kmip.generate import read_contents, write_contents
from openkcm.kmip.http import Web
from openkcm.kmip.interpret import from_item
from openkcm.kmip.schema import Structure
from openkcm.kmip.structures import ProtocolVersion
from openkcm.kmip.ttlv import Item, ItemType, read_item, read_items, write_item

__all__ = ["TARGETS", "Disagreement"]

THEIRS_EVERY: Final = 50  # PyKMIP's reader is some hundred times slower than ours
REFUSED: Final = "refused"


class Disagreement(AssertionError):
    """Two readings of the same bytes differ."""


def ttlv(data: bytes) -> None:
    """A binary message, as a request and as a response, and as a tree of items."""
    message(data)
    try:
        tree = read_item(data)
    except KmipError:
        return
    if read_item(write_item(tree)) != tree:
        raise Disagreement("an item tree changes when it is written and read")


def message(data: bytes) -> None:
    """A binary message, as a request and as a response."""
    try:
        message_length(data)
        request = decode_request(data)
    except KmipError:
        request = None
    if request is not None:
        for item in request.items:
            payload(item, request.version)
        compare_with_pykmip(data, request)
    with contextlib.suppress(KmipError):
        decode_response(data)


def payload(item: RequestItem, version: ProtocolVersion) -> None:
    """Read a payload by the generated reader and by the walker; write it and read it again."""
    minor = version.protocol_version_minor
    try:
        found = decode_payload(item, version)
    except KmipError:
        found = REFUSED
    if item.operation not in PAYLOADS or item.fault is not None or PAYLOADS[item.operation].since > minor:
        return
    walked = interpreted(PAYLOADS[item.operation].request, item.payload, minor)
    if found != walked:
        raise Disagreement(f"generated {found!r}, walked {walked!r}")
    if found is not REFUSED and read_contents(type(found), write_contents(found, minor), minor) != found:
        raise Disagreement("a payload changes when it is written and read")


def interpreted(structure: type[Structure], data: bytes, minor: int) -> Any:
    """The slow reading."""
    try:
        return from_item(structure, Item(tag=0, type=ItemType.STRUCTURE, value=read_items(data)), minor)
    except KmipError:
        return REFUSED


def compare_with_pykmip(data: bytes, request: Any) -> None:
    """Have PyKMIP read every so many-th message that we accept: same operations, same identifiers, in the same order."""
    compare_with_pykmip.seen += 1
    if compare_with_pykmip.seen % THEIRS_EVERY != 1:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kmip.core.enums import KMIPVersion
        from kmip.core.messages.messages import RequestMessage
        from kmip.core.utils import BytearrayStream
    theirs = RequestMessage()
    try:
        theirs.read(BytearrayStream(data), KMIPVersion[f"KMIP_1_{request.version.protocol_version_minor}"])
    except Exception:  # it refuses much, and with whatever error comes
        return
    ours = [(i.operation, i.unique_batch_item_id) for i in request.items]
    seen = [
        (i.operation.value.value, i.unique_batch_item_id.value if i.unique_batch_item_id else None)
        for i in theirs.batch_items
    ]
    if seen and ours != seen:
        raise Disagreement(f"ours {ours}, PyKMIP {seen}")


compare_with_pykmip.seen = 0


def text(module: Any) -> Callable[[bytes], None]:
    """The target of an encoding: what is read is written and read again, in it and as TTLV."""

    def target(data: bytes) -> None:
        try:
            item = module.read(data)
        except KmipError:
            return
        binary, again = write_item(item), module.write(item)
        if read_item(binary) != item:
            raise Disagreement("an item read from text changes as TTLV")
        if again != data and module.read(again) != item:
            raise Disagreement("an item read from text changes when it is written and read")
        message(binary)

    return target


def http(data: bytes) -> None:
    """A request over HTTP, with whatever is in it."""
    web = Web()
    with contextlib.suppress(KmipError):
        size = web.length(data, limit=1 << 20)
        if size is not None and size <= len(data):
            ttlv(web.opened(data[:size]))


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "ttlv": ttlv, "json": text(json_text), "xml": text(xml_text), "http": http,
}  # fmt: skip
