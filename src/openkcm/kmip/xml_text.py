"""TTLV as XML and back. Pure; resolves no entity, reads no document type.

Source: KMIP Additional Message Encodings 1.0, section 4.

An element is an item: its name the tag (or `TTLV` with an attribute `tag`), `type` the type (none: Structure), `value`
the value. Depth and number of items are limited while they are read.
"""

from __future__ import annotations

from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from openkcm.kmip import texts
from openkcm.kmip.errors import KmipError, MalformedMessage, MessageTooLarge
from openkcm.kmip.tags import Tag
from openkcm.kmip.ttlv import MAX_DEPTH, MAX_ITEMS, Item, ItemType

__all__ = ["read", "write"]

_ANY: Final = "TTLV"
MAX_ELEMENTS: Final = 1 << 16


class _Reader:
    """Builds the tree from expat's events. `_open`: (tag, children, attribute name) of each element around us."""

    def __init__(self) -> None:
        self._open: list[tuple[int, list[Item], str | None]] = []
        self._leaf = False
        self._elements = 0
        self.root: Item | None = None

    def start(self, name: str, given: dict[str, str]) -> None:
        self._elements += 1
        if self._leaf or self.root is not None:
            raise MalformedMessage("an element inside a value, or after the message")
        if self._elements > MAX_ELEMENTS:
            raise MessageTooLarge(f"more than {MAX_ELEMENTS} elements")
        tag = texts.read_tag(given.get("tag", "") if name == _ANY else name)
        kind = texts.TYPES.get(given.get("type", "Structure"))
        if kind is None:
            raise MalformedMessage("an element of an unknown type")
        if kind is ItemType.STRUCTURE:
            if len(self._open) == MAX_DEPTH:
                raise MessageTooLarge(f"structures nested deeper than {MAX_DEPTH}")
            self._open.append((tag, [], None))
            return
        if not self._open:
            raise MalformedMessage("a message is a structure")
        parent, children, attribute = self._open[-1]
        if len(children) == MAX_ITEMS:
            raise MessageTooLarge(f"more than {MAX_ITEMS} items in one structure")
        value = texts.read_value(kind, tag, given.get("value", ""), attribute)
        children.append(Item(tag=tag, type=kind, value=value))
        if tag == Tag.ATTRIBUTE_NAME:
            self._open[-1] = (parent, children, str(value))
        self._leaf = True

    def end(self, _name: str) -> None:
        if self._leaf:
            self._leaf = False
            return
        tag, children, _ = self._open.pop()
        item = Item(tag=tag, type=ItemType.STRUCTURE, value=tuple(children))
        if not self._open:
            self.root = item
            return
        around = self._open[-1][1]
        if len(around) == MAX_ITEMS:
            raise MessageTooLarge(f"more than {MAX_ITEMS} items in one structure")
        around.append(item)


def _no_doctype(*_: object) -> None:
    raise MalformedMessage("a document type is not read")


def read(data: bytes) -> Item:
    """Return the item that an XML document spells.

    Raises:
        KmipError: It is no XML, or no TTLV in XML.
    """
    reader, parser = _Reader(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.StartDoctypeDeclHandler = _no_doctype
    try:
        parser.Parse(data, True)
    except KmipError:
        raise
    except (expat.ExpatError, ValueError, LookupError):
        raise MalformedMessage("no well-formed XML") from None
    if reader.root is None:
        raise MalformedMessage("XML without a message")
    return reader.root


def write(item: Item) -> bytes:
    """Return the item as an XML document in UTF-8."""
    parts: list[str] = []
    _write(item, None, parts)
    return "".join(parts).encode(errors="replace")


def _write(item: Item, attribute: str | None, parts: list[str]) -> None:
    name = texts.write_tag(item.tag)
    head = f"<{name}" if name else f'<{_ANY} tag="0x{item.tag:06X}"'
    if isinstance(item.value, tuple):
        parts.append(head + ">")
        inner: str | None = None
        for child in item.value:
            _write(child, inner, parts)
            if child.tag == Tag.ATTRIBUTE_NAME:
                inner = str(child.value)
        parts.append(f"</{name or _ANY}>")
        return
    text = quoteattr(texts.value_text(item, attribute, " "))
    parts.append(f'{head} type="{texts.TYPE_NAMES[item.type]}" value={text}/>')
