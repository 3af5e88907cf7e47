"""Tag-Type-Length-Value, read by walking: bytes -> tree of items -> bytes. Pure; knows no structure of KMIP.

This is the slow, plain reading of KMIP 1.4 section 9.1: the oracle that the generated readers are tested against, and
the reader of what has no schema (custom attributes, vendor extensions, server information). Every length is compared
with what is really there before anything is sliced, so a message costs no more memory than its own bytes, and nesting
ends at MAX_DEPTH.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Final

import msgspec

from openkcm.kmip.errors import MalformedMessage, MessageTooLarge, NotEncodable

__all__ = [
    "FIXED_LENGTHS",
    "MAX_BIG_INTEGER_BYTES",
    "MAX_DEPTH",
    "MAX_ITEMS",
    "MAX_TEXT_BYTES",
    "Item",
    "ItemType",
    "Value",
    "cut",
    "read_item",
    "read_items",
    "read_leaf",
    "write_item",
    "write_leaf",
]

MAX_DEPTH: Final = 16  # the deepest message of KMIP 1.4 nests 11 structures; a walker's recursion must end somewhere
MAX_ITEMS: Final = 4096  # children of one structure without a schema, and occurrences of one repeated field
MAX_TEXT_BYTES: Final = 1 << 16  # the longest texts in use are URIs and descriptions of a few KiB
MAX_BIG_INTEGER_BYTES: Final = 1 << 13  # an RSA modulus of 65,536 bits; int.from_bytes and arithmetic stay cheap


class ItemType(IntEnum):
    """An item's type, one byte on the wire (section 9.1.1.2)."""

    STRUCTURE = 1
    INTEGER = 2
    LONG_INTEGER = 3
    BIG_INTEGER = 4
    ENUMERATION = 5
    BOOLEAN = 6
    TEXT_STRING = 7
    BYTE_STRING = 8
    DATE_TIME = 9
    INTERVAL = 10


FIXED_LENGTHS: Final[dict[int, int]] = {
    ItemType.INTEGER: 4,
    ItemType.LONG_INTEGER: 8,
    ItemType.ENUMERATION: 4,
    ItemType.BOOLEAN: 8,
    ItemType.DATE_TIME: 8,
    ItemType.INTERVAL: 4,
}
MAX_LENGTHS: Final[dict[int, int]] = {
    ItemType.TEXT_STRING: MAX_TEXT_BYTES,
    ItemType.BIG_INTEGER: MAX_BIG_INTEGER_BYTES,
}

Value = int | bool | str | bytes | tuple["Item", ...]


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One item. An Integer, Enumeration, Date-Time or Interval is an `int`; the type tells them apart.

    Attributes:
        tag: Three bytes; any, since vendors use 0x54xxxx.
        type: What the value is.
        value: A tuple of items for a structure.
    """

    tag: int
    type: ItemType
    value: Value

    def __repr__(self) -> str:
        """Show tag and type; never the value, which may be a secret."""
        size = f"{len(self.value)} items" if isinstance(self.value, tuple) else "..."
        return f"<Item {self.tag:06X} {self.type.name} {size}>"


_HEADER = struct.Struct(">II")
_INT, _UINT, _LONG = struct.Struct(">i"), struct.Struct(">I"), struct.Struct(">q")


def _boolean(raw: bytes) -> bool:
    if raw not in (b"\0\0\0\0\0\0\0\0", b"\0\0\0\0\0\0\0\1"):
        raise MalformedMessage("a Boolean that is neither 0 nor 1")
    return raw[7] == 1


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise MalformedMessage("a Text String that is not UTF-8") from None


def _big_integer(raw: bytes) -> int:
    if not raw or len(raw) % 8:
        raise MalformedMessage(f"a Big Integer of {len(raw)} bytes: not a multiple of 8")
    return int.from_bytes(raw, "big", signed=True)


_READ: Final[dict[int, Callable[[bytes], int | bool | str | bytes]]] = {
    ItemType.INTEGER: lambda raw: int.from_bytes(raw, "big", signed=True),
    ItemType.LONG_INTEGER: lambda raw: int.from_bytes(raw, "big", signed=True),
    ItemType.BIG_INTEGER: _big_integer,
    ItemType.ENUMERATION: lambda raw: int.from_bytes(raw, "big"),
    ItemType.BOOLEAN: _boolean,
    ItemType.TEXT_STRING: _text,
    ItemType.BYTE_STRING: bytes,
    ItemType.DATE_TIME: lambda raw: int.from_bytes(raw, "big", signed=True),
    ItemType.INTERVAL: lambda raw: int.from_bytes(raw, "big"),
}


def _big_integer_bytes(value: int) -> bytes:
    length = (value if value >= 0 else ~value).bit_length() // 64 * 8 + 8
    return value.to_bytes(length, "big", signed=True)


_WRITE: Final[dict[int, Callable[..., bytes]]] = {
    ItemType.INTEGER: _INT.pack,
    ItemType.LONG_INTEGER: _LONG.pack,
    ItemType.BIG_INTEGER: _big_integer_bytes,
    ItemType.ENUMERATION: _UINT.pack,
    ItemType.BOOLEAN: lambda value: _LONG.pack(1 if value else 0),
    ItemType.TEXT_STRING: lambda value: value.encode(),
    ItemType.BYTE_STRING: bytes,
    ItemType.DATE_TIME: _LONG.pack,
    ItemType.INTERVAL: _UINT.pack,
}
_PYTHON: Final[dict[int, type]] = {
    ItemType.STRUCTURE: tuple,
    ItemType.BOOLEAN: bool,
    ItemType.TEXT_STRING: str,
    ItemType.BYTE_STRING: bytes,
}


def read_leaf(kind: int, raw: bytes) -> int | bool | str | bytes:
    """Return the value of one item that is not a structure.

    Args:
        kind: The item's type.
        raw: The value's bytes without padding; their number is the item's length.

    Raises:
        MalformedMessage: An unknown type, a length that the type cannot have, or bytes that are no such value.
    """
    fixed, most = FIXED_LENGTHS.get(kind), MAX_LENGTHS.get(kind)
    if fixed is not None and len(raw) != fixed:
        raise MalformedMessage(f"a value of type {kind} in {len(raw)} bytes; it has {fixed}")
    if most is not None and len(raw) > most:
        raise MessageTooLarge(f"a value of type {kind} in {len(raw)} bytes; the most is {most}")
    reader = _READ.get(kind)
    if reader is None:
        raise MalformedMessage(f"an item of unknown type {kind}")
    return reader(raw)


def write_leaf(kind: int, value: object) -> bytes:
    """Return the value's bytes without padding.

    Raises:
        NotEncodable: The value is not of that type, or outside its range.
    """
    if not isinstance(value, _PYTHON.get(kind, int)):
        raise NotEncodable(f"a value of type {kind} cannot be a {type(value).__name__}")
    try:
        return _WRITE[kind](value)
    except (KeyError, struct.error, OverflowError, UnicodeEncodeError) as bad:
        raise NotEncodable(f"a value of type {kind} that does not fit: {type(bad).__name__}") from None


def read_items(data: bytes, start: int = 0, end: int | None = None, *, depth: int = 0) -> tuple[Item, ...]:
    """Return the items that fill `data[start:end]` exactly.

    Raises:
        MalformedMessage: They do not fill it exactly, or one of them is broken.
        MessageTooLarge: Nested deeper than MAX_DEPTH, or more than MAX_ITEMS in one structure.
    """
    stop = len(data) if end is None else end
    if depth > MAX_DEPTH:
        raise MessageTooLarge(f"structures nested deeper than {MAX_DEPTH}")
    found: list[Item] = []
    offset = start
    while offset < stop:
        if len(found) == MAX_ITEMS:
            raise MessageTooLarge(f"more than {MAX_ITEMS} items in one structure")
        item, offset = _read(data, offset, stop, depth)
        found.append(item)
    return tuple(found)


def read_item(data: bytes) -> Item:
    """Return the one item that fills `data` exactly.

    Raises:
        MalformedMessage: As `read_items`, or not exactly one.
    """
    item, offset = _read(data, 0, len(data), 0)
    if offset != len(data):
        raise MalformedMessage(f"{len(data) - offset} bytes after the item")
    return item


def _read(data: bytes, offset: int, stop: int, depth: int) -> tuple[Item, int]:
    if stop - offset < _HEADER.size:
        raise MalformedMessage("less than an item's header is left")
    head, length = _HEADER.unpack_from(data, offset)
    value = offset + _HEADER.size
    after = value + (length + 7 & -8)
    if after > stop:
        raise MalformedMessage(f"an item of {length} bytes where {stop - value} are left")
    tag, kind = head >> 8, head & 0xFF
    if kind != ItemType.STRUCTURE:
        leaf = read_leaf(kind, data[value : value + length])
        return Item(tag=tag, type=ItemType(kind), value=leaf), after
    if length % 8:
        raise MalformedMessage(f"a structure of {length} bytes: not a multiple of 8")
    children = read_items(data, value, after, depth=depth + 1)
    return Item(tag=tag, type=ItemType.STRUCTURE, value=children), after


def cut(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (tag and type in one word, start, end of the value) of the items in `data[start:end]`, reading no value.

    Raises:
        MalformedMessage: They do not fill it exactly.
    """
    offset = start
    while offset < end:
        if end - offset < _HEADER.size:
            raise MalformedMessage("less than an item's header is left")
        head, length = _HEADER.unpack_from(data, offset)
        value = offset + _HEADER.size
        offset = value + (length + 7 & -8)
        if offset > end or (head & 0xFF == ItemType.STRUCTURE and length % 8):
            raise MalformedMessage(f"an item of {length} bytes where {end - value} are left")
        yield head, value, value + length


def write_item(item: Item) -> bytes:
    """Return the item's bytes, padded.

    Raises:
        NotEncodable: A value that does not fit its type.
    """
    if item.type == ItemType.STRUCTURE:
        if not isinstance(item.value, tuple):
            raise NotEncodable(f"a structure's value is a tuple of items, not {type(item.value).__name__}")
        raw = b"".join(map(write_item, item.value))
    else:
        raw = write_leaf(item.type, item.value)
    return _HEADER.pack(item.tag << 8 | item.type, len(raw)) + raw + bytes(-len(raw) % 8)
