"""What the JSON and XML encodings have in common: the value of one item as text. Pure.

Source: KMIP Additional Message Encodings 1.0, sections 3.1 and 4.1.

Numbers may be hexadecimal everywhere (`0x...`), enumerations and masks may be names; what is written are names where
there are some, decimal numbers, ISO 8601 dates in UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from openkcm.kmip import names
from openkcm.kmip.errors import FieldNotValid, MalformedMessage, NotEncodable
from openkcm.kmip.ttlv import MAX_BIG_INTEGER_BYTES, Item, ItemType, Value, write_leaf

__all__ = ["TYPES", "TYPE_NAMES", "read_tag", "read_value", "value_text", "write_tag"]

TYPE_NAMES: Final[dict[int, str]] = {
    ItemType.STRUCTURE: "Structure",
    ItemType.INTEGER: "Integer",
    ItemType.LONG_INTEGER: "LongInteger",
    ItemType.BIG_INTEGER: "BigInteger",
    ItemType.ENUMERATION: "Enumeration",
    ItemType.BOOLEAN: "Boolean",
    ItemType.TEXT_STRING: "TextString",
    ItemType.BYTE_STRING: "ByteString",
    ItemType.DATE_TIME: "DateTime",
    ItemType.INTERVAL: "Interval",
}
TYPES: Final = {name: ItemType(number) for number, name in TYPE_NAMES.items()}
_HEX: Final = re.compile(r"0x[0-9A-Fa-f]{1,16}\Z")
_DECIMAL: Final = re.compile(r"-?[0-9]{1,20}\Z")
_BITS: Final = {ItemType.INTEGER: 32, ItemType.LONG_INTEGER: 64, ItemType.DATE_TIME: 64}


def read_tag(text: str) -> int:
    """Return the number of a tag by its name or in hexadecimal.

    Raises:
        FieldNotValid: There is no such tag.
    """
    found = int(text, 16) if _HEX.match(text) else names.tag_number(text)
    if found is None or not 0 < found < 1 << 24:
        raise FieldNotValid("an item with a tag that the standard does not have")
    return found


def write_tag(tag: int) -> str | None:
    """Return the tag's name; None where it has to be written as a number."""
    return names.tag_name(tag)


def _number(kind: ItemType, text: str) -> int:
    if _HEX.match(text):
        value = int(text, 16)
        bits = _BITS.get(kind)
        return value - (1 << bits) if bits is not None and value >> bits - 1 == 1 else value
    if _DECIMAL.match(text):
        return int(text)
    raise MalformedMessage(f"a {kind.name} that is no number")


def _named(kind: ItemType, tag: int, text: str, attribute: str | None) -> int:
    """Return an enumeration's or a mask's number."""
    if _HEX.match(text) or _DECIMAL.match(text):
        return _number(kind, text)
    if kind is ItemType.ENUMERATION:
        members = names.enumeration_of(tag, attribute)
        value = None if members is None else names.member_value(members, text)
        if value is None:
            raise FieldNotValid("an enumeration has no value of this name")
        return value
    mask, total = names.mask_of(tag, attribute), 0
    for word in re.split(r"[\s|]+", text.strip()):
        bit = None if mask is None else names.member_value(mask, word)
        if bit is None:
            raise MalformedMessage(f"a {kind.name} that is no number")
        total |= bit
    return total


def _date(text: str) -> int:
    if _HEX.match(text) or _DECIMAL.match(text):
        return _number(ItemType.DATE_TIME, text)
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        raise MalformedMessage("a Date-Time that is neither ISO 8601 nor a number") from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise MalformedMessage("a byte string that is not hexadecimal") from None


def _big(text: str) -> int:
    raw = _hex(text.removeprefix("0x"))
    if not raw or len(raw) > MAX_BIG_INTEGER_BYTES:
        raise MalformedMessage("a Big Integer without or with too many digits")
    return int.from_bytes(raw, "big", signed=True)


def read_value(kind: ItemType, tag: int, text: str, attribute: str | None) -> Value:
    """Return the value that a text stands for.

    Args:
        attribute: The name of the attribute around an Attribute Value.

    Raises:
        KmipError: It stands for none of that type.
    """
    value: Value
    match kind:
        case ItemType.TEXT_STRING:
            value = text
        case ItemType.BYTE_STRING:
            value = _hex(text)
        case ItemType.BIG_INTEGER:
            value = _big(text)
        case ItemType.BOOLEAN:
            if text not in {"true", "false"} and not _HEX.match(text):
                raise MalformedMessage("a Boolean that is neither true nor false")
            value = text == "true" or (text != "false" and int(text, 16) == 1)
        case ItemType.DATE_TIME:
            value = _date(text)
        case ItemType.ENUMERATION | ItemType.INTEGER:
            value = _named(kind, tag, text, attribute)
        case _:
            value = _number(kind, text)
    try:
        write_leaf(kind, value)  # in the range of its type
    except NotEncodable as bad:
        raise MalformedMessage(str(bad)) from None
    return value


def value_text(item: Item, attribute: str | None, separator: str) -> str:
    """Return the text of an item that is no structure.

    Args:
        separator: Between the names of a mask's bits.
    """
    value = item.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, int):
        return str(value)
    match item.type:
        case ItemType.DATE_TIME:
            return _date_text(value)
        case ItemType.BIG_INTEGER:
            return write_leaf(ItemType.BIG_INTEGER, value).hex()
        case ItemType.ENUMERATION:
            members = names.enumeration_of(item.tag, attribute)
            name = None if members is None else names.member_name(members, value)
            return name or f"0x{value:08X}"
        case ItemType.INTEGER:
            return _integer_text(item.tag, value, attribute, separator)
        case _:
            return str(value)


def _date_text(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return f"0x{seconds & (1 << 64) - 1:016X}"


def _integer_text(tag: int, value: int, attribute: str | None, separator: str) -> str:
    mask = names.mask_of(tag, attribute)
    if mask is None or value <= 0:
        return str(value)
    spelled = [names.member_name(mask, 1 << bit) for bit in range(31) if value >> bit & 1]
    return str(value) if None in spelled else separator.join(str(name) for name in spelled)
