"""TTLV as JSON and back. Pure. Source: KMIP Additional Message Encodings 1.0, section 3.

An item is an object: `tag`, `type` (none: Structure), `value`; a structure's value is a list of items. Depth and number
of items are limited while they are read.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from openkcm.kmip import texts
from openkcm.kmip.errors import MalformedMessage, MessageTooLarge
from openkcm.kmip.tags import Tag
from openkcm.kmip.ttlv import MAX_DEPTH, MAX_ITEMS, Item, ItemType

__all__ = ["read", "write"]

MAX_JSON_NUMBER: Final = 1 << 52  # larger ones lose digits in other readers: they are written as hexadecimal text
_NUMBERS: Final = frozenset({ItemType.INTEGER, ItemType.LONG_INTEGER, ItemType.INTERVAL, ItemType.ENUMERATION})


def read(data: bytes) -> Item:
    """Return the item that a JSON text spells.

    Raises:
        KmipError: It is no JSON, or no TTLV in JSON.
    """
    try:
        tree = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise MalformedMessage("no well-formed JSON") from None
    item = _read(tree, None, 0)
    if item.type is not ItemType.STRUCTURE:
        raise MalformedMessage("a message is a structure")
    return item


def _read(tree: Any, attribute: str | None, depth: int) -> Item:
    if not isinstance(tree, dict) or not isinstance(tree.get("tag"), str) or tree.keys() - {"tag", "type", "value"}:
        raise MalformedMessage("an item is an object with tag, type and value")
    tag, value = texts.read_tag(tree["tag"]), tree.get("value")
    named = tree.get("type", "Structure")
    kind = texts.TYPES.get(named) if isinstance(named, str) else None
    if kind is None:
        raise MalformedMessage("an item of an unknown type")
    if kind is ItemType.STRUCTURE:
        if depth == MAX_DEPTH:
            raise MessageTooLarge(f"structures nested deeper than {MAX_DEPTH}")
        if not isinstance(value, list):
            raise MalformedMessage("the value of a structure is a list")
        if len(value) > MAX_ITEMS:
            raise MessageTooLarge(f"more than {MAX_ITEMS} items in one structure")
        children: list[Item] = []
        inner: str | None = None
        for child in value:
            item = _read(child, inner, depth + 1)
            if item.tag == Tag.ATTRIBUTE_NAME:
                inner = str(item.value)
            children.append(item)
        return Item(tag=tag, type=kind, value=tuple(children))
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int):
        value = str(value)
    if not isinstance(value, str):
        raise MalformedMessage("a value is a text, a number or a Boolean")
    return Item(tag=tag, type=kind, value=texts.read_value(kind, tag, value, attribute))


def write(item: Item) -> bytes:
    """Return the item as a JSON text in UTF-8."""
    return msgspec.json.encode(_tree(item, None))


def _tree(item: Item, attribute: str | None) -> dict[str, Any]:
    tag = texts.write_tag(item.tag) or f"0x{item.tag:06X}"
    if isinstance(item.value, tuple):
        inner: str | None = None
        children = []
        for child in item.value:
            children.append(_tree(child, inner))
            if child.tag == Tag.ATTRIBUTE_NAME:
                inner = str(child.value)
        return {"tag": tag, "value": children}
    return {"tag": tag, "type": texts.TYPE_NAMES[item.type], "value": _value(item, attribute)}


def _value(item: Item, attribute: str | None) -> str | int | bool:
    value = item.value
    if item.type is ItemType.BOOLEAN:
        return bool(value)
    text = texts.value_text(item, attribute, "|")
    if item.type is ItemType.BIG_INTEGER:
        return f"0x{text}"
    if item.type in _NUMBERS and text.lstrip("-").isdigit():
        assert isinstance(value, int)
        return value if abs(value) < MAX_JSON_NUMBER else f"0x{value & (1 << 64) - 1:016X}"
    return text
